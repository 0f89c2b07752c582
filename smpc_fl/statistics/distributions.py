"""Tail probabilities of the normal, Student's t, F and chi-square distributions, float64.

Student's t and F by the regularised incomplete beta function, NIST DLMF 8.17: its continued fraction (8.17.22) by Lentz's
method, on the side where it converges (8.17.4).
"""

from __future__ import annotations

import math

import torch

_TINY = 1e-300


def incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b) for a, b > 0, 0 <= x <= 1."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1.0 - incomplete_beta(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    ) / a  # fmt: skip
    value, c, d, step = 1.0, 1.0, 0.0, 0
    while True:
        m = step // 2
        if step == 0:
            term = 1.0
        elif step % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / _away(1 + term * d)
        c = _away(1 + term / c)
        value *= c * d
        if step and not abs(c * d - 1) > 1e-15:  # which ends with NaN, too
            return front * (value - 1)
        step += 1


def _away(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def t_two_sided(t: float, degrees: float) -> float:
    """P(|T| >= |t|)."""
    return f_upper(t * t, 1, degrees)


def t_quantile(level: float, degrees: float) -> float:
    """The t > 0 with P(|T| <= t) = `level`, by bisection."""
    low, high = 0.0, 1.0
    while t_two_sided(high, degrees) > 1 - level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_two_sided(middle, degrees) > 1 - level else (low, middle)
    return high


def f_upper(f: float, above: float, below: float) -> float:
    """P(F >= f) with `above` and `below` degrees of freedom."""
    if not math.isfinite(f):
        return f if math.isnan(f) else 0.0
    if f < 1:  # near one: by what is missing
        return 1.0 - incomplete_beta(above / 2, below / 2, above * f / (below + above * f))
    return incomplete_beta(below / 2, above / 2, below / (below + above * f))


def chi_square_upper(statistic: float, degrees: int) -> float:
    """P(X >= statistic)."""
    return float(torch.special.gammaincc(_double(degrees / 2), _double(statistic / 2)))


def normal_two_sided(z: float) -> float:
    """P(|Z| >= |z|)."""
    return math.erfc(abs(z) / math.sqrt(2))


def normal_quantile(level: float) -> float:
    """The z with P(|Z| <= z) = `level`."""
    return float(torch.special.ndtri(_double((1 + level) / 2)))


def _double(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)
