"""A copy of a node's home that may lie about: what was decided is in it, and no round's secret, not even deleted ones.

A plain copy of the folder would hold the keys and seeds of open rounds, and old pages of erased ones; put back, it would let
the node say what it must not say again. Here nothing is copied but what is to be kept: the journal's records are read in one
transaction (WAL: the node may go on meanwhile) and written to a new file, without the kinds that are secret, and without the
keys of the spool. Rounds that are open are closed in the copy, each in its role's way: an aggregator is told that it is out of
date there and refuses, an owner sits the round out, a coordinator's runs have failed.

What came after the copy is not in it: releases, contributions, spent approvals. Peers remember theirs.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from smpc_fl.errors import ConfigInvalid
from smpc_fl.nodes.home.files import private_folder, sync_folder, write_new
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.home.membership import LATEST
from smpc_fl.protocols.codec import encode
from smpc_fl.protocols.messages import RunState
from smpc_fl.protocols.records import ERASED, Closed, Outdated, Record

JOURNAL = "journal.db"
FOLDERS = ("ledger", "values", "kept")
"""What a home has besides: an owner's data sets and consent, a coordinator's models, an owner's own ones."""
_ENDS = {"Aborted", "Closed", "Outdated"}
Rows = dict[str, list[tuple[str, bytes]]]


def copy_home(home: Path, role: str, id: str, to: Path) -> None:
    """A home in `to`, which is not there yet. The node may be running. Raises `ConfigInvalid`."""
    source = home / JOURNAL
    if not source.is_file():
        raise ConfigInvalid(f"{home}: there is no journal of a node in it: has it ever run?")
    streams, named = _read(source)
    if role == "aggregator":
        streams = {name: _closed(name, rows, Outdated(id)) for name, rows in streams.items()}
    elif role == "owner":
        streams = {name: _closed(name, rows, Closed()) for name, rows in streams.items()}
    else:
        streams = {name: _run_over(name, rows) for name, rows in streams.items() if not name.startswith("round/")}
    private_folder(to)
    asyncio.run(_write(to / JOURNAL, streams, named))
    (to / f"{JOURNAL}.lock").unlink(missing_ok=True)
    if (home / LATEST).is_file():
        _copy_file(home / LATEST, to / LATEST)
    for name in FOLDERS:
        if (home / name).is_dir():
            copy_folder(home / name, to / name)


def _read(path: Path) -> tuple[Rows, dict[str, bytes]]:
    """Every stream's records and every named value, as they stand at one moment."""
    streams: Rows = {}
    try:
        with reading(path) as db:
            for stream, kind, data in db.execute("SELECT stream, kind, data FROM records ORDER BY id"):
                streams.setdefault(str(stream), []).append((str(kind), bytes(data)))
            named = {str(key): bytes(data) for key, data in db.execute("SELECT key, data FROM named")}
    except sqlite3.Error as error:
        raise ConfigInvalid(f"{path} cannot be read: {error}") from None
    return streams, named


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """One transaction over a database that another process may be writing to."""
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=30, isolation_level=None)) as db:
        db.execute("BEGIN")
        yield db


def _closed(stream: str, rows: list[tuple[str, bytes]], end: Record) -> list[tuple[str, bytes]]:
    """A round's records as if its secrets had been erased, ended by `end` if it was open."""
    if not stream.startswith("round/"):
        return rows
    kept = [(kind, data) for kind, data in rows if kind not in ERASED]
    return kept if any(kind in _ENDS for kind, _ in rows) else [*kept, (type(end).__name__, encode(end))]


def _run_over(stream: str, rows: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    kinds = [kind for kind, _ in rows]
    if not stream.startswith("run/") or "end" in kinds:
        return rows
    run = bytes.fromhex(stream.removeprefix("run/"))
    why = "the coordinator was restored from a backup that was made during this run: begin a new one"
    return [*rows, ("end", encode(RunState(run, "failed", kinds.count("result"), "RolledBack", why)))]


async def _write(path: Path, streams: Rows, named: dict[str, bytes]) -> None:
    with Journal.open(path) as journal:
        await asyncio.gather(
            *(journal.append_all(stream, rows) for stream, rows in streams.items() if rows),
            *(journal.put(key, data) for key, data in named.items()),
        )


def copy_folder(source: Path, to: Path) -> None:
    """Regular files and folders, for this user only; databases as they stand at one moment. Links are left out."""
    private_folder(to)
    for path in sorted(source.iterdir()):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            copy_folder(path, to / path.name)
        elif stat.S_ISREG(mode) and path.suffix == ".sqlite":
            _copy_database(path, to / path.name)
        elif stat.S_ISREG(mode) and not path.name.endswith((".sqlite-wal", ".sqlite-shm", ".partial")):
            _copy_file(path, to / path.name)
    sync_folder(to)


def _copy_database(source: Path, to: Path) -> None:
    write_new(to, b"", mode=0o600)
    with reading(source) as db, closing(sqlite3.connect(to)) as copy:
        db.execute("COMMIT")  # the backup takes its own
        db.backup(copy)
        copy.execute("VACUUM")  # and no page of what was deleted


def _copy_file(source: Path, to: Path) -> None:
    descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with source.open("rb") as there, os.fdopen(descriptor, "wb") as here:
        shutil.copyfileobj(there, here, 1 << 20)
        here.flush()
        os.fsync(here.fileno())
