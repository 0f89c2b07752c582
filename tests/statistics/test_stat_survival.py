"""The Kaplan-Meier curve: lifelines on the pooled rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from lifelines.datasets import load_rossi
from statistics_world import close, cut, of, world

import smpc_fl as sf

ROSSI = load_rossi()
WEEKS, ARREST = ROSSI["week"].to_numpy(np.int64), ROSSI["arrest"].to_numpy(np.int64)
GRID = np.arange(1, 53)


def check(got: sf.stats.SurvivalCurve, times: Any, events: Any) -> None:
    fitted = KaplanMeierFitter(alpha=0.1).fit(times, events, timeline=got.times.numpy())
    close(got.survival, fitted.survival_function_["KM_estimate"].to_numpy(), 1e-12)
    table = fitted.event_table.reindex(got.times.numpy())
    assert got.events.tolist() == table["observed"].fillna(0).tolist()
    at = ~table["at_risk"].isna().to_numpy()
    assert got.at_risk.numpy()[at].tolist() == table["at_risk"][at].tolist()
    close(got.interval(0.9), fitted.confidence_interval_.to_numpy(), 1e-9)


@pytest.mark.parametrize("boolean", [True, False])
def test_the_curve_is_lifelines(boolean: bool) -> None:
    made = world(t=cut(WEEKS), e=cut(ARREST == 1 if boolean else ARREST))
    got = sf.stats.kaplan_meier(of(made, "t"), of(made, "e"), GRID)
    check(got, WEEKS, ARREST)
    assert got.rows == 432
    assert got.median == float("inf")
    assert len(made.jobs) == 1
    assert "at risk" in repr(got)


def test_times_between_two_of_the_grid_count_as_the_later() -> None:
    made = world(t=cut(WEEKS - 0.25), e=cut(ARREST))
    got = sf.stats.kaplan_meier(of(made, "t"), of(made, "e"), np.arange(4, 57, 4))
    check(got, np.ceil(WEEKS / 4) * 4, ARREST)


def test_all_the_way_down() -> None:
    times = np.arange(1, 31)
    made = world(t=cut(times, (5, 5)), e=cut(np.ones(30, np.int64), (5, 5)))
    got = sf.stats.kaplan_meier(of(made, "t"), of(made, "e"), times, min_count=1)
    check(got, times, np.ones(30))
    assert got.median == KaplanMeierFitter().fit(times).median_survival_time_ == 15
    few = sf.stats.kaplan_meier(of(made, "t"), of(made, "e"), times)
    assert few.survival.isnan().tolist() == [bool(n < 5) for n in 31 - times]
    assert few.survival[:26].tolist() == got.survival[:26].tolist()
    late = sf.stats.kaplan_meier(of(made, "t"), of(made, "e"), [30, 40, 50], min_count=1)
    assert late.survival.tolist() == [0, 0, 0]
    assert late.at_risk.tolist() == [30, 0, 0]


def test_missing_rows() -> None:
    times, events = WEEKS.astype(float), ARREST.astype(float)
    times[::10], events[5] = np.nan, np.nan
    made = world(t=cut(times), e=cut(events))
    with pytest.raises(sf.BadInput, match="times or events: 45 of 432"):
        sf.stats.kaplan_meier(of(made, "t"), of(made, "e"), GRID)
    got = sf.stats.kaplan_meier(of(made, "t"), of(made, "e"), GRID, nan_policy="omit")
    kept = ~(np.isnan(times) | np.isnan(events))
    check(got, times[kept], events[kept])


@pytest.mark.parametrize(
    ("times", "events", "sentence"),
    [
        (WEEKS, ARREST + 1, "events: 114 marks, over all owners, are neither 0 nor 1"),
        (WEEKS - 10, ARREST, "times: 14 times, over all owners, are below 0"),
        (WEEKS[:4], ARREST[:4], "fewer than min_count=5 rows"),
    ],
)
def test_curves_that_cannot_be(times: Any, events: Any, sentence: str) -> None:
    made = world(t=cut(times, (1, 1)), e=cut(events, (1, 1)))
    with pytest.raises(sf.BadInput, match=sentence):
        sf.stats.kaplan_meier(of(made, "t"), of(made, "e"), GRID)


def test_a_level_that_cannot_be() -> None:
    made = world(t=cut(WEEKS), e=cut(ARREST))
    with pytest.raises(sf.BadInput, match="level=1"):
        sf.stats.kaplan_meier(of(made, "t"), of(made, "e"), GRID).interval(1)
