"""The operations that may run at an owner: the allow-list, as a table.

What is on it has a result whose shape, type and errors follow from shapes, types and public arguments alone. What is
not: anything whose shape or error depends on values (boolean masks, `nonzero`, `unique`, integer division and remainder,
lookup of a private index in a public table), in-place operations, random numbers, devices.

Each operation takes its arguments in one order, typed by `Parameter.kind`; `arguments.check_arguments` is the only way
in, for pointers and for owners alike. Every function here calls torch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from smpc_fl.errors import PermissionDenied
from smpc_fl.pointers.arguments import Parameter
from smpc_fl.pointers.lineage import Argument, Picks, Ref, Rest, Span
from smpc_fl.pointers.literals import TORCH_DTYPES


@dataclass(frozen=True)
class Operation:
    """`run(*values)` computes it on tensors, with one value for each of `parameters`."""

    name: str
    parameters: tuple[Parameter, ...]
    run: Callable[..., torch.Tensor]
    doc: str


_X = Parameter("input", "tensor")
_LEFT = Parameter("input", "operand")
_OTHER = Parameter("other", "operand")
_TENSOR = Parameter("other", "tensor")
_DIM = Parameter("dim", "dim")
_DIM_OR_ALL = Parameter("dim", "dim?", None)
_DIMS_OR_ALL = Parameter("dim", "dims?", None)
_KEEPDIM = Parameter("keepdim", "flag", False)
_DTYPE = Parameter("dtype", "dtype?", None)


def _dtype(name: str | None) -> torch.dtype | None:
    return None if name is None else TORCH_DTYPES[name]


def _dims(x: torch.Tensor, dim: int | tuple[int, ...] | None) -> tuple[int, ...]:
    if dim is None:
        return tuple(range(x.ndim))
    return (dim,) if isinstance(dim, int) else dim


def _reduced(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """mean, sum and their like: over `dim`, in `dtype`."""
    return lambda x, dim, keepdim, dtype: function(x, dim, keepdim, dtype=_dtype(dtype))


def _along(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Functions that keep the dimension they run along."""
    return lambda x, dim, dtype: function(x, dim, dtype=_dtype(dtype))


def _over_dims(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Reductions that want their dimensions spelt out."""
    return lambda x, dim, keepdim: function(x, _dims(x, dim), keepdim)


def _over_dim(function: Callable[..., Any], field: str = "") -> Callable[..., torch.Tensor]:
    """Reductions over one dimension or everything; `field` of the pair that torch gives for one dimension."""

    def run(x: torch.Tensor, dim: int | None, keepdim: bool) -> torch.Tensor:
        result = function(x) if dim is None else function(x, dim, keepdim)
        picked: torch.Tensor = getattr(result, field) if field and dim is not None else result
        return picked

    return run


def _prod(x: torch.Tensor, dim: int | None, keepdim: bool, dtype: str | None) -> torch.Tensor:
    if dim is None:
        return torch.prod(x, dtype=_dtype(dtype))
    return torch.prod(x, dim, keepdim, dtype=_dtype(dtype))


def _spread(root: bool) -> Callable[..., torch.Tensor]:
    """var and std. torch warns when there are not more elements than `correction`; its value is given without that,
    because a warning would tell how few rows there are."""

    def run(x: torch.Tensor, dim: int | tuple[int, ...] | None, correction: float, keepdim: bool) -> torch.Tensor:
        dims = _dims(x, dim)
        count = 1
        for d in dims:
            count *= x.shape[d]
        if count > correction:
            return (torch.std if root else torch.var)(x, dims, correction=correction, keepdim=keepdim)
        squares = (x - x.mean(dims, True)).square().sum(dims, keepdim)
        return squares / 0

    return run


def _index(x: torch.Tensor, items: tuple[object, ...]) -> torch.Tensor:
    def native(item: object) -> object:
        match item:
            case Span(start, stop, step):
                return slice(start, stop, step)
            case Picks(positions):
                return list(positions)
            case Rest():
                return ...
            case _:
                return item

    return x[tuple(native(item) for item in items)]  # type: ignore[index]


def _cat(tensors: tuple[torch.Tensor, ...], dim: int) -> torch.Tensor:
    return torch.cat(tensors, dim)


def _stack(tensors: tuple[torch.Tensor, ...], dim: int) -> torch.Tensor:
    return torch.stack(tensors, dim)


_OPERATIONS: list[Operation] = []


def _add(name: str, parameters: Sequence[Parameter], run: Callable[..., torch.Tensor], doc: str) -> None:
    _OPERATIONS.append(Operation(name, tuple(parameters), run, doc))


# --- over dimensions ----------------------------------------------------------------------------------------------

for _name, _doc in {
    "mean": "arithmetic mean",
    "sum": "sum",
    "nanmean": "mean of what is not NaN",
    "nansum": "sum of what is not NaN",
}.items():
    _add(_name, (_X, _DIMS_OR_ALL, _KEEPDIM, _DTYPE), _reduced(getattr(torch, _name)), _doc)
for _name, _doc in {"amax": "largest", "amin": "smallest", "logsumexp": "log of the sum of exponentials"}.items():
    _add(_name, (_X, _DIMS_OR_ALL, _KEEPDIM), _over_dims(getattr(torch, _name)), _doc)
for _name, _doc in {
    "all": "are all true?",
    "any": "is one true?",
    "argmax": "where the largest is",
    "argmin": "where the smallest is",
}.items():
    _add(_name, (_X, _DIM_OR_ALL, _KEEPDIM), _over_dim(getattr(torch, _name)), _doc)
for _name in ("median", "nanmedian"):
    _add(_name, (_X, _DIM_OR_ALL, _KEEPDIM), _over_dim(getattr(torch, _name), "values"), "lower median")
    _add(f"{_name}_indices", (_X, _DIM, _KEEPDIM), _over_dim(getattr(torch, _name), "indices"), "where the median is")
_add("prod", (_X, _DIM_OR_ALL, _KEEPDIM, _DTYPE), _prod, "product")
_CORRECTION = Parameter("correction", "number", 1)
_add("var", (_X, _DIMS_OR_ALL, _CORRECTION, _KEEPDIM), _spread(root=False), "variance, over count - correction")
_add("std", (_X, _DIMS_OR_ALL, _CORRECTION, _KEEPDIM), _spread(root=True), "standard deviation")
_add(
    "vector_norm",
    (_X, Parameter("ord", "number", 2), _DIMS_OR_ALL, _KEEPDIM),
    lambda x, order, dim, keepdim: torch.linalg.vector_norm(x, order, dim, keepdim),
    "norm of vectors",
)
_add(
    "count_nonzero",
    (_X, _DIMS_OR_ALL),
    lambda x, dim: torch.count_nonzero(x, dim),
    "how many are not zero (the number is as private as any value)",
)
_add("cumsum", (_X, _DIM, _DTYPE), _along(torch.cumsum), "running sum")
for _name in ("softmax", "log_softmax"):
    _add(_name, (_X, _DIM, _DTYPE), _along(getattr(torch, _name)), _name)

_add("msort", (_X,), torch.msort, "sorted along the first dimension; rows no longer line up with others'")
_add(
    "searchsorted",
    (Parameter("sorted_sequence", "tensor"), _X, Parameter("right", "flag", False)),
    lambda x, values, right: torch.searchsorted(x.contiguous(), values.contiguous(), right=right),
    "how many elements of what is sorted, without NaN, are below each value (right: or equal to it)",
)

# --- element by element -------------------------------------------------------------------------------------------

for _name in (
    "abs", "acos", "asin", "atan", "bitwise_not", "ceil", "cos", "cosh", "erf", "exp", "expm1", "floor", "isfinite",
    "isinf", "isnan", "log", "log10", "log1p", "log2", "logical_not", "neg", "reciprocal", "relu", "round", "rsqrt",
    "sigmoid", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh", "trunc",
):  # fmt: skip
    _add(_name, (_X,), getattr(torch, _name), "of every element")
for _name in ("logsigmoid", "relu6", "silu", "softplus"):
    _add(_name, (_X,), getattr(functional, _name), "of every element")
_add(
    "leaky_relu", (_X, Parameter("negative_slope", "number", 0.01)), functional.leaky_relu, "relu with a slope below 0"
)
_add(
    "gelu",
    (_X, Parameter("approximate", "gelu", "none")),
    lambda x, approximate: functional.gelu(x, approximate=approximate),
    "Gaussian error linear unit",
)
_ALPHA = Parameter("alpha", "number", 1)
_add("elu", (_X, Parameter("alpha", "number", 1.0)), functional.elu, "exponential linear unit")
_add("add", (_LEFT, _OTHER, _ALPHA), lambda x, y, alpha: torch.add(x, y, alpha=alpha), "x + alpha · y")
_add("sub", (_LEFT, _OTHER, _ALPHA), lambda x, y, alpha: torch.sub(x, y, alpha=alpha), "x - alpha · y")
_add("mul", (_LEFT, _OTHER), torch.mul, "product")
_add("div", (_LEFT, _OTHER), torch.div, "quotient; a division by zero gives inf or NaN, never an error")
_add("pow", (_X, Parameter("exponent", "number")), torch.pow, "x to a public power")
for _name in ("bitwise_and", "bitwise_or", "bitwise_xor", "eq", "ge", "gt", "le", "lt", "ne"):
    _add(_name, (_X, _OTHER), getattr(torch, _name), "of every pair of elements")
for _name in ("atan2", "logical_and", "logical_or", "logical_xor", "maximum", "minimum"):
    _add(_name, (_X, _TENSOR), getattr(torch, _name), "of every pair of elements")
_add(
    "where",
    (Parameter("condition", "tensor"), _LEFT, _OTHER),
    torch.where,
    "the elements of one or the other, by a condition; this is what stands in for a mask",
)
_add(
    "clamp",
    (_X, Parameter("min", "operand?", None), Parameter("max", "operand?", None)),
    lambda x, low, high: torch.clamp(x, low, high),
    "into [min, max]",
)
_add(
    "nan_to_num",
    (_X, Parameter("nan", "number?", None), Parameter("posinf", "number?", None), Parameter("neginf", "number?", None)),
    lambda x, nan, high, low: torch.nan_to_num(x, nan, high, low),
    "with numbers in the place of NaN and infinities",
)
_add("to", (_X, Parameter("dtype", "dtype")), lambda x, dtype: x.to(TORCH_DTYPES[dtype]), "as another element type")
_add("ones_like", (_X, _DTYPE), lambda x, dtype: torch.ones_like(x, dtype=_dtype(dtype)), "ones")
_add("zeros_like", (_X, _DTYPE), lambda x, dtype: torch.zeros_like(x, dtype=_dtype(dtype)), "zeros")

# --- linear algebra and shape -------------------------------------------------------------------------------------

_add("matmul", (_X, _TENSOR), torch.matmul, "matrix product")
_add("outer", (_X, Parameter("vec2", "tensor")), torch.outer, "outer product of two vectors")
_add(
    "linear",
    (_X, Parameter("weight", "tensor"), Parameter("bias", "tensor?", None)),
    functional.linear,
    "x · weightᵀ + bias",
)
_add("index", (_X, Parameter("index", "index")), _index, "columns by number or slice; all rows")
_add("transpose", (_X, Parameter("dim0", "dim"), Parameter("dim1", "dim")), torch.transpose, "two dimensions swapped")
_add("permute", (_X, Parameter("dims", "dims")), torch.permute, "dimensions in another order")
_add("reshape", (_X, Parameter("shape", "sizes")), torch.reshape, "another shape; rows stay rows")
_add(
    "flatten",
    (_X, Parameter("start_dim", "dim", 0), Parameter("end_dim", "dim", -1)),
    torch.flatten,
    "several dimensions as one; rows stay rows",
)
_add("squeeze", (_X, _DIM), torch.squeeze, "without a dimension of size 1")
_add("unsqueeze", (_X, _DIM), torch.unsqueeze, "with one more dimension of size 1")
_TENSORS = Parameter("tensors", "tensors")
_add("cat", (_TENSORS, Parameter("dim", "dim", 0)), _cat, "side by side")
_add("stack", (_TENSORS, Parameter("dim", "dim", 0)), _stack, "along a new dimension")

OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in _OPERATIONS}
"""The allow-list, by name."""


def operation(name: str) -> Operation:
    """The operation of this name; `PermissionDenied` when it is not on the list."""
    found = OPERATIONS.get(name)
    if found is None:
        raise PermissionDenied(
            f"{name!r} is not on the list of operations that run at an owner; these are: {', '.join(OPERATIONS)}"
        )
    return found


def run(op: Operation, arguments: Sequence[Argument], tensors: Callable[[int], torch.Tensor]) -> torch.Tensor:
    """The operation's result; `tensors(i)` is the value of `Ref(i)`."""

    def value(argument: object) -> object:
        if isinstance(argument, tuple) and any(isinstance(item, Ref) for item in argument):
            return tuple(value(item) for item in argument)
        return tensors(argument.index) if isinstance(argument, Ref) else argument

    given = [value(argument) for argument in arguments]
    return op.run(*given, *(parameter.default for parameter in op.parameters[len(given) :]))
