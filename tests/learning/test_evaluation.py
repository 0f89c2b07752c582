"""Evaluation: what owners average, summed by rows, is what torch says of all rows together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from smpc_fl.errors import BadInput, NotFinite, ShapeMismatch
from smpc_fl.learning import evaluation
from smpc_fl.learning.evaluation import evaluate
from smpc_fl.learning.metrics import layout_for, read_evaluation
from smpc_fl.learning.update import METRIC_BOUND, VectorLayout, assemble, disassemble, row_weight
from smpc_fl.plans.plan import Plan

GENERATOR = torch.Generator()
X = torch.randn(90, 3, generator=GENERATOR)
OWNERS = [slice(0, 20), slice(20, 21), slice(21, 90)]


def net(outputs: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, outputs))


def secure_mean(plan: Plan, y: torch.Tensor, bins: int) -> dict[str, float]:
    """The round of an evaluation, without its cryptography."""
    layout = layout_for(plan.document, bins)
    slots = VectorLayout(layout.length)
    total = np.zeros(slots.length)
    for rows in OWNERS:
        averages, count = evaluate(plan, plan.initial, X[rows], y[rows], bins)
        assert averages.shape == (layout.length,)
        total += assemble(averages, row_weight(count, 1000), {}, layout=slots, clip=1.0, mode="saturate").dense()
    aggregate = disassemble(total, slots)
    assert aggregate.clipped == 0
    return read_evaluation(aggregate.mean, layout)


def exact_auc(scores: torch.Tensor, positive: torch.Tensor) -> float:
    ill, healthy = scores[positive][:, None], scores[~positive][None, :]
    return float(((ill > healthy).double() + 0.5 * (ill == healthy).double()).mean())


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_CHUNK", 32)


def test_several_classes() -> None:
    y = torch.arange(90) % 4
    plan = Plan.from_module(net(4), example=(X, y))
    scores = plan.module_with(plan.initial).eval()(X).detach()
    assert secure_mean(plan, y, 16) == {
        "val_loss": pytest.approx(float(functional.cross_entropy(scores, y)), abs=1e-5),
        "val_accuracy": pytest.approx(float((scores.argmax(1) == y).double().mean())),
    }


@pytest.mark.parametrize("bins", [2, 64, 4096])
def test_two_classes(bins: int) -> None:
    y = (X[:, 0] + torch.randn(90, generator=GENERATOR) > 0).long()
    plan = Plan.from_module(net(2), example=(X, y))
    scores = plan.module_with(plan.initial).eval()(X).detach()
    metrics = secure_mean(plan, y, bins)
    assert metrics["val_accuracy"] == pytest.approx(float((scores.argmax(1) == y).double().mean()))
    exact = exact_auc(scores[:, 1] - scores[:, 0], y == 1)
    assert abs(metrics["val_auc"] - exact) <= metrics["val_auc_error"] + 1e-9
    assert metrics["val_auc_error"] <= {2: 0.5, 64: 0.1, 4096: 0.01}[bins]


@pytest.mark.parametrize("shape", [(90,), (90, 1)])
def test_one_logit(shape: tuple[int, ...]) -> None:
    y = (X[:, 0] > 0).float()
    plan = Plan.from_module(net(1), loss="bce_with_logits", example=(X, y.reshape(shape)))
    scores = plan.module_with(plan.initial).eval()(X).detach()[:, 0]
    metrics = secure_mean(plan, y.reshape(shape), 512)
    assert metrics["val_loss"] == pytest.approx(float(functional.binary_cross_entropy_with_logits(scores, y)), abs=1e-5)
    assert metrics["val_accuracy"] == pytest.approx(float(((scores > 0) == (y > 0.5)).double().mean()))
    assert abs(metrics["val_auc"] - exact_auc(scores, y > 0.5)) <= metrics["val_auc_error"] + 1e-9


def test_several_answers_a_row_have_an_accuracy_and_no_auc() -> None:
    y = (X > 0).float()
    plan = Plan.from_module(net(3), loss="bce_with_logits", example=(X, y))
    scores = plan.module_with(plan.initial).eval()(X).detach()
    assert secure_mean(plan, y, 16) == {
        "val_loss": pytest.approx(float(functional.binary_cross_entropy_with_logits(scores, y)), abs=1e-5),
        "val_accuracy": pytest.approx(float(((scores > 0) == (y > 0.5)).double().mean())),
    }


def test_regression() -> None:
    y = X.sum(1)
    plan = Plan.from_module(net(1), loss="mse", example=(X, y))
    scores = plan.module_with(plan.initial).eval()(X).detach()[:, 0]
    assert secure_mean(plan, y, 16) == {"val_loss": pytest.approx(float(functional.mse_loss(scores, y)), abs=1e-5)}


def test_a_loss_beyond_the_bound_saturates_in_the_vector_and_is_counted() -> None:
    plan = Plan.from_module(net(1), loss="mse", example=(X, X[:, 0]))
    averages, _ = evaluate(plan, plan.initial, X, torch.full((90,), 1e3), 16)
    assert averages[0] > 1
    slots = VectorLayout(1)
    aggregate = disassemble(assemble(averages, 1.0, {}, layout=slots, clip=1.0, mode="saturate").dense(), slots)
    assert aggregate.mean[0] * METRIC_BOUND == METRIC_BOUND
    assert aggregate.clipped == 1


def test_evaluation_changes_nothing() -> None:
    y = torch.arange(90) % 4
    plan = Plan.from_module(net(4), example=(X, y))
    model, x, random = plan.initial, X.clone(), torch.get_rng_state()
    once = evaluate(plan, model, X, y, 4)[0]
    np.testing.assert_array_equal(model, plan.initial)
    assert torch.equal(X, x)
    assert torch.equal(torch.get_rng_state(), random)
    np.testing.assert_array_equal(evaluate(plan, model, X, y, 4)[0], once)


@pytest.mark.parametrize("loss", ["mse", "bce_with_logits"])
def test_nan_is_refused(loss: Any) -> None:
    plan = Plan.from_module(net(1), loss=loss, example=(X, X[:, 0] > 0))
    with pytest.raises(NotFinite, match="missing values"):
        evaluate(plan, plan.initial, torch.full_like(X, float("nan")), torch.zeros(90), 4)


def test_a_target_that_is_missing_is_refused() -> None:
    plan = Plan.from_module(net(1), loss="mse", example=(X, X[:, 0]))
    with pytest.raises(NotFinite, match="missing values"):
        evaluate(plan, plan.initial, X, torch.full((90,), float("nan")), 4)


def test_what_does_not_fit_is_refused() -> None:
    plan = Plan.from_module(net(4), example=(X, torch.arange(90) % 4))
    with pytest.raises(ShapeMismatch):
        evaluate(plan, plan.initial[:-1], X, torch.arange(90) % 4, 4)
    with pytest.raises(BadInput, match="no rows"):
        evaluate(plan, plan.initial, X[:0], torch.arange(0), 4)
