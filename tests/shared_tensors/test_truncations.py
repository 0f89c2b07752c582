"""Truncation: within one unit and right on average; the exact one without an error on the whole ring."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms_of_parties import LARGEST, LEAST, computed, whole_ring

from smpc_fl.errors import BadInput
from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.words import RANGE_BITS


def truncated(x: Value, drop: int) -> Value:
    return x.draft.narrow(x, x.scale - drop)


def exactly(x: Value, drop: int) -> Value:
    return x.draft.step("truncate_exactly", x, drop=drop)


@pytest.mark.parametrize("parties", [2, 3, 5])
@pytest.mark.parametrize("drop", [1, 18, 36, 61])
def test_is_rounded_down_or_up(parties: int, drop: int) -> None:
    words = whole_ring(2000, drop)
    words = words[(words > -(1 << RANGE_BITS)) & (words < 1 << RANGE_BITS)]
    (found,) = computed(lambda x: truncated(x, drop), words, parties=parties, scale=61)
    above = found - (words >> drop)
    assert ((above == 0) | (above == 1)).all()
    assert (above[words % (1 << drop) == 0] == 0).all()


@pytest.mark.parametrize("parties", [2, 3])
def test_is_right_on_average(parties: int) -> None:
    """Of 40,000 at three eighths of a unit, 15,000 are rounded up: within six standard deviations."""
    words = torch.full((40_000,), (-7 << 18) + 3 * (1 << 15))
    (found,) = computed(lambda x: truncated(x, 18), words, parties=parties, scale=36)
    assert abs(int((found == -6).sum()) - 15_000) < 6 * (40_000 * 15 / 64) ** 0.5


@pytest.mark.parametrize("parties", [2, 3, 5])
@pytest.mark.parametrize("drop", [1, 3, 4, 17, 18, 32, 34, 36, 60, 61])
def test_exact_truncation(parties: int, drop: int) -> None:
    words = whole_ring(1000, drop)
    (found,) = computed(lambda x: exactly(x, drop), words, parties=parties, scale=61)
    assert torch.equal(found, words >> drop)


@settings(max_examples=50)
@given(st.lists(st.integers(LEAST, LARGEST), min_size=1, max_size=70), st.integers(1, 61))
def test_exact_truncation_of_anything(numbers: list[int], drop: int) -> None:
    words = torch.tensor(numbers)
    (found,) = computed(lambda x: exactly(x, drop), words, scale=61)
    assert found.tolist() == [number >> drop for number in numbers]


@pytest.mark.slow
def test_exact_truncation_of_many() -> None:
    """10^8 numbers: some minutes."""
    for batch in range(100):
        words = whole_ring(1_000_000, batch)
        (found,) = computed(lambda x: exactly(x, 18), words, scale=36, parties=2 + batch % 2, seed=batch)
        assert torch.equal(found, words >> 18)


@pytest.mark.parametrize("drop", [0, 19, -1])
@pytest.mark.parametrize("operation", ["cut", "truncate_exactly"])
def test_drops_some_of_the_fractional_bits(operation: str, drop: int) -> None:
    draft = Draft()
    with pytest.raises(BadInput, match="fractional bits"):
        draft.step(operation, draft.input("x", (3,), 18), drop=drop)
