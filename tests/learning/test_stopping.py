"""Targets and patience."""

from __future__ import annotations

import pytest

from smpc_fl.jobs import Stop
from smpc_fl.learning.stopping import Stopper


def history(*values: float | None, metric: str = "val_loss") -> list[dict[str, float]]:
    return [{"loss": 1.0} if value is None else {"loss": 1.0, metric: value} for value in values]


def test_without_a_condition_a_run_goes_on() -> None:
    assert Stopper(None).should_stop(history(1.0, 1.0)) is None
    assert Stopper(Stop()).should_stop(history(1.0, 1.0)) is None


def test_without_an_evaluation_a_run_goes_on() -> None:
    assert Stopper(Stop(target=5.0, patience=1)).should_stop([]) is None
    assert Stopper(Stop(target=5.0, patience=1)).should_stop(history(None, None)) is None


@pytest.mark.parametrize(("value", "stops"), [(0.31, False), (0.3, True), (0.29, True)])
def test_a_loss_stops_at_or_below_its_target(value: float, stops: bool) -> None:
    reason = Stopper(Stop(target=0.3)).should_stop(history(1.0, value))
    assert (reason is not None) is stops
    if reason:
        assert f"val_loss reached {value:.6g}" in reason


@pytest.mark.parametrize(("value", "stops"), [(0.89, False), (0.9, True), (0.95, True)])
def test_other_metrics_stop_at_or_above_their_target(value: float, stops: bool) -> None:
    stopper = Stopper(Stop(metric="val_auc", target=0.9))
    assert (stopper.should_stop(history(value, metric="val_auc")) is not None) is stops


def test_patience_counts_evaluations_since_the_best() -> None:
    stopper = Stopper(Stop(patience=2))
    assert stopper.should_stop(history(1.0)) is None
    assert stopper.should_stop(history(1.0, None, 1.1)) is None
    assert stopper.should_stop(history(1.0, 1.1, None, 1.0)) == (
        "val_loss has not improved by more than 0 for 2 evaluations"
    )
    assert stopper.should_stop(history(1.0, 1.1, 0.9)) is None
    assert stopper.should_stop(history(1.0, 1.1, 0.9, 0.95, 0.91)) is not None


def test_min_delta_is_what_an_improvement_must_exceed() -> None:
    creeping = history(0.5, 0.505, 0.512, metric="val_accuracy")
    assert Stopper(Stop(metric="val_accuracy", patience=2, min_delta=0.02)).should_stop(creeping) is not None
    assert Stopper(Stop(metric="val_accuracy", patience=2, min_delta=0.01)).should_stop(creeping) is None
    assert Stopper(Stop(metric="val_accuracy", patience=2)).should_stop(creeping) is None


def test_nan_is_never_an_improvement() -> None:
    nan = float("nan")
    assert Stopper(Stop(patience=2, target=0.0)).should_stop(history(1.0, nan, nan)) is not None
