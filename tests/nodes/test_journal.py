"""The journal: what was acknowledged is there after any end, what was erased is not, and a full disk is survived."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from smpc_fl.errors import Unavailable
from smpc_fl.nodes.home.group_commit import GROUP
from smpc_fl.nodes.home.journal import _SCHEMA, Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal.open(path) as opened:
        yield opened


async def test_records_come_back_in_order_and_after_a_restart(path: Path) -> None:
    with Journal.open(path) as journal:
        await journal.append("round/1", "accepted", b"\x00\xff")
        await journal.append_all("round/1", [("seed", b"a"), ("seed", b""), ("vote", b"b")])
        await journal.append("round/2", "accepted", b"c")
        await journal.append_all("round/3", [])
        expected = [("accepted", b"\x00\xff"), ("seed", b"a"), ("seed", b""), ("vote", b"b")]
        assert journal.read("round/1") == expected
        assert journal.read("round/3") == []
    with Journal.open(str(path)) as journal:
        assert journal.read("round/1") == expected
        assert journal.read("round/2") == [("accepted", b"c")]


async def test_streams_are_listed_by_prefix_in_the_order_they_began(journal: Journal) -> None:
    for stream in ("round/b", "round/a", "run/1", "ro%nd/", "round/b"):
        await journal.append(stream, "k", b"")
    assert journal.streams() == ["round/b", "round/a", "run/1", "ro%nd/"]
    assert journal.streams("round/") == ["round/b", "round/a"]
    assert journal.streams("ro%") == ["ro%nd/"]
    assert journal.streams("nothing") == []


async def test_streams_of_ended_rounds_are_left_out(journal: Journal) -> None:
    kinds = {"round/1": "ac", "round/2": "a", "round/3": "ba", "round/4": "b", "run/1": "c"}
    for stream, each in kinds.items():
        await journal.append_all(stream, [(kind, b"data") for kind in each])
    assert journal.streams("round/", without={"c"}) == ["round/2", "round/3", "round/4"]
    assert journal.streams("round/", without=["c", "b"]) == ["round/2"]
    assert journal.streams(without=["a"]) == ["round/4", "run/1"]
    assert journal.streams("round/", without=[]) == ["round/1", "round/2", "round/3", "round/4"]


def test_which_rounds_are_open_is_read_from_the_index_alone(path: Path) -> None:
    """A journal of years must not be read from end to end before the node is back."""
    Journal.open(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        plan = db.execute(
            "EXPLAIN QUERY PLAN SELECT stream FROM records WHERE stream >= 'round/' AND stream < 'round0' GROUP BY stream "
            "HAVING NOT max(kind IN ('Closed')) ORDER BY min(id)"
        ).fetchall()
    assert "USING COVERING INDEX by_stream_kind" in plan[0][3]


def test_killed_at_its_first_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smpc_fl.nodes.home.journal._SCHEMA", _SCHEMA.replace("COMMIT", "SELECT * FROM no_such_table"))
    with pytest.raises(Unavailable, match="cannot be opened"):
        Journal.open(path)
    monkeypatch.undo()
    Journal.open(path).close()


async def test_named_values(journal: Journal) -> None:
    assert journal.get("roster") is None
    await journal.put("roster", b"1")
    await journal.put("roster", b"2")
    await journal.put("other", b"")
    assert journal.get("roster") == b"2"
    assert journal.get("other") == b""
    await journal.remove("roster")
    await journal.remove("roster")
    assert journal.get("roster") is None


async def test_what_is_erased_is_nowhere_on_the_disk(journal: Journal, path: Path) -> None:
    secrets = [os.urandom(40), os.urandom(300_000)]

    def places(secret: bytes) -> list[str]:
        return [file.name for file in path.parent.iterdir() if secret[:40] in file.read_bytes()]

    for secret in secrets:
        await journal.append("round/1", "seed", secret)
        await journal.append("round/1", "vote", b"public " + secret[:8].hex().encode())
    await journal.put("key", secrets[0])
    assert all(places(secret) for secret in secrets)
    await journal.erase("round/1", {"seed", "prekey"})
    await journal.remove("key")
    assert not any(places(secret) for secret in secrets)
    assert [kind for kind, _ in journal.read("round/1")] == ["vote", "vote"]
    assert path.with_name("journal.db-wal").stat().st_size == 0
    await journal.append("round/2", "vote", b"")
    await journal.erase("round/1")
    assert journal.read("round/1") == []
    assert journal.streams() == ["round/2"]


async def test_only_the_owner_can_read_it(journal: Journal, path: Path) -> None:
    await journal.append("s", "k", b"")
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert {"journal.db", "journal.db-wal", "journal.db.lock"} <= set(modes)
    assert set(modes.values()) == {0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_an_open_mode_is_narrowed(path: Path) -> None:
    Journal.open(path).close()
    path.chmod(0o644)
    with Journal.open(path):
        assert path.stat().st_mode & 0o777 == 0o600


def test_one_process_at_a_time(path: Path) -> None:
    with Journal.open(path), pytest.raises(Unavailable, match="in use by another process"):
        Journal.open(path)
    Journal.open(path).close()


def test_what_is_no_journal_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"a letter to my aunt\n" * 100)
    with pytest.raises(Unavailable, match="cannot be opened"):
        Journal.open(path)
    assert path.read_bytes().startswith(b"a letter")
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(Unavailable, match="not a journal of this release"):
        Journal.open(path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="cannot be opened"):
        Journal.open(tmp_path / "file" / "journal.db")
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(Unavailable, match=r"folder\.db cannot be opened: Is a directory"):
        Journal.open(tmp_path / "folder.db")


async def test_settings_that_durability_and_erasure_rest_on(journal: Journal) -> None:
    for connection in (journal._writer.connection, journal._reader):
        for name, value in (("journal_mode", "wal"), ("synchronous", 2), ("secure_delete", 1)):
            assert connection.execute(f"PRAGMA {name}").fetchone() == (value,)


async def test_a_busy_writer_takes_many_requests_into_one_transaction(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    go = threading.Event()
    transact = journal._writer._transact

    def slow(group: list[object]) -> None:
        go.wait()
        groups.append(len(group))
        transact(group)  # type: ignore[arg-type]

    monkeypatch.setattr(journal._writer, "_transact", slow)
    tasks = [asyncio.create_task(journal.append("s", str(i), bytes([i % 256]))) for i in range(1000)]
    await asyncio.wait(tasks, timeout=0)
    go.set()
    await asyncio.gather(*tasks)
    assert [int(kind) for kind, _ in journal.read("s")] == list(range(1000))
    assert sum(groups) == 1000
    assert max(groups) <= GROUP
    assert len(groups) < 20


async def test_a_full_disk_is_reported_and_outlived(journal: Journal) -> None:
    await journal.append("s", "before", b"x")
    pages = journal._writer.connection.execute("PRAGMA page_count").fetchone()[0]
    journal._writer.connection.execute(f"PRAGMA max_page_count = {pages + 4}")
    results = await asyncio.gather(
        journal.append("s", "small", b"y"),
        journal.append("s", "big", bytes(1 << 20)),
        journal.append_all("s", [("half", b"z"), ("half", bytes(1 << 20))]),
        journal.append("s", "small", b"w"),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), Unavailable, Unavailable, type(None)]
    assert "database or disk is full" in str(results[1])
    assert "free space" in str(results[1])
    assert journal.read("s") == [("before", b"x"), ("small", b"y"), ("small", b"w")]
    journal._writer.connection.execute("PRAGMA max_page_count = 1000000")
    await journal.append("s", "big", bytes(1 << 20))
    assert [kind for kind, _ in journal.read("s")] == ["before", "small", "small", "big"]


async def test_an_error_of_the_disk_is_reported_and_outlived(journal: Journal, path: Path) -> None:
    await journal.append("s", "before", b"x")
    used = path.with_name("journal.db-wal").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (used, hard))
    try:
        with pytest.raises(Unavailable, match="cannot be written"):
            await journal.append("s", "lost", bytes(1 << 16))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await journal.append("s", "after", b"y")
    assert journal.read("s") == [("before", b"x"), ("after", b"y")]


async def test_a_log_that_cannot_be_truncated_fails_the_erasure_alone(journal: Journal, path: Path) -> None:
    await journal.append("s", "seed", b"secret")
    journal._writer.connection.execute("PRAGMA busy_timeout = 0")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM records").fetchall()
        results = await asyncio.gather(
            journal.append("s", "vote", b"1"), journal.erase("s", {"seed"}), return_exceptions=True
        )
        assert results[0] is None
        assert isinstance(results[1], Unavailable)
    assert [kind for kind, _ in journal.read("s")] == ["vote"]
    await journal.erase("s", {"seed"})


async def test_our_own_bug_is_not_called_a_disk(journal: Journal) -> None:
    with pytest.raises(TypeError):
        await journal._change(lambda db: len(None), [])  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        await journal.append("s", "k", object())  # type: ignore[arg-type]
    await journal.append("s", "k", b"")


async def test_a_cancelled_caller_does_not_disturb_the_others(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    transact = journal._writer._transact

    def slow(group: list[object]) -> None:
        go.wait()
        transact(group)  # type: ignore[arg-type]

    monkeypatch.setattr(journal._writer, "_transact", slow)
    first, second = (asyncio.create_task(journal.append("s", name, b"")) for name in ("first", "second"))
    await asyncio.wait({first, second}, timeout=0)
    first.cancel()
    await asyncio.wait({first})
    go.set()
    await second
    assert [kind for kind, _ in journal.read("s")] == ["first", "second"]


async def test_closing_finishes_what_was_asked_for(path: Path) -> None:
    journal = Journal.open(path)
    tasks = [asyncio.create_task(journal.append("s", "k", b"")) for _ in range(50)]
    await asyncio.wait(tasks, timeout=0)
    await asyncio.to_thread(journal.close)
    await asyncio.gather(*tasks)
    journal.close()
    with pytest.raises(Unavailable, match="it is closed"):
        await journal.append("s", "k", b"")
    with pytest.raises(Unavailable, match="it is closed"):
        journal.read("s")
    with Journal.open(path) as again:
        assert len(again.read("s")) == 50


async def test_a_broken_file_is_reported_when_read(journal: Journal) -> None:
    journal._reader.execute("PRAGMA query_only = ON")
    journal._reader.close()
    with pytest.raises(Unavailable, match="cannot be read"):
        journal.read("s")


_WRITER = """
import asyncio, sys
from smpc_fl.nodes.home.journal import Journal

async def write(journal, lane):
    for i in range(1_000_000):
        await journal.append(f"lane/{lane}", str(i), bytes(1000))
        print(lane, i, flush=True)

async def main():
    journal = Journal.open(sys.argv[1])
    await asyncio.gather(*(write(journal, lane) for lane in range(4)))

asyncio.run(main())
"""


def test_what_was_acknowledged_is_there_after_kill_9(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(400)]
        with pytest.raises(Unavailable, match="in use by another process"):
            Journal.open(path)
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.readlines()
    acknowledged = [line.split() for line in lines if line.endswith("\n")]
    assert len(acknowledged) >= 400
    with Journal.open(path) as journal:
        for lane in range(4):
            last = max(int(i) for name, i in acknowledged if int(name) == lane)
            numbers = [int(kind) for kind, _ in journal.read(f"lane/{lane}")]
            assert numbers == list(range(len(numbers)))
            assert last < len(numbers)
