"""Sines, cosines and exponentials of what all parties know, in whole numbers only.

A party multiplies its share by them, so two that differed in one last bit would be left with noise. Nothing here depends on
a library's last bit: tables are rounded far from every tie (a test says how far), and what follows is integer arithmetic.

An *angle* is int64 in [0, 2^32): so many 2^-32 of a turn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import cos, pi, sin

import torch

from smpc_fl.shared_tensors.words import Words

ANGLE_BITS = 32
UNIT_BITS = 30
"""Fractional bits of every result."""
STEP_BITS = 12
"""A table has 2^12 entries; two make 24 bits of an angle."""


def entries(f: Callable[[float], float], fine: bool) -> list[float]:
    """What a table holds, times 2^30, not rounded: f of i · 2^-12, or of i · 2^-24, 0 <= i < 2^12."""
    step = 2.0 ** -(2 * STEP_BITS if fine else STEP_BITS)
    return [f(i * step) * 2.0**UNIT_BITS for i in range(1 << STEP_BITS)]


FUNCTIONS: dict[str, Callable[[float], float]] = {
    "cos": lambda turns: cos(2 * pi * turns),
    "sin": lambda turns: sin(2 * pi * turns),
    "exp2": lambda x: 2.0**x,
}


@cache
def _table(name: str, fine: bool) -> torch.Tensor:
    return torch.tensor([round(value) for value in entries(FUNCTIONS[name], fine)], dtype=torch.int64)


def rounded_shift(x: Words, bits: int) -> Words:
    """x / 2^bits, to the nearest whole number."""
    return (x + (1 << bits >> 1)) >> bits


def cosine_and_sine(angle: Words) -> tuple[Words, Words]:
    """At scale 30, within 2^-22."""
    index = rounded_shift(angle, ANGLE_BITS - 2 * STEP_BITS)
    high, low = (index >> STEP_BITS) & ((1 << STEP_BITS) - 1), index & ((1 << STEP_BITS) - 1)
    c, s = _table("cos", False)[high], _table("sin", False)[high]
    fine_c, fine_s = _table("cos", True)[low], _table("sin", True)[low]
    return rounded_shift(c * fine_c - s * fine_s, UNIT_BITS), rounded_shift(s * fine_c + c * fine_s, UNIT_BITS)


LOG2_E = 1.4426950408889634
_FACTOR_BITS = 29
"""Of log2(e): an exponent of 2^9 is right to 2^-22."""


def exponential(angle: Words, width: int, low: int, scale: int) -> Words:
    """e^(low + width · turns) at `scale`, within 2^-22 of itself and half a unit; `angle` may be below zero, and what has
    no room in 62 bits means nothing. `width`: a power of two, 2^9 at most."""
    fraction = ANGLE_BITS - (width.bit_length() - 1) + _FACTOR_BITS  # of angle · width / 2^32 · log2(e)
    exponent = angle * round(LOG2_E * 2.0**_FACTOR_BITS) + round(low * LOG2_E * 2.0**24) * (1 << (fraction - 24))
    index = rounded_shift(exponent, fraction - 2 * STEP_BITS)
    whole = (index >> (2 * STEP_BITS)) + scale - UNIT_BITS
    coarse = _table("exp2", False)[(index >> STEP_BITS) & ((1 << STEP_BITS) - 1)]
    mantissa = rounded_shift(coarse * _table("exp2", True)[index & ((1 << STEP_BITS) - 1)], UNIT_BITS)
    right = (-whole).clamp(0, 40)
    half = torch.where(right > 0, torch.ones_like(right) << (right - 1).clamp(min=0), torch.zeros_like(right))
    return ((mantissa + half) >> right) << whole.clamp(0, 31)
