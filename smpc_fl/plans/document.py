"""A plan on the wire: strict, canonical JSON that a person can read, and that needs no torch to be read.

    {"version": 1, "loss": "cross_entropy",
     "layout": [{"name": "fc1.weight", "shape": [100, 10], "kind": "parameter"}, …],
     "inputs": {"dtype": "float32", "shape": [10]}, "targets": {"dtype": "int64", "shape": []}, "prediction": [10],
     "train": {"nodes": [["linear", "aten.linear.default", ["$x", "@fc1.weight", "@fc1.bias"], {}], …],
               "loss": "%cross_entropy_loss", "prediction": "%linear_1"},
     "evaluate": {…}}

Shapes leave the first dimension (rows) out. An argument is a number, a truth value, null, a list of those, or a text
whose first character says what it is: `%node` an earlier node, `@part` a tensor of the layout, `$x` or `$y` the inputs,
`:float32` a type, `=tanh` a word.

Bytes come from an untrusted researcher: unknown fields, repeated fields, left-over bytes, another spelling of the same
plan, and anything over the caps below are refused. What the words mean is checked in `check.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from smpc_fl.errors import PlanRejected

VERSION = 1
MAX_BYTES = 1 << 23
"""Bytes of an encoded plan."""
MAX_NODES = 4096
MAX_PARTS = 4096
MAX_SIZE = 1 << 30
"""Elements of the whole model, d."""

Loss = Literal["cross_entropy", "mse", "bce_with_logits"]
Dtype = Literal["float32", "int64"]
Kind = Literal["parameter", "buffer"]

PartName = Annotated[str, Meta(min_length=1, max_length=256)]
NodeName = Annotated[str, Meta(min_length=1, max_length=128)]
OperatorName = Annotated[str, Meta(min_length=1, max_length=128)]
Word = Annotated[str, Meta(min_length=2, max_length=257)]
Whole = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Shape = Annotated[list[Annotated[int, Meta(ge=0, le=1 << 32)]], Meta(max_length=8)]

Atom = bool | Whole | float | Word | None
Argument = bool | Whole | float | Word | None | Annotated[list[Atom], Meta(max_length=256)]


class _Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True): ...


class Part(_Value, frozen=True):
    """One float32 tensor of the model. `parameter`: trained; `buffer`: carried along (running statistics, frozen weights)."""

    name: PartName
    shape: Shape
    kind: Kind

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)


class TensorType(_Value, frozen=True):
    """Type of an input and shape of one of its rows."""

    dtype: Dtype
    shape: Shape


class Node(_Value, frozen=True, array_like=True):
    """One call: `name = operator(*args, **kwargs)`."""

    name: NodeName
    operator: OperatorName
    args: Annotated[list[Argument], Meta(max_length=32)]
    kwargs: Annotated[dict[NodeName, Argument], Meta(max_length=16)]


class Graph(_Value, frozen=True):
    """Nodes in the order in which they run, and the two results."""

    nodes: Annotated[list[Node], Meta(min_length=1, max_length=MAX_NODES)]
    loss: Word
    prediction: Word


class PlanDocument(_Value, frozen=True):
    """`prediction` is the shape of one row of the model's output. `train` and `evaluate` are the graphs of both modes."""

    version: Literal[1]
    loss: Loss
    layout: Annotated[list[Part], Meta(min_length=1, max_length=MAX_PARTS)]
    inputs: TensorType
    targets: TensorType
    prediction: Shape
    train: Graph
    evaluate: Graph


_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(PlanDocument)


def encode_document(document: PlanDocument) -> bytes:
    """The one byte string of a plan. Raises `PlanRejected` over the caps, which a decoder would refuse."""
    data = _encoder.encode(document)
    decode_document(data)
    return data


def decode_document(data: bytes) -> PlanDocument:
    """A plan from its bytes; raises `PlanRejected` unless they are its one canonical spelling within all caps."""
    if len(data) > MAX_BYTES:
        raise PlanRejected(f"a plan of {len(data)} bytes is over the limit of {MAX_BYTES}: use a smaller graph")
    try:
        document = _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise PlanRejected(f"a plan does not decode: {error}; make plans with Plan.from_module") from None
    if _encoder.encode(document) != data:
        raise PlanRejected("a plan is not in its one canonical spelling; make plans with Plan.from_module")
    _check_spelling(document)
    check_layout(document.layout)
    return document


def check_layout(layout: Sequence[Part]) -> None:
    """Raises `PlanRejected` unless every tensor has one name, spelled as names are, and the model a size within the caps."""
    names = [part.name for part in layout]
    for name in names:
        _spelled(name, _PART)
    if len(set(names)) != len(names):
        raise PlanRejected("a plan's layout names a tensor twice")
    size = sum(part.size for part in layout)
    if not 1 <= size <= MAX_SIZE:
        raise PlanRejected(f"a model has 1 to {MAX_SIZE} elements, not {size}")


# Patterns are matched here and not by msgspec, whose decoders crash at the end of the process when one stands in a union
# with a list (msgspec issue 717).
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_NODE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r"[a-z][A-Za-z0-9_.]*")
_WORD = re.compile(r"[%@$:=][A-Za-z0-9_.\-]+")


def _check_spelling(document: PlanDocument) -> None:
    for graph in (document.train, document.evaluate):
        for node in graph.nodes:
            _spelled(node.name, _NODE)
            _spelled(node.operator, _OPERATOR)
            for name in node.kwargs:
                _spelled(name, _NODE)
            for argument in (*node.args, *node.kwargs.values()):
                for atom in argument if isinstance(argument, list) else (argument,):
                    if isinstance(atom, str):
                        _spelled(atom, _WORD)
        _spelled(graph.loss, _WORD)
        _spelled(graph.prediction, _WORD)


def _spelled(text: str, pattern: re.Pattern[str]) -> None:
    if pattern.fullmatch(text) is None:
        raise PlanRejected(f"a plan holds the name {text!r}, which is not spelled as names in plans are")
