"""What a seed makes of a federation: its size, its runs, and everything that will go wrong, before anything happens.

Two runs may be over the same subject and model with other cohorts and other dropouts: their sums could be subtracted.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from network import FAULTS
from toy_crypto import Draws
from world import BEGIN

from smpc_fl.privacy.mechanism import Mechanism
from smpc_fl.protocols.coordinator import RoundPlan
from smpc_fl.protocols.manifest import Expected, Numbers, choose_numbers
from smpc_fl.protocols.party import Party
from smpc_fl.protocols.simulate import COORDINATOR, JOB, SUBJECT, federation

if TYPE_CHECKING:
    from driving import Attempt

OWNERS = ("alice", "bob", "carol", "dave", "erin", "frank")
AGGREGATORS = ("aggregator-0", "aggregator-1", "aggregator-2", "aggregator-3")
DIMENSION, CLIP, MAX_SAMPLES, TOLERANCE = 3, 1.0, 128, 1e-3
NOISE = Mechanism(2.0, 1.5, -2, DIMENSION)
"""Of scenarios that are noisy: every vector is within an L2 norm of 1.5."""
SECONDS = 60.0
"""Until an attempt's deadline."""
PATIENCE = 60.0
"""Seconds that an aggregator may be away in any phase: `nodes.run` takes the deadline's, at least 30."""


@dataclass(frozen=True)
class Crash:
    power: bool
    seconds: float


@dataclass(frozen=True)
class RunPlan:
    """`begins`: seconds after the world. Rounds are numbered from 0; each has a model of its own, the same in every run."""

    id: bytes
    cohort: tuple[str, ...]
    rounds: int
    attempts: int
    begins: float


@dataclass(frozen=True)
class Planned:
    """A fault at a time (seconds after the world's begin): `what` happens to `who`, for `seconds`."""

    at: float
    what: str
    who: str
    seconds: float
    other: str = ""


@dataclass(frozen=True)
class Scenario:
    """`rates`: of each fault of a message; `crashes`: by node, at which boundary, and `crash_rate` at any; `planned`: faults at
    a time; after `calm` seconds nothing goes wrong any more. `slowest` a message, `slowest_commit` a write, `computing` an
    owner may be, in seconds, unless it is `slow`. `mischief`: how likely the coordinator does something dishonest when it
    hears something; `goes_on_regardless`: it does not hear the first attempt's sums, and begins the next one without the
    aborts that this takes; `hasty`: an owner that does not wait for its receipts; `noisy`: aggregators add noise."""

    seed: int
    owners: tuple[str, ...]
    aggregators: tuple[str, ...]
    k_min: int
    runs: tuple[RunPlan, ...]
    calm: float
    slowest: float = 0.05
    slowest_commit: float = 0.02
    crash_rate: float = 0.0
    computing: float = 3.0
    rates: Mapping[str, float] = field(default_factory=dict)
    crashes: Mapping[str, Mapping[int, Crash]] = field(default_factory=dict)
    planned: tuple[Planned, ...] = ()
    slow: Mapping[tuple[str, tuple[bytes, int]], float] = field(default_factory=dict)
    skews: Mapping[str, float] = field(default_factory=dict)
    computing_fails: float = 0.0
    mischief: float = 0.0
    goes_on_regardless: bool = False
    hasty: str = ""
    noisy: bool = False

    seconds: ClassVar[float] = SECONDS
    patience: ClassVar[float] = PATIENCE

    @property
    def quiet(self) -> float:
        """On the world's clock: nothing goes wrong any more."""
        return BEGIN + max([self.calm, *(planned.at + planned.seconds for planned in self.planned)])

    @property
    def ids(self) -> tuple[str, ...]:
        return (COORDINATOR, *self.owners, *self.aggregators)

    @property
    def parties(self) -> Mapping[str, Party]:
        return parties(self.owners, self.aggregators)

    @property
    def numbers(self) -> Numbers:
        return numbers(len(self.owners), self.k_min, self.noise)

    @property
    def noise(self) -> int:
        """How many aggregators add some."""
        return len(self.aggregators) if self.noisy else 0

    def vectors(self, number: int) -> dict[str, Any]:
        return vectors(self.owners, self.k_min, self.noise, number)

    def encoded(self, number: int) -> dict[str, list[int]]:
        return encoded(self.owners, self.k_min, self.noise, number)

    def expected(self, earlier: tuple[frozenset[str], ...]) -> Expected:
        """Every owner has approved the runs' one job, over all owners."""
        mechanism = NOISE if self.noisy else None
        return Expected("train", JOB, DIMENSION, CLIP, MAX_SAMPLES, TOLERANCE, self.owners, SUBJECT, earlier, mechanism)

    def round_plan(self, run: RunPlan, attempt: Attempt) -> RoundPlan:
        return RoundPlan(
            run.id, attempt.round, attempt.attempt, "train", run.cohort, self.aggregators, DIMENSION, self.numbers, CLIP,
            MAX_SAMPLES, self.k_min, SECONDS, PATIENCE, JOB, SUBJECT, model(attempt.round), tuple(attempt.aborts),
        )  # fmt: skip

    @classmethod
    def of(cls, seed: int) -> Scenario:
        return _Maker(seed).scenario()


def model(number: int) -> bytes:
    return b"model" + bytes([number])


@functools.cache
def parties(owners: tuple[str, ...], aggregators: tuple[str, ...]) -> dict[str, Party]:
    return federation(list(owners), list(aggregators), Draws("federation"))


@functools.cache
def numbers(owners: int, k_min: int, noise: int) -> Numbers:
    return choose_numbers(
        owners=owners, clip=CLIP, max_samples=MAX_SAMPLES, k_min=k_min, tolerance=TOLERANCE, ring_bits=None,
        mechanism=NOISE if noise else None, aggregators=noise,
    )  # fmt: skip


@functools.cache
def vectors(owners: tuple[str, ...], k_min: int, noise: int, number: int) -> dict[str, Any]:
    """Each owner's vector in round `number`: 4^i units of the scale, so that a "2" among the sum's base-4 digits is an owner
    that counted twice; then values in ±1."""
    unit = 2.0 ** -numbers(len(owners), k_min, noise).fractional_bits
    rest = np.random.default_rng(number).uniform(-1, 1, (len(owners), DIMENSION - 1))
    return {owner: np.concatenate([[4**i * unit], rest[i]]) for i, owner in enumerate(owners)}


@functools.cache
def encoded(owners: tuple[str, ...], k_min: int, noise: int, number: int) -> dict[str, list[int]]:
    fixed = numbers(len(owners), k_min, noise).fixed_point
    modulus = 1 << fixed.ring.bits
    return {
        owner: [int(v) % modulus for v in fixed.encode(vector)]
        for owner, vector in vectors(owners, k_min, noise, number).items()
    }


class _Maker:
    """Draws a scenario. A third of the seeds are gentle, a third are rough, and the rest concentrate on one kind of fault."""

    def __init__(self, seed: int) -> None:
        self.seed, self.draw = seed, Random(f"scenario {seed}")

    def scenario(self) -> Scenario:
        draw = self.draw
        owners = OWNERS[: draw.choice([3, 3, 4, 4, 5, 6])]
        aggregators = AGGREGATORS[: draw.choice([2, 2, 3, 3, 4])]
        k_min = draw.randint(2, min(3, len(owners)))
        runs = self._runs(owners, k_min)
        calm = draw.choice([20.0, 70.0, 150.0])
        ids = (COORDINATOR, *owners, *aggregators)
        style = draw.choice(["messages", "crashes", "backups", "owners", "rough", "rough", "byzantine", "byzantine"])
        rough, lies = style == "rough", style == "byzantine"
        return Scenario(
            seed=self.seed,
            owners=owners,
            aggregators=aggregators,
            k_min=k_min,
            runs=runs,
            calm=calm,
            slowest=draw.choice([0.01, 0.05, 0.5]),
            slowest_commit=draw.choice([0.002, 0.02, 0.3]),
            crash_rate=draw.choice([0.0, 0.02, 0.1]) if rough or style == "crashes" else 0.0,
            computing=draw.choice([0.1, 3.0]),
            rates=self._rates() if rough or style == "messages" or draw.random() < (0.5 if lies else 0.2) else {},
            crashes=self._crashes(ids) if rough or style == "crashes" or draw.random() < 0.2 else {},
            planned=self._planned(style, ids, aggregators, calm),
            slow=self._slow(runs) if rough or style in ("owners", "backups") or draw.random() < 0.3 else {},
            skews={id_: draw.uniform(-2.0, 2.0) for id_ in ids} if draw.random() < 0.5 else {},
            computing_fails=draw.choice([0.0, 0.0, 0.1]) if rough or style == "owners" else 0.0,
            mischief=draw.choice([0.02, 0.1, 0.3]) if lies else 0.0,
            goes_on_regardless=lies and draw.random() < 0.3,
            hasty=draw.choice(owners) if draw.random() < (0.5 if lies else 0.1) else "",
            noisy=draw.random() < 0.3,
        )

    def _runs(self, owners: tuple[str, ...], k_min: int) -> tuple[RunPlan, ...]:
        draw = self.draw
        entropy = Draws(("runs", self.seed))

        def run(begins: float, cohort: tuple[str, ...] = ()) -> RunPlan:
            size = max(k_min, len(owners) - draw.choice([0, 0, 1, 2]))
            cohort = cohort or tuple(sorted(draw.sample(owners, size)))
            return RunPlan(entropy(16), cohort, draw.choice([1, 1, 1, 1, 2]), draw.choice([1, 2, 3]), begins)

        first = run(0.0)
        if draw.random() < 0.7:
            return (first,)
        return first, run(draw.choice([0.0, 5.0, 90.0]), first.cohort if draw.random() < 0.7 else ())

    def _rates(self) -> dict[str, float]:
        total = self.draw.choice([0.01, 0.05, 0.2])
        kinds = [kind for kind in FAULTS if self.draw.random() < 0.5] or [self.draw.choice(FAULTS)]
        return {kind: total / len(kinds) for kind in kinds}

    def _crashes(self, ids: tuple[str, ...]) -> dict[str, dict[int, Crash]]:
        crashes: dict[str, dict[int, Crash]] = {}
        for _ in range(self.draw.randint(1, 6)):
            crash = Crash(self.draw.random() < 0.3, self.draw.choice([0.1, 2.0, 40.0]) * self.draw.random())
            crashes.setdefault(self.draw.choice(ids), {})[self.draw.randint(1, 30)] = crash
        return crashes

    def _planned(
        self, style: str, ids: tuple[str, ...], aggregators: tuple[str, ...], calm: float
    ) -> tuple[Planned, ...]:
        draw = self.draw
        found: list[Planned] = []

        def plan(what: str, who: str, seconds: float, other: str = "") -> None:
            found.append(Planned(calm * draw.random() ** 2, what, who, seconds, other))

        if style in ("rough", "messages"):
            for _ in range(draw.randint(0, 4)):
                one, other = draw.sample(ids, 2)
                plan("cut", one, draw.choice([0.5, 5.0, 80.0]) * draw.random(), other)
        if style in ("rough", "crashes"):
            for _ in range(draw.randint(0, 3)):
                plan("kill", draw.choice(ids), draw.choice([0.5, 10.0, 80.0]) * draw.random())
            for _ in range(draw.randint(0, 2)):
                plan("disk full", draw.choice(ids), draw.choice([0.2, 3.0, 30.0]) * draw.random())
        if style == "backups" or (style == "rough" and draw.random() < 0.3):
            whose = [draw.choice(aggregators)] if draw.random() < 0.7 else []  # one at most: another one remembers
            whose += [draw.choice([id_ for id_ in ids if id_ not in aggregators])] if draw.random() < 0.4 else []
            for who in whose:
                taken = calm * draw.random() ** 2
                found.append(Planned(taken, "backup", who, 0.0))
                what = draw.choice(["restore", "restore journal", "restore without spool"])
                found.append(Planned(taken + draw.choice([0.1, 2.0, 20.0, 60.0]) * draw.random(), what, who, 0.0))
        if style == "owners" and draw.random() < 0.2:
            plan("gone for good", COORDINATOR, 0.0)
        return tuple(sorted(found, key=lambda planned: planned.at))

    def _slow(self, runs: tuple[RunPlan, ...]) -> dict[tuple[str, tuple[bytes, int]], float]:
        slow: dict[tuple[str, tuple[bytes, int]], float] = {}
        for run in runs:
            for number in range(run.rounds):
                for owner in run.cohort:
                    if self.draw.random() < 0.2:
                        slow[owner, (run.id, number)] = self.draw.choice([15.0, 58.0, 61.0, 100.0, float("inf")])
        return slow
