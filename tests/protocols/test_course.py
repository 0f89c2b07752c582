"""What a training round asks for, in order, and what it makes of the sums that it is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from smpc_fl.errors import InternalError
from smpc_fl.jobs import Evaluation, TrainJob
from smpc_fl.learning.metrics import evaluation_layout
from smpc_fl.learning.strategies import FedAvg
from smpc_fl.learning.update import METRIC_BOUND, Aggregate
from smpc_fl.plans.plan import Plan
from smpc_fl.protocols.course import Ask, TrainingRound
from smpc_fl.protocols.work import evaluation_round, train_round

PLAN = Plan.from_module(nn.Linear(2, 1), loss="mse", example=(torch.zeros(4, 2), torch.zeros(4, 1)))
MODEL = np.array([1.0, 2.0, 3.0], np.float32)


def job(evaluation: Evaluation | None = None, rounds: int = 4) -> TrainJob:
    return TrainJob(
        plan=PLAN.to_bytes(), inputs="x", targets="y", rounds=rounds, strategy=FedAvg(server_lr=0.5), evaluation=evaluation
    )  # fmt: skip


def sums(*values: float, weight: float, **metrics: float) -> Aggregate:
    return Aggregate(np.array(values), metrics, weight, 0, 0.0)


def wanted(course: TrainingRound) -> Ask:
    assert course.ask is not None
    return course.ask


def test_training_alone_is_one_sum_and_one_step() -> None:
    course = TrainingRound(job(), 3, MODEL, 3)
    assert (wanted(course).round, wanted(course).work.purpose) == (train_round(3), "train")
    np.testing.assert_array_equal(wanted(course).model, MODEL)
    given = sums(2.0, 4.0, 6.0, weight=2.0, loss=0.5)
    course.take(given, 3)
    assert course.ask is None
    assert course.trained is given
    assert course.metrics == {"loss": 0.5}
    np.testing.assert_array_equal(course.model, np.array([1.5, 3.0, 4.5], np.float32))
    with pytest.raises(InternalError, match="no further sum"):
        course.take(given, 3)


def test_the_new_model_is_evaluated_where_that_is_due() -> None:
    course = TrainingRound(job(Evaluation(every=1)), 1, MODEL, 3)
    course.take(sums(2.0, 2.0, 2.0, weight=1.0, loss=0.5), 3)
    assert (wanted(course).round, wanted(course).work.purpose) == (evaluation_round(1), "evaluate")
    np.testing.assert_array_equal(wanted(course).model, course.model)
    slots = np.zeros(evaluation_layout(job(Evaluation())).length)
    slots[0] = 2.0 / METRIC_BOUND
    course.take(Aggregate(slots, {}, 2.0, 0, 0.0), 3)
    assert course.ask is None
    assert course.metrics == {"loss": 0.5, "val_loss": pytest.approx(1.0)}
    np.testing.assert_array_equal(course.model, MODEL + 1)


@pytest.mark.parametrize(("number", "due"), [(1, False), (2, True), (3, False), (4, True), (5, True)])
def test_every_other_round_is_evaluated_and_the_last(number: int, due: bool) -> None:
    course = TrainingRound(job(Evaluation(every=2), rounds=5), number, MODEL, 3)
    course.take(sums(0.0, 0.0, 0.0, weight=1.0, loss=0.5), 3)
    assert (course.ask is not None) == due
