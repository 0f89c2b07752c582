"""Public factors that cost nothing: powers of two, and fractions as precise as need be."""

from __future__ import annotations

import torch

from smpc_fl.shared_tensors.draft import Value
from smpc_fl.shared_tensors.words import SCALE


def factor(x: Value, values: torch.Tensor, scale: int) -> Value:
    """x · values, public, rounded to `scale` fractional bits, which the result has besides its own. Local."""
    return x.draft.step("public_product", x, x.draft.public(values, scale), map="mul")


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
