from __future__ import annotations

import pytest
import torch

from smpc_fl.errors import BadInput
from smpc_fl.pointers.evaluation import evaluate_expression, operand
from smpc_fl.pointers.lineage import Ref, apply, literal, registered

X = torch.tensor([[1.0, 2.0], [3.0, torch.nan]])
TENSORS = {"x": X}
LEAF = registered("x")


def test_shared_parts_and_literals() -> None:
    two = literal("float32", (), torch.tensor(2.0).numpy().tobytes())
    doubled = apply("mul", [Ref(0), Ref(1)], [LEAF, two])
    square = apply("mul", [Ref(0), Ref(0)], [doubled])
    value = evaluate_expression(apply("add", [Ref(0), Ref(1)], [square, doubled]), TENSORS.__getitem__)
    torch.testing.assert_close(value, (2 * X) ** 2 + 2 * X, equal_nan=True)
    assert evaluate_expression(LEAF, TENSORS.__getitem__) is X


def test_gradients_do_not_follow() -> None:
    x = torch.ones(2, requires_grad=True)
    assert not evaluate_expression(apply("neg", [Ref(0)], [LEAF]), {"x": x}.__getitem__).requires_grad


def test_errors_say_nothing() -> None:
    broken = apply("mean", [Ref(0), 0], [LEAF])
    nothing: dict[str, torch.Tensor] = {}
    for expression, tensors in ((LEAF, nothing), (broken, {"x": torch.ones(2, 2, dtype=torch.bool)})):
        with pytest.raises(BadInput, match="stays there") as caught:
            evaluate_expression(apply("sqrt", [Ref(0)], [expression]), tensors.__getitem__)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_operands_are_finite_and_show_by_saturating() -> None:
    value = operand(apply("div", [Ref(0), 0], [LEAF]), TENSORS, 8.0)
    assert value.tolist() == [16.0] * 4
    assert operand(apply("neg", [Ref(0)], [LEAF]), TENSORS, 8.0).tolist() == [-1.0, -2.0, -3.0, 16.0]
    assert operand(apply("log", [Ref(0)], [apply("sub", [Ref(0), 1], [LEAF])]), TENSORS, 2.0)[0] == -4.0
