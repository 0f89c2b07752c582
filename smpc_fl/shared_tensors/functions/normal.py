"""y = u · 2^e with 1/2 <= u < 1, for positive y in a range of powers of two: what reciprocals, roots and logarithms start from.

y is compared with all powers of two of the range at once; u and every function of e are then sums over those bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch

from smpc_fl.errors import BadInput
from smpc_fl.shared_tensors.draft import Value
from smpc_fl.shared_tensors.functions.exact import factor
from smpc_fl.shared_tensors.order import greater_equal, where
from smpc_fl.shared_tensors.words import RANGE_BITS


@dataclass(frozen=True, slots=True)
class Normal:
    """Of y in [2^low, 2^high): `bits[..., i]` tells whether y >= 2^(low + 1 + i)."""

    y: Value
    low: int
    high: int
    bits: Value | None

    def of_exponent(self, f: Callable[[int], float], scale: int) -> Value:
        """f(e), low < e <= high, with `scale` fractional bits. Local."""
        start = torch.tensor(f(self.low + 1), dtype=torch.float64)
        if self.bits is None:
            return self.y * 0 + self.y.draft.public(start, scale)
        return self._weighed(self.bits, f, scale) + self.y.draft.public(start, scale)

    def times_exponent(self, x: Value, f: Callable[[int], float], scale: int) -> Value:
        """x · f(e), with `scale` fractional bits more than x: in the comparison's last round, 8 bytes for a new x, and 8 dealt
        for each power of two inside the range."""
        start = factor(x, torch.tensor(f(self.low + 1), dtype=torch.float64), scale)
        return start if self.bits is None else start + self._weighed(where(self.bits, _column(x), 0.0), f, scale)

    @property
    def fraction(self) -> Value:
        """u, with `high` fractional bits more than y."""
        return self.times_exponent(self.y, lambda e: 2.0**-e, self.high)

    def _weighed(self, bits: Value, f: Callable[[int], float], scale: int) -> Value:
        # Of rounded values, so that rounding errors do not add up.
        steps = [round(f(e) * 2.0**scale) for e in range(self.low + 1, self.high + 1)]
        changes = torch.tensor([b - a for a, b in pairwise(steps)], dtype=torch.float64) * 2.0**-scale
        last = len(bits.shape) - 1
        return bits.draft.step("sum", factor(bits, changes, scale), dims=[last], keepdim=False)


def normal(y: Value, low: int, high: int) -> Normal:
    """4 rounds; 12.3 bytes and 49 dealt, or 57 with `fraction`, for each power of two inside the range; none for a single one."""
    if high <= low or y.scale + high >= RANGE_BITS or low < -y.scale or high < 0:
        raise BadInput(f"2^{low} to 2^{high} is no range for a positive number of {y.scale} fractional bits")
    inside = [2.0**i for i in range(low + 1, high)]
    if not inside:
        return Normal(y, low, high, None)
    powers = y.draft.public(torch.tensor(inside, dtype=torch.float64), max(y.scale, -low))
    return Normal(y, low, high, greater_equal(_column(y), powers))


def _column(x: Value) -> Value:
    return x.draft.step("reshape", x, shape=[*x.shape, 1])
