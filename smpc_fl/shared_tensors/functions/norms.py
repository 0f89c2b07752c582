"""Batch and layer normalisation: (x - mean) / sqrt(variance + eps) · weight + bias."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from smpc_fl.shared_tensors.draft import Value
from smpc_fl.shared_tensors.functions.roots import rsqrt_parts
from smpc_fl.shared_tensors.functions.shapes import reshape
from smpc_fl.shared_tensors.functions.statistics import mean_and_var
from smpc_fl.shared_tensors.words import SCALE

LOW, HIGH = -12, 12
"""The variance with eps lies between 2^-12 and 2^12. Where it is smaller, the result is, too."""
EPS = 1e-5


def batch_norm(
    x: Value,
    running_mean: Value,
    running_var: Value,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = EPS,
    low: int = LOW,
    high: int = HIGH,
) -> Value:
    """With given statistics of the channels, dimension 1 of x. 6 rounds, 16 bytes a value of x, and those of `rsqrt` for
    each channel."""
    to = [1, -1] + [1] * (len(x.shape) - 2)
    mean, variance = reshape(running_mean, to), reshape(running_var, to)
    return _normalised(x - mean, variance, _as(weight, to), _as(bias, to), eps, low, high)


def batch_norm_training(
    x: Value,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = EPS,
    low: int = LOW,
    high: int = HIGH,
) -> tuple[Value, Value, Value]:
    """With the batch's own statistics, which come out as well: the result, the means of the channels and their variances with
    no correction. As `batch_norm`, and as `var`."""
    to = [1, -1] + [1] * (len(x.shape) - 2)
    centred, variance, mean = mean_and_var(x, [0, *range(2, len(x.shape))])
    result = _normalised(centred, variance, _as(weight, to), _as(bias, to), eps, low, high)
    return result, reshape(mean, [-1]), reshape(variance, [-1])


def layer_norm(
    x: Value,
    shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = EPS,
    low: int = LOW,
    high: int = HIGH,
) -> Value:
    """Over the last dimensions, which have this shape. As `batch_norm`, and as `var`; 8 bytes more with a weight."""
    centred, variance, _ = mean_and_var(x, list(range(-len(shape), 0)))
    # Weights differ along a row, roots do not: to multiply the row costs 8 bytes a value, while the variance is compared.
    return _normalised(centred if weight is None else centred * weight, variance, None, bias, eps, low, high)


def _normalised(
    centred: Value, variance: Value, weight: Value | None, bias: Value | None, eps: float, low: int, high: int
) -> Value:
    draft = centred.draft
    variance = variance + draft.public(torch.tensor(eps, dtype=torch.float64), variance.scale)
    part, power = rsqrt_parts(variance, low, high, weight)
    # The series of the root is ready a round after its power of two: meanwhile this is multiplied.
    result = draft.elementwise(power, centred, SCALE + high // 2) * part
    return result if bias is None else result + bias


def _as(x: Value | None, shape: list[int]) -> Value | None:
    return None if x is None else reshape(x, shape)
