"""Big secrets on disk: sealed bytes in files that are made once and overwritten in place, each under a key kept elsewhere.

Making a file costs the disk more than writing one: blocks are found, a journal of the file system records them. So files
are preallocated, stay when their content is no longer wanted, and serve again. A write takes a file that is free, never
one that is in use, and is on the disk when it returns; whoever wrote the slot down somewhere durable then has it, and
until then what was there before is whole.

Every write has a key of its own (AES-256-GCM, NIST SP 800-38D; the nonce is the number of the chunk), which is in the
slot and not in the folder. Who forgets the slot has erased the data: what stays in the file opens for nobody.

A sealed chunk is a whole number of pages, so that overwriting never reads what was there before.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from smpc_fl.errors import Unavailable
from smpc_fl.hashing import Buffer

CHUNK = 1 << 18
"""Bytes of a sealed chunk: small enough to stay in a core's cache between sealing and writing."""
TAG = 16
FREE_FILES = 4
"""Files that wait for their next use, at most."""
FREE_BYTES = 1 << 30
"""Bytes of those files, at most, unless a single one is larger."""
_PLAIN = CHUNK - TAG
_PAGE = 4096


@dataclass(frozen=True, slots=True)
class Slot:
    """Where `size` bytes lie, and the 32-byte key that opens them."""

    file: int
    size: int
    key: bytes = field(repr=False)


class Spool:
    """The files of one folder (mode 0700, made with the first file), named by numbers. Not for two threads at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sizes: dict[int, int] = {}
        self._free: list[int] = []  # the one that has been free for longest in front
        self._chunk = mmap.mmap(-1, CHUNK)  # aligned, and its pages are there
        if folder.is_dir():
            files = [path for path in folder.iterdir() if path.name.isdecimal()]
            self._sizes = {int(path.name): path.stat().st_size for path in files}

    def keep(self, used: Collection[int]) -> None:
        """These files are in use; every other one is free from now on."""
        self._free = [file for file in self._free if file not in used]
        self._free += sorted(set(self._sizes) - set(used) - set(self._free))
        while len(self._free) > FREE_FILES or (len(self._free) > 1 and self._free_bytes() > FREE_BYTES):
            self._drop(self._free[0])

    def write(self, data: Buffer) -> Slot:
        """Seal `data` into a free file; durable on return. Raises `OSError` (no space, no disk); nothing that is in use
        has been touched then, and a later call may succeed."""
        view = memoryview(data).cast("B")
        chunks = len(_starts(view.nbytes))
        slot = Slot(self._take(chunks * CHUNK), view.nbytes, os.urandom(32))
        try:
            with self._opened(slot.file) as descriptor:
                self._seal(descriptor, AESGCM(slot.key), view)
        except OSError:
            self._drop(slot.file)  # after an error of the disk, nobody knows what is in it
            raise
        return slot

    def read(self, slot: Slot) -> bytearray:
        """What was written. Raises `Unavailable` when the file is gone or holds something else."""
        out = bytearray(slot.size)
        view, cipher = memoryview(out), AESGCM(slot.key)
        sealed = memoryview(self._chunk)
        try:
            with self._opened(slot.file) as descriptor:
                for number, start in enumerate(_starts(slot.size)):
                    plain = view[start : start + _PLAIN]
                    length = os.preadv(descriptor, [sealed[: plain.nbytes + TAG]], number * CHUNK)
                    cipher.decrypt_into(_nonce(number), sealed[:length], None, plain)
        except OSError as error:
            raise Unavailable(f"{self._path(slot.file)} cannot be read: {os.strerror(error.errno or 0)}") from None
        except (InvalidTag, ValueError):
            raise Unavailable(f"{self._path(slot.file)} does not hold what was written to it last") from None
        return out

    # --- inside ---------------------------------------------------------------------------------------------------

    def _seal(self, descriptor: int, cipher: AESGCM, data: memoryview) -> None:
        sealed = memoryview(self._chunk)
        for number, start in enumerate(_starts(data.nbytes)):
            plain = data[start : start + _PLAIN]
            length = cipher.encrypt_into(_nonce(number), plain, None, sealed[: plain.nbytes + TAG])
            self._write(descriptor, sealed[: -(-length // _PAGE) * _PAGE], number * CHUNK)
        self._sync(descriptor)

    def _take(self, size: int) -> int:
        """A file of at least `size` bytes that is in nobody's use: the smallest that will do, or one made larger."""
        fitting = [file for file in self._free if self._sizes[file] >= size]
        if fitting:
            file = min(fitting, key=self._sizes.__getitem__)
        else:
            file = max(self._free, key=self._sizes.__getitem__, default=self._new_number())
            self._grow(file, size)
        if file in self._free:
            self._free.remove(file)
        return file

    def _new_number(self) -> int:
        return 1 + max(self._sizes, default=0)

    def _grow(self, file: int, size: int) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        try:
            with self._opened(file, os.O_CREAT) as descriptor:
                self._allocate(descriptor, size)
                os.fsync(descriptor)
            for folder in (self.folder, self.folder.parent):
                with _opened(folder, os.O_RDONLY) as descriptor:
                    os.fsync(descriptor)
        except OSError:
            self._drop(file)
            raise
        self._sizes[file] = size

    def _drop(self, file: int) -> None:
        self._sizes.pop(file, None)
        self._free = [other for other in self._free if other != file]
        with contextlib.suppress(OSError):  # what cannot be removed is found again at the next start
            self._path(file).unlink()

    def _free_bytes(self) -> int:
        return sum(self._sizes[file] for file in self._free)

    def _path(self, file: int) -> Path:
        return self.folder / str(file)

    def _opened(self, file: int, flags: int = 0) -> contextlib.AbstractContextManager[int]:
        return _opened(self._path(file), os.O_RDWR | flags)

    # --- the disk: what tests make fail ---

    def _allocate(self, descriptor: int, size: int) -> None:
        os.posix_fallocate(descriptor, 0, size)

    def _write(self, descriptor: int, data: memoryview, at: int) -> None:
        while data.nbytes:
            written = os.pwrite(descriptor, data, at)
            data, at = data[written:], at + written

    def _sync(self, descriptor: int) -> None:
        os.fdatasync(descriptor)


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _starts(size: int) -> range:
    """Where each chunk begins in the plaintext; nothing is one empty chunk."""
    return range(0, max(size, 1), _PLAIN)


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
