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
from smpc_fl.statistics.noise import DEVIATIONS, Result, increasing
from smpc_fl.statistics.options import Options, Settings, Values
from smpc_fl.statistics.picture import Picture
from smpc_fl.statistics.remote import below, cat, where


@dataclass(frozen=True, repr=False, eq=False)
class SurvivalCurve(Result):
    """float64[times] each: S(t) after each time of the grid, `at_risk` just before it, `events` at it; exact counts. From
    where fewer than `min_count` rows (but some) are at risk the curve is suppressed (NaN). With privacy counts have noise,
    `noise_variance` is what it adds to the variance of log S, and suppressed is what it may be alone."""

    times: torch.Tensor
    at_risk: torch.Tensor
    events: torch.Tensor
    survival: torch.Tensor
    rows: int
    noise_variance: torch.Tensor | None = None

    def interval(self, level: float = 0.95) -> torch.Tensor:
        """Pointwise confidence intervals float64[times, 2]: Greenwood's variance on the log(-log S) scale (Kalbfleisch and
        Prentice, 1980, section 1.3), as lifelines gives them; with privacy on the log S scale, with the noise's own variance."""
        if not 0 < level < 1:
            raise BadInput(f"level={level}: a confidence level is between 0 and 1, as 0.95")
        terms = self.events / (self.at_risk * (self.at_risk - self.events))
        greenwood = torch.where(self.events == 0, 0.0, terms).cumsum(0)
        if self.noise_variance is not None:  # neither end of the curve is certain
            relative = normal_quantile(level) * (greenwood + self.noise_variance).sqrt()
            ends = [self.survival * (sign * relative).exp() for sign in (-1, 1)]
            return torch.stack(ends, 1).clamp(max=1)
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
    if cohort.privacy:
        return _noisy(cohort, points, complete, ended, died)
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


def _noisy(
    cohort: Cohort, times: torch.Tensor, complete: PointerTensor, ended: PointerTensor, died: PointerTensor
) -> SurvivalCurve:
    """With privacy: from noisy counts of who ends at each time, by an event or not, or later than all: a row is in one of these.
    Marks other than 1 are no events. The curve is made to fall, within 0 and 1."""
    lost = ended - died
    cells = cat(
        [died[:1], died[1:] - died[:-1], lost[:1], lost[1:] - lost[:-1], (complete.sum() - ended[-1]).reshape(1)]
    )
    totals = cohort.totals({"cells": (cells, 1.0)}, 1.0)
    off, steps = float(totals.error["cells"].max()), len(times)
    deaths, left = totals["cells"][:steps], totals["cells"][steps:]
    ends = deaths + left[:-1]
    rows = float(ends.sum() + left[-1])
    at_risk = rows - ends.cumsum(0) + ends
    # Of each of two cells a step, and of the last one.
    drowned = off * (2 * torch.arange(steps, 0, -1, dtype=torch.float64) + 1).sqrt()
    few = (at_risk < drowned.clamp(min=cohort.least())).cumsum(0) > 0
    if bool(few[0]):
        raise BadInput(
            "fewer rows are complete over all owners than the noise may make: take fewer times, or less noise"
        )
    n = torch.where(few, torch.nan, at_risk)
    curve = (1 - torch.where(few, 0.0, deaths / n)).cumprod(0).clamp(0, 1)
    falling = torch.where(few, torch.nan, -increasing(-curve))
    events = torch.minimum(deaths.clamp(min=0), n - 1)
    return SurvivalCurve(
        times, n, events, falling, round(rows), _noise_of_log(n, events, off / DEVIATIONS),
        noise=cohort.privacy, count_error=off,
    )  # fmt: skip


def _noise_of_log(n: torch.Tensor, d: torch.Tensor, deviation: float) -> torch.Tensor:
    """The variance of log S(t) = Σ log(1 - dₖ / nₖ), k <= t, to first order, where independent noise of `deviation` is in each of
    the counts of deaths Dⱼ = dⱼ, of others Cⱼ, and of those that are left at the end; nₖ is the sum of all from k on.

    With aₖ = 1 / (nₖ - dₖ) - 1 / nₖ, bₖ = 1 / (nₖ - dₖ) and A their sums up to k, Cⱼ counts Aⱼ for j <= t and Aₜ after that, Dⱼ
    is bⱼ less for j <= t, and the rest counts Aₜ."""
    b = 1 / (n - d)
    total = (b - 1 / n).cumsum(0)
    after = len(n) - torch.arange(1, len(n) + 1)
    squares = (total.square() + (total - b).square()).cumsum(0) + (2 * after + 1) * total.square()
    return deviation**2 * squares
