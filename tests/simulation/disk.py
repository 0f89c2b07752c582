"""The simulated disk of a node: a journal of records by stream, one bulk a stream in a spool of files, as in nodes/home.

A change (records of one stream, their bulk, an erasure) is made whole or not at all. What was synced survives a power cut,
what was only written survives a kill. A backup of the journal refers to the spool's files by number and key: once a file
has been written anew, the bulk that an old journal wants is gone.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import msgspec

from smpc_fl.errors import Unavailable
from smpc_fl.hashing import Buffer
from smpc_fl.protocols.records import KINDS, Record

Row = tuple[str, bytes]
_DECODERS = {name: msgspec.msgpack.Decoder(kind) for name, kind in KINDS.items()}


@functools.lru_cache(1 << 14)
def _decoded(row: Row) -> Record:
    return _DECODERS[row[0]].decode(row[1])


def decoded(rows: Sequence[Row]) -> list[Record]:
    return [_decoded(row) for row in rows if row[0] in KINDS]


def ledger_of(computation: bytes) -> str:
    """The stream of a computation's ledger, which no erasure of a round touches."""
    return f"ledger/{computation.hex()}"


@dataclass
class Change:
    """`erases`: which rows of the stream go, and its bulk with them; then `rows` come to its end. `more`: rows of other
    streams. `sync`: whether it is on the disk when it is answered. `insists`: it is tried until the disk has space again,
    or nobody wants it any more (`unwanted`); otherwise its failure is told."""

    stream: str
    rows: list[Row]
    bulk: Buffer | None = None
    erases: Callable[[Row], bool] | None = None
    more: list[tuple[str, Row]] = field(default_factory=list)
    sync: bool = True
    insists: bool = True
    unwanted: Callable[[], bool] = lambda: False


@dataclass
class _State:
    rows: dict[str, list[Row]] = field(default_factory=dict)
    bulk: dict[str, tuple[int, int]] = field(default_factory=dict)  # stream -> (file, key)
    files: dict[int, tuple[int, bytes]] = field(default_factory=dict)


class Disk:
    """`full`: whether changes fail. `under_way`: changes that were begun and not ended: a crash decides what becomes of
    them."""

    def __init__(self) -> None:
        self.full = False
        self.under_way: list[Change] = []
        self._state = _State()
        self._synced: _State | None = None  # where it is not the state
        self._keys = 0

    # --- reading ---

    def rows(self, stream: str) -> list[Row]:
        return self._state.rows.get(stream, [])

    def streams(self, prefix: str) -> list[str]:
        return [stream for stream, rows in self._state.rows.items() if rows and stream.startswith(prefix)]

    def bulk(self, stream: str) -> bytearray | None:
        file, key = self._state.bulk.get(stream, (-1, -1))
        found, data = self._state.files.get(file, (-1, b""))
        return bytearray(data) if found == key and key >= 0 else None

    def synced(self, stream: str) -> tuple[list[Row], bool]:
        """What a power cut would leave of a stream: its rows, and whether it has a bulk."""
        state = self._synced or self._state
        return state.rows.get(stream, []), stream in state.bulk

    # --- writing ---

    def commit(self, change: Change) -> None:
        """Raises `Unavailable` when the disk is full: nothing was written."""
        if self.full:
            raise Unavailable("the journal cannot be written: no space left on device")
        if change.sync:
            self._synced = None
        elif self._synced is None:
            self._synced = copy.deepcopy(self._state)
        state = self._state
        rows = state.rows.setdefault(change.stream, [])
        if change.erases is not None:
            rows[:] = [row for row in rows if not change.erases(row)]
            state.bulk.pop(change.stream, None)
        rows += change.rows
        for stream, row in change.more:
            state.rows.setdefault(stream, []).append(row)
        if change.bulk is not None:
            used = {file for file, _ in state.bulk.values()}
            file = next(number for number in range(len(used) + 1) if number not in used)
            self._keys += 1
            state.files[file] = (self._keys, bytes(change.bulk))
            state.bulk[change.stream] = (file, self._keys)

    # --- crashes and backups ---

    def crash(self, draw: Random, *, power: bool) -> list[Change]:
        """What was under way is there or is not; after a power cut, what was not synced is not. The changes that got through."""
        through = []
        for change in self.under_way:
            if draw.random() < 0.5 and not self.full:
                self.commit(change)
                through.append(change)
        self.under_way.clear()
        if power and self._synced is not None:
            self._state, self._synced = self._synced, None
            through = [change for change in through if change.sync]
        return through

    def backup(self) -> _State:
        return copy.deepcopy(self._state)

    def restore(self, backup: _State, *, keeps_spool: bool) -> None:
        """The journal of an earlier time, with the spool of that time, or with the spool as it is now."""
        files = self._state.files
        self._state, self._synced = copy.deepcopy(backup), None
        if keeps_spool:
            self._state.files = files

    def lose_spool(self) -> None:
        self._state.files = {}
