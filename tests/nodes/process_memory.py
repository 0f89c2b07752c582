"""Helper: the memory of another process, as a core file of it would hold it (Linux)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PIECE = 1 << 26


def written_memory(pid: int) -> Iterator[bytes]:
    """What the process has written: heap, stacks, anonymous mappings, in pieces of 64 MiB at most. Raises `PermissionError`
    for one that is closed to us."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, rights, *_, name = (line + " -").split()[:7]
            if "rw" not in rights or name in ("[vvar]", "[vsyscall]"):
                continue
            first, last = (int(each, 16) for each in place.split("-"))
            for start in range(first, last, PIECE):
                try:
                    memory.seek(start)
                    yield memory.read(min(PIECE, last - start))
                except (OSError, OverflowError):
                    break  # mapped, and not to be read: a guard page, a device
