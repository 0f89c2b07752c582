"""Counts, means, variances, covariances: pandas on the pooled rows says the same, to the stated error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from statistics_world import WireWorld, close, cut, of, pooled, world

import smpc_fl as sf

X = load_breast_cancer(return_X_y=True)[0][:, :5]
BOUND = [32.0, 64.0, 256.0, 4096.0, 1.0]


def cancer(dtype: Any = np.float64) -> WireWorld:
    return world(x=cut(X.astype(dtype)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_describe(dtype: Any) -> None:
    made = cancer(dtype)
    table = pd.DataFrame(pooled(made, "x").astype(np.float64))
    got = sf.stats.describe(of(made, "x"), bound=BOUND)
    assert got.rows == 569
    assert got.count.tolist() == table.count().tolist()
    assert got.missing.tolist() == [0] * 5
    assert got.names == [f"x[{i}]" for i in range(5)]
    close(got.mean, table.mean(), got.mean_error)
    close(got.variance, table.var(), got.variance_error)
    close(got.std, table.std(), got.std_error)
    assert float((got.mean_error / torch.tensor(BOUND)).max()) < 1e-12
    assert len(made.jobs) == 1
    assert "x[3]" in repr(got)


def test_one_number_each() -> None:
    made = cancer()
    x = of(made, "x")
    table = pd.DataFrame(pooled(made, "x"))
    assert sf.stats.count(x).tolist() == [569] * 5
    close(sf.stats.mean(x, bound=BOUND), table.mean(), 1e-9)
    close(sf.stats.variance(x, bound=BOUND, ddof=0), table.var(ddof=0), 1e-6)
    close(sf.stats.std(x, bound=BOUND), table.std(), 1e-6)
    close(sf.stats.mean([p[:, 3] for p in x], bound=4096), table[3].mean(), 1e-9)
    close(sf.stats.mean([p.reshape(-1, 5, 1) for p in x], bound=4096.0), table.mean().to_numpy()[:, None], 1e-9)
    close(sf.stats.mean([p > 15 for p in x], bound=1), (table > 15).mean(), 1e-12)


def test_a_public_guess_at_the_mean_saves_digits() -> None:
    made = world(x=cut(X[:, 0] / 1000 + 2000))
    plain = sf.stats.describe(of(made, "x"), bound=2048)
    near = sf.stats.describe([p - 2000.0 for p in of(made, "x")], bound=1)
    assert float(near.variance_error) < float(plain.variance_error) / 1e6
    close(near.variance, pooled(made, "x").var(ddof=1), near.variance_error, slack=1e-9)
    close(plain.variance, pooled(made, "x").var(ddof=1), plain.variance_error)


def test_missing_values_are_refused_or_omitted() -> None:
    holes = X.copy()
    holes[::7, 2] = np.nan
    holes[:3, 4] = np.nan
    made = world(x=cut(holes))
    x = of(made, "x")
    with pytest.raises(sf.BadInput, match=r'x\[2\]: 82 of 569, x\[4\]: 3 of 569 rows, all owners .*nan_policy="omit"'):
        sf.stats.describe(x, bound=BOUND)
    table = pd.DataFrame(holes)
    got = sf.stats.describe(x, bound=BOUND, nan_policy="omit")
    assert got.missing.tolist() == table.isna().sum().tolist()
    assert sf.stats.count(x).tolist() == table.count().tolist()
    close(got.mean, table.mean(), got.mean_error)
    close(got.variance, table.var(), got.variance_error)
    with pytest.raises(sf.BadInput, match=r"a column: 84 of 569 rows"):
        sf.stats.covariance(x, bound=BOUND)
    both = sf.stats.covariance(x, bound=BOUND, nan_policy="omit")
    assert both.rows == len(table.dropna())
    close(both.matrix, table.dropna().cov(), both.error)


def test_a_subset_by_where() -> None:
    made = cancer()
    where: Any = torch.where
    chosen = [where(p[:, 0] > 15, p[:, 1], torch.nan) for p in of(made, "x")]
    all_rows = pooled(made, "x")
    got = sf.stats.mean(chosen, bound=64, nan_policy="omit")
    close(got, all_rows[all_rows[:, 0] > 15, 1].mean(), 1e-9)


def test_covariance_and_correlation() -> None:
    made = cancer()
    table = pd.DataFrame(pooled(made, "x"))
    got = sf.stats.covariance(of(made, "x"), bound=BOUND)
    close(got.matrix, table.cov(), got.error)
    close(got.mean, table.mean(), 1e-9)
    close(got.correlation, table.corr(), got.correlation_error)
    assert float(got.correlation_error.max()) < 1e-6
    close(sf.stats.correlation(of(made, "x"), bound=BOUND), table.corr(), 1e-6)
    assert "x[4]" in repr(got)
    assert len(made.jobs) == 2


def test_values_beyond_the_bound_are_clamped_and_told() -> None:
    made = cancer()
    rows = pooled(made, "x")
    outside = int((rows[:, 0] > 20).sum())
    with pytest.warns(sf.stats.ClampedWarning, match=rf"x\[0\] \({outside} beyond ±20\)"):
        got = sf.stats.mean(of(made, "x"), bound=[20.0, *BOUND[1:]])
    close(got, np.clip(rows, -20, [20, 1e9, 1e9, 1e9, 1e9]).mean(0), 1e-9)
    infinite = world(x=cut(np.where(rows[:, :1] > 20, np.inf, 1.0)))
    with pytest.warns(sf.stats.ClampedWarning, match=f"{outside} beyond"):
        sf.stats.mean(of(infinite, "x"), bound=2.0)


def test_few_rows_are_suppressed() -> None:
    holes = X[:, :2].copy()
    holes[4:, 1] = np.nan
    x = of(world(x=cut(holes)), "x")
    with pytest.warns(sf.stats.SuppressedWarning, match=r"x\[1\]: fewer than min_count=5"):
        got = sf.stats.mean(x, bound=64, nan_policy="omit")
    assert got.isnan().tolist() == [False, True]
    with pytest.warns(sf.stats.SuppressedWarning):
        described = sf.stats.describe(x, bound=64, nan_policy="omit")
    assert described.variance.isnan().tolist() == [False, True]
    close(sf.stats.mean(x, bound=64, nan_policy="omit", min_count=4)[1], holes[:4, 1].mean(), 1e-9)
    with pytest.raises(sf.BadInput, match="fewer than 5 rows are complete"):
        sf.stats.covariance(x, bound=64, nan_policy="omit")


def test_more_rows_than_said() -> None:
    made = world(x=[np.ones(9), np.ones(40), np.ones(3)])
    with pytest.raises(sf.BadInput, match="1 of 3 owners have more than max_rows=10 rows"):
        sf.stats.mean(of(made, "x"), bound=1, max_rows=10)
    close(sf.stats.mean(of(made, "x"), bound=1, max_rows=40), 1.0, 0.0)


def test_thousands_of_owners_have_a_coarser_scale() -> None:
    from smpc_fl.statistics.cohort import power_above, powers_above

    assert [power_above(v) for v in (0.75, 1.0, 1000.0)] == [1.0, 2.0, 1024.0]
    assert powers_above(torch.tensor([0.75, 1.0, 1000.0])).tolist() == [1.0, 2.0, 1024.0]
