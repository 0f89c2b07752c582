"""Histograms and quantiles: NumPy on the pooled rows counts the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from statistics_world import close, cut, of, pooled, world

import smpc_fl as sf
from smpc_fl.pointers.lineage import Literal, decode_expression

X = load_breast_cancer(return_X_y=True)[0][:, :3]
EDGES = np.linspace(6, 30, 13)
HIGH = [32.0, 64.0, 256.0]


def test_a_histogram_is_numpys() -> None:
    column = np.concatenate([X[:, 0], [6.0, 30.0, 30.0, 8.0, np.inf, -np.inf]])  # on edges, beyond them
    made = world(x=cut(column))
    got = sf.stats.histogram(of(made, "x"), EDGES, min_count=1)
    assert got.counts.tolist() == np.histogram(column, EDGES)[0].tolist()
    assert (got.below, got.above) == ((column < 6).sum(), (column > 30).sum())
    assert (got.missing, got.left_out) == (0, 0)
    assert "[6, 8)" in repr(got)
    whole = sf.stats.histogram([p > 15 for p in of(made, "x")], [0, 0.5, 1])
    assert whole.counts.tolist() == [(column <= 15).sum(), (column > 15).sum()]


def test_small_cells_of_a_histogram() -> None:
    made = world(x=cut(X[:, 0]))
    truth = np.histogram(X[:, 0], EDGES)[0]
    got = sf.stats.histogram(of(made, "x"), EDGES)
    shown = ~got.counts.isnan()
    assert not shown[(torch.from_numpy(truth) > 0) & (torch.from_numpy(truth) < 5)].any()
    assert got.counts[shown].tolist() == truth[shown.numpy()].tolist()
    assert "-" in repr(got).split()
    parts = [made.registered[owner]["x"].private().numpy() for owner in made.owners]
    own = [np.histogram(part, EDGES)[0] for part in parts]
    kept = sf.stats.histogram(of(made, "x"), EDGES, suppress="owner")
    assert kept.counts.tolist() == np.sum([np.where(cells >= 5, cells, 0) for cells in own], 0).tolist()
    beyond = sum(((part < 6) | (part > 30)).sum() for part in parts)
    assert kept.left_out == sum(cells[cells < 5].sum() for cells in own) + beyond
    assert kept.left_out > 0


def test_missing_values_of_a_histogram() -> None:
    made = world(x=cut(np.where(X[:, 0] > 20, np.nan, X[:, 0])))
    with pytest.raises(sf.BadInput, match=f"x: {(X[:, 0] > 20).sum()} of 569"):
        sf.stats.histogram(of(made, "x"), EDGES)
    got = sf.stats.histogram(of(made, "x"), EDGES, nan_policy="omit", min_count=1)
    assert got.missing == (X[:, 0] > 20).sum()
    assert got.counts.tolist() == np.histogram(X[X[:, 0] <= 20, 0], EDGES)[0].tolist()


SHARES = [0.0, 0.1, 0.5, 0.9, 1.0]


@pytest.mark.parametrize("method", ["histogram", "bisection"])
@pytest.mark.parametrize("least", [1, 5])
def test_quantiles_are_numpys(method: Any, least: int) -> None:
    made = world(x=cut(X))
    got = sf.stats.quantiles(of(made, "x"), SHARES, bounds=(0, HIGH), method=method, min_count=least)
    expected = np.quantile(pooled(made, "x"), SHARES, axis=0, method="inverted_cdf")
    close(got.values, expected, got.error)
    assert bool((got.lower < torch.from_numpy(expected)).all())
    assert got.rows.tolist() == [569] * 3
    assert got.rounds == len(made.jobs) == (1 if method == "histogram" else 5 if least == 1 else len(made.jobs))
    rows = torch.from_numpy(pooled(made, "x"))
    inside = ((rows > got.lower[:, None]) & (rows <= got.upper[:, None])).sum(1)
    assert int(inside.min()) >= least
    if least == 1:
        width = np.array(HIGH) / (1024 if method == "histogram" else 2**20)
        close(got.error * 2, np.tile(width, (5, 1)), 1e-12, slack=1e-6)
    assert "0.5" in repr(got)


def test_the_median_of_one_column() -> None:
    made = world(x=cut(np.round(X[:, 0])))
    column = [p.to(torch.int64) for p in of(made, "x")]
    assert sf.stats.median(column, bounds=(0, 32)).shape == ()
    got = sf.stats.quantiles(column, 0.5, bounds=(0, 32), method="bisection", sections=2, tolerance=0.5)
    assert got.lower < np.median(np.round(X[:, 0])) <= got.upper
    assert got.rounds == 6
    lowest = sf.stats.quantiles([p * 0 + 3 for p in column], 0.5, bounds=(3, 4))
    assert lowest.lower < 3 <= lowest.upper


def test_what_is_settled_is_not_asked_again() -> None:
    """Once an interval may not be divided, thresholds within it tell nothing more."""
    made = world(x=cut(X[:, 0]))
    got = sf.stats.quantiles(of(made, "x"), [0.5, 1.0], bounds=(0, 32), method="bisection", min_count=20)
    rows = pooled(made, "x")
    assert ((rows > float(got.lower[1])) & (rows <= float(got.upper[1]))).sum() >= 20
    assert 1 < got.rounds < 5
    asked = [node.array() for node in decode_expression(made.jobs[1].expression).nodes if isinstance(node, Literal)]
    median, largest = asked[-1].reshape(2, 17)
    assert len(set(median.tolist())) == 17
    assert set(largest.tolist()) == {float(got.upper[1])}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"bounds": (0, 14)}, r"the 0.9-quantile of x lies outside the bounds 0 to 14: widen"),
        ({"bounds": (13, 40)}, "the 0.1-quantile of x lies outside"),
        ({"bounds": (3, 3)}, "the lowest below the highest"),
        ({"bounds": (0, [1, 2])}, "two finite numbers"),
        ({"bounds": (0, float("inf"))}, "two finite numbers"),
        ({"q": 1.5}, "between 0 and 1"),
        ({"q": []}, "between 0 and 1"),
        ({"bins": 1}, "1 cells: between 2"),
        ({"method": "guess"}, "histogram"),
        ({"method": "bisection", "sections": 1}, "2 sections or more"),
        ({"method": "bisection", "tolerance": -1}, "positive tolerance"),
        ({"method": "bisection", "sections": 2, "tolerance": 1e-9}, "takes 36 rounds: 16 are the most"),
        ({"min_count": 1000}, "x: fewer than min_count=1000 values"),
    ],
)
def test_quantiles_that_cannot_be(options: dict[str, Any], sentence: str) -> None:
    made = world(x=cut(X[:, 0]))
    with pytest.raises(sf.BadInput, match=sentence):
        sf.stats.quantiles(of(made, "x"), **{"q": [0.1, 0.9], "bounds": (0, 40)} | options)


@pytest.mark.parametrize(
    ("edges", "sentence"),
    [([1], "2 to 65536"), ([1, 1], "increase"), ([0, float("nan")], "finite"), ([[0, 1]], "one dimension"), (["a"], "public")],
)  # fmt: skip
def test_edges_that_cannot_be(edges: Any, sentence: str) -> None:
    with pytest.raises(sf.BadInput, match=sentence):
        sf.stats.histogram(of(world(x=cut(X[:, 0])), "x"), edges)


def test_missing_values_of_quantiles() -> None:
    made = world(x=cut(np.where(X[:, [0]] > 20, np.nan, X)))
    with pytest.raises(sf.BadInput, match=rf"x\[0\]: {(X[:, 0] > 20).sum()} of 569"):
        sf.stats.quantiles(of(made, "x"), 0.5, bounds=(0, HIGH))
    got = sf.stats.quantiles(of(made, "x"), [0.5, 1.0], bounds=(0, HIGH), nan_policy="omit", min_count=1)
    kept = X[X[:, 0] <= 20]
    close(got.values, np.quantile(kept, [0.5, 1.0], axis=0, method="inverted_cdf"), got.error)
