"""What `scripts/bench quick`, `full` and `peers` measure, in order."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from bench import idle, machine, peers, requirements, stages
from bench.homes import Certificates
from bench.measure import (
    BARE,
    BARE_TLS,
    PLAIN,
    PLAIN_TLS,
    SECURE,
    SECURE_TLS,
    Kind,
    Measured,
    compare,
)
from bench.report import Report
from bench.task import Task

ALL = (BARE, PLAIN, SECURE, PLAIN_TLS, SECURE_TLS, BARE_TLS)


class Bench:
    """One run. Every part has a folder of its own, which is gone afterwards."""

    def __init__(self, name: str) -> None:
        self.report = Report(name)
        self.grid: list[Measured] = []
        self.stages_found: list[stages.Stage] = []

    def stages(self, task: Task, repeats: int) -> None:
        found = stages.measure(task, repeats)
        self.report.stages(f"N = {task.owners}, d = {task.dimension}, {task.numbers.ring_bits} bits", found)
        if (task.dimension, task.bits) == (10**6, 32):
            speeds = stages.machine_speeds(task, repeats)
            self.report.ceilings(speeds, machine.disk_seconds(4 << 20, repeats))
            self.report.requirements(requirements.crypto(found, speeds["memcpy"], stages.clips_told(task)))
            self.stages_found = found

    def pairs(self, task: Task, *, repeats: int, seconds: float) -> Mapping[Kind, Measured]:
        """All sides at once: the comparison that matters most."""
        found = self._compare([(kind, task) for kind in ALL], repeats, seconds)
        self.report.measured("Side by side", found)
        by_kind = {measured.kind: measured for measured in found}
        self.report.requirements(requirements.pairs(by_kind))
        return by_kind

    def over(self, owners: int, dimension: int, aggregators: tuple[int, ...], *, repeats: int, seconds: float) -> None:
        """Plain and secure for several m, TLS on neither."""
        wanted = [(PLAIN, Task(owners, dimension))]
        wanted += [(SECURE, Task(owners, dimension, m)) for m in aggregators]
        found = self._compare(wanted, repeats, seconds)
        self.report.measured("Grid", found)
        self.grid += found

    def packed(self, task: Task, *, repeats: int, seconds: float) -> Measured:
        [found] = self._compare([(SECURE, task)], repeats, seconds)
        self.report.measured("Fewer bits", [found])
        return found

    def idle(self, rest: float) -> None:
        with _folder() as folder:
            found = idle.measure(folder / "idle", rest)
        self.report.idle(found)
        self.report.requirements(requirements.idle(found))

    def contest(self, task: Task, rounds: int) -> None:
        with _folder() as folder:
            found = peers.contest(task, folder, Certificates.make(folder / "tls"), rounds=rounds)
        self.report.contest(found)
        self.report.requirements(requirements.peers(found))

    def at(self, owners: int, dimension: int, aggregators: int) -> Measured | None:
        """A secure result of the grid."""
        for found in self.grid:
            task = found.task
            if found.kind == SECURE and (task.owners, task.dimension, task.aggregators) == (
                owners, dimension, aggregators,
            ):  # fmt: skip
                return found
        return None

    def conclude(self, packed: Measured | None) -> None:
        """What the grid as a whole shows."""
        self.report.requirements(requirements.uploads(self.grid, packed))
        many, few = self.at(100, 10**6, 3), self.at(10, 10**6, 3)
        if many is not None and few is not None:
            self.report.requirements(requirements.memory(many, few))
        self.report.requirements(requirements.growth(self.grid))
        self.report.requirements(requirements.rest(self.grid, self.stages_found))

    def _compare(self, wanted: list[tuple[Kind, Task]], repeats: int, seconds: float) -> list[Measured]:
        task = wanted[0][1]
        self.report.say(f"N = {task.owners}, d = {task.dimension}: {len(wanted)} sides")
        with _folder() as folder:
            return compare(wanted, folder, Certificates.make(folder / "tls"), repeats=repeats, seconds=seconds)


def _folder() -> _Folder:
    return _Folder(prefix="smpc-fl-bench-")


class _Folder(tempfile.TemporaryDirectory[str]):
    """As a path."""

    def __enter__(self) -> Path:  # type: ignore[override]
        return Path(super().__enter__())


def quick(results: Path) -> None:
    """Some two minutes."""
    bench = Bench("quick")
    bench.stages(Task(10, 10**6), 20)
    bench.idle(3.0)
    bench.pairs(Task(10, 10**6), repeats=7, seconds=25.0)
    bench.over(5, 10**5, (2, 3, 5), repeats=5, seconds=8.0)
    bench.over(10, 10**5, (3,), repeats=5, seconds=5.0)
    bench.over(10, 10**6, (2, 3, 5), repeats=4, seconds=15.0)
    bench.conclude(bench.packed(Task(10, 10**6, bits=23), repeats=3, seconds=8.0))
    bench.report.finish(results)


def full(results: Path) -> None:
    """Some fifteen minutes."""
    bench = Bench("full")
    bench.stages(Task(10, 10**6), 60)
    bench.stages(Task(10, 10**6, bits=23), 30)
    bench.stages(Task(10, 10**7), 15)
    bench.idle(10.0)
    bench.pairs(Task(10, 10**6), repeats=25, seconds=75.0)
    bench.pairs(Task(10, 10**7), repeats=7, seconds=100.0)
    for owners in (5, 10, 20, 100):
        for dimension in (10**5, 10**6, 10**7):
            if owners * dimension < 10**9:
                bench.over(owners, dimension, (2, 3, 5), repeats=5, seconds=20.0)
    packed = bench.packed(Task(10, 10**6, bits=23), repeats=5, seconds=10.0)
    bench.conclude(packed)
    if peers.interpreter() is not None:
        _peers(bench)
    bench.report.finish(results)


def beside_peers(results: Path) -> None:
    """Only the comparison with others."""
    bench = Bench("peers")
    _peers(bench)
    bench.report.finish(results)


def _peers(bench: Bench) -> None:
    bench.contest(Task(10, 10**6), 3)
    bench.contest(Task(5, 10**7), 2)


RUNS: dict[str, Callable[[Path], None]] = {"quick": quick, "full": full, "peers": beside_peers}
