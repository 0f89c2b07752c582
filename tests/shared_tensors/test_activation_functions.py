"""Sigmoid, tanh, GELU, SiLU, softplus and exp against torch, in their ranges, and what they cost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from operation_bed import PARTIES, SEEDS, SHAPES, Price, close, outcome, price, uniform

from smpc_fl.errors import BadInput
from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.functions import activations
from smpc_fl.shared_tensors.functions.exponential import exp, exp_within
from smpc_fl.shared_tensors.functions.series import SCALE

Function = Callable[[Value], Value]
Reference = Callable[[torch.Tensor], torch.Tensor]
F = torch.nn.functional

EVERYWHERE: list[tuple[Function, Reference, float, float]] = [
    (activations.sigmoid, torch.sigmoid, 1e-4, 2.0**43),
    (activations.tanh, torch.tanh, 2e-4, 2.0**43),
    (activations.gelu, F.gelu, 1e-4, 2.0**21),
    (activations.silu, F.silu, 2e-4, 2.0**21),
    (activations.softplus, F.softplus, 1.5e-4, 2.0**21),
]
"""With the bound and the largest value of the docstring."""
WITHIN: list[tuple[Function, Reference, float, float]] = [
    (activations.sigmoid_within, torch.sigmoid, 1e-4, 9.25),
    (activations.tanh_within, torch.tanh, 2e-4, 4.625),
]


@given(shape=SHAPES, seed=SEEDS, parties=PARTIES)
@settings(max_examples=3)
@pytest.mark.parametrize(
    ("function", "reference", "bound", "limit"), EVERYWHERE, ids=lambda v: getattr(v, "__name__", "")
)
def test_activations_are_right_near_zero_and_far_out(
    function: Function,
    reference: Reference,
    bound: float,
    limit: float,
    shape: tuple[int, ...],
    seed: int,
    parties: int,
) -> None:
    near, far = uniform(seed, (*shape, 20), -13, 13), uniform(seed + 1, (*shape, 7), -limit + 1, limit - 1)
    close(outcome(function, reference, torch.cat([near, far], -1), parties=parties, seed=seed), bound, 2.0**-52)


@given(seed=SEEDS, parties=PARTIES)
@settings(max_examples=3)
@pytest.mark.parametrize(("function", "reference", "bound", "limit"), WITHIN, ids=lambda v: getattr(v, "__name__", ""))
def test_one_round_is_enough_inside_the_interval(
    function: Function, reference: Reference, bound: float, limit: float, seed: int, parties: int
) -> None:
    close(outcome(function, reference, uniform(seed, (2, 50), -limit, limit), parties=parties, seed=seed), bound)


def test_saturation_is_exact() -> None:
    x = torch.tensor([-1e9, -9.26, 9.26, 1e9], dtype=torch.float64)
    found = outcome(activations.sigmoid, lambda _: torch.tensor([0.0, 0.0, 1.0, 1.0]).double(), x, parties=3)
    close(found, 0.0)


def test_products_are_activated_before_they_are_truncated() -> None:
    x = uniform(1, (40,), -3, 3)
    for function, reference in ((activations.sigmoid, torch.sigmoid), (activations.gelu, F.gelu)):
        close(outcome(lambda v, f=function: f(v * v), lambda v, f=reference: f(v * v), x, parties=2), 1.1e-4)
    wide = outcome(
        lambda v: activations.silu((v * v).draft.step("rescale", v * v, by=6)), lambda v: F.silu(v * v), x, parties=2
    )
    close(wide, 2.1e-4)
    assert SCALE < 42  # or the last line would not show what is narrowed


@given(seed=SEEDS, parties=PARTIES, shape=SHAPES)
@settings(max_examples=6)
def test_exp_below_its_end(seed: int, parties: int, shape: tuple[int, ...]) -> None:
    x = torch.cat([uniform(seed, (*shape, 12), -13, 7.999), uniform(seed + 1, (*shape, 6), -(2.0**42), -13)], -1)
    close(outcome(exp, torch.exp, x, parties=parties, seed=seed), 2.0**-17, 2.0**-17)


@given(seed=SEEDS, parties=PARTIES)
@settings(max_examples=4)
@pytest.mark.parametrize(("low", "high"), [(-12, 8), (-116, 0), (-488, 0), (-3, 1), (2, 8)])
def test_exp_over_a_stated_range(low: int, high: int, seed: int, parties: int) -> None:
    x = torch.cat([uniform(seed, (30,), low, high - 0.001), uniform(seed, (30,), max(low, high - 9), high - 0.001)])
    close(outcome(lambda v: exp_within(v, low, high), torch.exp, x, parties=parties, seed=seed), 2.0**-17, 2.0**-17)


@pytest.mark.parametrize(("low", "high"), [(0, 9), (-501, 0), (1, 1)])
def test_exp_names_its_limits(low: int, high: int) -> None:
    with pytest.raises(BadInput, match="exp reaches"):
        exp_within(Draft().input("x", (2,)), low, high)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (activations.sigmoid, Price(4, 36.5, 274)),
        (activations.sigmoid_within, Price(1, 4.0, 160)),
        (activations.tanh, Price(4, 36.5, 274)),
        (activations.tanh_within, Price(1, 4.0, 160)),
        (activations.gelu, Price(4, 44.5, 226)),
        (activations.silu, Price(4, 44.5, 322)),
        (activations.softplus, Price(4, 44.5, 258)),
        (exp, Price(4, 24.25, 89)),
        (lambda x: exp_within(x, -12, 8), Price(1, 4.0, 32)),
        (lambda x: exp_within(x, -116, 0), Price(1, 4.0, 128)),
    ],
)
def test_prices_are_those_of_the_docstrings(function: Function, expected: Price) -> None:
    assert price(function, (64, 64)) == expected
