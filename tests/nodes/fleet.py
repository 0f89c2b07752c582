"""Helper: a federation of real processes that meet one fault after another, and the plain sum that they must not miss.

Each node has a chain of faults (`smpc_fl.nodes.faults`). It is started with the first; whenever it has died of one, it is
started again at once, with the next. Runs go on meanwhile, and every round of theirs is checked against integers.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from processes_on_disk import OnDisk
from sample_federation import linear_plan, owners
from zygote import PATCH, Zygote

import smpc_fl as sf
from smpc_fl.errors import Unavailable
from smpc_fl.fixed_point import FixedPoint
from smpc_fl.jobs import TrainJob
from smpc_fl.learning.update import SecureVector, assemble, disassemble
from smpc_fl.nodes import rounds
from smpc_fl.nodes.faults import VARIABLE
from smpc_fl.nodes.home.files import private_folder
from smpc_fl.nodes.net import dialer
from smpc_fl.nodes.net.link import Link
from smpc_fl.nodes.owner_data import _read_plan
from smpc_fl.nodes.training_job import training_job
from smpc_fl.nodes.training_run import Round
from smpc_fl.protocols.codec import decode_message
from smpc_fl.protocols.course import TrainingRound
from smpc_fl.protocols.envelopes import Channel
from smpc_fl.protocols.manifest import choose_numbers
from smpc_fl.protocols.messages import SeedReport, VectorReport
from smpc_fl.protocols.work import purpose_of, weight_of, work_of
from smpc_fl.ring import ring

AGGREGATORS = ("aggregator-1", "aggregator-2", "aggregator-3")
OWNERS = ("owner-1", "owner-2", "owner-3")
COORDINATOR = "coordinator"
ROLES: dict[str, Any] = {
    **dict.fromkeys(OWNERS, "owner"), **dict.fromkeys(AGGREGATORS, "aggregator"), COORDINATOR: "coordinator",
    "researcher": "researcher",
}  # fmt: skip
PLAN = "SMPC_FL_TEST_PLAN"
"""Environment variable of the zygote: a file with the plan, which takes longer to make than to read."""
Vector = np.ndarray[Any, np.dtype[np.float32]]
K_MIN, TOLERANCE, CLIP, MAX_SAMPLES = 3, 1e-2, 10.0, 10_000


NOTES = "SMPC_FL_TEST_NOTES"
"""Environment variable of a node: a folder for what it notes."""
RESTLESS = "owner-2"
"""The owner that computes another update each time, where that is asked for."""


def knock_at_once() -> None:
    """In a node: the next try to connect comes soon, however often the last ones failed, and so does that to write.

    Waiting is tested elsewhere."""
    rounds.DISK_AGAIN = 0.03
    dialer.Backoff.after = lambda self, lasted: 0.03  # type: ignore[method-assign]


@cache
def the_plan() -> sf.Plan:
    return linear_plan()


def warm() -> None:
    """In the zygote: load, and do once, all that a round at an owner needs."""
    data = Path(os.environ[PLAN]).read_bytes()
    _read_plan(data)
    plan = sf.Plan.from_bytes(data)
    model = np.zeros(plan.layout.size, np.float32)
    Reference(_job(plan, 1, 0), plan, owners(len(OWNERS), rows=1), model).after(1, OWNERS)


def _job(plan: sf.Plan, rounds: int, seed: int) -> TrainJob:
    return training_job(
        plan, inputs="x", targets="y", rounds=rounds, local=None, strategy=None, evaluation=None, stop=None, clip=CLIP,
        max_samples=MAX_SAMPLES, tolerance=TOLERANCE, ring_bits=None, update_bits=None, seed=seed,
    )  # fmt: skip


def never_twice_the_same() -> None:
    """In a node: an owner's training cannot be repeated; aggregators note what they are given."""
    from smpc_fl.learning import training

    knock_at_once()
    patch: Callable[[Any, str, Any], None] = setattr
    train = training.train_locally

    def restless(plan: Any, model: Any, x: Any, y: Any, job: TrainJob, *, owner: str, **more: Any) -> Any:
        result, round_number = train(plan, model, x, y, job, owner=owner, **more), more["round_number"]
        if owner != RESTLESS:
            return result
        noise = np.frombuffer(os.urandom(4 * result.delta.size), np.uint32).astype(np.float64) / 2**32 - 0.5
        delta = (result.delta + 0.01 * noise).astype(np.float32)
        note(owner, seed=job.seed.hex(), round=round_number, delta=delta.tobytes().hex())
        return replace(result, delta=delta)

    patch(training, "train_locally", restless)

    receive, open_seed = Link.receive, Channel.open_seed

    async def received(self: Link, *given: Any, **more: Any) -> Any:
        signed, attachment = await receive(self, *given, **more)
        message = decode_message(signed.body)
        if isinstance(message, SeedReport | VectorReport):
            what = {"kind": type(message).__name__, "manifest": message.manifest_hash.hex(), "owner": self.peer}
            shares = [commitment.hex() for commitment in message.commitments]
            vector = bytes(attachment).hex() if isinstance(attachment, memoryview) else ""
            note("reports", **what, commitments=shares, sealed=message.sealed.hex(), vector=vector)
        return signed, attachment

    def opened(self: Channel, sealed: bytes) -> tuple[bytes, bytes]:
        seed, blinder = open_seed(self, sealed)
        note("seeds", manifest=self.manifest_hash.hex(), owner=self.sender.hex, seed=seed.hex())
        return seed, blinder

    patch(Link, "receive", received)
    patch(Channel, "open_seed", opened)


def note(name: str, **what: Any) -> None:
    path = Path(os.environ[NOTES]) / name
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, json.dumps(what).encode() + b"\n")
    os.close(descriptor)


@dataclass(frozen=True)
class Death:
    """Of what a node died, and when (monotonic seconds)."""

    node: str
    fault: str
    at: float


class Fleet(OnDisk):
    """`data` is each owner's; `patch` as in `zygote.PATCH`."""

    def __init__(self, folder: Path, *, patch: str = "fleet:knock_at_once") -> None:
        super().__init__(
            folder,
            ROLES,
            k_min=K_MIN,
            policies={owner: {"aggregators": AGGREGATORS} for owner in OWNERS},
            deadline=90.0,
        )
        self.data: Mapping[str, Mapping[str, torch.Tensor]] = owners(len(OWNERS), rows=10)
        self.patch = patch
        self.notes = private_folder(folder / "notes")
        self.deaths: list[Death] = []
        self.chains: dict[str, deque[str]] = {}
        self.held: set[str] = set()
        self.pids: dict[str, int] = {}
        self._nodes: dict[int, tuple[str, str]] = {}
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._zygote: Zygote | None = None
        self._watch = threading.Thread(target=self._supervise, daemon=True)

    def run(self, chains: Mapping[str, Iterable[str]] | None = None) -> None:
        """Start every node, with the first fault of its chain if it has one."""
        self.chains = {node: deque(chain) for node, chain in (chains or {}).items()}
        plan = self.folder / "plan"
        plan.write_bytes(the_plan().to_bytes())
        self._zygote = Zygote(self.descriptors, self.folder / "zygote.log", {PLAN: str(plan)}, preload="fleet:warm")
        for id_, role in self.roles.items():
            if role != "researcher":
                (self.folder / id_ / "node.toml").write_text(self._config(id_, self.data.get(id_)))
                self._spawn(id_)
        self._watch.start()

    @property
    def descriptors(self) -> list[int]:
        """Of the listening sockets, which nodes are handed."""
        return [each.fileno() for each in self.sockets.values()]

    def arguments(self, id_: str) -> list[str]:
        """What starts a node."""
        arguments = [self.roles[id_], "--config", str(self.folder / id_ / "node.toml"), "--with-parent"]
        return [*arguments, "--listen-fd", str(self.sockets[id_].fileno())] if id_ in self.sockets else arguments

    def _spawn(self, id_: str) -> None:
        assert self._zygote is not None
        chain = self.chains.get(id_)
        fault = chain.popleft() if chain else ""
        environment = {VARIABLE: fault, PATCH: self.patch, NOTES: str(self.notes)}
        pid = self._zygote.spawn(self.arguments(id_), self.folder / f"{id_}.log", environment)
        self.pids[id_] = pid
        self._nodes[pid] = (id_, fault)

    def _supervise(self) -> None:
        assert self._zygote is not None
        while not self._stopping.is_set():
            try:
                pid, status, at = self._zygote.ended.get(timeout=0.1)
            except queue.Empty:
                continue
            with self._changed:
                id_, fault = self._nodes.pop(pid)
                died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
                self.deaths.append(Death(id_, fault if died else f"exit {status}", at))
                if id_ not in self.held:
                    self._spawn(id_)
                self._changed.notify_all()

    # --- faults ---

    @property
    def pending(self) -> list[str]:
        """Faults that nobody has died of yet: those that are armed now first."""
        armed = [f"{id_} {fault}" for id_, fault in self._nodes.values() if fault]
        return armed + [f"{id_} {fault}" for id_, chain in self.chains.items() for fault in chain]

    def restart(self, id_: str, *chain: str) -> None:
        """Kill a node; it is started again at once, with these faults before it. Until it has been."""
        with self._changed:
            pid = self.pids[id_]
            self.chains[id_] = deque(chain)
            os.kill(pid, signal.SIGKILL)
        self.wait(60.0, lambda: self.pids[id_] != pid)

    def halt(self) -> None:
        """Kill every node; none is started again."""
        with self._changed:
            self.held.update(self.pids)
            for pid in self.pids.values():
                os.kill(pid, signal.SIGKILL)
        self.wait(60.0, lambda: not self._nodes)

    def until(self, condition: Any, seconds: float = 60.0) -> None:
        """Until `condition()`, which is asked again and again. Raises `AssertionError`."""
        end, pause = time.monotonic() + seconds, threading.Event()
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            pause.wait(0.02)

    def wait(self, seconds: float, until: Any) -> None:
        """Until `until()` holds, which is asked after every death. Raises `AssertionError`."""
        end = time.monotonic() + seconds
        with self._changed:
            while not until():
                assert self._changed.wait(max(0.0, end - time.monotonic())), f"still to come: {self.pending}"

    def noted(self, name: str) -> list[dict[str, Any]]:
        path = self.notes / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def logged(self, id_: str, event: str) -> int:
        return self.log(id_).count(f'"event": "{event}"')

    def stop(self) -> None:
        self._stopping.set()
        if self._watch.is_alive():
            self._watch.join()
        if self._zygote is not None:
            self._zygote.close()
        super().stop()

    # --- runs ---

    def connect(self) -> sf.Federation:
        return sf.connect(self.researcher(), timeout=60.0)

    def train(self, fed: sf.Federation, *, rounds: int, seed: int) -> Trained:
        plan = the_plan()
        run = None
        while run is None:
            fed.wait_connected(60.0)
            with contextlib.suppress(Unavailable):  # the coordinator has just been killed
                run = fed.train(plan, inputs="x", targets="y", rounds=rounds, seed=seed)
        return Trained(run, Reference(_job(plan, rounds, seed), plan, self.data, plan.initial))


@dataclass
class Trained:
    """A run, and what it must come to."""

    run: sf.Run
    reference: Reference

    def check(self) -> int:
        """Every round of it: nobody left out, nobody counted twice, no bit different. How many there were."""
        for round_ in self.run:
            assert round_.included == sorted(OWNERS), round_.missing
            assert round_.attempts == 1
            assert self.exact(round_), round_.number
        return len(self.run.rounds)

    def exact(self, round_: Round) -> bool:
        """Whether the model is that of the owners that were counted, once each, to the last bit. For one after another."""
        expected = self.reference.after(round_.number, round_.included)
        return np.array_equal(round_.model.view(np.uint32), expected.view(np.uint32))


class Reference:
    """The same training with the owners' encoded integers added up in the clear."""

    def __init__(
        self,
        job: TrainJob,
        plan: sf.Plan,
        data: Mapping[str, Mapping[str, torch.Tensor]],
        model: Vector,
    ) -> None:
        self.job, self.plan, self.data, self.model = job, plan, data, model
        self.instead: dict[str, Vector] = {}

    def any_of(self, number: int, included: Sequence[str], owner: str, deltas: Iterable[Vector]) -> list[Vector]:
        """The models after round `number`, for each of these updates of `owner`."""
        model, models = self.model, []
        for delta in deltas:
            self.model, self.instead = model, {owner: delta}
            models.append(self.after(number, included))
        self.model, self.instead = model, {}
        return models

    def after(self, number: int, included: Sequence[str]) -> Vector:
        """The model, float32[d], after round `number`: they are asked for in their order."""
        course = TrainingRound(self.job, number, self.model, len(OWNERS))
        while (ask := course.ask) is not None:
            purpose = purpose_of(self.job, ask.round)
            work = work_of(self.job, purpose)
            numbers = choose_numbers(
                owners=len(OWNERS), clip=work.clip, max_samples=work.max_samples, k_min=K_MIN, tolerance=work.tolerance,
                ring_bits=work.ring_bits, update_bits=work.update_bits,
            )  # fmt: skip
            of = ring(numbers.ring_bits)
            fixed = FixedPoint(of, numbers.fractional_bits)
            total = sum(
                self._vector(owner, ask.round, ask.model).encode(fixed).astype(object) for owner in included
            ) % (1 << numbers.ring_bits)  # fmt: skip
            course.take(disassemble(fixed.decode(np.asarray(total).astype(of.dtype)), work.layout), len(included))
        self.model = np.array(course.model)
        return self.model

    def _vector(self, owner: str, round_number: int, model: Any) -> SecureVector:
        from smpc_fl.learning.training import train_locally

        tensors, purpose = self.data[owner], purpose_of(self.job, round_number)
        work = work_of(self.job, purpose)
        done = train_locally(
            self.plan, model, tensors["x"], tensors["y"], self.job, round_number=round_number, owner=owner
        )
        delta = self.instead.get(owner, done.delta)
        weight = weight_of(self.job, work.purpose, owner, sorted(OWNERS), done.rows)
        return assemble(delta, weight, dict(done.metrics), layout=work.layout, clip=work.clip, mode=work.mode)
