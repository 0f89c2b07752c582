"""Public factors that cost nothing: powers of two, and fractions as precise as need be."""

from __future__ import annotations

import math

import torch

from smpc_fl.errors import BadInput
from smpc_fl.shared_tensors.draft import Value
from smpc_fl.shared_tensors.words import RANGE_BITS, SCALE


def factor(x: Value, values: torch.Tensor, scale: int) -> Value:
    """x · values, public, rounded to `scale` fractional bits, which the result has besides its own. Local."""
    return x.draft.step("public_product", x, x.draft.public(values, scale), map="mul")


def scaled(x: Value, number: float) -> Value:
    """x · number: exact for whole numbers and powers of two, else within 2^-20 of itself. Local where x is narrow."""
    if float(number).is_integer() and abs(number) < 2.0**31:
        return x * int(number)
    if not math.isfinite(number):
        raise BadInput(f"a shared tensor times {number} means nothing")
    mantissa, exponent = math.frexp(number)
    if abs(mantissa) == 0.5 and 1 - exponent < RANGE_BITS - x.scale:
        return factor(x, torch.tensor(number, dtype=torch.float64), 1 - exponent)
    x = x.draft.narrow(x)
    return factor(
        x, torch.tensor(number, dtype=torch.float64), min(max(SCALE, 20 - exponent), RANGE_BITS - 1 - x.scale)
    )


def halved(x: Value) -> Value:
    """x / 2: exact, with one fractional bit more."""
    return factor(x, torch.tensor(0.5), 1)


def over(x: Value, n: int) -> Value:
    """x / n for a whole n > 0: exact where n is a power of two, else within 2^-19 of itself. Local, but for 1 round (8 bytes,
    16 dealt) where x has more than 18 fractional bits and n is no power of two."""
    bits = n.bit_length()
    if n == 1 << (bits - 1):
        return factor(x, torch.tensor(1 / n, dtype=torch.float64), bits - 1) if n > 1 else x
    return factor(x.draft.narrow(x), torch.tensor(1 / n, dtype=torch.float64), SCALE + bits)
