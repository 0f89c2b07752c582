from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smpc_fl.errors import BadInput, MalformedMessage
from smpc_fl.pointers import lineage
from smpc_fl.pointers.lineage import (
    MAX_DEPTH,
    MAX_EXPRESSION,
    MAX_LITERAL,
    MAX_NODES,
    MAX_TEXT,
    Apply,
    Expression,
    Literal,
    Picks,
    Ref,
    Registered,
    Rest,
    Span,
    apply,
    dataset_of,
    decode_expression,
    describe,
    encode_expression,
    lineage_digest,
    literal,
    names,
    registered,
)

X, Y = registered("x"), registered("data/y")


def two() -> Expression:
    return literal("float32", [2], np.array([1.5, -2.0], "<f4").tobytes())


def test_a_shared_part_is_one_node() -> None:
    centred = apply("sub", [Ref(0), Ref(1)], [X, apply("mean", [Ref(0), 0], [X])])
    squared = apply("mul", [Ref(0), Ref(1)], [centred, centred])
    assert len(squared.nodes) == 4
    assert describe(squared) == "mul(sub(x, mean(x, 0)), sub(x, mean(x, 0)))"


def test_operands_that_are_not_used_are_not_carried() -> None:
    assert apply("neg", [Ref(1)], [X, Y]) == apply("neg", [Ref(0)], [Y])


def test_numbers_of_different_types_are_different_computations() -> None:
    spellings = [1, 1.0, True, -0.0, 0.0]
    assert len({encode_expression(apply("mul", [Ref(0), n], [X])) for n in spellings}) == len(spellings)
    both = apply("add", [Ref(0), Ref(1)], [apply("mul", [Ref(0), 1], [X]), apply("mul", [Ref(0), 1.0], [X])])
    assert len(both.nodes) == 4


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (X, "x"),
        (apply("cat", [(Ref(0), Ref(1)), 1], [X, Y]), "cat((x, data/y), 1)"),
        (apply("index", [Ref(0), (Span(), 3)], [X]), "x[:, 3]"),
        (apply("index", [Ref(0), (Rest(), Span(1, 9, 2), None)], [X]), "x[..., 1:9:2, None]"),
        (apply("index", [Ref(0), (Span(), Picks((0, 2)))], [X]), "x[:, [0, 2]]"),
        (apply("mul", [Ref(0), Ref(1)], [X, two()]), "mul(x, float32 [1.5, -2.0])"),
        (apply("to", [Ref(0), "float64"], [X]), "to(x, 'float64')"),
    ],
)
def test_description(expression: Expression, text: str) -> None:
    assert describe(expression) == text
    assert decode_expression(encode_expression(expression)) == expression


def test_large_literals_are_described_by_a_digest() -> None:
    text = describe(literal("int8", [4, 5], bytes(20)))
    assert text.startswith("int8[4, 5] ")
    assert text.endswith("…")


def test_a_description_is_short() -> None:
    expression = X
    for _ in range(MAX_DEPTH - 1):
        expression = apply("add", [Ref(0), Ref(1)], [expression, expression])
    assert len(describe(expression)) == MAX_TEXT


def test_names_and_digest() -> None:
    expression = apply("add", [Ref(0), Ref(1)], [Y, X])
    assert names(expression) == ["data/y", "x"]
    assert (dataset_of("data/y"), dataset_of("x")) == ("data", "")
    digests = {lineage_digest(encode_expression(e)) for e in (X, Y, expression, apply("add", [Ref(0), Ref(1)], [X, Y]))}
    assert len(digests) == 4
    assert {len(digest) for digest in digests} == {32}


def test_caps_on_what_is_built() -> None:
    deep = X
    for _ in range(MAX_DEPTH - 1):
        deep = apply("neg", [Ref(0)], [deep])
    with pytest.raises(BadInput, match="fewer steps"):
        apply("neg", [Ref(0)], [deep])
    with pytest.raises(BadInput, match="too large"):
        literal("uint8", [MAX_LITERAL + 1], bytes(MAX_LITERAL + 1))
    blocks = [literal("uint8", [MAX_LITERAL], bytes([i]) * MAX_LITERAL) for i in range(MAX_EXPRESSION // MAX_LITERAL)]
    with pytest.raises(BadInput, match="fewer steps"):
        apply("cat", [tuple(Ref(i) for i in range(len(blocks)))], blocks)
    with pytest.raises(MalformedMessage):
        apply("neg", [Ref(1)], [X])


def test_too_many_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "MAX_NODES", 2)
    with pytest.raises(BadInput, match="2 operations"):
        apply("neg", [Ref(0)], [apply("neg", [Ref(0)], [X])])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: literal("complex64", [1], bytes(8)), "element type"),
        (lambda: literal("float32", [2], bytes(4)), "bytes than its shape"),
        (lambda: literal("bool", [2], b"\x00\x02"), "bools"),
        (lambda: registered("x\x1b[2J"), "print"),
    ],
)
def test_bad_leaves(make: Callable[[], Expression], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        make()


def spelt(*nodes: object) -> bytes:
    """Bytes of an expression that no honest code would make."""
    return msgspec.msgpack.encode({"nodes": list(nodes)}, order="deterministic")


def node(function: str, *arguments: object) -> dict[str, object]:
    return {"type": "apply", "function": function, "arguments": list(arguments)}


def ref(index: int) -> dict[str, object]:
    return {"type": "ref", "index": index}


LEAF: dict[str, object] = {"type": "registered", "name": "x"}
OTHER: dict[str, object] = {"type": "registered", "name": "y"}


def test_the_spelling_helpers_spell_as_the_encoder_does() -> None:
    expected = encode_expression(apply("neg", [Ref(0)], [X]))
    assert decode_expression(expected) == msgspec.msgpack.decode(spelt(LEAF, node("neg", ref(0))), type=Expression)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        spelt(),
        spelt({"type": "registered", "name": ""}),
        spelt({"type": "registered", "name": "x", "more": 1}),
        spelt({"type": "literal", "dtype": "object", "shape": [1], "data": b"x"}),
        spelt(LEAF, node("Neg", ref(0))),
        spelt(LEAF, node("__import__", ref(0))),
        spelt(LEAF, node("neg", "\n")),
        spelt(LEAF, node("neg", [[ref(0)]])),
        b"\x91" * 100_000,
    ],
)
def test_malformed_bytes(data: bytes) -> None:
    with pytest.raises(MalformedMessage, match="does not decode"):
        decode_expression(data)


NEG = Apply("neg", (Ref(0),))


@pytest.mark.parametrize(
    "nodes",
    [
        (Registered("x"), Apply("neg", (Ref(1),))),  # itself
        (Apply("neg", (Ref(1),)), Registered("x")),  # forward
        (Registered("x"), Registered("x"), Apply("add", (Ref(0), Ref(1)))),  # twice
        (Registered("y"), Registered("x"), Apply("neg", (Ref(1),))),  # not used
        (Registered("y"), Registered("x"), Apply("add", (Ref(1), Ref(0)))),  # another order
    ],
)
def test_other_spellings_are_refused(nodes: tuple[Any, ...]) -> None:
    with pytest.raises(MalformedMessage, match="canonical"):
        decode_expression(encode_expression(Expression(nodes)))


def test_bytes_behind_and_over_the_limits_are_refused() -> None:
    data = encode_expression(X)
    with pytest.raises(MalformedMessage):
        decode_expression(data + b"\x00")
    with pytest.raises(MalformedMessage, match="limit"):
        decode_expression(bytes(MAX_EXPRESSION + 1))
    with pytest.raises(MalformedMessage, match="deep"):
        decode_expression(
            encode_expression(Expression((Registered("x"), *(Apply("neg", (Ref(i),)) for i in range(MAX_DEPTH)))))
        )
    nodes: tuple[Any, ...] = (Registered("x"), *(Apply("neg", (Ref(i),)) for i in range(MAX_NODES)))
    with pytest.raises(MalformedMessage):
        decode_expression(encode_expression(Expression(nodes)))


def test_a_longer_spelling_of_the_same_number_is_refused() -> None:
    data = encode_expression(apply("mul", [Ref(0), 1], [X]))
    assert data.count(b"\x01") >= 1
    longer = data[: data.rindex(b"\x01")] + b"\xcc\x01" + data[data.rindex(b"\x01") + 1 :]
    with pytest.raises(MalformedMessage, match="canonical"):
        decode_expression(longer)


LEAVES = st.sampled_from([X, Y, two()])


@settings(max_examples=50)
@given(
    st.recursive(
        LEAVES,
        lambda inner: st.one_of(
            st.builds(lambda a: apply("neg", [Ref(0)], [a]), inner),
            st.builds(lambda a, b: apply("add", [Ref(0), Ref(1)], [a, b]), inner, inner),
            st.builds(lambda a, b: apply("cat", [(Ref(1), Ref(0)), 1], [a, b]), inner, inner),
        ),
        max_leaves=12,
    )
)
def test_what_is_built_is_canonical(expression: Expression) -> None:
    assert decode_expression(encode_expression(expression)) == expression


def test_a_literal_shows_its_array() -> None:
    leaf = two().nodes[0]
    assert isinstance(leaf, Literal)
    assert leaf.array().tolist() == [1.5, -2.0]
