"""What cannot be computed is refused with a sentence, by the researcher's own session, before an owner is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from statistics_world import NAMES, WireWorld, of, world

import smpc_fl as sf
from smpc_fl.errors import CohortTooSmall, ShapeMismatch
from smpc_fl.nodes.registered import holding


def sample() -> WireWorld:
    parts = [np.random.default_rng(n).normal(size=(n, 4)) for n in (9, 11, 20)]
    return world(x=parts, y=[part[:, 0] > 0 for part in parts])


def put(made: WireWorld, name: str, tensor: Any, group: str = "data") -> None:
    """carol has another tensor under this name."""
    made.registered["carol"][name] = holding(name, tensor, group=group)


def test_columns_and_types_that_differ() -> None:
    made = sample()
    put(made, "x", torch.ones(20, 5, dtype=torch.float64))
    with pytest.raises(
        ShapeMismatch, match=r"x: x is torch.float64 of shape \(rows, 4\) at alice, .*5\) at carol: let own"
    ):
        sf.stats.mean(of(made, "x"), bound=1)
    put(made, "x", torch.ones(20, 4))
    with pytest.raises(ShapeMismatch, match=r"at alice, torch.float32 of shape \(rows, 4\) at carol"):
        sf.stats.describe(of(made, "x"), bound=1)
    with pytest.raises(ShapeMismatch, match=r"x: alice has x\[:, 0\], bob has x\[:, 1\]: take the same"):
        sf.stats.mean([p[:, i] for i, p in enumerate(of(sample(), "x"))], bound=1)
    assert made.jobs == []


def test_tables_that_do_not_line_up() -> None:
    made = sample()
    put(made, "y", torch.ones(20, dtype=torch.bool), group="other")
    with pytest.raises(ShapeMismatch, match=r"x and y at carol .* are not of one table"):
        sf.stats.linear_regression(of(made, "x"), of(made, "y"), bound=9, y_bound=1)
    made.registered["carol"]["y"] = holding("y", torch.ones(20, dtype=torch.bool), publish_rows=True)
    with pytest.raises(ShapeMismatch, match="at carol"):
        sf.stats.group_by(of(made, "x"), of(made, "y"), [0, 1], bound=9)


def test_owners() -> None:
    made = sample()
    x, y = of(made, "x"), of(made, "y")
    with pytest.raises(CohortTooSmall, match="over 2 owners is refused: at least 3"):
        sf.stats.count(x[:2])
    with pytest.raises(sf.IsolationRefused, match="alice would be counted twice"):
        sf.stats.count([x[0], *x])
    with pytest.raises(sf.BadInput, match="x: a statistic takes a list of pointers"):
        sf.stats.count([])
    with pytest.raises(sf.BadInput, match="x: a statistic takes a list of pointers"):
        sf.stats.count([torch.ones(3)])  # type: ignore[list-item]
    with pytest.raises(sf.BadInput, match="b is from alice, bob, a from alice, bob, carol"):
        sf.stats.crosstab(y, y[:2], [0, 1], [0, 1])
    with pytest.raises(sf.BadInput, match="different sessions"):
        sf.stats.crosstab(y, of(sample(), "y"), [0, 1], [0, 1])
    shuffled = sf.stats.crosstab(y, [y[2], y[0], y[1]], [0, 1], [0, 1], min_count=1)
    assert shuffled.counts[0, 1] == shuffled.counts[1, 0] == 0
    assert len(made.jobs) == 1


def test_an_owner_without_rows() -> None:
    with pytest.raises(sf.BadInput, match="tensor 'x' has no rows: register it when there are some"):
        world(x=[np.ones(3), np.ones(0), np.ones(3)])
    made = world(x=[np.ones(9), np.full(7, np.nan), np.ones(3)])  # nothing but holes is no obstacle
    assert sf.stats.mean(of(made, "x"), bound=1, nan_policy="omit") == 1


def test_shapes() -> None:
    made = sample()
    x = of(made, "x")
    with pytest.raises(ShapeMismatch, match=r"x: sum\(x\) at alice has no rows"):
        sf.stats.mean([p.sum() for p in x], bound=1)
    with pytest.raises(
        ShapeMismatch, match=r"x: x at alice has shape \(rows, 4\), and one column is needed: take .*p\[:, 3\]"
    ):
        sf.stats.histogram(x, [0, 1])
    with pytest.raises(ShapeMismatch, match="take rows and columns, by"):
        sf.stats.covariance([p.reshape(-1, 2, 2) for p in x], bound=1)


@pytest.mark.parametrize("bound", [0, -1, float("nan"), float("inf"), "wide", [1, 2, 3], [1, 2, 3, 0]])
def test_bounds(bound: Any) -> None:
    made = sample()
    with pytest.raises(sf.BadInput, match="the bound of x is"):
        sf.stats.mean(of(made, "x"), bound=bound)
    assert made.jobs == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_rows": 0}, "max_rows=0: give"),
        ({"max_rows": 1 << 41}, "1 to 2"),
        ({"min_count": 0}, "min_count=0: 1 shows every cell"),
        ({"nan_policy": "propagate"}, "nan_policy='propagate': use"),
    ],
)
def test_options(options: Any, sentence: str) -> None:
    with pytest.raises(sf.BadInput, match=sentence):
        sf.stats.count(of(sample(), "x"), **options)
    with pytest.raises(TypeError, match="edges"):
        sf.stats.count(of(sample(), "x"), edges=3)  # type: ignore[call-arg]


def test_owners_that_drop_out() -> None:
    made = sample()
    made.away = frozenset({"carol"})
    with pytest.warns(sf.OwnersMissingWarning, match="carol dropped out: the statistic is over alice, bob only"):
        assert sf.stats.count(of(made, "x")).tolist() == [20] * 4


def test_owners_that_drop_out_between_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    made = sample()
    whole = made.aggregate

    def then_without_bob(job: Any, owners: Any) -> Any:
        made.away = frozenset({"bob"} if made.jobs else ())
        return whole(job, owners)

    monkeypatch.setattr(made, "aggregate", then_without_bob)
    with pytest.raises(sf.Unavailable, match="bob dropped out, or came back, between two steps"):
        sf.stats.median([p[:, 0] for p in of(made, "x")], bounds=(-9, 9), method="bisection", min_count=1)


def test_names_are_of_owners_only() -> None:
    """An error after a sum speaks of all owners together: which of them has NaN is that owner's own."""
    made = world(x=[np.ones(9), np.array([1.0, np.nan, 3.0]), np.ones(5)])
    with pytest.raises(sf.BadInput, match="NaN among") as caught:
        sf.stats.mean(of(made, "x"), bound=1)
    assert not any(name in str(caught.value) for name in NAMES)
