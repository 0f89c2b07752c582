"""Reading the mean of an evaluation."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpc_fl.errors import PlanRejected, ShapeMismatch
from smpc_fl.jobs import Evaluation, TrainJob
from smpc_fl.learning.metrics import EvaluationLayout, evaluation_layout, read_evaluation

TWO = EvaluationLayout(True, 8)


def test_slots() -> None:
    assert (EvaluationLayout(False, 0).length, EvaluationLayout(True, 0).length, TWO.length) == (1, 2, 18)
    assert EvaluationLayout(True, 8, personal=True).length == 36


def test_models_of_the_owners_own_have_the_same_slots_again() -> None:
    both = read_evaluation(np.array([0.01, 0.5, 0.005, 0.75]), EvaluationLayout(True, 0, personal=True))
    assert both == {"val_loss": 1.0, "val_accuracy": 0.5, "personal_loss": 0.5, "personal_accuracy": 0.75}


def test_loss_and_accuracy() -> None:
    assert read_evaluation(np.array([0.0125]), EvaluationLayout(False, 0)) == {"val_loss": 1.25}
    mean = np.array([0.0125, 0.75])
    assert read_evaluation(mean, EvaluationLayout(True, 0)) == {"val_loss": 1.25, "val_accuracy": 0.75}
    with pytest.raises(ShapeMismatch, match="2 slots"):
        read_evaluation(np.zeros(3), EvaluationLayout(True, 0))


def exact_auc(scores: list[float], labels: list[bool]) -> float:
    pairs = [
        (positive > negative) + 0.5 * (positive == negative)
        for positive, ill in zip(scores, labels, strict=True)
        if ill
        for negative, other in zip(scores, labels, strict=True)
        if not other
    ]
    return float(np.mean(pairs))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=60))
def test_the_auc_is_right_within_the_error_that_is_stated(rows: list[tuple[float, bool]]) -> None:
    scores, labels = [score for score, _ in rows], [label for _, label in rows]
    place = np.minimum((np.array(scores) * 8).astype(int), 7)
    mean = np.zeros(TWO.length)
    for bin_number, label in zip(place, labels, strict=True):
        mean[2 + bin_number + (0 if label else 8)] += 1 / len(rows)
    metrics = read_evaluation(mean, TWO)
    if all(labels) or not any(labels):
        assert "val_auc" not in metrics
        assert "val_auc_error" not in metrics
    else:
        assert abs(metrics["val_auc"] - exact_auc(scores, labels)) <= metrics["val_auc_error"] + 1e-12


def test_known_histograms() -> None:
    mean = np.zeros(TWO.length)
    mean[2 + 7], mean[10 + 0] = 0.5, 0.5
    assert read_evaluation(mean, TWO)["val_auc"] == 1.0
    assert read_evaluation(mean, TWO)["val_auc_error"] == 0.0
    mean = np.zeros(TWO.length)
    mean[2 + 3], mean[10 + 3] = 0.25, 0.75
    assert read_evaluation(mean, TWO)["val_auc"] == 0.5
    assert read_evaluation(mean, TWO)["val_auc_error"] == 0.5


def test_rounding_below_nothing_counts_as_nothing() -> None:
    mean = np.full(TWO.length, -1e-9)
    mean[2 + 7] = 1.0
    assert "val_auc" not in read_evaluation(mean, TWO)


def test_the_coordinator_reads_plans_without_torch() -> None:
    with pytest.raises(PlanRejected):
        evaluation_layout(TrainJob(plan=b"{}", inputs="x", targets="y", rounds=1, evaluation=Evaluation()))
    code = "import sys, smpc_fl.learning.metrics; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
