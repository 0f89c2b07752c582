"""Means and variances over dimensions whose lengths are public."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from smpc_fl.shared_tensors.draft import Value
from smpc_fl.shared_tensors.functions.exact import over
from smpc_fl.shared_tensors.functions.shapes import dimension, sum

Dims = Sequence[int] | int | None


def mean(x: Value, dims: Dims = None, *, keepdim: bool = False) -> Value:
    """Within 2^-18 of itself; local where x has 18 fractional bits or the count is a power of two (`exact.over`)."""
    return over(sum(x, dims, keepdim=keepdim), _count(x, dims))


def var(x: Value, dims: Dims = None, *, correction: int = 1, keepdim: bool = False) -> Value:
    """Σ (x - mean)² / (n - correction), within 2^-17 (1 + the largest |x - mean|). 1 round, 8 bytes, 32 dealt (40 where the
    count is no power of two); 1 more where n - correction is not."""
    return _var(x - mean(x, dims, keepdim=True), dims, correction, keepdim)


def _var(centred: Value, dims: Dims, correction: int, keepdim: bool) -> Value:
    return over(sum(centred * centred, dims, keepdim=keepdim), _count(centred, dims) - correction)


def mean_and_var(x: Value, dims: Dims) -> tuple[Value, Value, Value]:
    """What norms need, dimensions kept: x - mean, the variance with no correction, the mean."""
    middle = mean(x, dims, keepdim=True)
    return x - middle, _var(x - middle, dims, 0, True), middle


def _count(x: Value, dims: Dims) -> int:
    chosen = range(len(x.shape)) if dims is None else [dims] if isinstance(dims, int) else dims
    return prod(x.shape[dimension(x, dim)] for dim in chosen)
