"""Randomness as an argument: pure code takes an `Entropy`; `nodes` passes the operating system's, tests a seeded one."""

from __future__ import annotations

from typing import Protocol


class Entropy(Protocol):
    """n uniformly random bytes at each call, never the same stream twice. `os.urandom` is one."""

    def __call__(self, n: int, /) -> bytes: ...
