"""The second kind of plan: no graph, but the name of an update function that every owner has registered for itself.

    {"update": "ridge_step", "version": 1, "layout": [{"name": "w", "shape": [10], "kind": "parameter"}, …],
     "tensors": ["x", "y"], "options": {"penalty": 0.1}, "metrics": ["loss"]}

It says what the function is given (the owner's tensors, options) and the public names and shapes of the model, and carries no
code. "update" comes first, so that the first bytes of a job's plan say of which kind it is. As strict as `document.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from smpc_fl.errors import PlanRejected
from smpc_fl.plans.document import MAX_BYTES, MAX_PARTS, Part, PartName, check_layout

Option = bool | Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)] | float | Annotated[str, Meta(max_length=256)]
"""What an option may be."""
Name = Annotated[str, Meta(min_length=1, max_length=64)]

_FIRST = b'{"update":'
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")


class UpdateDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`update`: the function's name; `layout`: the model; `tensors`: what it reads at an owner; `metrics`: what it tells
    beside the change, each within ±100 as all metrics are."""

    update: Name
    version: Literal[1]
    layout: Annotated[list[Part], Meta(min_length=1, max_length=MAX_PARTS)]
    tensors: Annotated[list[PartName], Meta(min_length=1, max_length=256)]
    options: Annotated[dict[Name, Option], Meta(max_length=64)]
    metrics: Annotated[list[Name], Meta(max_length=16)]


_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(UpdateDocument)


def encode_update(document: UpdateDocument) -> bytes:
    """The one byte string of such a plan. Raises `PlanRejected` for what a decoder would refuse."""
    data = _encoder.encode(document)
    _decode(data)
    return data


@lru_cache(maxsize=16)
def update_of(plan: bytes) -> UpdateDocument | None:
    """What a job's plan says if it names an update function; None for a plan with a graph.

    Raises `PlanRejected` unless the bytes are the one canonical spelling within all caps."""
    return _decode(plan) if plan.startswith(_FIRST) else None


def _decode(data: bytes) -> UpdateDocument:
    if len(data) > MAX_BYTES:
        raise PlanRejected(f"a plan of {len(data)} bytes is over the limit of {MAX_BYTES}: use fewer tensors")
    try:
        document = _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise PlanRejected(
            f"the plan of an update function does not decode: {error}; make one with UpdatePlan"
        ) from None
    if _encoder.encode(document) != data:
        raise PlanRejected(
            "the plan of an update function is not in its one canonical spelling; make one with UpdatePlan"
        )
    for word in (document.update, *document.options, *document.metrics):
        if _NAME.fullmatch(word) is None:
            raise PlanRejected(
                f"an update function, option or metric is called {word!r}: use letters, digits, _ . and -"
            )
    check_layout(document.layout)
    if any(part.kind != "parameter" for part in document.layout):
        raise PlanRejected("all tensors of an update function's model are parameters")
    for what, names in (("tensor", document.tensors), ("metric", document.metrics)):
        if twice := _twice(names):
            raise PlanRejected(f"the plan of an update function names the {what} {twice!r} twice")
    return document


def _twice(names: Iterable[str]) -> str:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), "")  # type: ignore[func-returns-value]
