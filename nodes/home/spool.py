"""Big secrets on disk: sealed bytes in files that are made once and overwritten in place, each under a key kept elsewhere.

Making a file costs the disk more than writing one: blocks are found, and the file system notes them in a journal of its
own. So files are preallocated, stay when their content is no longer wanted, and serve again. A write takes a file that is
free, never one that is in use, and is on the disk when it returns; whoever then writes the slot down somewhere durable
has the new data, and until that moment has the old.

Every write has a key of its own (AES-256-GCM, NIST SP 800-38D; the nonce is the number of the chunk), which is in the
slot and not in the folder. Who forgets the slot has erased the data: what stays in the file opens for nobody.

A sealed chunk is a whole number of pages, so that writing goes past the page cache (`direct`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from smpc_fl.errors import Unavailable
from smpc_fl.hashing import Buffer
from smpc_fl.nodes import faults
from smpc_fl.nodes.home import direct, files
from smpc_fl.nodes.home.direct import CHUNK

TAG = 16
FREE_FILES = 4
"""Files that wait for their next use, at most."""
FREE_BYTES = 1 << 30
"""Bytes of those files, at most, unless a single one is larger."""
_PLAIN = CHUNK - TAG


@dataclass(frozen=True, slots=True)
class Slot:
    """Where `size` bytes lie, and the 32-byte key that opens them."""

    file: int
    size: int
    key: bytes = field(repr=False)


class Spool:
    """The files of one folder (mode 0700, made with the first file), named by numbers. Not for two threads at once."""

    def __init__(self, folder: Path) -> None:
        """Raises `OSError`."""
        self.folder = folder
        self._sizes: dict[int, int] = {}
        self._free: list[int] = []  # the one that has been free for longest in front
        if folder.is_dir():
            found = [path for path in folder.iterdir() if path.name.isdecimal()]
            self._sizes = {int(path.name): path.stat().st_size for path in found}

    def keep(self, used: Collection[int]) -> None:
        """These files are in use; every other one is free from now on, and removed if there are too many."""
        self._free = [file for file in self._free if file not in used]
        self._free += sorted(set(self._sizes) - set(used) - set(self._free))
        while len(self._free) > FREE_FILES or (len(self._free) > 1 and self._free_bytes() > FREE_BYTES):
            self._remove(self._free[0])

    def write(self, data: Buffer) -> Slot:
        """Seal `data` into a free file, which is in use from now on; durable on return.

        Raises `OSError` (no space, no disk): nothing that is in use was touched, and a later call may succeed."""
        view = memoryview(data).cast("B")
        starts = _starts(view.nbytes)
        slot = Slot(self._take(direct.pages(view.nbytes + TAG * len(starts))), view.nbytes, os.urandom(32))
        try:
            with direct.opened(self._path(slot.file), os.O_WRONLY) as descriptor:
                self._seal(descriptor, AESGCM(slot.key), view)
            if faults.armed:
                faults.at("persist", ["bulk"], "before")
        except OSError:
            self._remove(slot.file)  # after an error of the disk, nobody knows what it holds
            raise
        return slot

    def read(self, slot: Slot) -> bytearray:
        """What was written. Raises `Unavailable` when the file is gone or holds something else."""
        try:
            if not 0 <= slot.size <= self._path(slot.file).stat().st_size:
                raise ValueError
            out = bytearray(slot.size)
            view, cipher = memoryview(out), AESGCM(slot.key)
            with self._path(slot.file).open("rb", buffering=0) as file, direct.chunk_memory() as sealed:
                for number, start in enumerate(_starts(slot.size)):
                    plain = view[start : start + _PLAIN]
                    length = file.readinto(sealed[: plain.nbytes + TAG])
                    cipher.decrypt_into(_nonce(number), sealed[:length], None, plain)
        except OSError as error:
            raise Unavailable(f"{self._path(slot.file)} cannot be read: {os.strerror(error.errno or 0)}") from None
        except (InvalidTag, ValueError):
            raise Unavailable(f"{self._path(slot.file)} does not hold what was written to it last") from None
        return out

    # --- inside ---------------------------------------------------------------------------------------------------

    def _seal(self, descriptor: int, cipher: AESGCM, data: memoryview) -> None:
        with direct.chunk_memory() as sealed:
            for number, start in enumerate(_starts(data.nbytes)):
                plain = data[start : start + _PLAIN]
                length = cipher.encrypt_into(_nonce(number), plain, None, sealed[: plain.nbytes + TAG])
                self._write(descriptor, sealed[: direct.pages(length)], number * CHUNK)
        self._sync(descriptor)

    def _take(self, size: int) -> int:
        """A file of at least `size` bytes that nobody uses: the smallest that will do, else the largest made larger."""
        fitting = [file for file in self._free if self._sizes[file] >= size]
        if fitting:
            file = min(fitting, key=self._sizes.__getitem__)
        else:
            file = max(self._free, key=self._sizes.__getitem__, default=1 + max(self._sizes, default=0))
            self._grow(file, size)
        self._free = [other for other in self._free if other != file]
        return file

    def _grow(self, file: int, size: int) -> None:
        """Also what the file's name and its place on the disk depend on is durable."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        try:
            with direct.opened(self._path(file), os.O_RDWR | os.O_CREAT) as descriptor:
                self._allocate(descriptor, size)
                os.fsync(descriptor)
            files.sync_folder(self.folder)
            files.sync_folder(self.folder.parent)
        except OSError:
            self._remove(file)
            raise
        self._sizes[file] = size

    def _remove(self, file: int) -> None:
        self._sizes.pop(file, None)
        self._free = [other for other in self._free if other != file]
        with contextlib.suppress(OSError):  # one that cannot be removed is free at the next start
            self._path(file).unlink()

    def _free_bytes(self) -> int:
        return sum(self._sizes[file] for file in self._free)

    def _path(self, file: int) -> Path:
        return self.folder / str(file)

    # --- the disk: what tests make fail ---

    def _allocate(self, descriptor: int, size: int) -> None:
        direct.allocate(descriptor, size)

    def _write(self, descriptor: int, data: memoryview, at: int) -> None:
        direct.write(descriptor, data, at)

    def _sync(self, descriptor: int) -> None:
        direct.sync_data(descriptor)


def _starts(size: int) -> range:
    """Where each chunk begins in the plaintext; nothing is one empty chunk."""
    return range(0, max(size, 1), _PLAIN)


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
