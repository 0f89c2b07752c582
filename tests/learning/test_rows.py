"""An owner's tensors, before anything is computed on them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from smpc_fl.errors import BadInput, ShapeMismatch
from smpc_fl.learning.rows import prepare
from smpc_fl.plans.document import PlanDocument
from smpc_fl.plans.plan import Plan

X = torch.zeros(6, 2)


@pytest.fixture(scope="module")
def documents() -> dict[str, PlanDocument]:
    makers: dict[str, Any] = {
        "cross_entropy": (3, torch.arange(6) % 3),
        "bce_with_logits": (1, torch.zeros(6)),
        "mse": (1, torch.zeros(6)),
    }
    return {
        loss: Plan.from_module(nn.Linear(2, outputs), loss=loss, example=(X, y)).document  # type: ignore[arg-type]
        for loss, (outputs, y) in makers.items()
    }


def test_fitting_rows_pass(documents: dict[str, PlanDocument]) -> None:
    x, y = prepare(documents["cross_entropy"], X.double().numpy(), (torch.arange(6) % 3).to(torch.int8))
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    for loss in ("bce_with_logits", "mse"):
        assert prepare(documents[loss], X, torch.arange(6) % 2)[1].dtype == torch.float32
    prepare(documents["mse"], X, torch.arange(6))


@pytest.mark.parametrize(
    ("loss", "x", "y", "error", "reason"),
    [
        ("cross_entropy", torch.zeros(6, 3), torch.zeros(6).long(), ShapeMismatch, "'x' has rows"),
        ("cross_entropy", X, torch.zeros(6), ShapeMismatch, "'y' holds torch.float32"),
        ("cross_entropy", X, torch.zeros(6, 1).long(), ShapeMismatch, "'y' has rows"),
        ("cross_entropy", X, torch.zeros(5).long(), ShapeMismatch, "different numbers of rows"),
        ("cross_entropy", X[:0], torch.zeros(0).long(), BadInput, "no rows"),
        ("cross_entropy", X, torch.tensor([0, 1, 2, 41, 1, 2]), BadInput, r"not classes 0\.\.2"),
        ("cross_entropy", X, torch.tensor([0, 1, 2, -100, 1, 2]), BadInput, r"not classes 0\.\.2"),
        ("bce_with_logits", X, torch.tensor([0, 1, 41, 0, 1, 0]), BadInput, "bce_with_logits"),
        ("bce_with_logits", X, torch.tensor([0, 1, -0.41, 0, 1, 0]), BadInput, "bce_with_logits"),
        ("bce_with_logits", X, torch.full((6,), float("nan")), BadInput, "bce_with_logits"),
    ],
)
def test_others_are_refused_without_a_value(
    documents: dict[str, PlanDocument], loss: str, x: torch.Tensor, y: torch.Tensor, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason) as caught:
        prepare(documents[loss], x, y)
    assert "41" not in str(caught.value)
