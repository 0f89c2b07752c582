"""Lineage: what a pointer stands for, as an expression over registered tensors.

An expression is a list of nodes in which every node refers only to nodes before it, and the last one is the value:

    x                 a registered tensor, by name
    float32[13]       a literal: a public tensor, as dtype, shape and raw little-endian bytes
    mean(#0, 0)       an allow-listed operation on earlier nodes and plain numbers

Equal nodes are one node, in the order of a left-to-right post-order walk, so that a computation has one spelling, its
canonical bytes, and `lineage_digest` names it. No tensor value of an owner is ever in it. Owners compute a secure
aggregate from these bytes, each on its own tensors, which is why operands that differ by owner cannot be expressed.

Nothing here knows which operations there are (`operations.py`) or loads torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from smpc_fl.errors import BadInput, MalformedMessage
from smpc_fl.hashing import digest

MAX_LITERAL = 1 << 20
"""Bytes of one literal tensor."""
MAX_EXPRESSION = 1 << 22
"""Bytes of an encoded expression."""
MAX_NODES = 4096
MAX_DEPTH = 64
MAX_TEXT = 2000
"""Characters of a described expression."""

DTYPES: dict[str, np.dtype[np.generic]] = {
    "bool": np.dtype("?"),
    "uint8": np.dtype("u1"),
    "int8": np.dtype("i1"),
    "int16": np.dtype("<i2"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
}
"""The element types that travel, by the name that torch and NumPy share."""

_SHOWN = 16  # elements of a literal that `describe` spells out


class _Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all that stands in an expression."""


class Ref(_Value, frozen=True, tag="ref"):
    """Argument: the value of node `index` (in a node), or of operand `index` (in a request)."""

    index: Annotated[int, Meta(ge=0, lt=MAX_NODES)]


class Span(_Value, frozen=True, tag="span"):
    """Argument: a slice `start:stop:step` of one dimension; all None is the whole of it."""

    start: int | None = None
    stop: int | None = None
    step: int | None = None


class Picks(_Value, frozen=True, tag="picks"):
    """Argument: some positions of one dimension, by number."""

    positions: Annotated[tuple[int, ...], Meta(min_length=1, max_length=4096)]


class Rest(_Value, frozen=True, tag="rest"):
    """Argument: an ellipsis, all dimensions that an index does not name."""


Scalar = None | bool | int | float | Annotated[str, Meta(max_length=32)]
Item = Scalar | Ref | Span | Picks | Rest
Argument = Item | Annotated[tuple[Item, ...], Meta(max_length=64)]
"""What an operation can be given: numbers, names, references, parts of an index, or a flat list of these."""

_WORD = re.compile(r"[a-z0-9_]*")


def check_words(arguments: tuple[Argument, ...]) -> None:
    """Raises `ValueError` unless all strings among the arguments are names in lower case.

    A `pattern` in `Scalar` would say so too, but msgspec (0.22) frees the pattern of a union that also has a tuple as
    if it were something else, which crashes the interpreter when it ends."""
    for argument in arguments:
        for item in argument if isinstance(argument, tuple) else (argument,):
            if isinstance(item, str) and not _WORD.fullmatch(item):
                raise ValueError("a string among an operation's arguments is not a name in lower case")


class Registered(_Value, frozen=True, tag="registered"):
    """Node: the tensor that every owner has registered under `name` ("x", or "dataset/x")."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]

    def __post_init__(self) -> None:
        if not self.name.isprintable():
            raise ValueError("the name of a tensor holds characters that do not print")


class Literal(_Value, frozen=True, tag="literal"):
    """Node: a public tensor `dtype[shape]`; `data` is its elements, row-major, little-endian."""

    dtype: str
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, le=MAX_LITERAL)], ...], Meta(max_length=8)]
    data: Annotated[bytes, Meta(max_length=MAX_LITERAL)]

    def __post_init__(self) -> None:
        kind = DTYPES.get(self.dtype)
        if kind is None:
            raise ValueError("a literal has an element type that does not travel")
        if len(self.data) != math.prod(self.shape) * kind.itemsize:
            raise ValueError("a literal has more or fewer bytes than its shape")
        if self.dtype == "bool" and self.data.strip(b"\0\1"):
            raise ValueError("a literal of bools holds something else")

    def array(self) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        """The elements, read-only, in this shape."""
        return np.frombuffer(self.data, DTYPES[self.dtype]).reshape(self.shape)


class Apply(_Value, frozen=True, tag="apply"):
    """Node: operation `function` of `operations.py`, with all its arguments in order, defaults at the end left out."""

    function: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}\Z")]
    arguments: Annotated[tuple[Argument, ...], Meta(max_length=16)]

    def __post_init__(self) -> None:
        check_words(self.arguments)

    def refs(self) -> list[int]:
        """The nodes that this one uses, left to right, with repetitions."""
        return list(_refs(self.arguments))


Node = Registered | Literal | Apply


class Expression(_Value, frozen=True):
    """A computation; its value is the last node's."""

    nodes: Annotated[tuple[Node, ...], Meta(min_length=1, max_length=MAX_NODES)]


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(Expression)


def registered(name: str) -> Expression:
    """The tensor that every owner has under `name`."""
    try:
        return Expression((Registered(name),))
    except ValueError as error:
        raise BadInput(str(error)) from None


def literal(dtype: str, shape: Sequence[int], data: bytes) -> Expression:
    """A public tensor; `BadInput` over `MAX_LITERAL` bytes."""
    if len(data) > MAX_LITERAL:
        raise BadInput(
            f"a public tensor of {len(data)} bytes is too large to be part of a computation at an owner: "
            f"{MAX_LITERAL} bytes is the most"
        )
    try:
        return Expression((Literal(dtype, tuple(shape), data),))
    except ValueError as error:
        raise BadInput(f"{error}: {dtype} cannot be part of a computation at an owner") from None


def apply(function: str, arguments: Sequence[Argument], operands: Sequence[Expression]) -> Expression:
    """`function` on `arguments`, whose `Ref(i)` stands for `operands[i]`; `BadInput` where a cap is passed."""
    nodes: list[Node] = []
    places: dict[bytes, int] = {}  # a node's bytes -> where it is; bytes, because 1 == 1.0 == True in Python
    roots: dict[int, int] = {}
    for operand in _refs(arguments):
        if operand >= len(operands):
            raise MalformedMessage("an operation refers to an operand that is not there")
        if operand not in roots:
            roots[operand] = _merge(operands[operand], nodes, places)
    nodes.append(_renumbered(function, arguments, roots))
    expression = Expression(tuple(nodes))
    if len(nodes) > MAX_NODES or _depth(expression) > MAX_DEPTH or len(_encoder.encode(expression)) > MAX_EXPRESSION:
        raise BadInput(
            f"a computation of more than {MAX_NODES} operations, {MAX_DEPTH} in a row or {MAX_EXPRESSION} bytes is "
            "refused: compute in fewer steps"
        )
    return expression


def encode_expression(expression: Expression) -> bytes:
    """The canonical bytes."""
    return _encoder.encode(expression)


def decode_expression(data: bytes) -> Expression:
    """An expression from its bytes; `MalformedMessage` unless they are its one canonical spelling, within all caps."""
    if len(data) > MAX_EXPRESSION:
        raise MalformedMessage(f"an expression of {len(data)} bytes is over the limit of {MAX_EXPRESSION}")
    try:
        expression = _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise MalformedMessage("an expression does not decode") from None
    if _encoder.encode(expression) != data or not _canonical(expression):
        raise MalformedMessage("an expression is not in its one canonical spelling")
    if _depth(expression) > MAX_DEPTH:
        raise MalformedMessage(f"an expression is more than {MAX_DEPTH} operations deep")
    return expression


def lineage_digest(data: bytes) -> bytes:
    """32 bytes that name a computation, from its canonical bytes."""
    return digest("smpc-fl/1 lineage", data)


def names(expression: Expression) -> list[str]:
    """The registered tensors that are used, sorted."""
    return sorted({node.name for node in expression.nodes if isinstance(node, Registered)})


def dataset_of(name: str) -> str:
    """The data set of a registered tensor: "heart" of "heart/x", "" of a tensor that stands by itself."""
    return name.rpartition("/")[0]


def describe(expression: Expression) -> str:
    """The computation for people, as "mean(x, 0)"; at most `MAX_TEXT` characters, with small literals spelt out."""
    texts: list[str] = []
    for node in expression.nodes:
        if isinstance(node, Registered):
            text = node.name
        elif isinstance(node, Literal):
            text = _describe_literal(node)
        else:
            text = _describe_apply(node.function, [_describe_argument(argument, texts) for argument in node.arguments])
        texts.append(text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…")
    return texts[-1]


def _refs(arguments: Sequence[Argument]) -> list[int]:
    found: list[int] = []
    for argument in arguments:
        if isinstance(argument, tuple):
            found += _refs(argument)
        elif isinstance(argument, Ref):
            found.append(argument.index)
    return found


def _renumbered(function: str, arguments: Sequence[Argument], places: dict[int, int]) -> Apply:
    def item(value: Item) -> Item:
        return Ref(places[value.index]) if isinstance(value, Ref) else value

    return Apply(function, tuple(tuple(map(item, a)) if isinstance(a, tuple) else item(a) for a in arguments))


def _merge(operand: Expression, nodes: list[Node], places: dict[bytes, int]) -> int:
    """Add `operand`'s nodes to `nodes`, but for those that are there; where its value is now."""
    moved: dict[int, int] = {}
    for index, old in enumerate(operand.nodes):
        node = _renumbered(old.function, old.arguments, moved) if isinstance(old, Apply) else old
        key = _encoder.encode(node)
        if key not in places:
            places[key] = len(nodes)
            nodes.append(node)
        moved[index] = places[key]
    return moved[len(operand.nodes) - 1]


def _canonical(expression: Expression) -> bool:
    """Are references backward, nodes unique, and is the order that of a post-order walk from the last node?"""
    nodes = expression.nodes
    children = [node.refs() if isinstance(node, Apply) else [] for node in nodes]
    if any(child >= index for index, refs in enumerate(children) for child in refs):
        return False
    if len({_encoder.encode(node) for node in nodes}) != len(nodes):
        return False
    order: list[int] = []
    seen: set[int] = set()
    stack: list[tuple[int, bool]] = [(len(nodes) - 1, False)]
    while stack:
        index, done = stack.pop()
        if done:
            order.append(index)
        elif index not in seen:
            seen.add(index)
            stack.append((index, True))
            stack.extend((child, False) for child in reversed(children[index]))
    return order == list(range(len(nodes)))


def _depth(expression: Expression) -> int:
    depths: list[int] = []
    for node in expression.nodes:
        refs = node.refs() if isinstance(node, Apply) else []
        depths.append(1 + max((depths[child] for child in refs), default=0))
    return depths[-1]


def _describe_literal(node: Literal) -> str:
    if math.prod(node.shape) <= _SHOWN:
        return f"{node.dtype} {node.array().tolist()}"
    return f"{node.dtype}{list(node.shape)} {digest('smpc-fl/1 literal', node.data).hex()[:8]}…"


def _describe_apply(function: str, arguments: list[str]) -> str:
    if function == "index":
        return f"{arguments[0]}[{arguments[1].strip('()')}]"
    return f"{function}({', '.join(arguments)})"


def _describe_argument(argument: Argument, texts: list[str]) -> str:
    match argument:
        case tuple():
            return f"({', '.join(_describe_argument(item, texts) for item in argument)})"
        case Ref(index):
            return texts[index]
        case Span(start, stop, step):
            bounds = [start, stop] if step is None else [start, stop, step]
            return ":".join("" if bound is None else str(bound) for bound in bounds)
        case Picks(positions):
            return str(list(positions))
        case Rest():
            return "..."
        case _:
            return repr(argument)
