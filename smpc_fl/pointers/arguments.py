"""What the operations at an owner can be given: kinds of arguments, each with a strict test and one spelling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from smpc_fl.errors import BadInput
from smpc_fl.pointers.lineage import DTYPES, Argument, Picks, Ref, Rest, Span

REQUIRED: Final = object()
_INT64 = range(-(1 << 63), 1 << 63)
_MAX_DIMS = 16


@dataclass(frozen=True)
class Parameter:
    """One argument of an operation. `default` is `REQUIRED` or what is meant when it is left out at the end."""

    name: str
    kind: str
    default: object = REQUIRED


def _is_int(value: object) -> bool:
    return type(value) is int and value in _INT64


def _is_dim(value: object) -> bool:
    return type(value) is int and -_MAX_DIMS <= value < _MAX_DIMS


def _is_number(value: object) -> bool:
    return _is_int(value) or type(value) is float


def _is_operand(value: object) -> bool:
    return isinstance(value, Ref | bool) or _is_number(value)


def _is_index_item(value: object) -> bool:
    match value:
        case Span(start, stop, step):
            bounds = [bound for bound in (start, stop, step) if bound is not None]
            return all(_is_int(bound) for bound in bounds) and (step is None or step > 0)
        case Picks(positions):
            return all(_is_int(position) for position in positions)
        case _:
            return value is None or isinstance(value, Rest) or _is_int(value)


def _all(test: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, tuple) and len(value) > 0 and all(test(item) for item in value)


def _optional(test: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or test(value)


KINDS: dict[str, Callable[[object], bool]] = {
    "tensor": lambda value: isinstance(value, Ref),
    "operand": _is_operand,
    "operand?": _optional(_is_operand),
    "tensor?": lambda value: value is None or isinstance(value, Ref),
    "tensors": _all(lambda value: isinstance(value, Ref)),
    "dim": _is_dim,
    "dim?": _optional(_is_dim),
    "dims": _all(_is_dim),
    "dims?": lambda value: value is None or _is_dim(value) or (_all(_is_dim)(value) and len(value) > 1),  # type: ignore[arg-type]
    "sizes": _all(_is_int),
    "number": _is_number,
    "number?": _optional(_is_number),
    "flag": lambda value: isinstance(value, bool),
    "dtype": lambda value: isinstance(value, str) and value in DTYPES,
    "dtype?": lambda value: value is None or (isinstance(value, str) and value in DTYPES),
    "gelu": lambda value: value in ("none", "tanh"),
    "index": _all(_is_index_item),
}
"""What each kind of parameter takes. A one-dimensional `dims?` is spelt as an int, so that it has one spelling."""


def check_arguments(name: str, parameters: Sequence[Parameter], arguments: Sequence[Argument]) -> None:
    """Are these arguments of the right kinds, in their one spelling (no default at the end), with a tensor among them?

    Raises `BadInput` that names the parameter."""
    if len(arguments) > len(parameters):
        raise BadInput(f"{name} takes at most {len(parameters)} arguments, not {len(arguments)}")
    for parameter, argument in zip(parameters, arguments, strict=False):
        if not KINDS[parameter.kind](argument):
            hint = ""
            if parameter.kind == "index":
                hint = ": take columns by number, list or slice, as p[:, 3] or p[:, 1:4]"
            raise BadInput(f"{name}: {parameter.name!r} is not of the kind {parameter.kind!r}{hint}")
    for parameter in parameters[len(arguments) :]:
        if parameter.default is REQUIRED:
            raise BadInput(f"{name}: {parameter.name!r} is missing")
    if trimmed(parameters, arguments) != tuple(arguments):
        raise BadInput(f"{name}: a default at the end is left out")
    if not any(isinstance(a, Ref) or (isinstance(a, tuple) and any(isinstance(i, Ref) for i in a)) for a in arguments):
        raise BadInput(f"{name} is given no tensor")


def trimmed(parameters: Sequence[Parameter], arguments: Sequence[Argument]) -> tuple[Argument, ...]:
    """`arguments` without those at the end that equal their default."""
    kept = list(arguments)
    while kept:
        default = parameters[len(kept) - 1].default
        if default is REQUIRED or type(kept[-1]) is not type(default) or kept[-1] != default:
            break
        kept.pop()
    return tuple(kept)
