from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from smpc_fl.errors import BadInput, PermissionDenied, ShapeMismatch
from smpc_fl.pointers.arguments import KINDS, Parameter, check_arguments, trimmed
from smpc_fl.pointers.lineage import Argument, Literal, Picks, Ref, Rest, Span, apply, literal, registered
from smpc_fl.pointers.shapes import MAX_ELEMENTS, MAX_PER_ROW, Spec, infer, infer_expression, spec_of

X = Spec(("data", 13), "float32")
Y = Spec(("data",), "int64")
OTHER = Spec(("other", 13), "float32")
PUBLISHED = Spec((303, 13), "float32")


def public(shape: Sequence[int], dtype: str = "float32") -> Spec:
    return spec_of(Literal(dtype, tuple(shape), np.ones(tuple(shape), dtype).tobytes()))


@pytest.mark.parametrize(
    ("function", "arguments", "operands", "expected"),
    [
        ("mean", [Ref(0), 0], [X], Spec((13,), "float32")),
        ("mean", [Ref(0), 1], [X], Spec(("data",), "float32")),
        ("argmax", [Ref(0), 1], [X], Spec(("data",), "int64")),
        ("transpose", [Ref(0), 0, 1], [X], Spec((13, "data"), "float32")),
        ("matmul", [Ref(0), Ref(1)], [Spec((13, "data"), "float32"), X], Spec((13, 13), "float32")),
        ("matmul", [Ref(0), Ref(1)], [X, public([13, 2])], Spec(("data", 2), "float32")),
        ("add", [Ref(0), Ref(1)], [X, public([13])], X),
        ("index", [Ref(0), (Span(), 3)], [X], Spec(("data",), "float32")),
        ("index", [Ref(0), (None, Rest(), Span(1, 4))], [X], Spec((1, "data", 3), "float32")),
        ("index", [Ref(0), (Rest(),)], [X], X),
        ("index", [Ref(0), (5, Rest())], [PUBLISHED], Spec((13,), "float32")),
        ("index", [Ref(0), (Picks((0, 302)),)], [PUBLISHED], Spec((2, 13), "float32")),
        ("reshape", [Ref(0), (-1, 1, 13)], [X], Spec(("data", 1, 13), "float32")),
        ("eq", [Ref(0), 1], [Y], Spec(("data",), "bool")),
        ("sum", [Ref(0)], [PUBLISHED], Spec((), "float32")),
    ],
)
def test_shapes(function: str, arguments: list[Argument], operands: list[Spec], expected: Spec) -> None:
    assert infer(function, arguments, operands) == expected


@pytest.mark.parametrize(
    ("function", "arguments", "operands"),
    [
        ("reshape", [Ref(0), (-1,)], [X]),
        ("reshape", [Ref(0), (1, -1)], [X]),
        ("flatten", [Ref(0)], [X]),
        ("cat", [(Ref(0), Ref(0))], [X]),
        ("squeeze", [Ref(0), 0], [X]),
        ("index", [Ref(0), (0,)], [X]),
        ("index", [Ref(0), (-1,)], [X]),
        ("index", [Ref(0), (Span(None, 5),)], [X]),
        ("index", [Ref(0), (Span(None, None, 2),)], [X]),
        ("index", [Ref(0), (Picks((0, 1)),)], [X]),
        ("index", [Ref(0), (None, 0)], [X]),
        ("index", [Ref(0), (Rest(), 0, Span())], [X]),
        ("index", [Ref(0), (Span(), 0)], [Spec((13, "data"), "float32")]),
    ],
)
def test_what_would_tell_rows(function: str, arguments: list[Argument], operands: list[Spec]) -> None:
    with pytest.raises(PermissionDenied, match="rows"):
        infer(function, arguments, operands)


@pytest.mark.parametrize(
    ("function", "arguments", "operands"),
    [
        ("add", [Ref(0), Ref(1)], [X, public([5])]),
        ("add", [Ref(0), Ref(1)], [X, public([5, 13])]),  # a guess at the number of rows
        ("add", [Ref(0), Ref(1)], [X, public([7919, 13])]),  # the number that is tried first
        ("add", [Ref(0), Ref(1)], [X, OTHER]),  # are there as many rows?
        ("reshape", [Ref(0), (7919, 13)], [X]),
        ("reshape", [Ref(0), (-1, 26)], [X]),  # is their number even?
        ("reshape", [Ref(0), (101, -1)], [X]),
        ("matmul", [Ref(0), Ref(1)], [X, X]),
        ("matmul", [Ref(0), Ref(1)], [X, Spec((13, "data"), "float32")]),  # rows by rows
        ("matmul", [Ref(0), Ref(1)], [X, Spec((13,), "float64")]),  # which the meta device takes
        ("index", [Ref(0), (Span(), 13)], [X]),
        ("index", [Ref(0), (Span(), Picks((0, 13)))], [X]),  # which the meta device takes
        ("index", [Ref(0), (Span(), 0, 0)], [X]),
        ("index", [Ref(0), (Rest(), Rest())], [X]),
        ("index", [Ref(0), (Span(), Rest(), 0, 0)], [X]),
        ("mean", [Ref(0), 2], [X]),
        ("mean", [Ref(0)], [Y]),
        ("neg", [Ref(0)], [Spec(("data",), "bool")]),
        ("pow", [Ref(0), -1], [Y]),
        ("var", [Ref(0), 5], [X]),
    ],
)
def test_what_does_not_fit(function: str, arguments: list[Argument], operands: list[Spec]) -> None:
    with pytest.raises(ShapeMismatch) as caught:
        infer(function, arguments, operands)
    assert "7919" not in str(caught.value).replace("(7919", "").replace("[7919", "")


def test_no_bigger_than_allowed() -> None:
    wide = public([1, MAX_PER_ROW + 1], "int8")
    with pytest.raises(ShapeMismatch, match="a row"):
        infer("add", [Ref(0), Ref(1)], [Spec(("data", 1), "int8"), wide])
    assert infer("add", [Ref(0), Ref(1)], [Spec((2, 1), "int8"), wide]).shape == (2, MAX_PER_ROW + 1)
    many = MAX_ELEMENTS // MAX_PER_ROW
    with pytest.raises(ShapeMismatch, match="computed"):
        infer("add", [Ref(0), Ref(1)], [Spec((many, 1), "int8"), wide])


def test_a_tensor_of_too_many_data_sets() -> None:
    parts = [Spec((f"d{i}", 1), "float32") for i in range(9)]
    with pytest.raises(BadInput, match="at most 8 data sets"):
        infer("cat", [tuple(Ref(i) for i in range(9)), 1], parts)


def test_not_listed_and_bad_arguments() -> None:
    with pytest.raises(PermissionDenied, match="nonzero"):
        infer("nonzero", [Ref(0)], [X])
    with pytest.raises(BadInput, match="kind"):
        infer("mean", ["0"], [X])


def test_whole_expressions() -> None:
    x = registered("x")
    weights = literal("float32", (13,), np.ones(13, "f4").tobytes())
    score = apply("matmul", [Ref(0), Ref(1)], [x, weights])
    centred = apply("sub", [Ref(0), Ref(1)], [score, apply("mean", [Ref(0), 0], [score])])
    assert infer_expression(centred, {"x": X}) == Spec(("data",), "float32")
    assert infer_expression(apply("mean", [Ref(0), 0], [centred]), {"x": PUBLISHED}) == Spec((), "float32")
    with pytest.raises(BadInput, match="'x'"):
        infer_expression(centred, {"z": X})


def test_a_spec_prints_and_knows_its_rows() -> None:
    assert str(X) == "float32[rows, 13]"
    assert (X.rows, PUBLISHED.rows) == ("data", None)
    constant = public([2]).constant
    assert constant is not None
    assert torch.equal(constant, torch.ones(2))


PARAMETERS = (Parameter("input", "tensor"), Parameter("dim", "dims?", None), Parameter("keepdim", "flag", False))


def test_arguments_have_one_spelling() -> None:
    check_arguments("mean", PARAMETERS, [Ref(0)])
    check_arguments("mean", PARAMETERS, [Ref(0), None, True])
    for spelling, text in (
        ([Ref(0), None], "left out"),
        ([Ref(0), 0, False], "left out"),
        ([Ref(0), (0,)], "dim"),
        ([Ref(0), 0, 0], "keepdim"),
        ([Ref(0), 0, True, 1], "at most 3"),
        ([], "missing"),
    ):
        with pytest.raises(BadInput, match=text):
            check_arguments("mean", PARAMETERS, spelling)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="no tensor"):
        check_arguments("add", (Parameter("input", "operand"), Parameter("other", "operand")), [1, 2])
    assert trimmed(PARAMETERS, [Ref(0), 0, False]) == (Ref(0), 0)
    assert trimmed((Parameter("alpha", "number", 1),), [1]) == ()
    assert trimmed((Parameter("alpha", "number", 1),), [1.0]) == (1.0,)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("tensor", [Ref(0)], [0, None, "x"]),
        ("tensor?", [Ref(0), None], [0]),
        ("tensors", [(Ref(0), Ref(1))], [(), Ref(0), (Ref(0), 1)]),
        ("operand", [Ref(0), 1, 1.5, True], [None, "x", 2**63, (1,)]),
        ("operand?", [None, 1], ["x"]),
        ("dim", [0, -16, 15], [True, 16, -17, None, 0.0]),
        ("dim?", [None, 0], ["x"]),
        ("dims", [(0, 1)], [(), 0, (True,)]),
        ("dims?", [None, 0, (0, 1)], [(), (0,), (0, 99), "x"]),
        ("sizes", [(-1, 13)], [(), (1.5,)]),
        ("number", [1, 1.5], [True, None, 2**64]),
        ("number?", [None, 1], [True]),
        ("flag", [True, False], [0, None]),
        ("dtype", ["float32"], [None, "complex64", "object", 1]),
        ("dtype?", [None, "int8"], ["complex64", 1]),
        ("gelu", ["none", "tanh"], [None, "x"]),
        (
            "index",
            [(Span(), 1, None, Rest(), Picks((0, 1)), Span(0, 1, 2))],
            [
                (),
                1,
                (True,),
                (Ref(0),),
                (Span(0, 1, -1),),
                (Span(0, 1, 0),),
                (Span(2**63),),
                (Picks((2**63,)),),
                ("x",),
            ],
        ),
    ],
)
def test_kinds(kind: str, good: list[object], bad: list[object]) -> None:
    assert [KINDS[kind](value) for value in good] == [True] * len(good)
    assert [KINDS[kind](value) for value in bad] == [False] * len(bad)


def test_every_kind_is_tried() -> None:
    marks = [mark for mark in test_kinds.pytestmark if mark.name == "parametrize"]  # type: ignore[attr-defined]
    assert {case[0] for case in marks[0].args[1]} == set(KINDS)
