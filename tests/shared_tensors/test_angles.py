"""Public sines and exponentials: whole numbers that are the same everywhere, and as precise as they say."""

from __future__ import annotations

from math import pi

import numpy as np
import pytest
import torch

from smpc_fl.shared_tensors import angles


@pytest.mark.parametrize("name", list(angles.FUNCTIONS))
def test_no_entry_of_a_table_lies_near_a_tie(name: str) -> None:
    """Libraries differ by a few 2^-23 here (a last bit of 2^30): all of them round to the same whole numbers."""
    exact = angles.entries(name)
    assert np.abs(exact - np.floor(exact) - 0.5).min() > 32 * 2.0**-23


@pytest.fixture(scope="module")
def angle() -> torch.Tensor:
    ends = [0, 1, 2**15, 2**16 - 1, 2**30, 2**31, 2**32 - 2**15, 2**32 - 1]
    return torch.cat([torch.tensor(ends), torch.from_numpy(np.random.default_rng(1).integers(0, 2**32, 50_000))])


def test_cosine_and_sine(angle: torch.Tensor) -> None:
    cosine, sine = angles.cosine_and_sine(angle)
    turns = angle.double() * (2 * pi * 2.0**-32)
    assert float((cosine.double() * 2.0**-30 - torch.cos(turns)).abs().max()) < 2.0**-28
    assert float((sine.double() * 2.0**-30 - torch.sin(turns)).abs().max()) < 2.0**-28


@pytest.mark.parametrize(("width", "low"), [(32, -12), (32, 3), (64, -40), (512, -488)])
@pytest.mark.parametrize("scale", [10, 18, 24])
def test_exponential(angle: torch.Tensor, width: int, low: int, scale: int) -> None:
    angle = torch.cat([angle, -torch.arange(0, 2**28, 2**20)])
    x = low + angle.double() * width * 2.0**-32
    fits = x < np.log(2.0 ** (61 - scale))
    found = angles.exponential(angle, width, low, scale)[fits].double()
    expected = torch.exp(x[fits]) * 2.0**scale
    assert float(((found - expected).abs() - 0.5 - expected * 2.0**-21).max()) <= 1e-6


def test_shifts_round_to_the_nearest() -> None:
    assert angles.rounded_shift(torch.tensor([-6, -5, 5, 6, 7]), 2).tolist() == [-1, -1, 1, 2, 2]
    assert angles.rounded_shift(torch.tensor([-6, 5]), 0).tolist() == [-6, 5]
