"""Statistics with differential privacy: what one owner can move, the noise, what is said of it, and what comes out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pointer_world import at
from statistics_world import AGGREGATORS, WireWorld, of, world

import smpc_fl as sf
from smpc_fl.errors import BudgetExceeded
from smpc_fl.nodes.home.config import OwnerPolicy
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.owner_budget import STREAM, Budget
from smpc_fl.nodes.registered import holding
from smpc_fl.statistics.linear import noise_of_fit, spectral
from smpc_fl.statistics.noise import increasing, positive_semidefinite, whole

M = 40
"""The most rows of an owner."""
GRID = [1.0, 2.0, 3.0, 4.0]
Call = Callable[[Any, Any], Any]


def options(multiplier: float = 1.0, **more: Any) -> dict[str, Any]:
    noise = sf.Privacy(delta=1e-5, noise_multiplier=multiplier)
    return {"max_rows": M, "nan_policy": "omit", "privacy": noise, "min_count": 1} | more


def calls(**o: Any) -> dict[str, Call]:
    """Every statistic that carries noise, on `x` [rows, 2] within ±3 and codes `y` [rows], 0 to 2."""
    return {
        "count": lambda x, y: sf.stats.count(x, **o),
        "mean": lambda x, y: sf.stats.mean(x, bound=[3, 4], **o),
        "describe": lambda x, y: sf.stats.describe(x, bound=[3, 4], **o).variance,
        "covariance": lambda x, y: sf.stats.covariance(x, bound=[3, 4], **o).matrix,
        "correlation": lambda x, y: sf.stats.correlation(x, bound=[3, 4], **o),
        "histogram": lambda x, y: sf.stats.histogram([p[:, 0] for p in x], [-3, -1, 0, 2], **o).counts,
        "quantiles": lambda x, y: sf.stats.quantiles(x, [0.2, 0.5], bounds=(-4, 4), bins=16, **o).values,
        "median": lambda x, y: sf.stats.median([p[:, 1] for p in x], bounds=(-4, 4), **o),
        "group_by": lambda x, y: sf.stats.group_by(x, y, [0, 1], bound=[3, 4], **o).means,
        "group_by one": lambda x, y: sf.stats.group_by([p[:, 0] for p in x], y, [0, 1], bound=3, **o).sums,
        "crosstab": lambda x, y: sf.stats.crosstab(y, y, [0, 1], [0, 1, 2], **o).counts,
        "chi_square": lambda x, y: torch.tensor(sf.stats.chi_square([p[:, 0] > 0 for p in x], y, [0, 1], [0, 1], **o).statistic),
        "linear": lambda x, y: sf.stats.linear_regression(x, y, bound=[3, 4], y_bound=2, **o).coefficients,
        "linear, no intercept": lambda x, y: sf.stats.linear_regression(
            x, y, bound=[3, 4], y_bound=2, intercept=False, **o
        ).standard_errors,
        "kaplan_meier": lambda x, y: sf.stats.kaplan_meier(
            [p[:, 0].abs() + 1 for p in x], [q == 1 for q in y], GRID, **o
        ).survival,
    }  # fmt: skip


def many(owners: int, seed: int = 0, rows: int = M) -> WireWorld:
    """Owners with related columns and codes; none has NaN."""
    draw = np.random.default_rng(seed)
    made = {}
    for i in range(owners):
        y = draw.integers(0, 3, rows)
        x = np.clip(np.stack([draw.normal(y - 1.0), draw.normal(size=rows)], 1), -3, 3)
        x[:, 1] = np.clip(x[:, 1] + x[:, 0] / 2, -4, 4)
        made[f"owner-{i:03}"] = [
            holding("x", torch.from_numpy(x), group="t"),
            holding("y", torch.from_numpy(y), group="t"),
        ]
    return WireWorld(made)


def fields(made: WireWorld) -> tuple[list[Any], list[Any]]:
    return tuple([at(made, owner, name) for owner in made.owners] for name in ("x", "y"))  # type: ignore[return-value]


# --- what one owner can move ---


def extremes(draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`M` rows that are as large as bounds allow, beyond them, or missing; all alike half of the time."""
    rows = 1 if draw.random() < 0.5 else M
    x = draw.choice(
        [-100.0, -4.0, -3.0, 3.0, 4.0, 100.0, np.nan, np.inf], (rows, 2), p=[0.1] * 2 + [0.15] * 4 + [0.1] * 2
    )
    y = draw.choice([0.0, 1.0, 2.0, 7.0, np.nan], rows)
    return np.repeat(x, M // rows, 0), np.repeat(y, M // rows, 0)


@pytest.mark.parametrize("name", sorted(calls().keys() - {"correlation", "median", "crosstab"}))
def test_an_owner_is_within_the_bound_and_may_reach_it(name: str) -> None:
    """No owner of `max_rows` rows is scaled down: what one of its rows adds is within `row_norm`. And for some rows the bound is
    (nearly) reached, so that no noise is wasted."""
    draw, longest, call = np.random.default_rng(7), 0.0, calls(**options(1e-9))[name]
    vectors = []
    for _ in range(8):
        rows = [extremes(draw) for _ in range(3)]
        made = world(x=[x for x, _ in rows], y=[y for _, y in rows])
        made.silent = True
        try:
            call(of(made, "x"), of(made, "y"))
        except sf.BadInput:
            pass  # such rows allow no regression; the sum is known
        except sf.stats.SuppressedWarning:
            pass
        for vector in made.vectors.values():
            assert vector[-1] == 0.0  # not clipped
            longest = max(longest, float(np.linalg.norm(vector[:-2])))
            vectors.append(vector[:-2])
    assert longest <= 1 + 1e-6
    assert longest > (0.6 if name in ("describe", "linear, no intercept") else 0.9)
    apart = max(float(np.linalg.norm(one - other)) for one in vectors for other in vectors)
    assert made.numbers is not None
    assert made.numbers.noise is not None
    assert apart * made.numbers.fixed_point.scale <= 2 * made.numbers.noise.sensitivity


def test_an_owner_with_more_rows_counts_as_one_of_so_many() -> None:
    rows = [np.full(5 * M, 2.0), np.full(M, 1.0), np.full(M, 1.0)]
    made = world(x=rows)
    got = sf.stats.histogram(of(made, "x"), [0, 1.5, 3], **options(1e-9))
    assert got.counts.tolist() == [2 * M, M]
    assert made.vectors["alice"][-1] > 0  # and counted


# --- the noise ---


def test_the_noise_has_the_stated_variance() -> None:
    """And its size is multiplier · √aggregators · the bound, but for what the slots of the tail cost."""
    made = many(4)
    x, _ = fields(made)
    got = sf.stats.histogram([p[:, 0] for p in x], np.linspace(100, 101, 6000), **options(3.0))
    exact = 3.0 * math.sqrt(AGGREGATORS) * M * math.sqrt(1 + 2 / 16)
    assert got.count_error / 3 == pytest.approx(exact, rel=1e-4)
    # What is below 0 is cut off: half of it is left.
    assert float(got.counts.square().mean()) == pytest.approx((got.count_error / 3) ** 2 / 2, rel=0.06)
    again = sf.stats.histogram([p[:, 0] for p in x], np.linspace(100, 101, 6000), **options(3.0))
    assert not torch.equal(got.counts, again.counts)


@pytest.mark.parametrize("name", calls())
def test_it_comes_to_the_exact_result_as_epsilon_grows(name: str) -> None:
    made, off = many(12), []
    x, y = fields(made)
    exact = {**calls(max_rows=M, min_count=1)}[name](x, y)
    if name in ("quantiles", "median"):
        exact = exact.to(torch.float64)
    for multiplier in (1e-2, 1e-8):
        got = calls(**options(multiplier))[name](x, y)
        assert got.shape == exact.shape
        off.append(float((got.to(torch.float64) - exact.to(torch.float64)).abs().max()))
    assert off[0] < 0.5 * float(exact.abs().max()) + 6
    assert off[-1] < 1e-5


def test_errors_are_three_standard_deviations() -> None:
    made, off = many(8), []
    x, y = fields(made)
    truth = sf.stats.describe(x, bound=[3, 4], max_rows=M), sf.stats.covariance(x, bound=[3, 4], max_rows=M)
    fit = sf.stats.linear_regression(x, y, bound=[3, 4], y_bound=2, max_rows=M)
    groups = sf.stats.group_by(x, y, [0, 1], bound=[3, 4], max_rows=M)
    for seed in range(8):
        made.seed, o = seed, options(0.004)
        summary, spread = sf.stats.describe(x, bound=[3, 4], **o), sf.stats.covariance(x, bound=[3, 4], **o)
        line = sf.stats.linear_regression(x, y, bound=[3, 4], y_bound=2, **o)
        grouped = sf.stats.group_by(x, y, [0, 1], bound=[3, 4], **o)
        off.append(
            torch.cat(
                [
                    (summary.mean - truth[0].mean) / summary.mean_error,
                    (summary.variance - truth[0].variance) / summary.variance_error,
                    ((spread.matrix - truth[1].matrix) / spread.error).reshape(-1),
                    (line.coefficients - fit.coefficients) / line.error,
                    ((grouped.sums - groups.sums) / grouped.error).reshape(-1),
                ]
            )
        )
    spread_of = torch.stack(off).square().mean(0).sqrt() * 3
    assert bool(((spread_of > 0.3) & (spread_of < 2.1)).all()), spread_of


def test_the_noise_of_a_fit_is_that_of_noisy_fits() -> None:
    draw = torch.Generator().manual_seed(1)
    rows = torch.randn((500, 4), generator=draw, dtype=torch.float64)
    rows[:, 3] += rows[:, 0] - rows[:, 1]
    products, fits, largest = rows.T @ rows, [], []
    beta = torch.linalg.solve(products[:3, :3], products[:3, 3])
    for _ in range(3000):
        noise = 2.0 * torch.randn((4, 4), generator=draw, dtype=torch.float64)
        noisy = products + (noise + noise.T) / 2
        largest.append(float(torch.linalg.eigvalsh(noisy - products)[-1]))
        fits.append(torch.linalg.solve(noisy[:3, :3], noisy[:3, 3]))
    stated = noise_of_fit(products[:3, :3], beta, 2.0)
    assert torch.stack(fits).std(0).tolist() == pytest.approx(stated.tolist(), rel=0.06)
    assert np.mean(np.array(largest) > spectral(2.0, 4)) < 0.01


def test_standard_errors_count_the_noise() -> None:
    made = many(20)
    x, y = fields(made)
    plain = sf.stats.linear_regression(x, y, bound=[3, 4], y_bound=2, max_rows=M)
    noisy = sf.stats.linear_regression(x, y, bound=[3, 4], y_bound=2, **options(0.03))
    assert bool((noisy.standard_errors > 1.2 * plain.standard_errors).all())
    assert noisy.count_error > 0


def test_intervals_of_a_curve_count_the_noise() -> None:
    made, curves = many(20), []
    x, y = fields(made)
    times, events = [p[:, 0].abs() + 1 for p in x], [q == 1 for q in y]
    plain = sf.stats.kaplan_meier(times, events, GRID, max_rows=M)
    for seed in range(24):
        made.seed = seed
        curves.append(sf.stats.kaplan_meier(times, events, GRID, **options(0.1)))
    logs = torch.stack([curve.survival.log() for curve in curves])[:, 1:]  # at the first time nothing happens
    stated = torch.stack([curve.noise_variance for curve in curves if curve.noise_variance is not None]).mean(0)[1:]
    assert logs.std(0).tolist() == pytest.approx(stated.sqrt().tolist(), rel=0.4)
    assert bool((curves[0].survival.diff() <= 0).all())
    low, high = curves[0].interval().T
    assert bool((low <= curves[0].survival).all() and (curves[0].survival <= high).all() and (high <= 1).all())
    plain_low, plain_high = plain.interval().T
    assert float(high[-1] - low[-1]) > float(plain_high[-1] - plain_low[-1])
    assert "survival" in repr(curves[0])


def test_noise_alone_makes_no_dependence() -> None:
    """Chi-square of independent columns: about as many as there are degrees, although the noise is as large as the counts."""
    found = []
    for seed in range(24):
        draw = np.random.default_rng(seed)
        made = world(**{name: [draw.integers(0, 3, M) for _ in range(3)] for name in ("x", "y")})
        made.seed = seed
        got = sf.stats.chi_square(of(made, "x"), of(made, "y"), [0, 1, 2], [0, 1, 2], **options(0.05))
        assert (got.count_error / 3) ** 2 > 0.5 * got.least_expected
        found.append(got.statistic)
    assert float(np.mean(found)) == pytest.approx(4, abs=1.5)


# --- what is made of it ---


def test_what_comes_out_is_sensible() -> None:
    made = many(3)
    x, y = fields(made)
    loud = options(0.5)
    assert bool((sf.stats.histogram([p[:, 0] for p in x], np.linspace(5, 6, 20), **loud).counts >= 0).all())
    assert bool((sf.stats.count(x, **loud) >= 0).all())
    assert bool((sf.stats.crosstab(y, y, [5, 6], [5, 6], **loud).counts >= 0).all())
    for seed in range(8):
        made.seed = seed
        try:
            spread = sf.stats.covariance(x, bound=[3, 4], **options(0.15))
        except sf.BadInput as error:
            assert "fewer than" in str(error)  # noqa: PT017
            continue
        assert float(torch.linalg.eigvalsh(spread.matrix)[0]) > -1e-9
        assert bool((spread.correlation.nan_to_num().abs() <= 1 + 1e-9).all())
    assert increasing(torch.tensor([1.0, 3.0, 2.0, 4.0])).tolist() == [1.0, 2.5, 2.5, 4.0]
    assert whole(torch.tensor([-3.0, 0.6, 2.2])).tolist() == [0.0, 1.0, 2.0]
    fixed = positive_semidefinite(torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64))
    assert fixed.reshape(-1).tolist() == pytest.approx([1.5] * 4)


def test_quantiles_leave_room_for_the_noise() -> None:
    made, inside = many(20), 0
    x, _ = fields(made)
    truth = sf.stats.quantiles(x, [0.1, 0.5, 0.9], bounds=(-4, 4), bins=32, max_rows=M)
    for seed in range(10):
        made.seed = seed
        got = sf.stats.quantiles(x, [0.1, 0.5, 0.9], bounds=(-4, 4), bins=32, **options(0.05))
        assert bool((got.lower <= got.values).all() and (got.values <= got.upper).all())
        inside += int(((got.lower <= truth.lower) & (truth.upper <= got.upper)).sum())
        assert bool((got.error > truth.error).any())
    assert inside >= 58
    assert got.rows.tolist() == pytest.approx([20 * M] * 2, rel=0.3)


def test_what_drowns_is_not_shown() -> None:
    made = many(3)
    x, y = fields(made)
    loud = options(3.0, min_count=5)
    with pytest.warns(sf.stats.SuppressedWarning, match=r"the [0-9]+ rows that the noise may make"):
        assert bool(sf.stats.mean(x, bound=[3, 4], **loud).isnan().all())
    assert bool(sf.stats.group_by(x, y, [0, 1], bound=[3, 4], **loud).means.isnan().all())
    refused: list[tuple[Call, str]] = [
        (lambda x, y: sf.stats.covariance(x, bound=[3, 4], **loud), "fewer than [0-9.]+ rows are complete"),
        (lambda x, y: sf.stats.quantiles(x, 0.5, bounds=(-4, 4), **loud), "values over all owners, which noise may make"),
        (lambda x, y: sf.stats.chi_square(y, y, [0, 1], [0, 1], **loud), "the noise hides how many rows|fewer than min_count"),
        (lambda x, y: sf.stats.kaplan_meier([p[:, 0].abs() for p in x], [q == 1 for q in y], GRID, **loud), "fewer rows are"),
    ]  # fmt: skip
    for call, sentence in refused:
        with pytest.raises(sf.BadInput, match=sentence):
            call(x, y)
    with pytest.raises(sf.BadInput, match=r"as far as the noise lets one tell.*narrow its bound|fewer than"):
        sf.stats.linear_regression(x, y, bound=[3, 4], y_bound=2, **options(0.5))
    alike = [torch_like(p) for p in x]
    with pytest.raises(sf.BadInput, match=r"depend on each other .* as far as the noise lets one tell"):
        sf.stats.linear_regression(alike, y, bound=3, y_bound=2, **options(0.003))


def torch_like(p: Any) -> Any:
    """A table with one column twice."""
    return p[:, [0, 0]]


# --- what is said, paid and refused ---


def test_the_cost_is_dp_accountings_own() -> None:
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    made = many(3)
    x, y = fields(made)
    got = sf.stats.crosstab(y, y, [0, 1], [0, 1], **options(8.0))
    book = PLDAccountant(dp_accounting.NeighboringRelation.REPLACE_ONE)
    book.compose(dp_accounting.GaussianDpEvent(8.0))
    assert got.privacy is not None
    assert got.privacy.epsilon == pytest.approx(book.get_epsilon(1e-5), rel=1e-3)
    assert (got.privacy.unit, got.privacy.delta, got.privacy.releases) == ("owner", 1e-5, 1)
    assert got.privacy.noise_multiplier == 8.0
    assert "dp-accounting" in got.privacy.accountant
    assert got.privacy == sf.stats.spent(sf.Privacy(delta=1e-5, noise_multiplier=8.0))
    assert sf.stats.histogram([p[:, 0] for p in x], [0, 1]).privacy is None


async def test_a_statistic_is_paid_for_before_it_leaves(tmp_path: Path) -> None:
    made = many(3)
    x, _ = fields(made)
    sf.stats.count(x, **options(4.0))
    sf.stats.mean(x, bound=9, max_rows=M, nan_policy="omit")
    noisy, plain = made.jobs
    once = sf.stats.spent(sf.Privacy(delta=1e-6, noise_multiplier=4.0)).epsilon
    policy = OwnerPolicy(aggregators=("a", "b"), budget_epsilon=1.001 * once, budget_delta=1e-6)
    with Journal.open(tmp_path / "journal.db") as journal:
        budget = Budget(policy, journal)
        budget.check(noisy, b"1" * 16)
        await budget.debit((b"1" * 16, 0), noisy)
        assert len(journal.read(STREAM)) == 1
        with pytest.raises(BudgetExceeded, match="past its budget"):
            budget.check(noisy, b"2" * 16)
        with pytest.raises(sf.JobNotApproved, match="a job without noise has no bound"):
            budget.check(plain, b"3" * 16)


PRIVATE = sf.Privacy(delta=1e-5, noise_multiplier=1.0)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"max_rows": 1 << 20}, "needs max_rows="),
        ({"nan_policy": "raise"}, 'nan_policy="omit"'),
        ({"privacy": 1.0}, "takes an sf.Privacy"),
        ({"privacy": sf.RecordPrivacy(delta=1e-5, noise_multiplier=1.0, sampling_rate=0.1)}, "the unit is the owner"),
    ],
)
def test_what_privacy_needs(given: dict[str, Any], sentence: str) -> None:
    x, _ = fields(many(3))
    with pytest.raises(sf.BadInput, match=sentence):
        sf.stats.count(x, **options() | given)


def test_many_rounds_and_suppression_are_refused() -> None:
    x, y = fields(many(3))
    column = [p[:, 0] for p in x]
    with pytest.raises(sf.BadInput, match=r"logistic_regression takes many sums .*: train a linear plan"):
        sf.stats.logistic_regression(x, [q == 1 for q in y], bound=3, **options())
    with pytest.raises(sf.BadInput, match=r"bisection takes many sums .* method=\"histogram\""):
        sf.stats.quantiles(x, 0.5, bounds=(-4, 4), method="bisection", **options())
    asks: Sequence[Callable[[], Any]] = [
        lambda: sf.stats.histogram(column, [0, 1], suppress="owner", **options()),
        lambda: sf.stats.crosstab(y, y, [0], [0], suppress="owner", **options()),
        lambda: sf.stats.group_by(column, y, [0], bound=3, suppress="owner", **options()),
    ]
    for ask in asks:
        with pytest.raises(sf.BadInput, match="does not go with privacy="):
            ask()
