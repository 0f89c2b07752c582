"""The thread that writes a journal: whatever has been asked for while it was busy goes into its next transaction.

So the cost of reaching the disk is shared. A change is answered once it is durable; one that fails (too big for the
disk, say) takes none of its group with it. Bulk is on the disk before the transaction whose rows refer to it begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from smpc_fl.errors import Unavailable
from smpc_fl.hashing import Buffer
from smpc_fl.nodes import faults
from smpc_fl.nodes.home.spool import Slot, Spool

GROUP = 256
"""Changes in one transaction, at most."""

Work = Callable[[sqlite3.Connection], object]


class Change:
    """What one caller asks for: all of it is committed, or none. `bulk` is (its stream, the data); `names`: what is being
    changed, for `faults`."""

    def __init__(
        self, work: Work, names: Sequence[str], *, erases: bool = False, bulk: tuple[str, Buffer] | None = None
    ) -> None:
        self.work = work
        self.names = names
        self.erases = erases
        self.bulk = bulk
        self.slot: Slot | None = None  # where the bulk was written, if it is the stream's newest
        self.error: Exception | None = None
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()


class GroupCommit:
    """Owns the writing connection and the spool's files. `spooling` is held while a file is written: who holds it too
    finds every file as the rows say."""

    def __init__(self, path: Path, connection: sqlite3.Connection, spool: Spool) -> None:
        self.path = path
        self.connection = connection
        self.spool = spool
        self.spooling = threading.Lock()
        self._changes: queue.SimpleQueue[Change | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"journal {path.name}", daemon=True)
        self._thread.start()

    async def make(self, change: Change) -> None:
        """Until it is durable. Raises `Unavailable`: nothing was written then, and another try may succeed.

        A caller that is cancelled leaves its change behind: it may be in a transaction already."""
        self._changes.put(change)
        await change.done

    def close(self) -> None:
        """Finish what was asked for, and end."""
        self._changes.put(None)
        self._thread.join()
        self.connection.close()

    # --- the thread ---

    def _run(self) -> None:
        while self._work_off():
            pass

    def _work_off(self) -> bool:
        """The next group, from waiting for it to answering it; False after the last. (A method of its own: what it
        held, megabytes of bulk perhaps, is not kept while the next group is waited for.)"""
        group: list[Change] = []
        change = self._changes.get()
        while change is not None:
            group.append(change)
            if len(group) == GROUP:
                break
            try:
                change = self._changes.get_nowait()
            except queue.Empty:
                break
        if group:
            self._commit(group)
            _answer(group)
        return change is not None

    def _commit(self, group: list[Change]) -> None:
        try:
            self._transact(group)
        except Exception as error:
            # A commit whose sync failed may yet be found after a crash: what it refers to stays until the next one.
            self._sweep(group, {change.slot.file for change in group if change.slot})
            if len(group) == 1:
                self._fail(group[0], error)
                return
            for change in group:
                self._commit([change])
            return
        if faults.armed:
            faults.at("persist", [name for change in group for name in change.names], "after")
        self._sweep(group)
        erasing = [change for change in group if change.erases]
        try:
            if erasing:
                truncate_log(self.connection)
        except sqlite3.Error as error:
            for change in erasing:
                self._fail(change, error)

    def _fail(self, change: Change, error: Exception) -> None:
        unavailable = isinstance(error, sqlite3.Error | OSError)
        change.error = journal_unavailable(self.path, "written", error) if unavailable else error

    def _transact(self, group: list[Change]) -> None:
        self._write_bulk(group)
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            for change in group:
                change.work(self.connection)
                if change.bulk and change.slot:
                    self._refer(change.bulk[0], change.slot)
                if faults.armed:
                    faults.at("persist", change.names, "before")
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def _write_bulk(self, group: list[Change]) -> None:
        """The newest bulk of each stream goes to the disk; what it replaces in the same group never existed."""
        newest = {change.bulk[0]: (change, change.bulk[1]) for change in group if change.bulk}
        for change, data in newest.values():
            with self.spooling:
                change.slot = self.spool.write(data)

    def _refer(self, stream: str, slot: Slot) -> None:
        self.connection.execute(
            "INSERT INTO bulk (stream, file, size, key) VALUES (?, ?, ?, ?) ON CONFLICT (stream) DO UPDATE "
            "SET file = excluded.file, size = excluded.size, key = excluded.key",
            (stream, slot.file, slot.size, slot.key),
        )

    def _sweep(self, group: list[Change], doubtful: Collection[int] = ()) -> None:
        """Let the spool reuse what no row refers to: asked of the table, so that it is true after a failure as well."""
        if any(change.erases or change.bulk for change in group):
            with contextlib.suppress(sqlite3.Error), self.spooling:  # asked again after the next change
                self.spool.keep(files_in_use(self.connection).union(doubtful))


def truncate_log(connection: sqlite3.Connection) -> None:
    """What was erased is gone from the log too. Raises `sqlite3.Error`."""
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise sqlite3.OperationalError("the log could not be truncated")


def files_in_use(connection: sqlite3.Connection) -> set[int]:
    """The spool's files that hold the newest bulk of a stream."""
    return {int(file) for (file,) in connection.execute("SELECT file FROM bulk")}


def journal_unavailable(path: Path, verb: str, error: Exception | str) -> Unavailable:
    """SQLite's and the system's messages name files, tables and causes, never data."""
    text = str(error) if isinstance(error, str) or not isinstance(error, OSError) else os.strerror(error.errno or 0)
    return Unavailable(
        f"the journal {path} cannot be {verb}: {text}. See to the disk and its free space, then try again"
    )


def _answer(group: list[Change]) -> None:
    """From the writer's thread: one wake-up for all that wait in one event loop."""
    waiting: dict[asyncio.AbstractEventLoop, list[Change]] = {}
    for change in group:
        waiting.setdefault(change.loop, []).append(change)
    for loop, changes in waiting.items():
        with contextlib.suppress(RuntimeError):  # a loop that was closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, changes)


def _resolve(changes: list[Change]) -> None:
    for change in changes:
        if change.done.done():  # cancelled
            continue
        if change.error is None:
            change.done.set_result(None)
        else:
            change.done.set_exception(change.error)
