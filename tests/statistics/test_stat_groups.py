"""Groups, contingency tables, chi-square: pandas and SciPy on the pooled rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats as scipy_stats
from sklearn.datasets import load_breast_cancer
from statistics_world import WireWorld, close, cut, of, world

import smpc_fl as sf
from smpc_fl.statistics.suppression import small_cells

X, Y = load_breast_cancer(return_X_y=True)
SIZE = np.digitize(X[:, 0], [10, 15, 26]).astype(np.int64)  # the last class has 3 rows
KINDS = {"malignant": 0, "benign": 1}


def cancer() -> WireWorld:
    return world(x=cut(X[:, :2]), y=cut(Y), size=cut(SIZE))


def test_group_by_is_pandas() -> None:
    made = cancer()
    got = sf.stats.group_by(of(made, "x"), of(made, "size"), [0, 1, 2, 3], bound=64, min_count=1)
    expected = pd.DataFrame(X[:, :2]).groupby(SIZE)
    assert got.counts.tolist() == expected.count().to_numpy().tolist()
    close(got.sums, expected.sum(), got.error)
    close(got.means, expected.mean(), got.error / got.counts)
    assert (got.other, got.missing, got.left_out) == (0, 0, 0)
    assert got.labels == ["0", "1", "2", "3"]
    assert len(made.jobs) == 1
    one = sf.stats.group_by([p[:, 1] for p in of(made, "x")], of(made, "y"), KINDS, bound=64)
    close(one.means, pd.Series(X[:, 1]).groupby(Y).mean(), 1e-9)
    assert one.means.shape == (2,)
    assert "malignant" in repr(one)


def test_small_groups_are_suppressed() -> None:
    made = cancer()
    got = sf.stats.group_by(of(made, "x"), of(made, "size"), [0, 1, 2, 3], bound=64)
    counts = np.bincount(SIZE)
    assert counts[3] < 5
    # The smallest other group goes with it: else it could be told from their total.
    assert got.counts[:, 0].isnan().tolist() == [bool(n in (counts[3], sorted(counts)[1])) for n in counts]
    assert torch.equal(got.means.isnan(), got.counts.isnan())


def test_owners_suppress_their_own_groups() -> None:
    made = cancer()
    got = sf.stats.group_by(
        [p[:, 0] for p in of(made, "x")], of(made, "size"), [0, 1, 2, 3], bound=64, suppress="owner"
    )
    table = pd.DataFrame({"v": X[:, 0], "size": SIZE, "owner": np.repeat([0, 1, 2], [7, 60, 502])})
    cells = table.groupby(["owner", "size"])["v"].agg(["count", "sum"]).reset_index()
    kept = cells[cells["count"] >= 5].groupby("size")[["count", "sum"]].sum().reindex(range(4), fill_value=0)
    assert got.counts.tolist() == kept["count"].tolist()
    close(got.sums, kept["sum"], got.error)
    assert got.left_out == 569 - kept["count"].sum()


def test_codes_that_are_not_listed_or_missing() -> None:
    made = world(x=cut(X[:, 0]), y=cut(np.where(Y == 1, np.nan, SIZE)))
    with pytest.raises(sf.BadInput, match="by: 357 of 569"):
        sf.stats.group_by(of(made, "x"), of(made, "y"), [1, 2], bound=64)
    got = sf.stats.group_by(of(made, "x"), of(made, "y"), [1, 2], bound=64, nan_policy="omit")
    listed = (Y == 0) & np.isin(SIZE, [1, 2])
    assert (got.missing, got.other) == (357, 212 - listed.sum())
    assert got.counts.tolist() == [((Y == 0) & (k == SIZE)).sum() for k in (1, 2)]
    holes = world(x=cut(np.where(Y == 1, np.nan, X[:, 0])), y=cut(SIZE))
    with pytest.raises(sf.BadInput, match="values: 357 of 569"):
        sf.stats.group_by(of(holes, "x"), of(holes, "y"), [1, 2], bound=64)
    whole = cancer()
    with pytest.warns(sf.stats.ClampedWarning, match=r"values\[0\]"):
        sf.stats.group_by(of(whole, "x"), of(whole, "y"), [0, 1], bound=20)


def test_a_table_is_pandas() -> None:
    made = cancer()
    got = sf.stats.crosstab(of(made, "size"), of(made, "y"), [0, 1, 2, 3], KINDS, min_count=1)
    assert got.counts.tolist() == pd.crosstab(SIZE, Y).to_numpy().tolist()
    assert (got.other, got.left_out) == (0, 0)
    hidden = sf.stats.crosstab(of(made, "size"), of(made, "y"), [0, 1, 2, 3], KINDS)
    assert torch.equal(hidden.counts.isnan(), small_cells(got.counts, 5))
    assert bool(hidden.counts.isnan().any())
    assert "benign" in repr(hidden)
    owner = sf.stats.crosstab(of(made, "size"), of(made, "y"), [0, 1, 2], KINDS, suppress="owner")
    assert owner.other == (SIZE == 3).sum()
    parts = [
        pd.crosstab(s, y).reindex(range(3), columns=[0, 1], fill_value=0)
        for s, y in zip(cut(SIZE), cut(Y), strict=True)
    ]
    assert owner.counts.tolist() == np.sum([part.where(part >= 5, 0).to_numpy() for part in parts], 0).tolist()
    assert owner.left_out == sum(part.where(part < 5, 0).to_numpy().sum() for part in parts)


@pytest.mark.parametrize("correction", [True, False])
@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 1]])
def test_chi_square_is_scipys(rows: list[int], correction: bool) -> None:
    made = cancer()
    got = sf.stats.chi_square(of(made, "size"), of(made, "y"), rows, KINDS, correction=correction)
    table = pd.crosstab(SIZE, Y).loc[rows].to_numpy()
    expected = scipy_stats.chi2_contingency(table, correction=correction)
    assert got.statistic == pytest.approx(expected.statistic, rel=1e-12)
    assert got.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert (got.degrees, got.count) == (expected.dof, table.sum())
    assert got.least_expected == pytest.approx(expected.expected_freq.min())
    assert "degrees of freedom" in repr(got)


@pytest.mark.parametrize(
    ("rows", "columns", "options", "sentence"),
    [
        ([0, 7], KINDS, {}, "no row has 7 of rows: leave"),
        ([0, 1], [1], {}, "columns: a test of independence needs two"),
        ([3, 9], KINDS, {}, "fewer than min_count=5 rows have"),
        ([0, 0], KINDS, {}, "rows: 1 to 1024 codes"),
        ([], KINDS, {}, "rows: 1 to 1024 codes"),
        (["a"], KINDS, {}, "rows: codes are numbers; name them"),
        ([0, 1], {"a": float("nan")}, {}, "columns: 1 to 1024 codes"),
    ],
)
def test_tables_that_cannot_be(rows: Any, columns: Any, options: Any, sentence: str) -> None:
    made = cancer()
    with pytest.raises(sf.BadInput, match=sentence):
        sf.stats.chi_square(of(made, "size"), of(made, "y"), rows, columns, **options)


def test_missing_codes_of_a_table() -> None:
    made = world(a=cut(np.where(Y == 1, np.nan, SIZE)), b=cut(Y))
    with pytest.raises(sf.BadInput, match="a or b: 357 of 569"):
        sf.stats.crosstab(of(made, "a"), of(made, "b"), [1, 2], KINDS)
    got = sf.stats.crosstab(of(made, "a"), of(made, "b"), [1, 2], [0], nan_policy="omit")
    assert got.counts[:, 0].tolist() == [((Y == 0) & (k == SIZE)).sum() for k in (1, 2)]


@pytest.mark.parametrize(
    ("counts", "hidden"),
    [
        ([9, 9, 9], [0, 0, 0]),
        ([0, 9, 5], [0, 0, 0]),
        ([2, 9, 7], [1, 0, 1]),  # one alone could be told from the total
        ([2, 3, 9], [1, 1, 0]),
        ([1, 1, 9, 6], [1, 1, 0, 1]),  # two of two rows together
        ([2, 0, 0], [1, 0, 0]),  # nothing to hide behind
    ],
)
def test_small_cells(counts: list[float], hidden: list[int]) -> None:
    assert small_cells(torch.tensor(counts, dtype=torch.float64), 5).tolist() == [bool(h) for h in hidden]


@pytest.mark.parametrize("call", ["group_by", "crosstab", "histogram"])
def test_suppression_by_nobody(call: str) -> None:
    made = cancer()
    size: Any = of(made, "size")
    arguments: dict[str, tuple[Any, ...]] = {
        "group_by": (size, size, [0]), "crosstab": (size, size, [0], [0]), "histogram": (size, [0, 1])
    }  # fmt: skip
    more = {"bound": 9} if call == "group_by" else {}
    with pytest.raises(sf.BadInput, match="suppress='nobody'"):
        getattr(sf.stats, call)(*arguments[call], suppress="nobody", **more)
