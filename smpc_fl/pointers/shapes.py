"""Shapes and types of results, from shapes and types of operands alone: no owner's value is ever looked at.

An operation is run on torch's meta device at two different numbers of rows, both primes. A dimension of the result that
equals the number of rows both times is the rows; one that differs in any other way depends on their number, and the
operation is refused. A third run, on the CPU with one row of ones, finds what the meta device overlooks (unsupported
types, positions out of range) and operations that treat a single row as something else. An operation that passes all
three neither fails nor changes its shape whatever the number of rows is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import msgspec
import torch

from smpc_fl.errors import BadInput, PermissionDenied, ShapeMismatch
from smpc_fl.pointers.arguments import check_arguments
from smpc_fl.pointers.lineage import Argument, Expression, Item, Literal, Ref, Registered, Rest, Span
from smpc_fl.pointers.literals import TORCH_DTYPES, dtype_name, tensor_of
from smpc_fl.pointers.operations import operation, run

MAX_ELEMENTS = 1 << 22
"""Elements of a result that has no rows."""
MAX_PER_ROW = 1 << 16
"""Elements of a result for each row."""

_FIRST = (7919, 7927, 7933, 7937, 7949, 7951, 7963, 7993)
_SECOND = (104729, 104743, 104759, 104761, 104773, 104779, 104789, 104801)
"""Numbers of rows that are tried, one column for each group of tensors that line up."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[Argument, ...])


@dataclass(frozen=True)
class Spec:
    """Shape and type of a tensor at an owner. A `str` in `shape` is the private number of rows of that group of tensors.
    `constant` is the tensor itself where it is a public literal."""

    shape: tuple[int | str, ...]
    dtype: str
    constant: torch.Tensor | None = None

    @property
    def rows(self) -> str | None:
        """The group whose number of rows is a dimension, or None."""
        return next((dimension for dimension in self.shape if isinstance(dimension, str)), None)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join('rows' if isinstance(d, str) else str(d) for d in self.shape)}]"


def spec_of(node: Literal) -> Spec:
    """The spec of a public literal."""
    return Spec(node.shape, node.dtype, tensor_of(node.dtype, node.shape, node.data))


def infer(function: str, arguments: Sequence[Argument], operands: Sequence[Spec]) -> Spec:
    """Shape and type of `function(*arguments)`, where `Ref(i)` is `operands[i]`.

    Raises `PermissionDenied` (not on the list, or it would tell about rows), `BadInput`, `ShapeMismatch`. What follows from
    shapes and types alone is remembered: the steps of an iterative method differ in their public tensors only."""
    places: dict[int, int] = {}
    for ref in _flat(arguments):
        places.setdefault(ref.index, len(places))
    own = tuple(tuple(_moved(i, places) for i in a) if isinstance(a, tuple) else _moved(a, places) for a in arguments)
    used = tuple(operands[index] for index in places)
    if any(spec.constant is not None for spec in used):
        return _infer(function, own, used)
    # As bytes, because 1 == 1.0 == True in Python.
    return _remembered(function, _encoder.encode(own), used)


def _moved(item: Item, places: Mapping[int, int]) -> Item:
    return Ref(places[item.index]) if isinstance(item, Ref) else item


@lru_cache(maxsize=4096)
def _remembered(function: str, arguments: bytes, operands: tuple[Spec, ...]) -> Spec:
    return _infer(function, _decoder.decode(arguments), operands)


def _infer(function: str, arguments: tuple[Argument, ...], operands: Sequence[Spec]) -> Spec:
    op = operation(function)
    check_arguments(op.name, op.parameters, arguments)
    if function == "index":
        _check_index(arguments, operands)
    groups = sorted({d for spec in operands for d in spec.shape if isinstance(d, str)})
    if len(groups) > len(_FIRST):
        raise BadInput(f"an operation takes tensors of at most {len(_FIRST)} data sets")
    counts = [dict(zip(groups, numbers, strict=False)) for numbers in (_FIRST, _SECOND)]
    first, second = (_meta(function, arguments, operands, count) for count in counts)
    shape: list[int | str] = []
    for a, b in zip(first.shape, second.shape, strict=True):
        shape += [group for group in groups if (counts[0][group], counts[1][group]) == (a, b)] or [a] * (a == b)
    if len(shape) != first.ndim:
        raise PermissionDenied(
            f"{function}: the shape of the result would tell how many rows there are: keep rows whole"
        )
    spec = Spec(tuple(shape), dtype_name(first.dtype))
    _check_size(function, spec)
    ones = _attempt(function, arguments, operands, [_ones(operand) for operand in operands])
    if tuple(ones.shape) != _with_rows(spec, dict.fromkeys(groups, 1)) or ones.dtype != first.dtype:
        raise PermissionDenied(f"{function}: a single row would be treated as something else: keep rows whole")
    return spec


def infer_expression(expression: Expression, leaves: Mapping[str, Spec]) -> Spec:
    """Shape and type of an expression over the registered tensors `leaves`; raises as `infer` does."""
    specs: list[Spec] = []
    for node in expression.nodes:
        if isinstance(node, Registered):
            if node.name not in leaves:
                raise BadInput(f"no tensor is registered under {node.name!r}: look at search('') for the names")
            specs.append(leaves[node.name])
        elif isinstance(node, Literal):
            specs.append(spec_of(node))
        else:
            specs.append(infer(node.function, node.arguments, specs))
    return specs[-1]


def _with_rows(spec: Spec, counts: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(counts[d] if isinstance(d, str) else d for d in spec.shape)


def _meta(
    function: str, arguments: Sequence[Argument], operands: Sequence[Spec], counts: dict[str, int]
) -> torch.Tensor:
    tensors = [torch.empty(_with_rows(s, counts), dtype=TORCH_DTYPES[s.dtype], device="meta") for s in operands]
    return _attempt(function, arguments, operands, tensors)


def _ones(spec: Spec) -> torch.Tensor:
    if spec.constant is not None:
        return spec.constant
    # One element, expanded: no memory, whatever the shape is.
    one = torch.ones((), dtype=TORCH_DTYPES[spec.dtype])
    return one.expand(tuple(1 if isinstance(d, str) else d for d in spec.shape))


def _attempt(
    function: str, arguments: Sequence[Argument], operands: Sequence[Spec], tensors: Sequence[torch.Tensor]
) -> torch.Tensor:
    try:
        with torch.no_grad():
            return run(operation(function), arguments, tensors.__getitem__)
    except (RuntimeError, IndexError, TypeError, ValueError, NotImplementedError, OverflowError):
        # torch's own words would show the numbers of rows that were tried, and could be taken for the real one.
        used = ", ".join(str(operands[argument.index]) for argument in _flat(arguments))
        raise ShapeMismatch(f"{function} cannot be applied to {used} with these arguments") from None


def _flat(arguments: Sequence[Argument]) -> list[Ref]:
    items = [item for a in arguments for item in (a if isinstance(a, tuple) else (a,))]
    return [item for item in items if isinstance(item, Ref)]


def _check_size(function: str, spec: Spec) -> None:
    known = math.prod(d for d in spec.shape if isinstance(d, int))
    rows = sum(isinstance(d, str) for d in spec.shape)
    if rows > 1:
        raise ShapeMismatch(f"{function} would give {spec}, rows by rows: reduce over the rows first")
    if known > (MAX_PER_ROW if rows else MAX_ELEMENTS):
        raise ShapeMismatch(
            f"{function} would give {spec}: at most {MAX_ELEMENTS} elements, or {MAX_PER_ROW} a row, are computed"
        )


def _check_index(arguments: Sequence[Argument], operands: Sequence[Spec]) -> None:
    """Is the dimension of the rows taken whole?"""
    source, items = arguments[0], arguments[1]
    assert isinstance(source, Ref)
    assert isinstance(items, tuple)
    shape = operands[source.index].shape
    taken = [item for item in items if item is not None]
    if sum(isinstance(item, Rest) for item in taken) > 1 or len(taken) - any(isinstance(i, Rest) for i in taken) > len(
        shape
    ):
        raise ShapeMismatch(f"index: more positions than {operands[source.index]} has dimensions")
    place = next((i for i, item in enumerate(taken) if isinstance(item, Rest)), len(taken))
    before, after = taken[:place], taken[place + 1 :]
    whole: list[object] = [*before, *[Span()] * (len(shape) - len(before) - len(after)), *after]
    for dimension, item in zip(shape, whole, strict=True):
        if isinstance(dimension, str) and item != Span():
            raise PermissionDenied(
                "rows are private and cannot be picked: take all of them and choose columns, as p[:, 3]; "
                "use torch.where instead of a mask"
            )
