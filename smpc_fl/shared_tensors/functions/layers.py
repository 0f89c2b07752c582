"""Layers without a nonlinearity: weights and inputs shared, or one of them public."""

from __future__ import annotations

from collections.abc import Sequence

from smpc_fl.errors import BadInput, ShapeMismatch
from smpc_fl.shared_tensors.draft import Value
from smpc_fl.shared_tensors.functions.exact import over
from smpc_fl.shared_tensors.functions.shapes import (
    cat,
    index,
    permute,
    reshape,
    squeeze,
    stack,
    sum,
    transpose,
    unsqueeze,
)

Pair = int | Sequence[int]


def linear(x: Value, weight: Value, bias: Value | None = None) -> Value:
    """x Wᵀ + b, W of (out, in), as torch. 1 round, 8 bytes for each element of x and W that was not masked before, 8 dealt for
    each of the result, which has the fractional bits of both."""
    product = x @ transpose(weight)
    return product if bias is None else product + bias


def conv2d(
    x: Value, weight: Value, bias: Value | None = None, stride: Pair = 1, padding: Pair = 0, groups: int = 1
) -> Value:
    """As torch's, without dilation: x of (batch, in, h, w), weight of (out, in / groups, h, w). Costs as `linear`."""
    if (
        len(x.shape) != 4
        or len(weight.shape) != 4
        or x.shape[1] != groups * weight.shape[1]
        or weight.shape[0] % groups
    ):
        raise ShapeMismatch(f"a convolution of {x.shape} with {weight.shape} in {groups} groups")
    steps = {"stride": _pair(stride), "padding": _pair(padding)}
    wide, out = weight.shape[1], weight.shape[0] // groups
    parts = [
        x.draft.multiply(
            "conv2d",
            index(x, (slice(None), slice(g * wide, g * wide + wide))),
            index(weight, slice(g * out, g * out + out)),
            **steps,
        )
        for g in range(groups)
    ]
    result = parts[0] if groups == 1 else cat(parts, 1)
    return result if bias is None else result + reshape(bias, [-1, 1, 1])


def conv1d(
    x: Value, weight: Value, bias: Value | None = None, stride: int = 1, padding: int = 0, groups: int = 1
) -> Value:
    """x of (batch, in, n), weight of (out, in / groups, n)."""
    result = conv2d(unsqueeze(x, 2), unsqueeze(weight, 2), bias, [1, stride], [0, padding], groups)
    return squeeze(result, 2)


def avg_pool2d(x: Value, kernel: Pair, stride: Pair | None = None, padding: Pair = 0) -> Value:
    """The mean of each window of the last two dimensions; padding counts as zeros, as torch's. Local, as `exact.over`."""
    size, pad = _pair(kernel), _pair(padding)
    step = size if stride is None else _pair(stride)
    dims = len(x.shape) - 2
    if dims < 0 or any(2 * p > k for p, k in zip(pad, size, strict=True)):
        raise BadInput("avg_pool2d takes two dimensions or more, and pads by half of the window at most")
    x = x.draft.step("pad", x, widths=[pad[1], pad[1], pad[0], pad[0]])
    for dim in (0, 1):
        x = x.draft.step("windows", x, dim=dims + dim, size=size[dim], step=step[dim])
    return over(sum(x, [-2, -1]), size[0] * size[1])


def adaptive_avg_pool2d(x: Value, size: Pair) -> Value:
    """The mean of windows that cover the last two dimensions, as torch's. Local, as `exact.over`."""
    rows, columns = _pair(size)
    return _adaptive(_adaptive(x, -2, rows), -1, columns)


def _adaptive(x: Value, dim: int, count: int) -> Value:
    n = x.shape[dim]
    last = permute(x, [*range(len(x.shape) - 2), -1, -2]) if dim == -2 else x
    ends = [(i * n // count, -(-(i + 1) * n // count)) for i in range(count)]
    means = [over(sum(index(last, (..., slice(start, stop))), -1), stop - start) for start, stop in ends]
    result = stack(means, -1)
    return permute(result, [*range(len(x.shape) - 2), -1, -2]) if dim == -2 else result


def _pair(value: Pair) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
