"""Discrete Gaussian noise: its distribution, its repetition, and the comparisons that integers decide."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from rig import Draws

from smpc_fl.errors import BadInput
from smpc_fl.privacy import discrete_gaussian
from smpc_fl.privacy.discrete_gaussian import LARGEST, DiscreteGaussian

SEED = Draws("noise")(32)


@pytest.mark.parametrize("sigma", [1, 2, 3, 7])
def test_small_ones_have_their_probabilities(sigma: int) -> None:
    """Chi-square against exp(-y^2 / 2 sigma^2); the seed is fixed, so this does not fail by chance."""
    n = 200_000
    samples = DiscreteGaussian(sigma, SEED).draw(0, n)
    values = np.arange(-12 * sigma, 12 * sigma + 1)
    expected = np.exp(-(values**2) / (2 * sigma**2))
    expected *= n / expected.sum()
    seen = np.array([(samples == value).sum() for value in values])
    assert seen.sum() == n
    common = expected > 5
    chi_square = float(((seen - expected)[common] ** 2 / expected[common]).sum())
    assert chi_square < common.sum() + 4 * math.sqrt(2 * common.sum())


@pytest.mark.parametrize("sigma", [(1 << 20) + 12345, LARGEST])
def test_a_million_have_the_variance_within_one_percent(sigma: int) -> None:
    source = DiscreteGaussian(sigma, SEED)
    samples = np.concatenate([source.draw(part, 1 << 16) for part in range(16)]) / sigma
    assert abs(samples.var() - 1) < 0.01
    assert abs(samples.mean()) < 0.005
    for power, moment in ((3, 0.0), (4, 3.0), (6, 15.0)):
        assert abs((samples**power).mean() - moment) < 0.04 * max(moment, 1.0)
    assert 4.0 < np.abs(samples).max() < 6.5
    assert abs(np.corrcoef(samples[1:], samples[:-1])[0, 1]) < 0.005


def test_the_same_seed_gives_the_same_noise_and_another_another() -> None:
    first = DiscreteGaussian(1000, SEED)
    assert np.array_equal(first.draw(2, 500), DiscreteGaussian(1000, SEED).draw(2, 500))
    assert not np.array_equal(first.draw(2, 500), first.draw(3, 500))
    assert not np.array_equal(first.draw(2, 500), DiscreteGaussian(1000, bytes(32)).draw(2, 500))
    assert first.draw(0, 0).size == 0
    assert SEED.hex() not in repr(first)


@pytest.mark.parametrize("sigma", [1, 5, 1 << 20, LARGEST])
def test_what_floats_decide_integers_decide_alike(sigma: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a margin that leaves everything to 256 bits, the samples are the same: none depends on a machine's exp."""
    by_floats = DiscreteGaussian(sigma, SEED).draw(1, 300)
    monkeypatch.setattr(discrete_gaussian, "_UNSURE", 2.0)
    assert np.array_equal(DiscreteGaussian(sigma, SEED).draw(1, 300), by_floats)


def test_a_close_comparison_takes_further_bits() -> None:
    """A fraction whose first 64 bits are those of an edge, or of the chance to be accepted, is decided by the next 192."""
    source = DiscreteGaussian(6, SEED)
    edge = discrete_gaussian._blocks(6)[1]
    numbers = {source._exactly(edge >> 192, 0, 0, candidate)[0] for candidate in range(100)}
    assert numbers == {1, 2}
    chance = discrete_gaussian._exp(3 * 3, 2 * 36) >> 192
    accepted = {source._exactly(0, 3, chance, candidate)[1] for candidate in range(100)}
    assert accepted == {False, True}


def test_the_exponential_function_is_exact_to_its_last_bits() -> None:
    for numerator, denominator in ((0, 1), (1, 3), (123456789, 98765), (3**60, 2**93)):
        x, term, total = Fraction(numerator, denominator), Fraction(1), Fraction(0)
        halvings = max(0, math.ceil(math.log2(float(x) + 1)))
        for k in range(1, 90):
            total += term
            term = term * (-x / 2**halvings) / k
        for _ in range(halvings):
            total = Fraction(int(total * total * 2**400), 2**400)
        assert abs(discrete_gaussian._exp(numerator, denominator) - total * 2**256) <= 2


@pytest.mark.parametrize("sigma", [0, -1, LARGEST + 1])
def test_other_deviations_are_refused(sigma: int) -> None:
    with pytest.raises(BadInput, match="1 to 2\\^57 units"):
        DiscreteGaussian(sigma, SEED)
