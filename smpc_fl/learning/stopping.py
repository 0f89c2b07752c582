"""When a run ends before its last round: a metric reached its target, or has stopped improving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from smpc_fl.jobs import Stop


class Stopper:
    """Judges the history of metrics after each round; rounds without the metric (no evaluation) do not count."""

    def __init__(self, stop: Stop | None) -> None:
        self.stop = stop

    def should_stop(self, history: Sequence[Mapping[str, float]]) -> str | None:
        """Why the run should end now, for people to read, or None. `history`: one mapping a round, in order."""
        stop = self.stop
        if stop is None:
            return None
        sign = better_when(stop.metric)
        values = [sign * metrics[stop.metric] for metrics in history if stop.metric in metrics]
        if not values:
            return None
        if stop.target is not None and values[-1] >= sign * stop.target:
            return f"{stop.metric} reached {sign * values[-1]:.6g} (target {stop.target:.6g})"
        if stop.patience is not None and _since_improvement(values, stop.min_delta) >= stop.patience:
            return f"{stop.metric} has not improved by more than {stop.min_delta:.6g} for {stop.patience} evaluations"
        return None


def better_when(metric: str) -> float:
    """-1 for losses, which are better when lower, else 1: times this, everything is better when higher."""
    return -1.0 if metric.endswith("loss") else 1.0


def _since_improvement(values: Sequence[float], min_delta: float) -> int:
    """Evaluations since the last one that was better than the best before it by more than `min_delta`."""
    best, since = float("-inf"), 0
    for value in values:
        if value > best + min_delta:
            best, since = value, 0
        else:
            since += 1
    return since
