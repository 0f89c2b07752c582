"""The few steps that programs are made of: the type that each makes, what is dealt for it, what it opens, and how it runs.

Everything else (`functions/`) is written out in these. One table serves those who write programs (types and costs), the
provider (`deal`) and the parties (`run`), so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from smpc_fl.errors import BadInput, ShapeMismatch
from smpc_fl.shared_tensors import comparison, cut, exact_truncation, linear, products, truncation, turning
from smpc_fl.shared_tensors.opening import Opening, Running
from smpc_fl.shared_tensors.products import Masked
from smpc_fl.shared_tensors.program import Step, Type
from smpc_fl.shared_tensors.randomness import Source
from smpc_fl.shared_tensors.words import RANGE_BITS, Words

Types = Sequence[Type]
Parameters = Mapping[str, Any]


def _nothing(source: Source, types: Types, parameters: Parameters, masks: Sequence[Any]) -> None:
    return None


def _no_openings(types: Types, parameters: Parameters) -> list[int]:
    return []


@dataclass(frozen=True)
class Primitive:
    """`result` raises `ShapeMismatch` or `BadInput`; `deal` gets what was dealt for the inputs (only the provider's are
    values); `run` gets whether this party adds what is public, what was dealt, the inputs' values and the parameters."""

    result: Callable[[Types, Parameters], Type]
    run: Callable[[bool, Any, list[Any], Parameters], Running | Any]
    deal: Callable[[Source, Types, Parameters, Sequence[Any]], Any] = _nothing
    opens: Callable[[Types, Parameters], list[int]] = _no_openings
    """Bytes that a party sends to each other one, by round."""
    corrected: bool = False
    """Whether one party gets a correction."""


def shape_of(f: Callable[..., torch.Tensor], *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what `f` makes of tensors of these shapes. Raises `ShapeMismatch`."""
    try:
        result = f(*(torch.empty(shape, dtype=torch.int64, device="meta") for shape in shapes))
    except (RuntimeError, IndexError, ValueError, TypeError):
        raise ShapeMismatch(f"these shapes do not fit together: {', '.join(map(str, shapes))}") from None
    return tuple(result.shape)


# --- what a party does alone ---


def _local(name: str) -> Primitive:
    f = linear.LOCAL[name]

    def result(types: Types, parameters: Parameters) -> Type:
        first = _alike(name, types)
        shape = shape_of(lambda *xs: f(list(xs), parameters), *(type.shape for type in types))
        return Type(shape, first.scale, first.sort)

    return Primitive(result, lambda first, dealt, inputs, parameters: f(inputs, parameters))


def _alike(name: str, types: Types) -> Type:
    if any(type.sort not in ("share", "public") for type in types) or len({(t.scale, t.sort) for t in types}) != 1:
        raise BadInput(f"{name} takes values that are held alike, at one scale")
    return types[0]


def _add_type(types: Types, parameters: Parameters) -> Type:
    a, b = types
    if a.scale != b.scale or {a.sort, b.sort} - {"share", "public"}:
        raise BadInput("add takes two shared or public values at one scale")
    if parameters["public"] != (a.sort != b.sort) or (a.sort, b.sort) == ("public", "share"):
        raise BadInput("what is public is added to what is shared, and add says so")
    return Type(shape_of(torch.add, a.shape, b.shape), a.scale, "public" if a.sort == b.sort == "public" else "share")


def _add(first: bool, dealt: None, inputs: list[Words], parameters: Parameters) -> Words:
    a, b = inputs
    if parameters["public"] and not first:  # the others only take on the shape
        b = torch.zeros((), dtype=torch.int64).expand(b.shape)
    return a + b


def _shared_type(types: Types, parameters: Parameters) -> Type:
    """A public value as a share, which may then stand beside shares."""
    (x,) = types
    if x.sort != "public":
        raise BadInput("a public value is made a share")
    return Type(x.shape, x.scale)


def _scaled_type(types: Types, parameters: Parameters) -> Type:
    """A whole multiple read at a finer scale: x · 2^k, at scale + k, is the same number."""
    (x,) = types
    if x.sort not in ("share", "public") or not 0 < parameters["by"] < RANGE_BITS:
        raise BadInput("rescale takes a shared or public value and 1 to 61 more fractional bits")
    return Type(x.shape, x.scale + parameters["by"], x.sort)


def _public_product_type(types: Types, parameters: Parameters) -> Type:
    x, y = types
    if {x.sort, y.sort} - {"share", "public"} or x.sort == y.sort == "share":
        raise BadInput("a public product takes a public value and a shared one")
    shape = shape_of(products.bilinear(parameters), x.shape, y.shape)
    return Type(shape, x.scale + y.scale, "public" if x.sort == y.sort else "share")


# --- products ---


def _mask_type(types: Types, parameters: Parameters) -> Type:
    (x,) = types
    if x.sort != "share":
        raise BadInput("only a shared value is masked")
    return Type(x.shape, x.scale, "mask")


def _mask(first: bool, dealt: Words, inputs: list[Any], parameters: Parameters) -> Running:
    (opened,) = yield [Opening(inputs[0] - dealt)]
    return Masked(opened, dealt)


def _product_type(types: Types, parameters: Parameters) -> Type:
    x, y = types
    if x.sort != "mask" or y.sort != "mask":
        raise BadInput("a product takes two masked values")
    return Type(shape_of(products.bilinear(parameters), x.shape, y.shape), x.scale + y.scale)


def _deal_product(source: Source, types: Types, parameters: Parameters, masks: Sequence[Any]) -> Words:
    f = products.bilinear(parameters)
    return source.derived(_product_type(types, parameters).shape, lambda: f(masks[0], masks[1]))


def _product(first: bool, dealt: Words, inputs: list[Any], parameters: Parameters) -> Words:
    return products.product(products.bilinear(parameters), inputs[0], inputs[1], dealt, first)


# --- truncation ---


def _truncate_type(types: Types, parameters: Parameters) -> Type:
    (x,) = types
    drop = parameters["drop"]
    if x.sort != "share" or not 0 < drop <= min(x.scale, RANGE_BITS):
        raise BadInput("truncation takes a shared value and drops some of its fractional bits")
    return Type(x.shape, x.scale - drop)


def _cut_product_type(types: Types, parameters: Parameters) -> Type:
    x, y = types
    if {x.sort, y.sort} - {"mask", "cut"} or x.sort == y.sort == "mask":
        raise BadInput("a product of cut values takes two masked ones, and at least one of them cut")
    return Type(shape_of(torch.mul, x.shape, y.shape), x.scale + y.scale)


def _deal_cut_product(source: Source, types: Types, parameters: Parameters, masks: Sequence[Any]) -> cut.Cross:
    x, y = types
    shape = _cut_product_type(types, parameters).shape
    return cut.deal(source, shape, (x.sort == "cut", y.sort == "cut"), masks[0], masks[1])


def _one_cut(scale: int) -> Callable[[Types, Parameters], Type]:
    def result(types: Types, parameters: Parameters) -> Type:
        (x,) = types
        if x.sort != "cut":
            raise BadInput("only a cut value is squared, or read, as one")
        return Type(x.shape, scale * x.scale)

    return result


def _cut_type(types: Types, parameters: Parameters) -> Type:
    made = _truncate_type(types, parameters)
    return Type(made.shape, made.scale, "cut")


def _one_opening(types: Types, parameters: Parameters) -> list[int]:
    return [8 * types[0].size]


def _half_opening(types: Types, parameters: Parameters) -> list[int]:
    return [4 * types[0].size]


# --- comparison ---


def _compared_type(types: Types, parameters: Parameters) -> Type:
    (x,) = types
    drop = parameters.get("drop", 0)
    if x.sort != "share" or not 0 <= drop <= min(x.scale, RANGE_BITS):
        raise BadInput("a shared value is compared, without some of its fractional bits")
    return Type(x.shape, x.scale - drop, "sign" if "drop" in parameters else "flag")


def _bit_type(types: Types, parameters: Parameters) -> Type:
    (flag,) = types
    if flag.sort not in ("flag", "sign") or parameters["inverted"] not in (False, True):
        raise BadInput("bit takes what a comparison made")
    return Type(flag.shape)


def _rectify_type(types: Types, parameters: Parameters) -> Type:
    flag, negative = types
    if flag.sort != "sign" or negative != Type(flag.shape) or not 0 <= parameters["drop"] <= RANGE_BITS:
        raise BadInput("rectify takes a sign and its bit")
    return Type(flag.shape, flag.scale)


def _select_type(types: Types, parameters: Parameters) -> Type:
    flag, share, y = types
    if flag.sort not in ("flag", "sign") or share != Type(flag.shape) or y.sort != "mask":
        raise BadInput("select takes what a comparison made, its bit and a masked value")
    return Type(shape_of(torch.mul, flag.shape, y.shape), y.scale)


TABLE: Mapping[str, Primitive] = MappingProxyType(
    {
        **{name: _local(name) for name in linear.LOCAL},
        "add": Primitive(_add_type, _add),
        "shared": Primitive(
            _shared_type, lambda first, dealt, inputs, p: inputs[0] if first else torch.zeros_like(inputs[0])
        ),
        "rescale": Primitive(_scaled_type, lambda first, dealt, inputs, p: inputs[0] << p["by"]),
        "public_product": Primitive(
            _public_product_type, lambda first, dealt, inputs, p: products.bilinear(p)(inputs[0], inputs[1])
        ),
        "mask": Primitive(
            _mask_type,
            _mask,
            deal=lambda source, types, p, masks: source.uniform(types[0].shape),
            opens=_one_opening,
        ),
        "product": Primitive(_product_type, _product, _deal_product, corrected=True),
        "cut": Primitive(
            _cut_type,
            lambda first, dealt, inputs, p: truncation.run(dealt, inputs[0], p["drop"], first),
            deal=lambda source, types, p, masks: truncation.deal(source, types[0].shape, p["drop"]),
            opens=_one_opening,
            corrected=True,
        ),
        "uncut": Primitive(_one_cut(1), lambda first, dealt, inputs, p: inputs[0].share(first)),
        "cut_product": Primitive(
            _cut_product_type,
            lambda first, dealt, inputs, p: cut.product(inputs[0], inputs[1], dealt, first),
            _deal_cut_product,
            corrected=True,
        ),
        "cut_square": Primitive(
            _one_cut(2),
            lambda first, dealt, inputs, p: cut.square(inputs[0], dealt, first),
            deal=lambda source, types, p, masks: cut.deal_square(source, types[0].shape, masks[0]),
            corrected=True,
        ),
        "series": Primitive(
            turning.series_type, turning.series, turning.deal_series, opens=_half_opening, corrected=True
        ),
        "exponential": Primitive(
            turning.exponential_type,
            turning.exponential_of,
            turning.deal_exponential,
            opens=_half_opening,
            corrected=True,
        ),
        "truncate_exactly": Primitive(
            _truncate_type,
            lambda first, dealt, inputs, p: exact_truncation.run(dealt, inputs[0], p["drop"], first),
            deal=lambda source, types, p, masks: exact_truncation.deal(source, types[0].shape, p["drop"]),
            opens=lambda types, p: exact_truncation.opens(types[0].shape, p["drop"]),
            corrected=True,
        ),
        "sign": Primitive(
            _compared_type,
            lambda first, dealt, inputs, p: comparison.sign(dealt, inputs[0], p["drop"], first),
            deal=lambda source, types, p, masks: comparison.deal_sign(source, types[0].shape, p["drop"]),
            opens=lambda types, p: comparison.sign_opens(types[0].shape, p["drop"]),
            corrected=True,
        ),
        "zero": Primitive(
            _compared_type,
            lambda first, dealt, inputs, p: comparison.zero(dealt, inputs[0], first),
            deal=lambda source, types, p, masks: comparison.deal_zero(source, types[0].shape),
            opens=lambda types, p: comparison.zero_opens(types[0].shape),
            corrected=True,
        ),
        "bit": Primitive(
            _bit_type,
            lambda first, dealt, inputs, p: comparison.bit(dealt, inputs[0], p["inverted"], first),
            deal=lambda source, types, p, masks: comparison.deal_bit(source, types[0].shape, masks[0]),
            corrected=True,
        ),
        "rectify": Primitive(
            _rectify_type,
            lambda first, dealt, inputs, p: comparison.rectify(dealt, inputs[0], inputs[1], p["drop"], first),
            deal=lambda source, types, p, masks: comparison.deal_rectify(source, types[0].shape, p["drop"], masks[0]),
            corrected=True,
        ),
        "select": Primitive(
            _select_type,
            lambda first, dealt, inputs, p: comparison.select(dealt, inputs[0], inputs[1], inputs[2]),
            deal=lambda source, types, p, masks: comparison.deal_select(
                source, _select_type(types, p).shape, masks[0], masks[2]
            ),
            corrected=True,
        ),
    }
)
"""By name. `input` and `public`, whose values are given, have no entry."""

GIVEN = ("input", "public")


def type_of(step_name: str, types: Types, parameters: Parameters) -> Type:
    """What a step makes. Raises `BadInput` for an unknown one, or as the primitive does."""
    primitive = TABLE.get(step_name)
    if primitive is None:
        raise BadInput(f"there is no step {step_name!r}")
    return primitive.result(types, parameters)


def input_types(steps: Sequence[Step], step: Step) -> list[Type]:
    return [steps[value].type for value in step.inputs]
