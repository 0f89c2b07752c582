"""Runs cases and says which of them came out wrong.

A *target* is something that takes foreign input. Its case number n with seed s is always the same: everything is drawn
from `Random((name, s, n))`. What may come out is a documented error, and nothing else: any other exception, more than
`SLOW` seconds of processor time, and what the target itself finds wrong (`Wrong`) are findings.
"""

from __future__ import annotations

import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

SLOW = 1.0
"""Seconds of processor time that a case may take: one that is merely waited for on a busy machine is not slow."""


class Wrong(AssertionError):
    """A target's own finding: a second spelling, a secret, a change of state that the table does not have."""


class TooSlow(BaseException):
    """Not an `Exception`: code under test must not be able to swallow it."""


@dataclass(frozen=True)
class Target:
    """`make(rng)` gives an input, `take(input)` reads it. `share`: cases of this target beside others with 1."""

    name: str
    make: Callable[[Random], Any]
    take: Callable[[Any], object]
    allowed: tuple[type[Exception], ...]
    share: float = 1.0


@dataclass(frozen=True)
class Finding:
    target: str
    seed: int
    case: int
    what: str
    data: str

    def __str__(self) -> str:
        return (
            f"{self.target}: {self.what}\n    input: {self.data}\n"
            f"    again: scripts/fuzz --only {self.target} --seed {self.seed} --case {self.case}"
        )


def input_of(target: Target, seed: int, case: int) -> Any:
    return target.make(Random(f"{target.name}/{seed}/{case}"))


def run_case(target: Target, seed: int, case: int) -> Finding | None:
    """None if the case came out as it should. One that was slow is tried again: something may have been loaded."""
    data = input_of(target, seed, case)
    try:
        took = _time_of(target, data)
        if took > SLOW:
            took = min(took, _time_of(target, data))
        if took > SLOW:
            raise TooSlow(f"{took:.1f} s")
    except (Exception, TooSlow) as error:
        return Finding(target.name, seed, case, _what(error), shown(data))
    return None


def _time_of(target: Target, data: Any) -> float:
    """Seconds of processor time until the input was taken, or refused as documented."""
    began = time.process_time()
    try:
        with _at_most(4 * SLOW):
            target.take(data)
    except target.allowed:
        pass
    return time.process_time() - began


def run_cases(target: Target, seed: int, cases: range) -> Iterator[Finding]:
    """The findings among these cases. Warnings are errors, as in the tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for case in cases:
            finding = run_case(target, seed, case)
            if finding is not None:
                yield finding


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raises `TooSlow` after so much processor time, where Python gets to say so."""

    def ring(*_: object) -> None:
        raise TooSlow(f"over {seconds:g} s, interrupted")

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _what(error: BaseException) -> str:
    """The error, and the innermost line of ours that it came from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/fuzz/" not in f.filename or "take" in f.name]
    ours = [f for f in frames if any(part in f.filename for part in ("smpc_fl", "protocols", "nodes", "/fuzz/"))]
    where = f" at {ours[-1].filename.rpartition('/')[2]}:{ours[-1].lineno}" if ours else ""
    return f"{type(error).__name__}: {str(error)[:300]}{where}"


def shown(data: Any) -> str:
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data[:4096]).hex() + (f"… ({len(data)} bytes)" if len(data) > 4096 else "")
    return repr(data)[:2000]
