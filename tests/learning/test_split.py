"""Held-out rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpc_fl.errors import BadInput
from smpc_fl.learning.split import holdout


@given(st.integers(2, 500), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_every_row_is_on_one_side(rows: int, fraction: float) -> None:
    train, test = holdout(rows, fraction, bytes(16), "alice")
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(rows))
    assert (np.diff(train) > 0).all()
    assert (np.diff(test) > 0).all()
    assert 1 <= len(test) < rows
    assert abs(len(test) - rows * fraction) <= 1


def test_the_split_depends_on_seed_and_owner_alone() -> None:
    splits = {
        holdout(50, 0.2, seed, owner)[1].tobytes()
        for seed in (bytes(16), bytes(range(16)))
        for owner in ("alice", "bob")
        for _ in range(2)
    }
    assert len(splits) == 4


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_nothing_is_held_out_when_nothing_is_asked_for(rows: int) -> None:
    train, test = holdout(rows, 0.0, bytes(16), "alice")
    assert train.tolist() == list(range(rows))
    assert test.tolist() == []


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_other_fractions_are_refused(fraction: float) -> None:
    with pytest.raises(BadInput, match="fraction"):
        holdout(10, fraction, bytes(16), "alice")


@pytest.mark.parametrize("rows", [0, 1])
def test_one_row_cannot_be_on_both_sides(rows: int) -> None:
    with pytest.raises(BadInput, match="evaluation tensors"):
        holdout(rows, 0.2, bytes(16), "alice")
