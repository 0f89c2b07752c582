"""Tail probabilities are SciPy's."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from smpc_fl.statistics.distributions import (
    chi_square_upper,
    f_upper,
    incomplete_beta,
    normal_quantile,
    normal_two_sided,
    t_quantile,
    t_two_sided,
)

half = st.integers(1, 2000).map(lambda n: n / 2)


@given(half, half, st.floats(0, 1))
def test_incomplete_beta(a: float, b: float, x: float) -> None:
    assert incomplete_beta(a, b, x) == pytest.approx(special.betainc(a, b, x), rel=1e-9, abs=1e-13)


@settings(max_examples=30)
@given(st.floats(-30, 30), st.integers(1, 1000), st.integers(1, 50))
def test_tails(x: float, degrees: int, above: int) -> None:
    assert t_two_sided(x, degrees) == pytest.approx(2 * stats.t.sf(abs(x), degrees), rel=1e-8)  # SciPy's is off by 3e-9
    assert normal_two_sided(x) == pytest.approx(2 * stats.norm.sf(abs(x)), rel=1e-9)
    assert f_upper(abs(x), above, degrees) == pytest.approx(stats.f.sf(abs(x), above, degrees), rel=1e-8, abs=1e-13)
    assert chi_square_upper(abs(x), degrees) == pytest.approx(stats.chi2.sf(abs(x), degrees), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_quantiles(level: float) -> None:
    assert t_quantile(level, 3) == pytest.approx(stats.t.ppf((1 + level) / 2, 3), rel=1e-12)
    assert normal_quantile(level) == pytest.approx(stats.norm.ppf((1 + level) / 2), rel=1e-12)


def test_no_spread_at_all() -> None:
    assert t_two_sided(math.inf, 5) == 0
    assert math.isnan(t_two_sided(math.nan, 5))
