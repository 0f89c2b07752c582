"""e^x in one opening (turning.py): what is dealt is e^-r, in segments of 8, and what is public e^c."""

from __future__ import annotations

from smpc_fl.errors import BadInput
from smpc_fl.shared_tensors.draft import Value
from smpc_fl.shared_tensors.order import less, where

LOW, HIGH = -12, 8
_SEGMENT = 8
_DEALT, _PUBLIC = 30, 18


def exp(x: Value) -> Value:
    """e^x for x < 8, within 2^-17 and 2^-17 of itself; 0 below -12. 4 rounds, 24.3 bytes, 89 dealt; 48 fractional bits."""
    inside = exp_within(x, LOW, HIGH)
    return inside - where(less(x, LOW), inside, 0.0)


def exp_within(x: Value, low: int, high: int) -> Value:
    """e^x for low <= x < high <= 8, within 2^-17 and 2^-17 of itself; beyond it the result means nothing.

    1 round, 4 bytes; 1 dealt byte for each unit of the circle: the power of two from high - low + 12 on, 32 to 512. The result
    has 48 fractional bits."""
    width = 1 << max(5, (high - low + _SEGMENT * 3 // 2 - 1).bit_length())
    if not low < high <= HIGH or width > 512:
        raise BadInput(f"exp reaches from any low up to {HIGH}, and over 500 at most: not from {low} to {high}")
    turn = 1 << (64 - x.scale - (width.bit_length() - 1))
    return x.draft.step(
        "exponential",
        x,
        turn=turn,
        low=low,
        width=width,
        segments=width // _SEGMENT,
        dealt=_DEALT,
        public=_PUBLIC,
    )
