"""Freed memory stays with the process: vectors of megabytes come and go, round after round and batch after batch. And what is
garbage is found.

glibc maps what is large anew each time, gives back what is freed at the end of its heap, and keeps a heap for each thread;
every page then faults in again, zeroed. At 10^7 parameters that was a third of a round's CPU seconds.
"""

from __future__ import annotations

import ctypes
import gc

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # mallopt(3), malloc.h
_KEPT = 1 << 28
"""256 MiB: freed memory at the end of the heap beyond it goes back."""


def keep_freed_memory() -> bool:
    """For the whole process, from now on: one heap, from which large blocks come as well. False without glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or none to ask
        return False
    return all([mallopt(_MMAP_MAX, 0), mallopt(_ARENA_MAX, 1), mallopt(_TRIM_THRESHOLD, _KEPT)])


def give_back() -> bool:
    """What nobody has used since goes back to the system, page by page, also from the middle of the heap. False without glibc.

    Every burst of messages that is larger than any before leaves its mark on a heap that keeps all; in an hour of kills that
    was a megabyte or two, with nothing more in use (`scripts/soak`)."""
    gc.collect()
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return False
    trim(0)
    return True


def settle() -> None:
    """What is here now stays for good: the collector of cycles looks at what comes after it alone.

    It collects what has lived for long only when a quarter more has come. With torch's 300,000 objects in the count, a
    node kept the connections of hundreds of peers that had gone: megabytes (`scripts/soak`)."""
    gc.collect()
    gc.freeze()
    gc.collect()  # which counts what it finds: next to nothing
