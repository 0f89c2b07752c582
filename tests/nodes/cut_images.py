"""Helper: from a record of what a process did to its files (`disk_recorder.c`), what a power cut may leave of them.

What was synced is there. Of what was not, anything may be: each write, or some of its sectors of 512 bytes, or nothing.
Names (made, changed, removed) become durable when their folder is synced, in their order."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SECTOR = 512
CLASSES = ("nothing", "everything", "some", "torn")
"""What is left of what was not synced."""


class Entry(NamedTuple):
    operation: str
    path: Path
    at: int
    data: bytes


def read(record: bytes) -> Iterator[Entry]:
    while record:
        operation, at, length, size = struct.unpack_from("<cQII", record)
        path, data = record[17 : 17 + length], record[17 + length : 17 + length + size]
        yield Entry(operation.decode(), Path(path.decode()), at, data)
        record = record[17 + length + size :]


@dataclass
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Entry] = field(default_factory=list)

    def image(self, left: str, draw: random.Random) -> bytes:
        content = bytearray(self.durable)
        for entry in self.pending:
            if left == "everything" or (left in ("some", "torn") and draw.random() < 0.5):
                _apply(content, entry, draw if left == "torn" else None)
        return bytes(content)


def _apply(content: bytearray, entry: Entry, torn: random.Random | None = None) -> None:
    if entry.operation == "T":
        del content[entry.at :]
        content += bytes(entry.at - len(content))
        return
    content += bytes(max(0, entry.at + len(entry.data) - len(content)))
    for start in range(0, len(entry.data), SECTOR):
        if torn is None or torn.random() < 0.5:
            sector = entry.data[start : start + SECTOR]
            content[entry.at + start : entry.at + start + len(sector)] = sector


class Disk:
    """The files below `root`, as they are and as they are durably."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[Path, _File] = {}
        self._durable: dict[Path, _File] = {}
        self._renamings: list[tuple[Entry, _File]] = []  # of names, in their order

    def step(self, entry: Entry) -> None:
        match entry.operation:
            case "O":
                file = self._names[entry.path] = _File()
                self._renamings.append((entry, file))
            case "W" | "T":
                self._names[entry.path].pending.append(entry)
            case "F" if entry.path in self._names:
                file = self._names[entry.path]
                for each in file.pending:
                    _apply(file.durable, each)
                file.pending.clear()
            case "F":  # a folder
                there = [change for change in self._renamings if change[0].path.parent == entry.path]
                self._renamings = [change for change in self._renamings if change not in there]
                for change in there:
                    _rename(self._durable, *change)
            case _:
                file = self._names[entry.path]
                self._renamings.append((entry, file))
                _rename(self._names, entry, file)

    def write_image(self, to: Path, left: str, draw: random.Random) -> None:
        """What may be left of it all, in folder `to`, which is made anew."""
        names = dict(self._durable)
        count = {"nothing": 0, "everything": len(self._renamings)}.get(left, draw.randint(0, len(self._renamings)))
        for change in self._renamings[:count]:
            _rename(names, *change)
        shutil.rmtree(to, ignore_errors=True)
        for path, file in names.items():
            if path.suffix != ".db-shm":  # SQLite makes it anew
                place = to / path.relative_to(self.root)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(file.image(left, draw))


def _rename(names: dict[Path, _File], entry: Entry, file: _File) -> None:
    match entry.operation:
        case "O":
            names[entry.path] = file
        case "R":
            names.pop(entry.path, None)
            names[Path(entry.data.decode())] = file
        case _:
            names.pop(entry.path, None)
