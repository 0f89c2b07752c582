"""Other shapes of the same numbers, as torch names them. All of it is local: no round, no byte."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from types import EllipsisType

import torch

from smpc_fl.errors import BadInput, ShapeMismatch
from smpc_fl.shared_tensors.draft import Value

Key = int | slice | EllipsisType | None | list[int] | torch.Tensor


def reshape(x: Value, shape: Sequence[int]) -> Value:
    """One length may be -1."""
    known = prod(n for n in shape if n != -1)
    if list(shape).count(-1) > 1 or (-1 in shape and (not known or x.type.size % known)):
        raise ShapeMismatch(f"{x.shape} cannot have the shape {tuple(shape)}")
    return x.draft.step("reshape", x, shape=[x.type.size // known if n == -1 else n for n in shape])


def flatten(x: Value, start: int = 0, end: int = -1) -> Value:
    start, end = dimension(x, start), dimension(x, end)
    return reshape(x, [*x.shape[:start], prod(x.shape[start : end + 1]), *x.shape[end + 1 :]])


def squeeze(x: Value, dim: int) -> Value:
    """Without a dimension of one element."""
    dim = dimension(x, dim)
    if x.shape[dim] != 1:
        raise ShapeMismatch(f"dimension {dim} of {x.shape} has more than one element")
    return reshape(x, [*x.shape[:dim], *x.shape[dim + 1 :]])


def unsqueeze(x: Value, dim: int) -> Value:
    dim %= len(x.shape) + 1
    return reshape(x, [*x.shape[:dim], 1, *x.shape[dim:]])


def permute(x: Value, dims: Sequence[int]) -> Value:
    return x.draft.step("permute", x, dims=[dimension(x, dim) for dim in dims])


def transpose(x: Value, a: int = -2, b: int = -1) -> Value:
    dims = list(range(len(x.shape)))
    a, b = dimension(x, a), dimension(x, b)
    dims[a], dims[b] = b, a
    return permute(x, dims)


def expand(x: Value, shape: Sequence[int]) -> Value:
    """Dimensions of one element repeated, new ones in front."""
    return x.draft.step("expand", x, shape=list(shape))


def flip(x: Value, dims: Sequence[int]) -> Value:
    return x.draft.step("flip", x, dims=[dimension(x, dim) for dim in dims])


def cat(values: Sequence[Value], dim: int = 0) -> Value:
    """Of shared values; those with fewer fractional bits take on those of the others, which is exact."""
    return values[0].draft.step("cat", *_alike(values), dim=dimension(values[0], dim))


def stack(values: Sequence[Value], dim: int = 0) -> Value:
    return values[0].draft.step("stack", *_alike(values), dim=dim % (len(values[0].shape) + 1))


def sum(x: Value, dims: Sequence[int] | int | None = None, *, keepdim: bool = False) -> Value:
    chosen = range(len(x.shape)) if dims is None else [dims] if isinstance(dims, int) else dims
    return x.draft.step("sum", x, dims=[dimension(x, dim) for dim in chosen], keepdim=keepdim)


def index(x: Value, key: Key | tuple[Key, ...]) -> Value:
    """x[key]: whole numbers, slices with a positive step, `...`, None, and lists or vectors of whole numbers, each for its own
    dimension: with several lists the result is their product, not torch's pairs, which is refused."""
    keys = list(key) if isinstance(key, tuple) else [key]
    used = len([k for k in keys if k is not None and k is not Ellipsis])
    if len([k for k in keys if isinstance(k, (list, torch.Tensor))]) > 1 or used > len(x.shape):
        raise BadInput(f"a tensor of shape {x.shape} is indexed by {len(x.shape)} keys at most, of which one is a list")
    rest: list[Key] = [slice(None)] * (len(x.shape) - used)
    spot = next((i for i, k in enumerate(keys) if k is Ellipsis), len(keys))
    keys = [*keys[:spot], *rest, *keys[spot + 1 :]]
    dim = 0
    for k in keys:
        match k:
            case None:
                x = unsqueeze(x, dim)
                dim += 1
            case int():
                (place,) = _places(x, dim, [k])
                x = squeeze(x.draft.step("slice", x, dim=dim, start=place, stop=place + 1, step=1), dim)
            case slice():
                start, stop, step = k.indices(x.shape[dim])
                if step < 1:
                    raise BadInput("a slice of a shared tensor has a positive step: flip it instead")
                if k != slice(None):
                    x = x.draft.step("slice", x, dim=dim, start=start, stop=max(start, stop), step=step)
                dim += 1
            case list() | torch.Tensor():
                numbers = [int(i) for i in k]
                x = x.draft.step("take", x, dim=dim, indices=_places(x, dim, numbers))
                dim += 1
            case _:
                raise BadInput("one ... is enough")
    return x


def dimension(x: Value, dim: int) -> int:
    """From 0 on. Raises `BadInput`."""
    if not -len(x.shape) <= dim < len(x.shape):
        raise BadInput(f"a tensor of shape {x.shape} has no dimension {dim}")
    return dim % len(x.shape)


def _places(x: Value, dim: int, numbers: list[int]) -> list[int]:
    n = x.shape[dim]
    if any(not -n <= i < n for i in numbers):
        raise BadInput(f"an index is out of the {n} elements of dimension {dim}")
    return [i % n for i in numbers]


def _alike(values: Sequence[Value]) -> list[Value]:
    scale = max(value.scale for value in values)
    shared = [v if v.type.sort == "share" else v.draft.step("shared", v) for v in values]
    return [v.draft.at(v, scale) for v in shared]
