"""The Kaplan-Meier curve over public times (Kaplan and Meier, JASA 53, 1958), from sums of counts.

Owners count, by sorting, how many rows end by each time of the grid, and how many of them by an event. A time between two of
the grid counts as the later one: where all times are on the grid the curve is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch

from smpc_fl.errors import BadInput
from smpc_fl.pointers.pointer import PointerTensor
from smpc_fl.statistics.cohort import Cohort
from smpc_fl.statistics.columns import check_missing, count_of, one_column, rows_of
from smpc_fl.statistics.display import table
from smpc_fl.statistics.distributions import normal_quantile
from smpc_fl.statistics.histogram import read_edges
from smpc_fl.statistics.options import Options, Settings, Values
from smpc_fl.statistics.picture import Picture
from smpc_fl.statistics.remote import below, where


@dataclass(frozen=True, repr=False, eq=False)
class SurvivalCurve:
    """float64[times] each: S(t) after each time of the grid, `at_risk` just before it, `events` at it; exact counts. From
    where fewer than `min_count` rows (but some) are at risk the curve is suppressed (NaN)."""

    times: torch.Tensor
    at_risk: torch.Tensor
    events: torch.Tensor
    survival: torch.Tensor
    rows: int

    def interval(self, level: float = 0.95) -> torch.Tensor:
        """Pointwise confidence intervals float64[times, 2]: Greenwood's variance on the log(-log S) scale (Kalbfleisch and
        Prentice, 1980, section 1.3), as lifelines gives them."""
        if not 0 < level < 1:
            raise BadInput(f"level={level}: a confidence level is between 0 and 1, as 0.95")
        terms = self.events / (self.at_risk * (self.at_risk - self.events))
        greenwood = torch.where(self.events == 0, 0.0, terms).cumsum(0)
        log = self.survival.log()
        half = normal_quantile(level) * greenwood.sqrt() / log
        low, high = ((log.neg().log() - sign * half).exp().neg().exp() for sign in (1, -1))
        bounds = torch.stack([low, high], 1)
        # Before the first event nothing is uncertain, after the last one nothing is left.
        return torch.where((self.survival == 1)[:, None], 1.0, torch.where((self.survival == 0)[:, None], 0.0, bounds))

    @property
    def median(self) -> float:
        """The first time of the grid with S(t) <= 1/2; infinity where the curve does not come down to it."""
        reached = (self.survival <= 0.5 + 1e-12).nonzero().reshape(-1)
        return float(self.times[reached[0]]) if len(reached) else float("inf")

    def picture(self) -> Picture:
        low, high = self.interval().T.tolist()
        title = f"Kaplan-Meier, {self.rows} rows"
        return Picture("steps", title, "time", "survival", self.survival.tolist(), self.times.tolist(), low, high)

    def __repr__(self) -> str:
        low, high = self.interval().T.tolist()
        parts = (self.times, self.at_risk, self.events, self.survival)
        rows = zip(*(part.tolist() for part in parts), low, high, strict=True)
        return table(("time", "at risk", "events", "survival", "2.5 %", "97.5 %"), rows)


def kaplan_meier(
    times: Sequence[PointerTensor],
    events: Sequence[PointerTensor],
    grid: Values,
    **options: Unpack[Options],
) -> SurvivalCurve:
    """Survival over all rows of all owners: `times` [rows] until the event or until nobody looked any more, `events` [rows]
    1 (or true) for an event, 0 for the other. `grid`: public, increasing times. One round of 2 · len(grid) + 4 numbers.
    Raises `BadInput` for other marks, for times below 0, and for fewer than `min_count` rows."""
    points = read_edges(grid)
    cohort = Cohort(Settings(**options), times=times, events=events)
    t = one_column(cohort.first["times"], "times").to(torch.float64)
    mark = one_column(cohort.first["events"], "events").to(torch.float64)
    complete = ~(t.isnan() | mark.isnan())
    happened = mark == 1
    ended, died = (
        below(where(chosen, t, torch.inf).msort(), points, or_at=True) for chosen in (complete, complete & happened)
    )
    scale = cohort.rows_scale
    totals = cohort.totals(
        {
            "rows": rows_of(t, scale),
            "complete": count_of(complete, scale),
            "marked": count_of(complete & (happened | (mark == 0)), scale),
            "negative": count_of(t < 0, scale),
            "ended": (ended, scale),
            "died": (died, scale),
        }
    )
    missing, n = totals["rows"] - totals["complete"], int(totals["complete"])
    check_missing(missing.reshape(1), totals["rows"], ["times or events"], cohort.settings)
    if int(totals["marked"]) < n:
        raise BadInput(f"events: {n - int(totals['marked'])} marks, over all owners, are neither 0 nor 1")
    if int(totals["negative"]):
        raise BadInput(f"times: {int(totals['negative'])} times, over all owners, are below 0")
    if n < cohort.settings.min_count:
        raise BadInput(f"fewer than min_count={cohort.settings.min_count} rows are complete over all owners")
    at_risk = n - torch.cat([torch.zeros(1, dtype=torch.float64), totals["ended"][:-1]])
    deaths = totals["died"].diff(prepend=torch.zeros(1, dtype=torch.float64))
    curve = torch.where(at_risk > 0, 1 - deaths / at_risk, 1.0).cumprod(0)
    few = ((at_risk > 0) & (at_risk < cohort.settings.min_count)).cumsum(0) > 0
    at_risk, deaths, curve = (torch.where(few, torch.nan, part) for part in (at_risk, deaths, curve))
    return SurvivalCurve(points, at_risk, deaths, curve, n)
