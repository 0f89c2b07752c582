"""Comparisons and what is made of them, against the same on integers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms_of_parties import LARGEST, LEAST, computed, seeded, whole_ring

from smpc_fl.errors import BadInput, ShapeMismatch
from smpc_fl.shared_tensors import order
from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.in_process import evaluate

HALF = 1 << 62
PAIRS: list[tuple[Callable[[Value, Value], Value], Callable[[int, int], int]]] = [
    (order.less, lambda x, y: x < y),
    (order.greater, lambda x, y: x > y),
    (order.less_equal, lambda x, y: x <= y),
    (order.greater_equal, lambda x, y: x >= y),
    (order.equal, lambda x, y: x == y),
    (order.not_equal, lambda x, y: x != y),
    (order.maximum, max),
    (order.minimum, min),
]
INSIDE = st.integers(1 - HALF, HALF - 1)


@pytest.mark.parametrize("parties", [2, 3, 5])
def test_signs_on_the_whole_ring(parties: int) -> None:
    words = whole_ring(2000, parties)
    negative, relu, zero = computed(
        lambda x: [order.negative(x), order.relu(x), order.equal(x, x * 0)], words, parties=parties
    )
    assert torch.equal(negative, (words < 0).long())
    assert torch.equal(relu, words.clamp(min=0))
    assert torch.equal(zero, (words == 0).long())


@settings(max_examples=50)
@given(st.lists(st.integers(LEAST, LARGEST), min_size=1, max_size=70))
def test_the_sign_of_anything(numbers: list[int]) -> None:
    negative, relu = computed(lambda x: [order.negative(x), order.relu(x)], torch.tensor(numbers))
    assert negative.tolist() == [number < 0 for number in numbers]
    assert relu.tolist() == [max(number, 0) for number in numbers]


@settings(max_examples=30)
@given(st.lists(st.tuples(INSIDE, INSIDE) | INSIDE.map(lambda x: (x, x)), min_size=1, max_size=20))
def test_two_numbers(pairs: list[tuple[int, int]]) -> None:
    x, y = torch.tensor(pairs).T
    found = computed(lambda a, b: [each(a, b) for each, _ in PAIRS], x, y)
    for words, (operation, clear) in zip(found, PAIRS, strict=True):
        assert words.tolist() == [clear(a, b) for a, b in pairs], operation


@pytest.mark.parametrize("bits", [0, 1, 18, 36, 59, 61])
def test_rectified_and_truncated_at_once(bits: int) -> None:
    """Within a unit, never below 0, and the mask is that of the result."""
    words = whole_ring(500, bits)
    words = words[words < LARGEST - (1 << bits)]

    def write(x: Value) -> list[Value]:
        return list(order.relu_with_mask(x, x.scale - bits))

    relu, kept = computed(write, words, scale=61, parties=3)
    below = (words >> bits).clamp(min=0)
    assert ((relu == below) | ((relu == below + 1) & (words % (1 << bits) != 0))).all()
    assert torch.equal(kept, ((words >= 0) | (kept.bool() & (words >> bits == -1))).long())
    assert ((kept == 1) | (relu == 0)).all()


X = torch.tensor([[-3.5, 2.0, 0.0], [1.5, -0.25, 7.0]], dtype=torch.float64)
Y = torch.tensor([[-3.5, -2.0, 1.0], [1.0, 4.0, -7.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda x, y: order.abs(x), X.abs()),
        (lambda x, y: order.sign(x), X.sign()),
        (lambda x, y: order.clamp(x, -1.0, 2.0), X.clamp(-1, 2)),
        (lambda x, y: order.clamp(x, high=y), torch.minimum(X, Y)),
        (lambda x, y: order.clamp(x, y), torch.maximum(X, Y)),
        (lambda x, y: order.clamp(x), X),
        (lambda x, y: order.less(x, 1.5), X < 1.5),
        (lambda x, y: order.greater_equal(x, Y), X >= Y),
        (lambda x, y: order.less_equal(x, 1.5), X <= 1.5),
        (lambda x, y: order.greater(x, Y[0]), Y[0] < X),
        (lambda x, y: order.where(order.less(x, y), x, y), torch.minimum(X, Y)),
        (lambda x, y: order.where(order.greater_equal(x, y), x, y), torch.maximum(X, Y)),
        (lambda x, y: order.where(order.equal(x, y), x, 9.0), torch.where(X == Y, X, 9.0)),
        (lambda x, y: order.where(order.not_equal(x, y), 1.0, 2.0), torch.where(X != Y, 1.0, 2.0)),
        (lambda x, y: order.where(1 - order.less(x, y), x, y), torch.maximum(X, Y)),
        (lambda x, y: order.where(order.negative(x) + order.negative(-x), x, y), torch.where(X != 0, X, Y)),
        (lambda x, y: order.where(order.less(x, y), x * y, y * y), torch.where(X < Y, X * Y, Y * Y)),
        (lambda x, y: order.where(order.negative(x.draft.step("sum", x, dims=[0], keepdim=False)), x, y), None),
        (lambda x, y: order.floor(x), X.floor()),
        (lambda x, y: order.floor(order.less(x, y)), X < Y),
        (lambda x, y: order.max(x, 1), X.amax(1)),
        (lambda x, y: order.max(x, -2, keepdim=True), X.amax(0, keepdim=True)),
        (lambda x, y: order.min(x, 0), X.amin(0)),
        (lambda x, y: order.argmax(x, 1), X.argmax(1)),
        (lambda x, y: order.argmax(x, 0, keepdim=True), X.argmax(0, keepdim=True)),
    ],
)
def test_functions_of_order(write: Callable[[Value, Value], Value], expected: torch.Tensor | None) -> None:
    draft = Draft()
    output = write(draft.input("x", (2, 3)), draft.input("y", (2, 3)))
    if expected is None:
        expected = torch.where(X.sum(0) < 0, X, Y)
    (found,) = evaluate(draft, [output], {"x": X, "y": Y}, entropy=seeded(1), parties=2)
    assert torch.equal(found, expected.double())


@pytest.mark.parametrize("n", [1, 2, 3, 6, 9])
def test_the_first_of_the_largest(n: int) -> None:
    words = torch.randint(-2, 3, (7, n), generator=torch.Generator().manual_seed(n))
    place, largest = computed(lambda x: [order.argmax(x, 1), order.max(x, 1)], words, parties=3)
    assert torch.equal(largest, words.amax(1))
    assert place.tolist() == [row.index(max(row)) for row in words.tolist()]


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((2, 2), None, (0, 0)), ((3, 3), (2, 2), (1, 1)), ((3, 2), (1, 3), (0, 1)), ((1, 1), (2, 1), (0, 0))],
)
def test_max_pool(kernel: tuple[int, int], stride: tuple[int, int] | None, padding: tuple[int, int]) -> None:
    words = torch.randint(-99, 99, (2, 2, 7, 6), generator=torch.Generator().manual_seed(1))
    (found,) = computed(lambda x: order.max_pool2d(x, kernel, stride, padding), words)
    expected = torch.nn.functional.max_pool2d(words.double(), kernel, stride, padding)
    assert torch.equal(found.double(), expected)


def test_words_that_do_not_fit() -> None:
    draft = Draft()
    x, y = draft.input("x", (2, 3)), draft.input("y", (4,))
    other = Draft().input("x", (2, 3))
    with pytest.raises(ShapeMismatch):
        order.less(x, y)
    with pytest.raises(BadInput, match="different programs"):
        order.less(x, other)
    with pytest.raises(BadInput, match="no element in dimension 2"):
        order.max(x, 2)
    with pytest.raises(BadInput, match="no element"):
        order.argmax(draft.input("z", (2, 0)), 1)
    with pytest.raises(BadInput, match="truth value"):
        order.where(x, x, x)
    with pytest.raises(BadInput, match="two dimensions"):
        order.max_pool2d(y, (2, 2))
    with pytest.raises(BadInput, match="half of the window"):
        order.max_pool2d(x, (2, 2), padding=(2, 0))


def test_steps_refuse_what_is_not_a_comparison() -> None:
    draft = Draft()
    x = draft.input("x", (3,))
    sign = draft.step("sign", x, drop=0)
    bit, mask = draft.step("bit", sign, inverted=False), draft.step("mask", x)
    wrongs: list[Callable[[], Value]] = [
        lambda: draft.step("sign", x, drop=19),
        lambda: draft.step("sign", sign, drop=0),
        lambda: draft.step("zero", draft.public(torch.zeros(3))),
        lambda: draft.step("bit", x, inverted=False),
        lambda: draft.step("rectify", draft.step("zero", x), bit, drop=0),
        lambda: draft.step("rectify", sign, x, drop=0),
        lambda: draft.step("select", x, bit, mask),
        lambda: draft.step("select", sign, x, mask),
        lambda: draft.step("select", sign, bit, x),
        lambda: draft.step("shared", x),
    ]
    for wrong in wrongs:
        with pytest.raises(BadInput):
            wrong()
