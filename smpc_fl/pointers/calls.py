"""From the ways in which torch spells a call to the one in which it is asked of an owner.

`torch.mean(p, dim=0)`, `p.mean(0)` and `p.mean(axis=(0,))` are one call here, so that they have one lineage. Operands
that are pointers stay as they are, public tensors and arrays become literals, numbers stay numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from smpc_fl.errors import BadInput, PermissionDenied
from smpc_fl.pointers.arguments import REQUIRED, Parameter, check_arguments, trimmed
from smpc_fl.pointers.lineage import Argument, Item, Literal, Picks, Ref, Rest, Span
from smpc_fl.pointers.literals import dtype_name, literal_of
from smpc_fl.pointers.operations import OPERATIONS, Operation, operation


class Remote:
    """Base of what stands for a tensor that is somewhere else."""

    __slots__ = ()


@dataclass(frozen=True)
class Call:
    """One operation on `operands`, to which the `Ref`s among `arguments` refer."""

    function: str
    operands: tuple[Remote | Literal, ...]
    arguments: tuple[Argument, ...]


Args = Sequence[Any]
Kwargs = Mapping[str, Any]
Spelling = tuple[str, list[Any], dict[str, Any]]

_ALIASES = {
    "__and__": "bitwise_and", "__or__": "bitwise_or", "__xor__": "bitwise_xor", "__getitem__": "index",
    "absolute": "abs", "arccos": "acos", "arcsin": "asin", "arctan": "atan", "arctan2": "atan2", "clip": "clamp",
    "concat": "cat", "concatenate": "cat", "divide": "div", "true_divide": "div", "fix": "trunc", "greater": "gt",
    "greater_equal": "ge", "less": "lt", "less_equal": "le", "not_equal": "ne", "linalg_vector_norm": "vector_norm",
    "bmm": "matmul", "dot": "matmul", "mm": "matmul", "mv": "matmul", "inner": "matmul", "multiply": "mul",
    "negative": "neg", "special_expit": "sigmoid", "special_expm1": "expm1", "special_log1p": "log1p",
    "special_logsumexp": "logsumexp", "subtract": "sub", "swapaxes": "transpose", "swapdims": "transpose",
    "view": "reshape", "__rsub__": "rsub", "log_sigmoid": "logsigmoid",
}  # fmt: skip
_SYNONYMS = {"axis": "dim", "keepdims": "keepdim", "self": "input", "x": "input", "axis0": "dim0", "axis1": "dim1"}
_CASTS = {
    "bool": "bool", "byte": "uint8", "char": "int8", "short": "int16", "int": "int32", "long": "int64",
    "half": "float16", "float": "float32", "double": "float64",
}  # fmt: skip
_IN_PLACE_OPERATORS = {"__setitem__", "__delitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__"}

_SHOWS_VALUES = "its shape, its answer or its error would show values"
_REASONS = dict.fromkeys(
    (
        "nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount", "histc", "equal", "allclose",
        "is_nonzero", "take", "gather", "index_select", "embedding", "one_hot", "repeat_interleave", "floor_divide",
        "remainder", "fmod", "__floordiv__", "__rfloordiv__", "__mod__", "__rmod__", "__divmod__", "item", "tolist",
        "numpy",
    ),
    _SHOWS_VALUES,
)  # fmt: skip
_REASONS |= dict.fromkeys(("numel", "size"), "it would show the number of rows")


def is_known(name: str) -> bool:
    """Is there an operation, or a spelling of one, of this name?"""
    return name in OPERATIONS or name in _ALIASES or name in _CASTS or name in _SPELLINGS


def resolve(name: str, args: Args, kwargs: Kwargs) -> list[Call]:
    """The one call that torch's `name(*args, **kwargs)` means, or two where torch gives a pair (values, indices).

    Raises `PermissionDenied` for what is not allow-listed or works in place, `BadInput` for arguments that do not fit."""
    given = dict(kwargs)
    in_place = name in _IN_PLACE_OPERATORS or (name.endswith("_") and not name.startswith("_"))
    if in_place or given.pop("inplace", False) or given.pop("out", None) is not None:
        raise PermissionDenied(f"{name} would change a tensor at its owner: use the out-of-place form, as p = p + 1")
    given.pop("_stacklevel", None)
    return [_bind(*spelling) for spelling in _spell(name, list(args), given)]


def _spell(name: str, args: list[Any], kwargs: dict[str, Any]) -> list[Spelling]:
    kwargs = {_SYNONYMS.get(key, key): value for key, value in kwargs.items()}
    if not args and "input" in kwargs:
        args = [kwargs.pop("input")]
    if name in _CASTS:
        return [("to", [*args, _CASTS[name]], kwargs)]
    name = _ALIASES.get(name, name)
    if name in _SPELLINGS:
        return _SPELLINGS[name](args, kwargs)
    if name not in OPERATIONS:
        reason = _REASONS.get(name, f"the list is {', '.join(OPERATIONS)}")
        raise PermissionDenied(f"torch's {name} is not on the list of operations that run at an owner: {reason}")
    return [(name, args, kwargs)]


# --- spellings that need a second look ----------------------------------------------------------------------------


def _extreme(whole: str, indices: str, pairwise: str) -> Callable[[list[Any], dict[str, Any]], list[Spelling]]:
    """max and min: of everything, of two tensors, or (values, indices) along one dimension."""

    def spell(args: list[Any], kwargs: dict[str, Any]) -> list[Spelling]:
        if "other" in kwargs or (len(args) > 1 and isinstance(args[1], Remote | torch.Tensor)):
            return [(pairwise, args, kwargs)]
        if len(args) > 1 or "dim" in kwargs:
            return [(whole, args, kwargs), (indices, args, kwargs)]
        return [(whole, args, kwargs)]

    return spell


def _middle(name: str) -> Callable[[list[Any], dict[str, Any]], list[Spelling]]:
    """median: of everything, or (values, indices) along one dimension."""

    def spell(args: list[Any], kwargs: dict[str, Any]) -> list[Spelling]:
        if len(args) > 1 or "dim" in kwargs:
            return [(name, args, kwargs), (f"{name}_indices", args, kwargs)]
        return [(name, args, kwargs)]

    return spell


def _spread(name: str) -> Callable[[list[Any], dict[str, Any]], list[Spelling]]:
    """var and std: torch's older signatures say `unbiased`, a bool, where the newer says `correction`, a number."""

    def spell(args: list[Any], kwargs: dict[str, Any]) -> list[Spelling]:
        x, rest = args[:1], args[1:]
        named: dict[str, Any] = {}
        if rest and not isinstance(rest[0], bool):
            named["dim"] = rest.pop(0)
        for key in ("unbiased", "keepdim"):
            if rest:
                named[key] = rest.pop(0)
        twice = named.keys() & kwargs.keys()
        if rest or twice:
            raise BadInput(f"{name}: arguments are given twice, or there are too many")
        named |= kwargs
        if "unbiased" in named:
            named["correction"] = int(named.pop("unbiased"))
        if named.get("correction", 0) is None:
            del named["correction"]
        return [(name, x, named)]

    return spell


def _cast(args: list[Any], kwargs: dict[str, Any]) -> list[Spelling]:
    targets = [*args[1:], *kwargs.values()]
    if not args or len(targets) != 1 or not isinstance(targets[0], torch.dtype) or not kwargs.keys() <= {"dtype"}:
        raise BadInput("to: a tensor at an owner can be given another dtype, as p.to(torch.float64), and nothing else")
    return [("to", [args[0], targets[0]], {})]


def _swapped(args: list[Any], kwargs: dict[str, Any]) -> list[Spelling]:
    if len(args) < 2:
        raise BadInput("rsub takes two operands by position")
    return [("sub", [args[1], args[0], *args[2:]], kwargs)]


def _vector_norm(args: list[Any], kwargs: dict[str, Any]) -> list[Spelling]:
    order = args[1] if len(args) > 1 else kwargs.pop("p", "fro")
    order = 2 if order is None or order == "fro" else order
    if kwargs.get("dtype", REQUIRED) is None:
        del kwargs["dtype"]
    return [("vector_norm", [*args[:1], order, *args[2:]], kwargs)]


def _chosen(args: list[Any], kwargs: dict[str, Any]) -> list[Spelling]:
    if len(args) + len(kwargs) < 3:
        raise PermissionDenied(f"where with a condition alone is not run at an owner: {_SHOWS_VALUES}")
    return [("where", args, kwargs)]


def _gathered(name: str) -> Callable[[list[Any], dict[str, Any]], list[Spelling]]:
    """permute and reshape: p.permute(1, 0) for p.permute((1, 0))."""

    def spell(args: list[Any], kwargs: dict[str, Any]) -> list[Spelling]:
        if len(args) > 1 and not isinstance(args[1], Sequence):
            args = [args[0], tuple(args[1:])]
        return [(name, args, kwargs)]

    return spell


def _flipped(args: list[Any], kwargs: dict[str, Any]) -> list[Spelling]:
    return [("transpose", [*args, 0, 1], kwargs)]


def _flipped_last(args: list[Any], kwargs: dict[str, Any]) -> list[Spelling]:
    return [("transpose", [*args, -2, -1], kwargs)]


_SPELLINGS: dict[str, Callable[[list[Any], dict[str, Any]], list[Spelling]]] = {
    "max": _extreme("amax", "argmax", "maximum"),
    "min": _extreme("amin", "argmin", "minimum"),
    "median": _middle("median"),
    "nanmedian": _middle("nanmedian"),
    "var": _spread("var"),
    "std": _spread("std"),
    "to": _cast,
    "type": _cast,
    "rsub": _swapped,
    "norm": _vector_norm,
    "where": _chosen,
    "permute": _gathered("permute"),
    "reshape": _gathered("reshape"),
    "t": _flipped,
    "T": _flipped,
    "mT": _flipped_last,
}


# --- binding ------------------------------------------------------------------------------------------------------


def _bind(name: str, args: list[Any], kwargs: dict[str, Any]) -> Call:
    op = operation(name)
    values = _in_order(op, args, kwargs)
    operands: list[Remote | Literal] = []
    arguments = [
        _argument(parameter, value, operands, op) for parameter, value in zip(op.parameters, values, strict=False)
    ]
    kept = trimmed(op.parameters, arguments)
    check_arguments(op.name, op.parameters, kept)
    return Call(op.name, tuple(operands), kept)


def _in_order(op: Operation, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
    if len(args) > len(op.parameters):
        raise BadInput(f"{op.name} takes at most {len(op.parameters)} arguments, not {len(args)}")
    named = dict(kwargs)
    values = list(args)
    for parameter in op.parameters[len(args) :]:
        values.append(named.pop(parameter.name, parameter.default))
    if named:
        raise BadInput(f"{op.name} takes no argument {', '.join(sorted(named))} at an owner")
    missing = [p.name for p, value in zip(op.parameters, values, strict=True) if value is REQUIRED]
    if missing:
        raise BadInput(f"{op.name}: {', '.join(missing)} is missing")
    return values


def _argument(parameter: Parameter, value: Any, operands: list[Remote | Literal], op: Operation) -> Argument:
    match parameter.kind:
        case "tensors" if isinstance(value, Sequence):
            return tuple(_operand(item, operands, op) for item in value)
        case "index":
            return tuple(_index_item(item) for item in (value if isinstance(value, tuple) else (value,)))
        case "dtype" | "dtype?" if isinstance(value, torch.dtype):
            return dtype_name(value)
        case "dims?" if isinstance(value, Sequence):
            dims = tuple(_plain(item, op) for item in value)
            return None if not dims else dims[0] if len(dims) == 1 else dims
        case "dims" | "sizes" if isinstance(value, Sequence):
            return tuple(_plain(item, op) for item in value)
        case _:
            return _operand(value, operands, op)


def _operand(value: Any, operands: list[Remote | Literal], op: Operation) -> Item:
    if isinstance(value, Remote):
        for place, known in enumerate(operands):
            if known is value:
                return Ref(place)
        operands.append(value)
        return Ref(len(operands) - 1)
    if isinstance(value, torch.Tensor | np.ndarray):
        operands.append(literal_of(value))
        return Ref(len(operands) - 1)
    return _plain(value, op)


def _plain(value: Any, op: Operation) -> Item:
    value = value.item() if isinstance(value, np.generic) else value
    if value is not None and not isinstance(value, bool | int | float | str):
        raise BadInput(
            f"{op.name} cannot be given a {type(value).__name__} at an owner: give numbers, tensors or pointers"
        )
    return value


def _index_item(item: Any) -> Item:
    if isinstance(item, Remote) or (isinstance(item, torch.Tensor | np.ndarray) and str(item.dtype).endswith("bool")):
        raise PermissionDenied(
            "a mask or a private index is not run at an owner: the shape of its result would show values; use "
            "torch.where(condition, p, 0.0) and count with the condition's sum"
        )
    if isinstance(item, torch.Tensor | np.ndarray | list | range):
        positions = item.tolist() if isinstance(item, torch.Tensor | np.ndarray) else list(item)
        if positions and isinstance(positions, list) and all(type(position) is int for position in positions):
            return Picks(tuple(positions))
        raise BadInput("index: a list of positions is flat, of whole numbers, and not empty")
    if isinstance(item, slice):
        return _span(item)
    if item is ...:
        return Rest()
    item = item.item() if isinstance(item, np.generic) else item
    if item is None or type(item) is int:
        return item
    raise BadInput(f"index: a {type(item).__name__} picks nothing: use numbers, slices or lists of numbers")


def _span(item: slice) -> Span:
    bounds = [bound.item() if isinstance(bound, np.generic) else bound for bound in (item.start, item.stop, item.step)]
    if not all(bound is None or type(bound) is int for bound in bounds):
        raise BadInput("index: the bounds of a slice are whole numbers")
    start, stop, step = bounds
    return Span(None if start == 0 else start, stop, None if step == 1 else step)
