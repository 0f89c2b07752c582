"""What a node keeps: its journal, its spool, its values. A disk may damage them; an old copy may be put back."""

from __future__ import annotations

import asyncio
import sqlite3
from functools import cache
from pathlib import Path
from random import Random

import mutations
import structlog
from engine import Target, Wrong
from file_targets import folder, nearly_bytes, written

from smpc_fl.errors import InternalError, SmpcError, Unavailable
from smpc_fl.nodes.home import spool, values
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.rounds import load_bulk, load_records


async def _fill(path: Path) -> None:
    from smpc_fl.protocols import records

    with Journal.open(path) as journal:
        await journal.append_all(
            "round/a", [("Prepared", b"\x81\xa7private\xc4 " + bytes(32)), ("Aborted", b"\x81\xa6reason\xa1x")], b"bulk"
        )
        await journal.append("round/b", "Closed", b"\x80")
        await journal.put("model", b"value")
    assert "Prepared" in records.KINDS


@cache
def _journal() -> tuple[bytes, bytes]:
    """A journal's file, and its bulk."""

    home = folder() / "filled"
    home.mkdir(mode=0o700)
    asyncio.run(_fill(home / "journal"))
    with sqlite3.connect(home / "journal") as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    bulk = next((home / "spool").iterdir()).read_bytes()
    return (home / "journal").read_bytes(), bulk


def _make_journal(rng: Random) -> tuple[bytes, bytes]:
    """Damage anywhere, or rows that nobody would have written."""
    data, bulk = _journal()
    match rng.randrange(8):
        case 0:
            return data, mutations.mutate_bytes(rng, bulk, [bulk])
        case 1:
            at = rng.choice((0, 16, 18, 24, 28, 44, 56, 60, 68, 96))  # fields of the header of the file
            changed = bytearray(data)
            changed[at : at + 4] = rng.randbytes(4)
            return bytes(changed), bulk
        case 2:
            return data[: rng.choice((0, 1, 99, 100, 4096, rng.randrange(len(data))))], bulk
        case 3:
            return mutations.mutate_bytes(rng, data[:5000], [data]) + data[5000:], bulk
        case _:
            return _with_rows(rng, data), bulk


_ROWS = (
    "UPDATE records SET data = ?", "UPDATE records SET kind = ?", "UPDATE bulk SET size = ?", "UPDATE bulk SET key = ?",
    "UPDATE bulk SET file = ?", "UPDATE named SET data = ?", "UPDATE records SET stream = ?",
)  # fmt: skip


def _with_rows(rng: Random, data: bytes) -> bytes:
    path = written("changed", data)
    db = sqlite3.connect(path)
    value = rng.choice(
        (
            -1,
            0,
            1 << 40,
            (1 << 63) - 1,
            1.5,
            "",
            "text",
            "Prepared",
            b"",
            b"\xc1",
            bytes(32),
            b"\x80",
            "\ud800".encode("utf-8", "surrogatepass"),
        )
    )
    db.execute(rng.choice(_ROWS), (value,))
    db.commit()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return path.read_bytes()


def take_journal(given: tuple[bytes, bytes]) -> None:
    with structlog.testing.capture_logs():
        _open_and_read(*given)


def _open_and_read(data: bytes, bulk: bytes) -> None:
    home = folder() / "home"
    (home / "spool").mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in (*home.glob("journal*"), *(home / "spool").iterdir()):
        old.unlink()
    (home / "journal").write_bytes(data)
    (home / "spool" / "1").write_bytes(bulk)
    failed: SmpcError | None = None
    with Journal.open(home / "journal") as journal:
        for read in (
            lambda: journal.streams("round/"),
            lambda: load_records(journal, "round/a"),
            lambda: load_records(journal, "round/b"),
            lambda: load_bulk(journal, "round/a"),
            lambda: journal.get("model"),
        ):
            try:
                read()
            except (Unavailable, InternalError) as error:
                failed = error
    if failed is not None:
        raise failed


def _make_slot(rng: Random) -> tuple[bytes, int]:
    data = rng.randbytes(rng.choice((0, 1, 100, 5000)))
    return data, rng.choice((0, 1, 15, 16, 100, 5000, 1 << 22, 1 << 26))


def take_slot(given: tuple[bytes, int]) -> None:
    data, size = given
    home = folder() / "spool"
    home.mkdir(mode=0o700, exist_ok=True)
    (home / "7").write_bytes(data)
    spool.Spool(home).read(spool.Slot(7, size, bytes(32)))


def take_value(data: bytes) -> None:
    kept = values.Values(folder() / "values" / "run")
    kept.folder.parent.mkdir(mode=0o700, exist_ok=True)
    kept.write(3, data)
    if kept.read(3) != data:
        raise Wrong("a value is read back as another")
    kept.read(4)


def targets() -> list[Target]:
    return [
        Target("journal", _make_journal, take_journal, (Unavailable, InternalError), 0.05),
        Target("spool", _make_slot, take_slot, (Unavailable,), 0.05),
        Target("value", nearly_bytes(lambda: [b"", b"model" * 100]), take_value, (Unavailable,), 0.05),
    ]
