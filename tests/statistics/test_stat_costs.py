"""What docs/statistics.md says that each statistic costs: numbers that an owner sends, and rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from statistics_world import close, cut, of, world

import smpc_fl as sf
from smpc_fl.statistics.cohort import Cohort, wire
from smpc_fl.statistics.options import Settings

RNG = np.random.default_rng(4)
X = RNG.normal(size=(300, 4))
Y = (X[:, 0] + RNG.normal(size=300) > 0).astype(np.int64)
C, P = 4, 5
COSTS: dict[str, tuple[Callable[[Any, Any], Any], int]] = {
    "count": (lambda x, y: sf.stats.count(x), C),
    "mean": (lambda x, y: sf.stats.mean(x, bound=9), 3 * C + 1),
    "describe": (lambda x, y: sf.stats.describe(x, bound=9), 4 * C + 1),
    "std": (lambda x, y: sf.stats.std(x, bound=9), 4 * C + 1),
    "covariance": (lambda x, y: sf.stats.covariance(x, bound=9), P * P + P),
    "histogram": (lambda x, y: sf.stats.histogram(y, [0, 1, 2]), 3 + 3),
    "median": (lambda x, y: sf.stats.median(x, bounds=(-9, 9)), 1025 * C + C + 1),
    "group_by": (lambda x, y: sf.stats.group_by(x, y, [0, 1], bound=9), 2 * 2 * C + 2 * C + 3),
    "crosstab": (lambda x, y: sf.stats.crosstab(y, y, [0, 1], [0, 1]), 4 + 3),
    "linear": (lambda x, y: sf.stats.linear_regression(x, y, bound=9, y_bound=1), (C + 2) ** 2 + C + 2),
    "kaplan_meier": (lambda x, y: sf.stats.kaplan_meier([p[:, 0].abs() for p in x], y, [1, 2, 3]), 2 * 3 + 4),
}


@pytest.mark.parametrize("name", COSTS)
def test_one_round_of_so_many_numbers(name: str) -> None:
    made = world(x=cut(X), y=cut(Y))
    call, numbers = COSTS[name]
    call(of(made, "x"), of(made, "y"))
    assert [job.shape for job in made.jobs] == [[numbers]]


def test_rounds_of_a_fit() -> None:
    made = world(x=cut(X), y=cut(Y))
    fit = sf.stats.logistic_regression(of(made, "x"), of(made, "y"), bound=9)
    first, *rest = [job.shape for job in made.jobs]
    assert first == [P * P + P + 1 + 4 + C]
    assert rest == [[P * P + P + 1]] * (fit.steps - 1)
    assert 5 <= fit.steps <= 12


def test_rounds_of_a_bisection() -> None:
    made = world(x=cut(X))
    got = sf.stats.quantiles(of(made, "x"), [0.2, 0.7], bounds=(-9, 9), method="bisection", min_count=1)
    assert [job.shape for job in made.jobs] == [[17 * C + C + 1], *[[17 * 2 * C]] * 4]
    assert got.rounds == 5


@pytest.mark.parametrize("owners", [3, 4, 700, 2047, 2048, 5000])
def test_the_rounding_of_a_total(owners: int) -> None:
    reach, error = wire(owners)
    assert error / reach <= owners**2 * 2.0**-63
    assert owners * reach * 2.0**52 < 2.0**63 or reach == 1


def test_totals_are_within_their_error() -> None:
    made = world(x=cut(X * 1e6))
    cohort = Cohort(Settings(max_rows=300), x=of(made, "x"))
    totals = cohort.totals({"sum": (cohort.first["x"].sum(0), 2.0**33)})
    close(totals["sum"], (X * 1e6).sum(0), totals.error["sum"], slack=1e-15)
    assert float(totals.error["sum"].max()) < 1e-6
