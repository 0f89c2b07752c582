"""Order: comparisons and what is made of them. Each costs 4 rounds unless it says otherwise.

Rounds, and bytes a value that a party sends to each other one, are those of the operation alone; dealt bytes go to one party.
A truth value is a shared 0 or 1 without fractional bits, so sums and products of them are exact. Numbers x and y of one
comparison differ by less than 2^63 as integers: |x|, |y| < 2^62.
"""

from __future__ import annotations

import builtins

import torch

from smpc_fl.errors import BadInput
from smpc_fl.shared_tensors.draft import Number, Value
from smpc_fl.shared_tensors.words import SCALE

Operand = Value | torch.Tensor | Number


def negative(x: Value) -> Value:
    """x < 0: exact on the whole ring. 12.3 bytes, 49 dealt."""
    return _bit(_sign(x))


def less(x: Value, y: Operand) -> Value:
    """x < y: exact. 12.3 bytes, 49 dealt."""
    return _bit(_sign(_difference(x, y)))


def greater(x: Value, y: Operand) -> Value:
    """x > y, as `less`."""
    return less(x.draft.value(y), x)


def less_equal(x: Value, y: Operand) -> Value:
    """x <= y, as `less`."""
    return greater_equal(x.draft.value(y), x)


def greater_equal(x: Value, y: Operand) -> Value:
    """x >= y, as `less`."""
    return _bit(_sign(_difference(x, y)), inverted=True)


def equal(x: Value, y: Operand) -> Value:
    """x = y: exact on the whole ring. 10.6 bytes, 45 dealt."""
    return _bit(x.draft.step("zero", _difference(x, y)))


def not_equal(x: Value, y: Operand) -> Value:
    """x != y, as `equal`."""
    return _bit(x.draft.step("zero", _difference(x, y)), inverted=True)


def where(condition: Value, x: Operand, y: Operand) -> Value:
    """x where the truth value `condition` is 1, y where it is 0. Shapes are broadcast.

    For a comparison, 8 bytes and 8 dealt beside it, and no round of its own where x and y are there in time; 1 round, 16
    bytes and 8 dealt for another truth value. Exact; `condition` is 0 or 1."""
    draft = condition.draft
    if condition.type.sort != "share" or condition.scale:
        raise BadInput("where takes a truth value, such as x < y")
    a, b = draft.value(x), draft.value(y)
    step = draft.steps[condition.number]
    if step.operation == "bit" and step.parameters["inverted"]:
        condition, a, b = draft.step("bit", Value(draft, step.inputs[0]), inverted=False), b, a
        step = draft.steps[condition.number]
    difference = a - b
    if difference.type.sort == "public":
        return b + draft.step("public_product", condition, difference, map="mul")
    masked = draft.step("mask", difference)
    if step.operation == "bit":
        return b + draft.step("select", Value(draft, step.inputs[0]), condition, masked)
    return b + draft.step("product", draft.step("mask", condition), masked, map="mul")


def relu(x: Value, scale: int = SCALE) -> Value:
    """max(x, 0) with at most `scale` fractional bits: as truncated, ±1 unit in the last place, where x has more; else exact.

    |x| < 2^63 - 2^(bits that are cut off). 12.3 bytes, 57 dealt, and 11.2 bytes, 69 dealt from 36 to 18 fractional bits."""
    return _rectified(x, _excess(x, scale))


def relu_with_mask(x: Value, scale: int = SCALE) -> tuple[Value, Value]:
    """`relu`, and where it is x itself: the truth value x >= 0 of the very same opening, for 8 dealt bytes and no others."""
    drop = _excess(x, scale)
    return _rectified(x, drop), _bit(_sign(x, drop), inverted=True)


def abs(x: Value) -> Value:
    """|x|: exact. 12.3 bytes, 57 dealt."""
    return _rectified(x) * 2 - x


def sign(x: Value) -> Value:
    """-1, 0 or 1, without fractional bits: exact. 24.5 bytes, 98 dealt."""
    return negative(-x) - negative(x)


def maximum(x: Value, y: Operand) -> Value:
    """The larger of two: exact. 12.3 bytes, 57 dealt."""
    return _rectified(_difference(x, y)) + y


def minimum(x: Value, y: Operand) -> Value:
    """The smaller of two, as `maximum`."""
    return x - _rectified(_difference(x, y))


def clamp(x: Value, low: Operand | None = None, high: Operand | None = None) -> Value:
    """Into [low, high], of which low <= high: exact. 12.3 bytes, 57 dealt, for each bound."""
    result = x
    if low is not None:
        result = result + _rectified(_difference(x.draft.value(low), x))
    if high is not None:
        result = result - _rectified(_difference(x, high))
    return result


def round_down(x: Value, scale: int) -> Value:
    """x with at most `scale` fractional bits, rounded down: exact on the whole ring. 12.8 bytes, 67 dealt."""
    return x if x.scale <= scale else x.draft.step("truncate_exactly", x, drop=x.scale - scale)


def floor(x: Value) -> Value:
    """The largest whole number that is not larger, without fractional bits, as `round_down`."""
    return round_down(x, 0)


# --- over a dimension ---


def max(x: Value, dim: int, *, keepdim: bool = False) -> Value:
    """The largest over a dimension of n: exact. 4 rounds for each of log2 n levels (rounded up), n - 1 comparisons in all,
    each 12.3 bytes, 57 dealt."""
    dim, n = _dimension(x, dim)
    while n > 1:
        left, right, rest = _pairs(x, dim, n)
        x = _joined(maximum(left, right), rest, dim)
        n = x.shape[dim]
    return x if keepdim else _without(x, dim)


def min(x: Value, dim: int, *, keepdim: bool = False) -> Value:
    """The smallest, as `max`."""
    return -max(-x, dim, keepdim=keepdim)


def argmax(x: Value, dim: int, *, keepdim: bool = False) -> Value:
    """Where the largest over a dimension of n is, the first if there are several, as a number without fractional bits.

    As `max`, and beside each comparison but those of the first level 8 bytes and 8 dealt, in the same rounds."""
    dim, n = _dimension(x, dim)
    alone = [1] * len(x.shape)
    alone[dim] = n
    place = x.draft.step("expand", x.draft.public(torch.arange(n).reshape(alone), 0), shape=list(x.shape))
    while n > 1:
        left, right, rest = _pairs(x, dim, n)
        before, after, last = _pairs(place, dim, n)
        place = _joined(where(less(left, right), after, before), last, dim)
        x = _joined(maximum(left, right), rest, dim)
        n = x.shape[dim]
    place = _shared(place)
    return place if keepdim else _without(place, dim)


def max_pool2d(
    x: Value, kernel: tuple[int, int], stride: tuple[int, int] | None = None, padding: tuple[int, int] = (0, 0)
) -> Value:
    """The largest of each window of the last two dimensions, as torch's `max_pool2d`: exact. As `max` over kernel elements, for
    each element of the result."""
    stride = kernel if stride is None else stride
    dims = len(x.shape) - 2
    if dims < 0 or any(2 * pad > size or pad < 0 for pad, size in zip(padding, kernel, strict=True)):
        raise BadInput("max_pool2d takes two dimensions or more, and pads by half of the window at most")
    for dim, size, step, pad in zip((dims, dims + 1), kernel, stride, padding, strict=True):
        n = x.shape[dim]
        if pad:
            # The element at the edge is in every window that sees beyond it: to repeat it changes no maximum.
            indices = [0] * pad + list(range(n)) + [n - 1] * pad
            x = x.draft.step("take", x, dim=dim, indices=indices)
        x = x.draft.step("windows", x, dim=dim, size=size, step=step)
    rows, columns = x.shape[dims : dims + 2]
    x = x.draft.step("reshape", x, shape=[*x.shape[:dims], rows, columns, kernel[0] * kernel[1]])
    return max(x, dims + 2)


def _difference(x: Value, y: Operand) -> Value:
    return x.draft.add(x, -x.draft.value(y))


def _sign(x: Value, drop: int = 0) -> Value:
    return x.draft.step("sign", x, drop=drop)


def _bit(flag: Value, *, inverted: bool = False) -> Value:
    return flag.draft.step("bit", flag, inverted=inverted)


def _rectified(x: Value, drop: int = 0) -> Value:
    flag = _sign(x, drop)
    return x.draft.step("rectify", flag, _bit(flag), drop=drop)


def _excess(x: Value, scale: int) -> int:
    return builtins.max(x.scale - scale, 0)


def _dimension(x: Value, dim: int) -> tuple[int, int]:
    """Which, from 0 on, and how many elements it has."""
    rank = len(x.shape)
    if not -rank <= dim < rank or not x.shape[dim]:
        raise BadInput(f"a tensor of shape {x.shape} has no element in dimension {dim}")
    return dim % rank, x.shape[dim]


def _pairs(x: Value, dim: int, n: int) -> tuple[Value, Value, Value | None]:
    """Neighbours, the even places and the odd ones, and the last where it has none."""

    def part(start: int, stop: int) -> Value:
        return x.draft.step("slice", x, dim=dim, start=start, stop=stop, step=2)

    even = n // 2 * 2
    return part(0, even), part(1, even), part(even, n) if even < n else None


def _joined(x: Value, rest: Value | None, dim: int) -> Value:
    return x if rest is None else x.draft.step("cat", x, _shared(rest), dim=dim)


def _shared(x: Value) -> Value:
    return x if x.type.sort == "share" else x.draft.step("shared", x)


def _without(x: Value, dim: int) -> Value:
    return x.draft.step("reshape", x, shape=[*x.shape[:dim], *x.shape[dim + 1 :]])
