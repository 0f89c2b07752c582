"""Rounds of several sides in turn, and what is made of their figures: medians, ratios pair by pair, growth exponents."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from bench.homes import Certificates
from bench.plain import start_bare, start_plain
from bench.processes import Side
from bench.secure import start_secure
from bench.task import Task

BLOCK = 0.3
"""Seconds that rounds are repeated for one sample, so that short ones are told from the clock's grain."""
MOST_ROUNDS = 20


@dataclass(frozen=True)
class Kind:
    """Which side: "bare", "plain" or "secure", over TLS or not."""

    what: str
    tls: bool = False

    def __str__(self) -> str:
        return f"{self.what}, {'TLS' if self.tls else 'no TLS'}"


BARE, BARE_TLS = Kind("bare"), Kind("bare", True)
PLAIN, PLAIN_TLS = Kind("plain"), Kind("plain", True)
SECURE, SECURE_TLS = Kind("secure"), Kind("secure", True)


@dataclass(frozen=True)
class Sample:
    """Seconds for one round: median wall, CPU of all processes by role."""

    wall: float
    roles: Mapping[str, float]

    @property
    def cpu(self) -> float:
        return sum(self.roles.values())


@dataclass
class Measured:
    """One side's samples. `uploaded`: bytes of one round's uploads on the owners' sockets; `base` and `peaks`: bytes of
    resident memory of the largest process of each role, before the first round and at most."""

    kind: Kind
    task: Task
    samples: list[Sample] = field(default_factory=list)
    uploaded: float = 0.0
    base: dict[str, int] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)

    @property
    def wall(self) -> float:
        return median(sample.wall for sample in self.samples)

    @property
    def cpu(self) -> float:
        return median(sample.cpu for sample in self.samples)

    def cpu_of(self, role: str) -> float:
        return median(sample.roles.get(role, 0.0) for sample in self.samples)

    def as_json(self) -> dict[str, Any]:
        return {
            "side": self.kind.what, "tls": self.kind.tls, "owners": self.task.owners,
            "dimension": self.task.dimension,
            "aggregators": self.task.aggregators if self.kind.what == "secure" else 0,
            "bits": self.task.numbers.ring_bits, "wall": self.wall, "cpu": self.cpu,
            "walls": [sample.wall for sample in self.samples], "cpus": [sample.cpu for sample in self.samples],
            "roles": {role: self.cpu_of(role) for role in self.samples[0].roles} if self.samples else {},
            "uploaded": self.uploaded, "base": self.base, "peaks": self.peaks,
        }  # fmt: skip


def ratio(of: Measured, to: Measured, figure: Literal["wall", "cpu"]) -> float:
    """Median of the samples' ratios, each pair taken one right after the other."""
    pairs = zip(of.samples, to.samples, strict=True)
    return median(a.wall / b.wall if figure == "wall" else a.cpu / b.cpu for a, b in pairs)


def exponent(points: Mapping[int, float]) -> float:
    """Least-squares slope of log y over log x: 1 is linear growth, 0 none."""
    xs, ys = [math.log(x) for x in points], [math.log(y) for y in points.values()]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread


@contextmanager
def sides(wanted: Sequence[tuple[Kind, Task]], folder: Path, certificates: Certificates) -> Iterator[list[Side]]:
    """All of them up at once; those that wait cost nothing."""
    with ExitStack() as stack:
        up = []
        for kind, task in wanted:
            tls = certificates if kind.tls else None
            if kind.what == "bare":
                up.append(start_bare(task, tls))
            else:
                home = folder / f"{kind.what}-{'tls' if kind.tls else 'ws'}-{task.aggregators}-{task.bits}"
                up.append((start_plain if kind.what == "plain" else start_secure)(task, home, tls))
            stack.enter_context(up[-1])
        yield up


def compare(
    wanted: Sequence[tuple[Kind, Task]], folder: Path, certificates: Certificates, *, repeats: int, seconds: float
) -> list[Measured]:
    """`repeats` samples of each side, in turn; fewer (at least two) when that takes over `seconds`."""
    results = [Measured(kind, task) for kind, task in wanted]
    with sides(wanted, folder, certificates) as up:
        for side, result in zip(up, results, strict=True):
            side.settle()
            result.base = side.peaks()
        counts = [_warm(side) for side in up]
        until = time.monotonic() + seconds
        for repeat in range(repeats):
            if repeat >= 2 and time.monotonic() > until:
                break
            for side, result, count in zip(up, results, counts, strict=True):
                take(side, result, count)
        for side, result in zip(up, results, strict=True):
            result.peaks = side.peaks()
    return results


def _warm(side: Side) -> int:
    """Two rounds that do not count; the number of rounds in a sample."""
    side.rounds(1)
    wall = max(1e-3, *_walls(side.rounds(1)))
    return max(1, min(MOST_ROUNDS, round(BLOCK / wall)))


def take(side: Side, result: Measured, count: int = 1) -> None:
    """One more sample, of `count` rounds."""
    side.settle()
    before = side.cpu()
    told = side.rounds(count)
    side.settle()
    after = side.cpu()
    spent = {role: (after[role] - before[role]) / count for role in after}
    if isinstance(told, dict):
        result.uploaded = told["uploaded"]
        if "verifying" in told:
            spent["coordinator"] -= told["verifying"] / count
    result.samples.append(Sample(median(_walls(told)), spent))


def _walls(told: Any) -> list[float]:
    return list(told["seconds"] if isinstance(told, dict) else told)
