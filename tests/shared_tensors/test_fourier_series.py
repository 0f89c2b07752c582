"""Fourier series on shares: the sums that they say, the errors that are written down, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from math import erf, exp, pi
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operation_bed import PARTIES, SEEDS, close, outcome, uniform

from smpc_fl.errors import BadInput
from smpc_fl.shared_tensors import turning
from smpc_fl.shared_tensors.draft import Draft
from smpc_fl.shared_tensors.functions import coefficients
from smpc_fl.shared_tensors.functions.series import Series


def clear(series: Series, x: torch.Tensor) -> torch.Tensor:
    total, x = torch.full_like(x, series.constant), x % series.period  # cos() of large numbers would not be precise
    for j, (a, b) in enumerate(zip(series.cosines, series.sines, strict=True), 1):
        total = total + a * torch.cos(2 * pi * j * x / series.period) + b * torch.sin(2 * pi * j * x / series.period)
    return total


COEFFICIENTS = st.lists(st.floats(-1, 1).map(lambda v: round(v, 6)), min_size=3, max_size=3).map(tuple)


@given(seed=SEEDS, parties=PARTIES, cosines=COEFFICIENTS, sines=COEFFICIENTS, period=st.floats(0.3, 50))
@settings(max_examples=12)
def test_a_series_is_its_sum_on_the_whole_ring(
    seed: int,
    parties: int,
    cosines: tuple[float, float, float],
    sines: tuple[float, float, float],
    period: float,
) -> None:
    series = Series(2.0 ** round(np.log2(period)), 0.25, (*cosines, 0.5), (*sines, 0.0))
    x = torch.cat([uniform(seed, (20,), -10, 10), uniform(seed, (20,), -(2.0**40), 2.0**40)])
    close(outcome(lambda v: series.of(v), lambda v: clear(series, v), x, parties=parties, seed=seed), 3e-5)


@given(seed=SEEDS, period=st.floats(0.5, 50), stretch=st.floats(0.1, 3))
@settings(max_examples=8)
def test_any_period_and_any_stretch(seed: int, period: float, stretch: float) -> None:
    series = Series(period, 0.0, (0.5, 0.0), (0.0, -1.0))
    x = uniform(seed, (30,), -25, 25)
    found = outcome(
        lambda v: series.of(v, stretch=stretch, scale=30), lambda v: clear(series, stretch * v), x, parties=2
    )
    close(found, 2e-4)


FITTED: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], float, float, float]] = {
    "SIGMOID": (lambda x: torch.sigmoid(x) - 0.5, -9.25, 9.25, 8.1e-5),
    "GELU": (lambda x: x * torch.tensor([0.5 * erf(float(v) / 2**0.5) for v in x]), -4.25, 4.25, 7.0e-6),
    "SILU": (lambda x: x * torch.sigmoid(x) - x / 2, -11.5, 11.5, 5.6e-5),
    "SOFTPLUS": (lambda x: torch.nn.functional.softplus(x) - x / 2, -9.25, 9.25, 2.6e-5),
    "RECIPROCAL": (lambda x: 1 / x, 0.5, 1.0, 3.5e-6),
    "SQUARE_ROOT": (torch.sqrt, 0.5, 1.0, 2.1e-7),
    "INVERSE_ROOT": (torch.rsqrt, 0.5, 1.0, 8.2e-7),
    "LOGARITHM": (torch.log, 0.5, 1.0, 7.9e-7),
}


@pytest.mark.parametrize("name", FITTED)
def test_stored_series_are_as_precise_as_they_say(name: str) -> None:
    function, low, high, error = FITTED[name]
    x = torch.linspace(low, high, 20_001, dtype=torch.float64)
    worst = float((clear(getattr(coefficients, name), x) - function(x)).abs().max())
    assert 0.9 * error < worst <= error


def test_a_series_that_does_not_fit_together_is_refused() -> None:
    x = Draft().input("x", (2,))
    good: dict[str, Any] = {"turn": 1 << 40, "harmonics": [1], "cosines": [0], "sines": [5], "scale": 36}
    bad: dict[str, Any]
    for bad in ({"harmonics": []}, {"cosines": [1, 2]}, {"sines": []}):
        with pytest.raises(BadInput, match="a cosine and a sine"):
            x.draft.step("series", x, **{**good, **bad})
    for bad in ({"scale": 62}, {"turn": 0}, {"turn": 1 << 63}):
        with pytest.raises(BadInput, match="a scale of 1 to 61"):
            x.draft.step("series", x, **{**good, **bad})
    for bad in (
        {"harmonics": [0]},
        {"harmonics": [65]},
        {"harmonics": [1] * 65, "cosines": [0] * 65, "sines": [0] * 65},
    ):
        with pytest.raises(BadInput, match="harmonics from 1 to 64"):
            x.draft.step("series", x, **{**good, **bad})
    with pytest.raises(BadInput, match="coefficients below 8"):
        x.draft.step("series", x, **{**good, "sines": [-8 << 26]})
    with pytest.raises(BadInput, match="takes a shared value"):
        x.draft.step("series", x.draft.public(torch.zeros(2)), **good)


def test_rounded_openings_do_not_fall_off_the_start_of_a_segment() -> None:
    """Three shares that are each rounded down open one unit below the start of the mask's segment, at the lowest x."""
    unit, low, width, segments = 1 << 32, -12, 32, 4
    parameters = {"turn": 1 << 41, "low": low, "width": width, "segments": segments, "dealt": 30, "public": 18}
    x = [torch.tensor([low << 18]), torch.tensor([0]), torch.tensor([0])]
    mask = torch.tensor([1 << 62])  # where the second segment starts
    parts = [torch.tensor([unit * 2 // 5])] * 2
    masks = [mask - parts[0] - parts[1], *parts]
    terms = torch.zeros(segments, 1, dtype=torch.int64)
    terms[1] = 1 << 30
    runs = [
        turning.exponential_of(party == 0, turning.Dealt(masks[party], terms * (party == 0)), [x[party]], parameters)
        for party in range(3)
    ]
    openings = [next(run)[0] for run in runs]
    opened = openings[0].join([openings[1].encode(), openings[2].encode()])
    assert int(opened) == ((1 << 30) + low * (1 << 32) // width) - 1
    total = 0
    for run in runs:
        with pytest.raises(StopIteration) as end:
            run.send([opened])
        total += int(end.value.value)
    assert abs(total * 2.0**-48 - exp(low)) < 2.0**-18


def test_an_exponential_that_cannot_be_is_refused() -> None:
    x = Draft().input("x", (2,))
    good: dict[str, Any] = {"turn": 1 << 41, "low": -12, "width": 32, "segments": 4, "dealt": 30, "public": 18}
    bad: dict[str, Any]
    for bad in ({"width": 48}, {"segments": 3}, {"segments": 129}, {"width": 1024}):
        with pytest.raises(BadInput, match="a circle of a power of two"):
            x.draft.step("exponential", x, **{**good, **bad})
    for bad in ({"dealt": 50}, {"dealt": 0}, {"public": 0}):
        with pytest.raises(BadInput, match="a scale of 2 to 61"):
            x.draft.step("exponential", x, **{**good, **bad})
    for bad in ({"turn": -1}, {"turn": 1 << 63}, {"low": -513}):
        with pytest.raises(BadInput, match="starts at -512"):
            x.draft.step("exponential", x, **{**good, **bad})
    with pytest.raises(BadInput, match="takes a shared value"):
        x.draft.step("exponential", x.draft.public(torch.zeros(2)), **good)
