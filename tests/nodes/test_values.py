"""A run's values are files: whole or not there, durable before the record that counts on them, read one at a time."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from federation_on_disk import OnDisk, make_federation
from sample_federation import linear_plan
from structlog.testing import capture_logs

from smpc_fl.errors import BadInput, Unavailable
from smpc_fl.hashing import Buffer
from smpc_fl.jobs import AggregateJob, Job, TrainJob, encode_job
from smpc_fl.nodes.coordinator import Coordinator
from smpc_fl.nodes.home.config import CoordinatorConfig
from smpc_fl.nodes.home.direct import CHUNK
from smpc_fl.nodes.home.values import Values
from smpc_fl.nodes.run import Run, run_stream
from smpc_fl.protocols.codec import encode
from smpc_fl.protocols.commands import Received
from smpc_fl.protocols.manifest import model_digest
from smpc_fl.protocols.messages import Message, Refusal, RoundResult, RunState, Signed, StartRun, Subscribe
from smpc_fl.protocols.party import Party

RUN = bytes(range(16))


@pytest.fixture
def values(tmp_path: Path) -> Values:
    return Values(tmp_path / "values" / "run")


def test_a_value_is_read_as_it_was_written(values: Values) -> None:
    model = np.arange(100_000, dtype=np.float32)
    values.write(0, b"first")
    values.write(1, model.data.cast("B"))
    values.write(2, b"")
    large = os.urandom(CHUNK + 5)
    values.write(3, large)
    again = Values(values.folder)
    assert again.read(3) == large
    assert again.read(0) == b"first"
    assert again.read(1) == model.tobytes()
    assert again.read(2) == b""
    assert sorted(path.name for path in values.folder.iterdir()) == ["0", "1", "2", "3"]
    assert {path.stat().st_mode & 0o777 for path in values.folder.iterdir()} == {0o600}
    for folder in (values.folder, values.folder.parent):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_what_is_not_there_is_named(values: Values) -> None:
    with pytest.raises(Unavailable, match=r"run/3 cannot be read: No such file"):
        values.read(3)
    values.folder.parent.parent.chmod(0o700)
    values.folder.parent.touch()
    with pytest.raises(Unavailable, match=r"run/3 cannot be written: "):
        values.write(3, b"")


def test_a_full_disk_leaves_the_value_that_was_there(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    values.write(1, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(Unavailable, match="No space left"):
            values.write(1, b"new")
    assert values.read(1) == b"old"
    assert [path.name for path in values.folder.iterdir()] == ["1"]
    values.write(1, b"new")
    assert values.read(1) == b"new"


def test_what_a_crash_left_half_written_is_replaced(values: Values) -> None:
    values.write(1, b"old")
    (values.folder / "partial").write_bytes(b"half of a mod")
    assert values.read(1) == b"old"
    values.write(2, b"new")
    assert sorted(path.name for path in values.folder.iterdir()) == ["1", "2"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks descriptors up in /proc")
def test_file_and_names_are_durable_on_return(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        events.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        events.append(f"rename {target.name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    values.write(1, b"data")
    home = values.folder.parent.parent.name
    assert events == [f"sync {home}", "sync values", "sync partial", "rename 1", "sync run"]
    events.clear()
    values.write(2, b"data")
    assert events == ["sync partial", "rename 2", "sync run"]


# --- a coordinator and the runs of its journal ------------------------------------------------------------------------


class Heard(Coordinator):
    """Says to nobody; keeps what it would have said."""

    def __init__(self, config: CoordinatorConfig) -> None:
        super().__init__(config)
        self.said: list[tuple[str, Message, bytes]] = []

    async def tell(self, member: str, message: Message, attachment: Buffer | None = None) -> bool:
        self.said.append((member, message, bytes(attachment or b"")))
        return True


class World:
    def __init__(self, disk: OnDisk) -> None:
        self.disk = disk
        self.plan = linear_plan()
        self.model = self.plan.initial.astype(np.float32).tobytes()
        self.open: list[Heard] = []

    def coordinator(self) -> Heard:
        self.open.append(Heard(cast(CoordinatorConfig, self.disk.config("coordinator", listen="127.0.0.1:0"))))
        return self.open[-1]

    def job(self) -> Job:
        return TrainJob(plan=self.plan.to_bytes(), inputs="x", targets="y", rounds=3, max_samples=100)

    def start(self, at: Heard, job: Job | None = None, model: bytes | None = None) -> Signed:
        start = StartRun(
            RUN, encode_job(job or self.job()), ["alice", "bob", "carol"],
            model_digest(self.model if model is None else model),
        )  # fmt: skip
        return Party("researcher", self.disk.identities["researcher"], at.members.current).sign(start)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(make_federation(tmp_path, "ws"))
    yield made
    for node in made.open:
        node.journal.close()


def result(number: int) -> RoundResult:
    return RoundResult(
        run=RUN, number=number, metrics={}, seconds=1.0, uploaded={}, included=[], missing={}, total_weight=1.0, clipped=0,
        worst_error=0.0, attempts=1, ring_bits=32,
    )  # fmt: skip


async def nothing(run: Run, message: RoundResult | RunState, value: Buffer) -> None: ...


async def begun(world: World, node: Heard) -> Run:
    return await Run.begin(node, node.config.policy, world.start(node), bytearray(world.model), nothing)


async def test_a_run_keeps_its_values_as_files_and_goes_on_from_the_newest(world: World) -> None:
    node = world.coordinator()
    run = await begun(world, node)
    assert await run.newest() == world.model
    folder = node.home / "values" / RUN.hex()
    assert [path.name for path in folder.iterdir()] == ["0"]
    for number in (1, 2):
        await node.journal.append_all(f"round/{RUN.hex()}/{2 * number - 2}/0", [("Opened", b"")], bulk=b"a sum")
        await run._keep(result(number), memoryview(bytes([number]) * len(world.model)))
    assert node.journal.streams("round/") == []
    assert [kind for kind, _ in node.journal.read(run_stream(RUN))] == ["start", "result", "result"]
    assert sum(len(data) for _, data in node.journal.read(run_stream(RUN))) < len(encode(world.start(node))) + 1000
    node.journal.close()

    again = world.coordinator()
    run = Run.resume(again, again.config.policy, run_stream(RUN), nothing)
    assert await run.newest() == bytes([2]) * len(world.model)
    kept = [(kept.number, value[:1]) async for kept, value in run.history(0)]
    assert kept == [(1, b"\1"), (2, b"\2")]
    assert [kept.number async for kept, _ in run.history(1)] == [2]
    assert [kept.number async for kept, _ in run.history(2)] == []


async def test_a_value_without_a_result_is_of_a_round_that_was_not_finished(world: World) -> None:
    node = world.coordinator()
    run = await begun(world, node)
    await run._keep(result(1), b"one")
    run._values.write(2, b"torn out by a crash")
    node.journal.close()
    again = world.coordinator()
    run = Run.resume(again, again.config.policy, run_stream(RUN), nothing)
    assert await run.newest() == b"one"
    await run._keep(result(2), b"two")
    assert [value async for _, value in run.history(0)] == [b"one", b"two"]


async def test_a_value_that_cannot_be_kept_is_no_result(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    node = world.coordinator()
    run = await begun(world, node)

    tried, write = asyncio.Event(), Values.write
    loop = asyncio.get_running_loop()

    def full(self: Values, number: int, data: Buffer) -> None:
        loop.call_soon_threadsafe(tried.set)
        raise Unavailable("the disk is full")

    monkeypatch.setattr(Values, "write", full)
    keeping = asyncio.create_task(run._keep(result(1), b"one"))
    await tried.wait()
    assert run.book.results == []
    assert [kind for kind, _ in node.journal.read(run_stream(RUN))] == ["start"]
    assert await run.newest() == world.model
    monkeypatch.setattr(Values, "write", write)  # there is room again
    await keeping
    assert run.book.results == [result(1)]


async def test_an_ended_run_keeps_no_model_in_memory(world: World) -> None:
    published: list[tuple[str, bytes]] = []

    async def publish(run: Run, message: RoundResult | RunState, value: Buffer) -> None:
        published.append((type(message).__name__, bytes(value)))

    node = world.coordinator()
    run = await Run.begin(node, node.config.policy, world.start(node), world.model, publish)
    await run._keep(result(1), b"one")
    await run._finish(RunState(RUN, "finished", 1))
    assert published == [("RoundResult", b"one"), ("RunState", b"one")]
    assert run._newest is None
    assert await run.newest() == b"one"
    run = Run.resume(node, node.config.policy, run_stream(RUN), publish)
    assert run._newest is None
    assert run.state == "finished"
    assert await run.newest() == b"one"


async def test_an_aggregate_begins_with_no_value(world: World) -> None:
    node = world.coordinator()
    job = AggregateJob(expression=b"", reduce="mean", shape=[2], bound=1.0, max_samples=100)
    run = await Run.begin(node, node.config.policy, world.start(node, job, b""), b"", nothing)
    assert not (node.home / "values").exists()
    assert await run.newest() == b""
    run = Run.resume(node, node.config.policy, run_stream(RUN), nothing)
    assert await run.newest() == b""


async def test_a_model_that_was_not_signed_for_is_refused(world: World) -> None:
    node = world.coordinator()
    for model, said in ((b"another", "not the one that was signed"), (world.model[:-4], "number of parameters")):
        signed = world.start(node, model=b"" if model == b"another" else model)
        with pytest.raises(BadInput, match=said):
            await Run.begin(node, node.config.policy, signed, model, nothing)
    assert node.journal.streams() == []
    assert not (node.home / "values").exists()


async def test_a_run_that_cannot_go_on_is_said_to_and_stops_nobody(world: World) -> None:
    node = world.coordinator()
    signed = world.start(node)
    old = [("start", encode(signed)), ("model", world.model), ("result", b""), ("value", world.model)]
    await node.journal.append_all(run_stream(RUN), old)
    with capture_logs() as logs:
        await node.open()
    try:
        (said,) = [entry for entry in logs if entry["log_level"] == "error"]
        assert said["event"] == "run lost"
        assert said["stream"] == run_stream(RUN)
        assert "an earlier release kept this run" in said["message"]
        for message in (Subscribe(RUN, 0), StartRun(RUN, b"", ["alice"], bytes(32))):
            await node._from_researcher(Received("researcher", message, signed))
        refusal, failed = [message for _, message, _ in node.said]
        assert isinstance(refusal, Refusal), "whereupon the researcher says it again"
        assert isinstance(failed, RunState)
        assert (failed.state, failed.code) == ("failed", "Unavailable")
        assert "start it anew" in failed.text
    finally:
        await node.stop()


async def test_a_value_that_is_lost_fails_the_run_for_who_asks(world: World) -> None:
    node = world.coordinator()
    run = await begun(world, node)
    await run._keep(result(1), b"one")
    await run._finish(RunState(RUN, "finished", 1))
    await node._catch_up(run, "researcher", 0)
    assert [(type(message).__name__, value) for _, message, value in node.said] == [
        ("RoundResult", b"one"), ("RunState", b"one"),
    ]  # fmt: skip
    (node.home / "values" / RUN.hex() / "1").unlink()
    node.said.clear()
    with capture_logs() as logs:
        await node._catch_up(run, "researcher", 0)
    ((_, failed, _),) = node.said
    assert isinstance(failed, RunState)
    assert (failed.state, failed.code) == ("failed", "Unavailable")
    assert [entry["event"] for entry in logs] == ["value lost"]


async def test_a_run_whose_newest_value_is_lost_is_left_out(world: World) -> None:
    node = world.coordinator()
    await begun(world, node)
    (node.home / "values" / RUN.hex() / "0").unlink()
    with pytest.raises(Unavailable, match="0 cannot be read"):
        Run.resume(node, node.config.policy, run_stream(RUN), nothing)
