"""Freed memory stays with the process: vectors of megabytes come and go, round after round and batch after batch.

glibc maps what is large anew each time, and gives back what is freed at the end of its heap; every page then faults in
again, zeroed. For a model of 4 MB that costs as much as a batch of its training.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3), malloc.h
_LARGE = 1 << 25
"""32 MiB, the most that every glibc takes: larger blocks are mapped as before."""
_KEPT = 1 << 28
"""256 MiB: freed memory beyond it goes back."""


def keep_freed_memory() -> bool:
    """For the whole process, from now on; the peak of its memory stays the same. False without glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or none to ask
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGE)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
