"""Big secrets on disk: sealed bytes in files that are made once and overwritten in place, each under a key kept elsewhere.

Making a file costs the disk more than writing one: blocks are found, and the file system notes them in a journal of its
own. So files are preallocated, stay when their content is no longer wanted, and serve again. A write takes a file that is
free, never one that is in use, and is on the disk when it returns; whoever then writes the slot down somewhere durable
has the new data, and until that moment has the old.

Every write has a key of its own (AES-256-GCM, NIST SP 800-38D; the nonce is the number of the chunk), which is in the
slot and not in the folder. Who forgets the slot has erased the data: what stays in the file opens for nobody.

Written past the page cache where the system can (O_DIRECT, from memory in huge pages): nobody reads these bytes again
while the node lives, and the processor's part is about half.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from smpc_fl.errors import Unavailable
from smpc_fl.hashing import Buffer

CHUNK = 1 << 22
"""Bytes of a sealed chunk: large writes are what a disk does best."""
TAG = 16
FREE_FILES = 4
"""Files that wait for their next use, at most."""
FREE_BYTES = 1 << 30
"""Bytes of those files, at most, unless a single one is larger."""
_PLAIN = CHUNK - TAG
_PAGE = 4096
_DIRECT = getattr(os, "O_DIRECT", 0)  # macOS has none


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
        self._chunk = _huge_pages(CHUNK)
        self._sizes: dict[int, int] = {}
        self._free: list[int] = []  # the one that has been free for longest in front
        if folder.is_dir():
            files = [path for path in folder.iterdir() if path.name.isdecimal()]
            self._sizes = {int(path.name): path.stat().st_size for path in files}

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
        slot = Slot(self._take(_pages(view.nbytes + TAG * len(starts))), view.nbytes, os.urandom(32))
        try:
            with self._opened(slot.file, os.O_WRONLY | _DIRECT) as descriptor:
                self._seal(descriptor, AESGCM(slot.key), view)
        except OSError:
            self._remove(slot.file)  # after an error of the disk, nobody knows what it holds
            raise
        return slot

    def read(self, slot: Slot) -> bytearray:
        """What was written. Raises `Unavailable` when the file is gone or holds something else."""
        out = bytearray(slot.size)
        view, cipher = memoryview(out), AESGCM(slot.key)
        try:
            with self._opened(slot.file, os.O_RDONLY) as descriptor:
                for number, start in enumerate(_starts(slot.size)):
                    plain = view[start : start + _PLAIN]
                    length = os.preadv(descriptor, [self._chunk[: plain.nbytes + TAG]], number * CHUNK)
                    cipher.decrypt_into(_nonce(number), self._chunk[:length], None, plain)
        except OSError as error:
            raise Unavailable(f"{self._path(slot.file)} cannot be read: {os.strerror(error.errno or 0)}") from None
        except (InvalidTag, ValueError):
            raise Unavailable(f"{self._path(slot.file)} does not hold what was written to it last") from None
        return out

    # --- inside ---------------------------------------------------------------------------------------------------

    def _seal(self, descriptor: int, cipher: AESGCM, data: memoryview) -> None:
        for number, start in enumerate(_starts(data.nbytes)):
            plain = data[start : start + _PLAIN]
            length = cipher.encrypt_into(_nonce(number), plain, None, self._chunk[: plain.nbytes + TAG])
            self._write(descriptor, self._chunk[: _pages(length)], number * CHUNK)
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
            with self._opened(file, os.O_RDWR | os.O_CREAT) as descriptor:
                self._allocate(descriptor, size)
                os.fsync(descriptor)
            for folder in (self.folder, self.folder.parent):
                with _opened(folder, os.O_RDONLY) as descriptor:
                    os.fsync(descriptor)
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

    def _opened(self, file: int, flags: int) -> contextlib.AbstractContextManager[int]:
        return _opened(self._path(file), flags)

    # --- the disk: what tests make fail ---

    def _allocate(self, descriptor: int, size: int) -> None:
        if hasattr(os, "posix_fallocate"):  # without it (macOS), the first write finds the blocks
            os.posix_fallocate(descriptor, 0, size)

    def _write(self, descriptor: int, data: memoryview, at: int) -> None:
        while data.nbytes:
            written = os.pwrite(descriptor, data, at)
            data, at = data[written:], at + written

    def _sync(self, descriptor: int) -> None:
        getattr(os, "fdatasync", os.fsync)(descriptor)


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno != errno.EINVAL or not flags & _DIRECT:
            raise
        descriptor = os.open(path, flags & ~_DIRECT, 0o600)  # a file system that always goes through the page cache
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _huge_pages(size: int) -> memoryview:
    """Memory that begins at a page, in few pieces; none of it is taken up before it is first used."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # advice, which a kernel may not know
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def _starts(size: int) -> range:
    """Where each chunk begins in the plaintext; nothing is one empty chunk."""
    return range(0, max(size, 1), _PLAIN)


def _pages(size: int) -> int:
    """`size`, rounded up to whole pages: overwriting them never reads what was there, and O_DIRECT takes nothing else."""
    return -(-size // _PAGE) * _PAGE


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
