"""Megabytes to the disk past the page cache (O_DIRECT), where the system can.

They are not read again while the node lives, and finding fresh pages for them in the cache would cost the processor
several times what sealing them does. The price: memory and lengths in whole pages.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

CHUNK = 1 << 22
"""Bytes in one write: large ones are what a disk does best."""
PAGE = 4096
_DIRECT = getattr(os, "O_DIRECT", 0)  # macOS has none
_idle: list[memoryview] = []  # as many as threads have written at once; lists are safe between threads


@contextlib.contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """A descriptor of the file, made with mode 0600 if `flags` say so, for writes from `chunk_memory` alone, each of
    whole pages. Raises `OSError`."""
    try:
        descriptor = os.open(path, flags | _DIRECT, 0o600)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        descriptor = os.open(path, flags, 0o600)  # a file system that always goes through the page cache
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def chunk_memory() -> Iterator[memoryview]:
    """`CHUNK` bytes that begin at a page, in few pieces, lent: finding fresh pages costs more than filling them."""
    try:
        memory = _idle.pop()
    except IndexError:
        memory = _page_memory(CHUNK)
    try:
        yield memory
    finally:
        _idle.append(memory)


def _page_memory(size: int) -> memoryview:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # advice, which a kernel may not know
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def pages(size: int) -> int:
    """`size`, rounded up to whole pages."""
    return -(-size // PAGE) * PAGE


def allocate(descriptor: int, size: int) -> None:
    """Find the disk's blocks at once, and side by side. Raises `OSError`, if there is no space."""
    if size and hasattr(os, "posix_fallocate"):  # without it (macOS), writing finds them
        os.posix_fallocate(descriptor, 0, size)


def write(descriptor: int, data: memoryview, at: int) -> None:
    """All of `data`. Raises `OSError`."""
    while data.nbytes:
        written = os.pwrite(descriptor, data, at)
        data, at = data[written:], at + written


def sync_data(descriptor: int) -> None:
    """What was written is durable, in a file of the size that it had. Raises `OSError`."""
    getattr(os, "fdatasync", os.fsync)(descriptor)
