"""Sines, cosines and exponentials of what all parties know, in whole numbers only.

A party multiplies its share by them, so two that differed in one last bit would be left with noise. Nothing here depends on
a library's last bit: tables are rounded far from every tie (a test says how far), and what follows is integer arithmetic.

An *angle* is int64 in [0, 2^32): so many 2^-32 of a turn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from smpc_fl.shared_tensors.words import Words

ANGLE_BITS = 32
UNIT_BITS = 30
"""Fractional bits of every result."""
TABLE_BITS = 16
"""A table has 2^16 entries; between two of them a straight line is right to 2^-29."""
_TURN = 6.283185307179586
_LN_2, _LOG2_E = 0.6931471805599453, 1.4426950408889634

Floats = npt.NDArray[np.float64]
FUNCTIONS: dict[str, Callable[[Floats], Floats]] = {
    "cos": lambda turns: np.cos(_TURN * turns),
    "sin": lambda turns: np.sin(_TURN * turns),
    "exp2": np.exp2,
}


def entries(name: str) -> Floats:
    """What a table holds, times 2^30, not rounded."""
    return FUNCTIONS[name](np.arange(1 << TABLE_BITS, dtype=np.float64) * 2.0**-TABLE_BITS) * 2.0**UNIT_BITS


@cache
def _table(name: str) -> torch.Tensor:
    return torch.from_numpy(np.rint(entries(name)).astype(np.int64))


def rounded_shift(x: Words, bits: int) -> Words:
    """x / 2^bits, to the nearest whole number."""
    return (x + (1 << bits >> 1)) >> bits


def cosine_and_sine(angle: Words) -> tuple[Words, Words]:
    """At scale 30, within 2^-28."""
    below = ANGLE_BITS - TABLE_BITS
    index = rounded_shift(angle, below)
    rest = (angle - (index << below)) * round(_TURN * 2.0**14)  # at scale 46, below 2^33
    index &= (1 << TABLE_BITS) - 1
    cosine, sine = _table("cos")[index], _table("sin")[index]
    return cosine - rounded_shift(rest * sine, ANGLE_BITS + 14), sine + rounded_shift(rest * cosine, ANGLE_BITS + 14)


_FACTOR_BITS = 29
"""Of log2(e): an exponent of 2^9 is right to 2^-22."""


def exponential(angle: Words, width: int, low: int, scale: int) -> Words:
    """e^(low + width · turns) at `scale`, within 2^-21 of itself and half a unit; `angle` may be below zero, and what has
    no room in 62 bits means nothing. `width`: a power of two, 2^9 at most."""
    fraction = ANGLE_BITS - (width.bit_length() - 1) + _FACTOR_BITS  # of angle · width / 2^32 · log2(e)
    exponent = angle * round(_LOG2_E * 2.0**_FACTOR_BITS) + round(low * _LOG2_E * 2.0**24) * (1 << (fraction - 24))
    exponent = rounded_shift(exponent, fraction - 2 * TABLE_BITS)
    rest = exponent & ((1 << TABLE_BITS) - 1)
    mantissa = _table("exp2")[(exponent >> TABLE_BITS) & ((1 << TABLE_BITS) - 1)]
    mantissa = mantissa + rounded_shift(mantissa * (rest * round(_LN_2 * 2.0**14)), 2 * TABLE_BITS + 14)
    whole = (exponent >> (2 * TABLE_BITS)) + scale - UNIT_BITS
    right = (-whole).clamp(0, 40)
    half = (torch.ones_like(right) << right) >> 1
    return ((mantissa + half) >> right) << whole.clamp(0, 31)
