"""Reciprocal, division, roots, logarithm, softmax against torch, in their ranges, and what they cost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operation_bed import PARTIES, SEEDS, Price, close, outcome, powers, price, uniform

from smpc_fl.errors import BadInput
from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.functions.largest import largest
from smpc_fl.shared_tensors.functions.logarithm import log
from smpc_fl.shared_tensors.functions.normal import normal
from smpc_fl.shared_tensors.functions.reciprocal import divide, reciprocal
from smpc_fl.shared_tensors.functions.roots import rsqrt, sqrt
from smpc_fl.shared_tensors.functions.softmax import log_softmax, logsumexp, softmax

RANGES = st.sampled_from([(-8, 12), (0, 4), (0, 1), (-6, -4 + 6), (3, 9)])


@given(seed=SEEDS, parties=PARTIES, ends=RANGES)
@settings(max_examples=5)
@pytest.mark.parametrize(("function", "exponent"), [(reciprocal, -1.0), (sqrt, 0.5), (rsqrt, -0.5)])
def test_powers_of_positive_numbers(
    function: Callable[[Value, int, int], Value], exponent: float, seed: int, parties: int, ends: tuple[int, int]
) -> None:
    y = powers(seed, (2, 15), *ends)
    found = outcome(lambda v: function(v, *ends), lambda v: v**exponent, y, parties=parties, seed=seed)
    close(found, 2.0**-17, 1e-5)


@given(seed=SEEDS, parties=PARTIES, ends=RANGES)
@settings(max_examples=5)
def test_logarithm(seed: int, parties: int, ends: tuple[int, int]) -> None:
    close(outcome(lambda v: log(v, *ends), torch.log, powers(seed, (30,), *ends), parties=parties, seed=seed), 1e-5)


@given(seed=SEEDS, parties=PARTIES, ends=RANGES)
@settings(max_examples=5)
def test_division(seed: int, parties: int, ends: tuple[int, int]) -> None:
    x, y = uniform(seed, (3, 10), -50, 50), powers(seed, (3, 10), *ends)
    found = outcome(lambda a, b: divide(a, b, *ends), torch.div, x, y, parties=parties, seed=seed)
    close(found, 2.0**-16, 1e-5)


def test_a_root_of_what_is_too_small_is_small() -> None:
    found = outcome(sqrt, torch.sqrt, uniform(5, (300,), 0, 2.0**-12), parties=2)
    assert 0 <= float(found.result.min()) <= float(found.result.max()) <= 2.0**-6 + 2.0**-17


@pytest.mark.parametrize(("low", "high"), [(3, 3), (-19, 0), (0, 44), (-3, -1)])
def test_a_range_that_cannot_be_is_refused(low: int, high: int) -> None:
    with pytest.raises(BadInput, match="is no range"):
        normal(Draft().input("y", (2,)), low, high)


@given(seed=SEEDS, parties=PARTIES, classes=st.integers(1, 9), spread=st.sampled_from([1.0, 9.0, 57.9]))
@settings(max_examples=6)
def test_softmax_its_logarithm_and_its_denominator(seed: int, parties: int, classes: int, spread: float) -> None:
    x = uniform(seed, (3, classes), -spread, spread)
    close(outcome(lambda v: softmax(v, 1), lambda v: torch.softmax(v, 1), x, parties=parties, seed=seed), 3e-5)
    close(outcome(lambda v: log_softmax(v, 0), lambda v: torch.log_softmax(v, 0), x, parties=parties), 3e-5)
    close(outcome(lambda v: logsumexp(v, -1), lambda v: torch.logsumexp(v, -1), x, parties=parties), 3e-5)


def test_logits_may_be_products_and_lie_far_apart_with_a_wider_spread() -> None:
    x = uniform(3, (4, 5), -20, 20)
    found = outcome(lambda v: softmax(v * v, 1, 450), lambda v: torch.softmax(v * v, 1), x, parties=3)
    close(found, 4e-5)
    kept = outcome(lambda v: logsumexp(v, 1, keepdim=True), lambda v: torch.logsumexp(v, 1, keepdim=True), x, parties=3)
    close(kept, 3e-5)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda y: reciprocal(y, 0, 4), Price(6, 28 + 3 * 12.25, 291)),
        (lambda y: reciprocal(y, 0, 1), Price(2, 20, 96)),
        (lambda y: sqrt(y, 0, 4), Price(6, 28 + 3 * 12.25, 291)),
        (lambda y: rsqrt(y, 0, 4), Price(6, 28 + 3 * 12.25, 315)),
        (lambda y: log(y, 0, 4), Price(5, 12 + 3 * 12.25, 259)),
        (lambda y: divide(y, y + 1, 0, 4), Price(6, 36 + 3 * 12.25, 315)),
    ],
)
def test_prices_are_those_of_the_module_docstrings(function: Callable[[Value], Value], expected: Price) -> None:
    assert price(function, (64, 64)) == expected


@given(seed=SEEDS, parties=PARTIES, n=st.sampled_from([1, 4, 5, 9, 16, 17]), dim=st.sampled_from([0, 1, -1]))
@settings(max_examples=8)
def test_the_largest_is_exact(seed: int, parties: int, n: int, dim: int) -> None:
    shape = [2, 3, 2]
    shape[dim] = n
    x = uniform(seed, tuple(shape), -(2.0**42), 2.0**42)
    x.select(dim, n - 1).copy_(x.select(dim, 0))  # ties
    ties = torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.5, x.max(), x)
    for values in (x, ties):
        found = outcome(
            lambda v: largest(v, dim), lambda v: v.amax(dim, keepdim=True), values, parties=parties, seed=seed
        )
        close(found, 0)


def test_few_numbers_are_compared_in_eight_rounds() -> None:
    for n in (5, 10, 16):
        pairs = n * (n - 1) / 2
        expected = round(pairs * 12.25 + n * 18.625) / n
        found = price(lambda v: largest(v, 1), (64, n))
        assert found.rounds == 8
        assert abs(found.opened - expected) < 0.1
    assert price(lambda v: largest(v, 1), (64, 4)).rounds == 8
    assert price(lambda v: largest(v, 1), (64, 17)).rounds == 20


def test_softmax_costs_seven_rounds_beside_the_maximum() -> None:
    assert price(lambda x: softmax(x, 1), (64, 10)).rounds == 8 + 7
    assert price(lambda x: softmax(x, 1), (64, 2)).rounds == 4 + 7
    assert price(lambda x: log_softmax(x, 1), (64, 2)).rounds == 4 + 6
