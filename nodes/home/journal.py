"""A node's memory: ordered records in named streams, and named values, in one SQLite file. Acknowledged means durable.

A stream may also have one bulk: megabytes, of which only the newest matter. They go to a file of the spool, sealed, and
the key to a row of this file, in the transaction of the records that came with them.

One thread writes (`group_commit`), in WAL mode with `synchronous=FULL`, which syncs the log at every commit.
What is erased is overwritten with zeros in the file (`secure_delete`) and gone from the log (checkpoint, truncated);
what a copying file system, a snapshot or a disk's own spare sectors keep is beyond a process's reach.

The file is readable by its owner only, and one process has it open at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Self

from smpc_fl.errors import Unavailable
from smpc_fl.hashing import Buffer
from smpc_fl.nodes.home.group_commit import (
    Change,
    GroupCommit,
    Work,
    files_in_use,
    journal_unavailable,
    truncate_log,
)
from smpc_fl.nodes.home.spool import Slot, Spool

_ROWS = 100
"""Rows in one statement, at most."""
_CACHE = 512
"""KiB of the file that each connection keeps in memory (SQLite's own default is 2,000): a journal is written once and read at
the start, and a node's memory should not grow for hours until such a cache is full."""
_APPLICATION = 0x534D5043
_VERSION = 3
"""Version 1 had no bulk; version 2 had an index without the kinds."""
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS records (id INTEGER PRIMARY KEY, stream TEXT NOT NULL, kind TEXT NOT NULL, data BLOB NOT NULL);
DROP INDEX IF EXISTS by_stream;
CREATE INDEX IF NOT EXISTS by_stream_kind ON records (stream, id, kind);
CREATE TABLE IF NOT EXISTS named (key TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bulk (stream TEXT PRIMARY KEY, file INTEGER NOT NULL, size INTEGER NOT NULL, key BLOB NOT NULL)
  WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
COMMIT;
"""
"""In one transaction: a node that is killed at its first start leaves a journal or an empty file."""


class Journal:
    """Open one with `Journal.open`. Reads may be called from any thread and see whatever was acknowledged."""

    def __init__(self, path: Path, lock: int, writer: GroupCommit, reader: sqlite3.Connection) -> None:
        self.path = path
        self._lock = lock
        self._writer = writer
        self._reader = reader
        self._reading = threading.Lock()
        self._closed = False

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """The journal in file `path`, made (mode 0600) if it is not there. Raises `Unavailable` when another process
        has it open, when it cannot be read or written, or when it is no journal of this release."""
        path = Path(path)
        with contextlib.ExitStack() as undo:
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                lock = _lock(path, undo)
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
                path.chmod(0o600)  # SQLite gives its log the same mode
                writer = _connect(path, undo)
                reader = _connect(path, undo)
                spool = Spool(path.parent / "spool")
                spool.keep(files_in_use(writer))
                # A kill may have come between an erasure and the end of its log.
                truncate_log(writer)
            except (OSError, sqlite3.Error, ValueError, TypeError) as error:
                raise journal_unavailable(path, "opened", error) from None
            undo.pop_all()
        return cls(path, lock, GroupCommit(path, writer, spool), reader)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- changes: durable when they return ------------------------------------------------------------------------

    async def append(self, stream: str, kind: str, data: bytes) -> None:
        """Add one record to the end of `stream`. Raises `Unavailable` when it cannot be made durable (the disk is full,
        an I/O error): nothing was written then, and a later call may succeed."""
        await self.append_all(stream, [(kind, data)])

    async def append_all(
        self,
        stream: str,
        records: Sequence[tuple[str, bytes]],
        bulk: Buffer | None = None,
        *,
        also: Sequence[tuple[str, str, bytes]] = (),
    ) -> None:
        """Add records to the end of `stream`, and replace its bulk if one is given; `also`: (stream, kind, data) for others.
        All of it or nothing, whatever happens. Raises `Unavailable`.

        `bulk` is not copied: leave it unchanged until this returns, and for good if the call was cancelled."""
        rows = [*((stream, kind, data) for kind, data in records), *also]
        kinds = [kind for kind, _ in records]
        await self._change(lambda db: _insert(db, rows), kinds, bulk=None if bulk is None else (stream, bulk))

    async def erase(
        self,
        stream: str,
        kinds: Collection[str] | None = None,
        bulk: bool = True,
        *,
        records: Sequence[tuple[str, bytes]] = (),
        also: Sequence[tuple[str, str, bytes]] = (),
    ) -> None:
        """Remove a stream's records (of these kinds only, if given), and its bulk, from the file and its log; add
        `records` to its end, and `also` to other streams', in the same commit.

        Of a bulk, the key is overwritten: nothing else opens the sealed bytes, which therefore stay in their file until
        it serves again. Raises `Unavailable`."""

        rows = [*((stream, kind, data) for kind, data in records), *also]

        def work(db: sqlite3.Connection) -> None:
            if kinds is None:
                db.execute("DELETE FROM records WHERE stream = ?", (stream,))
            else:
                pairs = [(stream, kind) for kind in kinds]
                db.executemany("DELETE FROM records WHERE stream = ? AND kind = ?", pairs)
            if bulk:
                db.execute("DELETE FROM bulk WHERE stream = ?", (stream,))
            _insert(db, rows)

        await self._change(work, [*(kind for kind, _ in records), "erase"], erases=True)

    async def put(self, key: str, data: bytes) -> None:
        """Set the value that is called `key`. Raises `Unavailable`."""
        await self._change(
            lambda db: db.execute(
                "INSERT INTO named (key, data) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET data = excluded.data",
                (key, data),
            ),
            [key.partition("/")[0]],
        )

    async def remove(self, key: str) -> None:
        """Erase the value that is called `key`, if there is one. Raises `Unavailable`."""
        await self._change(lambda db: db.execute("DELETE FROM named WHERE key = ?", (key,)), ["erase"], erases=True)

    # --- reads ----------------------------------------------------------------------------------------------------

    def read(self, stream: str) -> list[tuple[str, bytes]]:
        """(kind, data) of a stream's records, oldest first. Raises `Unavailable`."""
        return self._fetch((str, bytes), "SELECT kind, data FROM records WHERE stream = ? ORDER BY id", stream)

    def newest(self, kind: str, most: int) -> list[bytes]:
        """Data of the newest `most` records of this kind, in whatever streams they are. Raises `Unavailable`."""
        query = f"SELECT data FROM records WHERE kind = ? ORDER BY id DESC LIMIT {most:d}"
        return [data for (data,) in self._fetch((bytes,), query, kind)]

    def read_bulk(self, stream: str) -> bytearray | None:
        """A stream's bulk, or None. Raises `Unavailable`, also when its file is gone or is not the one that was written
        (as after the journal came back from a backup and the spool did not)."""
        with self._writer.spooling:  # no file is written anew between reading its row and reading it
            rows = self._fetch((int, int, bytes), "SELECT file, size, key FROM bulk WHERE stream = ?", stream)
            return self._writer.spool.read(Slot(*rows[0])) if rows else None

    def streams(self, prefix: str = "", *, without: Collection[str] = ()) -> list[str]:
        """Names of the streams that hold a record, none of these kinds, and start with `prefix`, the one begun first in
        front. The index alone is read (measured: 0.13 s for 10^5 streams of 5 records), not what ended streams hold."""
        # A prefix's own range of the index: what follows it in the order of bytes ends it.
        last = f"{prefix[:-1]}{chr(ord(prefix[-1]) + 1)}" if prefix else "\U0010ffff"
        kinds = ", ".join("?" * len(without))
        rows = self._fetch(
            (str,),
            "SELECT stream FROM records WHERE stream >= ? AND stream < ? GROUP BY stream "
            f"HAVING NOT max(kind IN ({kinds})) ORDER BY min(id)",
            prefix, last, *without,
        )  # fmt: skip
        return [str(stream) for (stream,) in rows]

    def get(self, key: str) -> bytes | None:
        """The value that is called `key`, or None."""
        rows = self._fetch((bytes,), "SELECT data FROM named WHERE key = ?", key)
        return bytes(rows[0][0]) if rows else None

    def close(self) -> None:
        """Finish what was asked for, then close the file. Any later call raises `Unavailable`."""
        if self._closed:
            return
        self._closed = True
        self._writer.close()
        with self._reading:
            self._reader.close()
        os.close(self._lock)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _fetch(self, kinds: tuple[type, ...], query: str, *values: str) -> list[tuple[Any, ...]]:
        """Rows of just these types: SQLite keeps any value in any column, and finds no damage that leaves its pages whole."""
        with self._reading:
            if self._closed:
                raise journal_unavailable(self.path, "read", "it is closed")
            try:
                rows = self._reader.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise journal_unavailable(self.path, "read", error) from None
        if any(tuple(map(type, row)) != kinds for row in rows):
            raise journal_unavailable(self.path, "read", "it is damaged")
        return rows

    async def _change(
        self, work: Work, names: Sequence[str], *, erases: bool = False, bulk: tuple[str, Buffer] | None = None
    ) -> None:
        if self._closed:
            raise journal_unavailable(self.path, "written", "it is closed")
        await self._writer.make(Change(work, names, erases=erases, bulk=bulk))


def _insert(db: sqlite3.Connection, rows: list[tuple[str, str, bytes]]) -> None:
    """One statement for many rows: between two statements, other threads of the process have their turn."""
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        values = ", ".join(["(?, ?, ?)"] * len(some))
        db.execute(
            f"INSERT INTO records (stream, kind, data) VALUES {values}", [field for row in some for field in row]
        )


def _lock(path: Path, undo: contextlib.ExitStack) -> int:
    """Keeps other processes out until the descriptor is closed. A file of its own: closing a descriptor of the
    database would drop SQLite's own locks on it (POSIX locks belong to a process and a file, not to a descriptor)."""
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    undo.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Unavailable(
            f"{path} is in use by another process: stop the node that runs on it, or give this one a home of its own"
        ) from None
    return descriptor


def _connect(path: Path, undo: contextlib.ExitStack) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
    undo.callback(connection.close)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute(f"PRAGMA cache_size = -{_CACHE}")
    version = _version(connection)
    if version != _VERSION:
        if version not in (1, 2) and connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() != (0,):
            raise Unavailable(f"{path} is not a journal of this release: move it away, or set another home")
        connection.executescript(_SCHEMA)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the file's name must be durable too
        finally:
            os.close(folder)
    return connection


def _version(connection: sqlite3.Connection) -> int | None:
    """The version of a journal, None for what is not one."""
    found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    return int(found[1]) if found[0] == _APPLICATION else None
