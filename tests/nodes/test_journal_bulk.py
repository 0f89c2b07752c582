"""A stream's bulk: the newest, with the records that came with it, after any crash; erased, it opens for nobody."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import numpy as np
import pytest

from smpc_fl.errors import Unavailable
from smpc_fl.hashing import Buffer
from smpc_fl.nodes.home import group_commit
from smpc_fl.nodes.home.group_commit import Change, GroupCommit
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.home.spool import Slot, Spool

SIZE = 20_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal.open(path) as opened:
        yield opened


def files(path: Path) -> set[str]:
    return {file.name for file in (path.parent / "spool").iterdir()}


def bulk_of(journal: Journal, stream: str) -> bytes | None:
    bulk = journal.read_bulk(stream)
    return None if bulk is None else bytes(bulk)


def key_of(path: Path, stream: str) -> bytes:
    with contextlib.closing(sqlite3.connect(path)) as db:
        (key,) = db.execute("SELECT key FROM bulk WHERE stream = ?", (stream,)).fetchone()
    return bytes(key)


class Gate:
    """Holds the writer back before a transaction until it is opened, so that what is asked for meanwhile is one group."""

    def __init__(self, journal: Journal, patch: pytest.MonkeyPatch) -> None:
        self.groups: list[int] = []
        self._opened, self._reached = threading.Event(), threading.Event()
        transact = journal._writer._transact

        def slow(group: list[Change]) -> None:
            self._reached.set()
            self._opened.wait()
            self.groups.append(len(group))
            transact(group)

        patch.setattr(journal._writer, "_transact", slow)

    def open(self) -> None:
        self._opened.set()

    async def reached(self) -> None:
        await asyncio.to_thread(self._reached.wait)


async def in_one_group(
    journal: Journal, patch: pytest.MonkeyPatch, *calls: Callable[[], asyncio.Future[None]]
) -> list[BaseException | None]:
    """What each call comes to when all of them are taken into one group."""
    with patch.context() as patched:
        gate = Gate(journal, patched)
        first = asyncio.ensure_future(journal.append("first", "k", b""))
        await gate.reached()
        futures = [call() for call in calls]
        await asyncio.wait(futures, timeout=0)
        gate.open()
        await first
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert gate.groups[:2] == [1, len(calls)]
    return outcomes


def task(
    call: Callable[..., Coroutine[None, None, None]], *arguments: object, **named: object
) -> Callable[[], asyncio.Future[None]]:
    return lambda: asyncio.ensure_future(call(*arguments, **named))


async def test_the_newest_bulk_is_read_also_after_a_restart(path: Path) -> None:
    with Journal.open(path) as journal:
        assert journal.read_bulk("s") is None
        await journal.append("s", "0", b"")
        assert not (path.parent / "spool").exists()
        for number in (1, 2, 3):
            await journal.append_all("s", [(str(number), b"")], bulk=bytes([number]) * SIZE)
            assert bulk_of(journal, "s") == bytes([number]) * SIZE
        await journal.append_all("t", [], bulk=memoryview(bytearray(b"other")))
        await journal.append("s", "4", b"")
    with Journal.open(path) as journal:
        assert bulk_of(journal, "s") == bytes([3]) * SIZE
        assert bulk_of(journal, "t") == b"other"
        assert [kind for kind, _ in journal.read("s")] == list("01234")
        await journal.append_all("s", [], bulk=b"")
        assert bulk_of(journal, "s") == b""
        assert bulk_of(journal, "t") == b"other"
    assert len(files(path)) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="looks descriptors up in /proc")
async def test_bulk_is_on_the_disk_before_the_commit_that_refers_to_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def watched(name: str) -> None:
        inner = getattr(os, name)

        def call(descriptor: int, *arguments: object) -> object:
            events.append(f"{name} {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
            return inner(descriptor, *arguments)

        monkeypatch.setattr(os, name, call)

    for name in ("pwrite", "fsync", "fdatasync"):
        watched(name)
    with Journal.open(path) as journal:
        journal._writer.connection.set_trace_callback(lambda text: events.append(text.split()[0]))
        seen = []
        for number in range(3):
            events.clear()
            await journal.append_all("s", [("k", b"")], bulk=bytes([number]) * SIZE)
            seen.append(events[: events.index("COMMIT")])
    commit = ["BEGIN", "INSERT", "INSERT"]
    made = [["fsync 1", "fsync spool", "fsync home"], ["fsync 2", "fsync spool", "fsync home"], []]
    for number, file in enumerate("121"):
        assert seen[number] == [*made[number], f"pwrite {file}", f"fdatasync {file}", *commit]


def copies(home: Path, to: Path) -> Callable[[str], None]:
    """Keeps what a crash at this moment would leave."""

    def copy(where: str) -> None:
        number = len(list(to.iterdir()))
        shutil.copytree(home, to / f"{number} {where}", ignore=shutil.ignore_patterns("*-shm", "*.lock"))

    to.mkdir()
    return copy


async def test_a_crash_at_any_point_leaves_bulk_and_records_of_one_moment(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = copies(path.parent, tmp_path / "crashes")

    def around(owner: type[Spool] | type[GroupCommit], name: str) -> None:
        inner = getattr(owner, name)

        def wrapped(self: Spool | GroupCommit, *arguments: object) -> object:
            crash(f"before {name}")
            result = inner(self, *arguments)
            crash(f"after {name}")
            return result

        monkeypatch.setattr(owner, name, wrapped)

    for name in ("_allocate", "_write", "_sync", "write", "keep"):
        around(Spool, name)
    for name in ("_transact", "_refer", "_sweep"):
        around(GroupCommit, name)
    whole = os.pwrite

    def torn(descriptor: int, data: memoryview, at: int) -> int:
        whole(descriptor, data[4096:8192], at)
        crash("in a torn write")
        return whole(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", torn)
    acknowledged: dict[int, int] = {}
    with Journal.open(path) as journal:
        for number in range(1, 5):
            await journal.append_all("s", [(str(number), b"")], bulk=bytes([number]) * (SIZE * number))
            acknowledged[len(list((tmp_path / "crashes").iterdir()))] = number
        await journal.erase("s")
    monkeypatch.undo()
    states = sorted((tmp_path / "crashes").iterdir(), key=lambda place: int(place.name.split()[0]))
    assert len(states) > 60
    seen = set()
    for at, state in enumerate(states):
        with Journal.open(state / "journal.db") as journal:
            kinds = [kind for kind, _ in journal.read("s")]
            bulk = bulk_of(journal, "s")
            seen.add(len(kinds))
            assert kinds == [str(number) for number in range(1, len(kinds) + 1)], state.name
            assert bulk == (bytes([len(kinds)]) * (SIZE * len(kinds)) if kinds else None), state.name
            promised = max((number for count, number in acknowledged.items() if count <= at), default=0)
            assert len(kinds) >= promised or (promised == 4 and not kinds), state.name
            await journal.append_all("s", [("on", b"")], bulk=b"goes on")
            assert bulk_of(journal, "s") == b"goes on"
    assert seen == {0, 1, 2, 3, 4}


_WRITER = """
import asyncio, sys
from smpc_fl.nodes.home.journal import Journal

async def write(journal, lane):
    for i in range(1_000_000):
        await journal.append_all(f"lane/{lane}", [(str(i), b"")], bulk=i.to_bytes(4, "big") * 50_000)
        print(lane, i, flush=True)

async def main():
    journal = Journal.open(sys.argv[1])
    await asyncio.gather(*(write(journal, lane) for lane in range(3)))

asyncio.run(main())
"""


def test_what_was_acknowledged_is_there_after_kill_9(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(200)]
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.readlines()
    acknowledged = [line.split() for line in lines if line.endswith("\n")]
    assert len(acknowledged) >= 200
    with Journal.open(path) as journal:
        for lane in range(3):
            last = len(journal.read(f"lane/{lane}")) - 1
            assert last >= max(int(i) for name, i in acknowledged if int(name) == lane)
            assert bulk_of(journal, f"lane/{lane}") == last.to_bytes(4, "big") * 50_000


async def test_of_a_group_only_the_newest_bulk_of_a_stream_is_written(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    write = Spool.write

    def recorded(self: Spool, data: Buffer) -> Slot:
        written.append(bytes(data))
        return write(self, data)

    monkeypatch.setattr(Spool, "write", recorded)
    outcomes = await in_one_group(
        journal,
        monkeypatch,
        *(task(journal.append_all, "s", [(str(i), b"")], bulk=bytes([i])) for i in range(3)),
        task(journal.append_all, "t", [("t", b"")], bulk=b"t"),
        task(journal.append, "s", "3", b""),
    )
    assert outcomes == [None] * 5
    assert written == [bytes([2]), b"t"]
    assert bulk_of(journal, "s") == bytes([2])
    assert bulk_of(journal, "t") == b"t"
    assert [kind for kind, _ in journal.read("s")] == list("0123")


async def test_in_a_group_erasing_is_in_its_place_among_the_others(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await in_one_group(
        journal,
        monkeypatch,
        task(journal.append_all, "s", [("k", b"")], bulk=b"old"),
        task(journal.erase, "s"),
        task(journal.append_all, "t", [("k", b"")], bulk=b"old"),
        task(journal.erase, "t"),
        task(journal.append_all, "t", [("k", b"")], bulk=b"new"),
    )
    assert journal.read_bulk("s") is None
    assert bulk_of(journal, "t") == b"new"
    assert len(journal.read("t")) == 1


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("step", ["_allocate", "_write", "_sync"])
async def test_a_bulk_that_cannot_be_written_fails_alone(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch, error: int, step: str
) -> None:
    await journal.append_all("s", [("old", b"")], bulk=b"old")
    write, inner = Spool.write, getattr(Spool, step)
    failing: list[bool] = []

    def watched(self: Spool, data: Buffer) -> Slot:
        failing[:] = [bytes(data).startswith(b"bad")]
        return write(self, data)

    def broken(self: Spool, *arguments: object) -> object:
        if failing == [True]:
            raise OSError(error, os.strerror(error))
        return inner(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Spool, "write", watched)
        patch.setattr(Spool, step, broken)
        outcomes = await in_one_group(
            journal,
            monkeypatch,
            task(journal.append, "s", "small", b""),
            task(journal.append_all, "t", [("k", b"")], bulk=b"good" * 1000),
            task(journal.append_all, "s", [("bad", b"")], bulk=b"bad" * 10_000),
            task(journal.append, "s", "last", b""),
        )
    assert [type(outcome) for outcome in outcomes] == [type(None), type(None), Unavailable, type(None)]
    assert os.strerror(error) in str(outcomes[2])
    assert "free space" in str(outcomes[2])
    assert [kind for kind, _ in journal.read("s")] == ["old", "small", "last"]
    assert bulk_of(journal, "s") == b"old"
    assert bulk_of(journal, "t") == b"good" * 1000
    await journal.append_all("s", [("again", b"")], bulk=b"bad" * 10_000)
    assert bulk_of(journal, "s") == b"bad" * 10_000
    assert len(files(path)) <= 4


async def test_a_commit_that_fails_leaves_the_bulk_before_it(journal: Journal, path: Path) -> None:
    await journal.append_all("s", [("old", b"")], bulk=b"old")
    pages = journal._writer.connection.execute("PRAGMA page_count").fetchone()[0]
    journal._writer.connection.execute(f"PRAGMA max_page_count = {pages + 4}")
    for _ in range(10):
        with pytest.raises(Unavailable, match="database or disk is full"):
            await journal.append_all("s", [("big", bytes(1 << 20))], bulk=b"new")
        assert bulk_of(journal, "s") == b"old"
    assert len(files(path)) <= 3, "what a failed commit wrote is used again"
    journal._writer.connection.execute("PRAGMA max_page_count = 1000000")
    await journal.append_all("s", [("big", bytes(1 << 20))], bulk=b"new")
    assert bulk_of(journal, "s") == b"new"
    assert [kind for kind, _ in journal.read("s")] == ["old", "big"]


async def test_what_a_failed_commit_wrote_is_not_overwritten_before_another_has_succeeded(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sync failed, but all of it may have reached the log: after a crash, SQLite would find it whole."""
    slots: list[Slot] = []
    write = Spool.write

    def recorded(self: Spool, data: Buffer) -> Slot:
        slots.append(write(self, data))
        return slots[-1]

    monkeypatch.setattr(Spool, "write", recorded)
    await journal.append_all("s", [], bulk=b"old")
    with pytest.raises(Unavailable):
        await journal.append_all("s", [("k", object())], bulk=b"failed")  # type: ignore[list-item]
    await journal.append_all("s", [], bulk=b"new")
    assert len({slot.file for slot in slots}) == 3
    await journal.append_all("s", [], bulk=b"newest")
    assert slots[3].file in {slots[0].file, slots[1].file}


async def test_what_is_erased_opens_for_nobody(journal: Journal, path: Path) -> None:
    def places(secret: bytes) -> list[Path]:
        return [file for file in path.parent.rglob("*") if file.is_file() and secret in file.read_bytes()]

    secret = os.urandom(SIZE)
    keys = []
    for stream in ("s", "kept"):
        for _ in range(3):
            await journal.append_all(stream, [("seed", b"")], bulk=secret)
            keys.append(key_of(path, stream))
    assert len(set(keys)) == 6
    assert places(keys[2])
    assert not places(secret[:32]), "it lies there sealed"
    await journal.erase("s", {"vote"}, bulk=False)
    assert bulk_of(journal, "s") == secret
    await journal.erase("s", {"vote"})
    assert journal.read_bulk("s") is None
    assert len(journal.read("s")) == 3
    for key in (*keys[:3], *keys[3:5]):
        assert not places(key)
    assert places(keys[5])
    assert bulk_of(journal, "kept") == secret
    await journal.erase("kept")
    assert journal.streams() == ["s"]


async def test_the_file_of_what_is_erased_serves_again(journal: Journal, path: Path) -> None:
    for stream in "abc":
        await journal.append_all(stream, [], bulk=b"x")
        await journal.erase(stream)
    assert files(path) == {"1"}


async def test_streams_that_are_erased_together_share_one_checkpoint(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    truncations: list[None] = []
    truncate = group_commit.truncate_log

    def counted(connection: sqlite3.Connection) -> None:
        truncations.append(None)
        truncate(connection)

    monkeypatch.setattr(group_commit, "truncate_log", counted)
    for stream in "abc":
        await journal.append_all(stream, [("k", b"")], bulk=b"x")
    outcomes = await in_one_group(journal, monkeypatch, *(task(journal.erase, stream) for stream in "abc"))
    assert outcomes == [None] * 3
    assert len(truncations) == 1
    assert journal.streams() == ["first"]


async def test_a_bulk_whose_file_is_gone_or_another_is_unavailable(journal: Journal, path: Path) -> None:
    await journal.append_all("s", [("k", b"")], bulk=b"data")
    (file,) = (path.parent / "spool").iterdir()
    good = file.read_bytes()
    file.write_bytes(bytes(len(good)))
    with pytest.raises(Unavailable, match="does not hold what was written to it last"):
        journal.read_bulk("s")
    file.unlink()
    with pytest.raises(Unavailable, match="cannot be read: No such file"):
        journal.read_bulk("s")
    assert journal.read("s") == [("k", b"")]
    await journal.append_all("s", [], bulk=b"anew")
    assert bulk_of(journal, "s") == b"anew"


async def test_a_reader_never_sees_a_file_that_serves_again(journal: Journal) -> None:
    await journal.append_all("s", [], bulk=bytes(SIZE))
    done = threading.Event()

    def read() -> int:
        times = 0
        while not done.is_set():
            bulk = journal.read_bulk("s")
            assert bulk is not None
            assert len(set(bulk)) == 1
            times += 1
        return times

    reading = asyncio.ensure_future(asyncio.to_thread(read))
    for number in range(200):
        await journal.append_all("s", [], bulk=bytes([number]) * SIZE)
    done.set()
    assert await reading > 0


async def test_the_journal_does_not_hold_on_to_what_it_has_written(journal: Journal) -> None:
    array = np.zeros(SIZE, np.uint8)
    gone = weakref.ref(array)
    await journal.append_all("s", [("k", b"")], bulk=array.data)
    del array
    await journal.append("s", "k", b"")  # the writer has gone on to the next group by then
    assert gone() is None


async def test_a_caller_that_is_cancelled_leaves_its_bulk_behind(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        gate = Gate(journal, patch)
        call = asyncio.ensure_future(journal.append_all("s", [("k", b"")], bulk=b"data"))
        await gate.reached()
        call.cancel()
        await asyncio.wait({call})
        gate.open()
        await journal.append("t", "k", b"")
    assert call.cancelled()
    assert bulk_of(journal, "s") == b"data"
    assert len(journal.read("s")) == 1


def test_an_event_loop_that_was_closed_meanwhile_is_not_missed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal.open(path) as journal:
        gate = Gate(journal, monkeypatch)

        async def leave() -> None:
            call = asyncio.ensure_future(journal.append("s", "left", b""))
            await gate.reached()
            call.cancel()

        asyncio.run(leave())
        gate.open()
        asyncio.run(journal.append("s", "after", b""))
        assert [kind for kind, _ in journal.read("s")] == ["left", "after"]


async def test_many_records_at_once(journal: Journal) -> None:
    records = [(str(number), bytes([number % 256])) for number in range(1050)]
    await journal.append_all("s", records)
    assert journal.read("s") == records


_VERSION_1 = """
CREATE TABLE records (id INTEGER PRIMARY KEY, stream TEXT NOT NULL, kind TEXT NOT NULL, data BLOB NOT NULL);
CREATE INDEX by_stream ON records (stream, id);
CREATE TABLE named (key TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
INSERT INTO records (stream, kind, data) VALUES ('s', 'k', x'01');
PRAGMA application_id = 1397575747;
PRAGMA user_version = 1;
"""


async def test_a_journal_of_an_earlier_release_is_brought_up_to_date(path: Path) -> None:
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as old:
        old.executescript(_VERSION_1)
    for number in range(2):
        with Journal.open(path) as journal:
            assert journal.read("s") == [("k", b"\1"), *[("new", b"")] * number]
            assert (journal.read_bulk("s") is None) == (number == 0)
            await journal.append_all("s", [("new", b"")], bulk=b"data")
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (3,)
        indexes = [
            name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'index' AND sql NOT NULL")
        ]
        assert indexes == ["by_stream_kind"]
        db.execute("PRAGMA user_version = 4")
    with pytest.raises(Unavailable, match="not a journal of this release"):
        Journal.open(path)


def test_a_closed_journal_reads_no_bulk(path: Path) -> None:
    journal = Journal.open(path)
    journal.close()
    with pytest.raises(Unavailable, match="it is closed"):
        journal.read_bulk("s")


def test_a_spool_that_cannot_be_looked_into_is_named(path: Path) -> None:
    Journal.open(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("DELETE FROM sqlite_schema WHERE name = 'bulk'")
        db.commit()
    with pytest.raises(Unavailable, match="cannot be opened"):
        Journal.open(path)
