"""Arithmetic on long vectors over all cores. OpenSSL and NumPy free the interpreter lock, so threads do."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

LEAST = 4
"""Chunks that are worth a thread (1 MiB)."""

_threads = os.cpu_count() or 1
_pool: ThreadPoolExecutor | None = None


def over_cores(work: Callable[[int, int], None], n: int) -> None:
    """`protocols.vectors.Parallel`: work(first, last) in as many threads as there are cores."""
    parts = min(_threads, n // LEAST)
    if parts < 2:
        work(0, n)
        return
    cuts = [n * part // parts for part in range(parts + 1)]
    ranges = list(pairwise(cuts))
    others = [_executor().submit(work, first, last) for first, last in ranges[1:]]
    try:
        work(*ranges[0])
    finally:
        for other in others:
            other.result()


def _executor() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(_threads, thread_name_prefix="arithmetic")
    return _pool
