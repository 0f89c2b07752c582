"""Quantiles by counting: how many values are at or below public thresholds, over all owners.

The q-quantile of n values is the least x with F(x) >= q (type 1 of Hyndman and Fan, "Sample Quantiles in Statistical
Packages", American Statistician 50(4), 1996; NumPy's "inverted_cdf"). "histogram" asks once, for a grid. "bisection" asks
several times, each for a grid within the interval that the last answer left, so that it narrows by `sections` a round.

What is found is an interval; its middle is off by at most half its width. An interval of fewer than `min_count` values
would show single ones: it is widened to the neighbouring cells until it has as many, and not divided further.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Unpack

import torch

from smpc_fl.errors import BadInput
from smpc_fl.pointers.pointer import PointerTensor
from smpc_fl.statistics.cohort import Cohort, Part
from smpc_fl.statistics.columns import a_table, check_missing, column_names, count_of, rows_of
from smpc_fl.statistics.display import number, table
from smpc_fl.statistics.noise import Result, increasing
from smpc_fl.statistics.options import Bound, Options, Settings, Values
from smpc_fl.statistics.remote import below, cat, where

MAX_STEPS = 16
MAX_SECTIONS = 1 << 14


@dataclass(frozen=True, repr=False, eq=False)
class Quantiles(Result):
    """`lower` < the quantile <= `upper`, float64[len(q), columns] or float64[len(q)]; `values` lies between, off by at most
    `error`. `rows` int64[columns] without NaN; `rounds`: secure sums that it took. `likely`: with privacy the cell to which the
    noisy counts come up, which need not be in the middle."""

    q: list[float]
    names: list[str]
    lower: torch.Tensor
    upper: torch.Tensor
    rows: torch.Tensor
    rounds: int
    likely: torch.Tensor | None = None

    @property
    def values(self) -> torch.Tensor:
        return self.lower / 2 + self.upper / 2 if self.likely is None else self.likely

    @property
    def error(self) -> torch.Tensor:
        return torch.maximum(self.upper - self.values, self.values - self.lower)

    def __repr__(self) -> str:
        values, error = (part.reshape(len(self.q), -1).tolist() for part in (self.values, self.error))
        rows = [(name, q, values[i][j], error[i][j]) for j, name in enumerate(self.names) for i, q in enumerate(self.q)]
        return table(("", "q", "value", "off by at most"), rows)


def quantiles(
    pointers: Sequence[PointerTensor],
    q: float | Values,
    *,
    bounds: tuple[Bound, Bound],
    method: Literal["histogram", "bisection"] = "histogram",
    bins: int = 1024,
    sections: int = 16,
    tolerance: float | None = None,
    **options: Unpack[Options],
) -> Quantiles:
    """Quantiles `q` of every column over all rows of all owners. `bounds`: (lowest, highest) that a value may be, numbers or
    one a column.

    "histogram": one round, `bins` cells of equal width a column. "bisection": rounds of `sections` cells for each quantile
    and column until they are no wider than `tolerance` (2^-20 of the bounds), at most 16; refuses `privacy`. Raises
    `BadInput` for a quantile that lies outside the bounds (with privacy such values count as just within), and for fewer
    than `min_count` values."""
    cohort = Cohort(Settings(**options), x=pointers)
    if method == "bisection":
        cohort.settings.refuse_privacy("bisection", 'take method="histogram"')
    x = a_table(cohort.first["x"], "x")
    flat = cohort.first["x"].ndim == 1
    names = column_names("x", cohort.first["x"])
    wanted = _read_q(q)
    low, high = (_read_bound(bound, len(names)) for bound in bounds)
    if not bool((low < high).all()):
        raise BadInput("bounds are (lowest, highest), the lowest below the highest in every column")
    steps = 1 if method == "histogram" else _steps(low, high, sections, tolerance)
    if method not in ("histogram", "bisection"):
        raise BadInput(f'method={method!r}: use "histogram" or "bisection"')
    cells = bins if method == "histogram" else sections
    if not 2 <= cells <= MAX_SECTIONS:
        raise BadInput(f"{cells} cells: between 2 and {MAX_SECTIONS}")
    if cohort.privacy:
        return _noisy(cohort, x, wanted, names, low, high, cells)
    lower, upper = low.expand(len(wanted), -1).clone(), high.expand(len(wanted), -1).clone()
    found = rows = torch.zeros(0)
    settled = torch.zeros_like(lower, dtype=torch.bool)
    valid = ~x.isnan()
    ordered = where(valid, x, torch.inf).msort().T  # a search does not know where NaN belongs
    rounds = 0
    for step in range(steps):
        # Of what is settled nothing more is asked.
        edges = _grid(torch.where(settled, upper, lower), upper, cells, shared=step == 0)
        flat_edges = edges.permute(1, 0, 2).reshape(len(names), -1)
        parts: dict[str, Part] = {"below": (below(ordered, flat_edges, or_at=True), cohort.rows_scale)}
        if step == 0:
            parts |= {"rows": rows_of(x, cohort.rows_scale), "found": count_of(valid, cohort.rows_scale)}
        totals = cohort.totals(parts)
        rounds += 1
        if step == 0:
            found, rows = totals["found"], totals["rows"]
            check_missing(rows - found, rows, names, cohort.settings)
            if bool((found < cohort.settings.min_count).any()):
                few = ", ".join(
                    name for name, n in zip(names, found.tolist(), strict=True) if n < cohort.settings.min_count
                )
                raise BadInput(f"{few}: fewer than min_count={cohort.settings.min_count} values over all owners")
        sums = totals["below"].reshape(len(names), edges.shape[0], -1).permute(1, 0, 2)
        for i, share in enumerate(wanted):
            for j, name in enumerate(names):
                if settled[i, j]:
                    continue
                row = min(i, edges.shape[0] - 1)
                place = _locate(sums[row, j], share, float(found[j]), cohort.settings.min_count)
                if place is None:
                    raise BadInput(
                        f"the {share:g}-quantile of {name} lies outside the bounds {float(low[j]):g} to "
                        f"{float(high[j]):g}: widen them"
                    )
                first, last = place
                lower[i, j], upper[i, j] = edges[row, j, first], edges[row, j, last]
                settled[i, j] = last - first > 1
        if bool(settled.all()):
            break
    shown = (lower[:, 0], upper[:, 0]) if flat else (lower, upper)
    return Quantiles(wanted, names, *shown, found.to(torch.int64), rounds)


def median(
    pointers: Sequence[PointerTensor],
    *,
    bounds: tuple[Bound, Bound],
    method: Literal["histogram", "bisection"] = "histogram",
    **options: Unpack[Options],
) -> torch.Tensor:
    """The median of every column: float64[columns]; otherwise as `quantiles`, which also tells how far it may be off."""
    return quantiles(pointers, 0.5, bounds=bounds, method=method, **options).values[0]


def _noisy(
    cohort: Cohort,
    x: PointerTensor,
    q: list[float],
    names: list[str],
    low: torch.Tensor,
    high: torch.Tensor,
    cells: int,
) -> Quantiles:
    """With privacy: from noisy cells, of each of which a row is in one. How many rows are up to an edge is their running sum,
    made to increase; `lower` and `upper` are what `DEVIATIONS` of its noise leave room for."""
    valid = ~x.isnan()
    ordered = where(valid, x.clamp(low, high), torch.inf).msort().T
    edges = _grid(low[None], high[None], cells, shared=True)[0]
    up_to = below(ordered, edges[:, 1:], or_at=True)
    counted = cat([up_to[:, :1], up_to[:, 1:] - up_to[:, :-1]], 1)
    totals = cohort.totals({"cells": (counted, 1.0)}, math.sqrt(len(names)))
    off = float(totals.error["cells"].max())
    running = increasing(totals["cells"].cumsum(1))
    found = running[:, -1]
    least = cohort.least(off * math.sqrt(cells))
    if few := [name for name, n in zip(names, found.tolist(), strict=True) if n < least]:
        raise BadInput(
            f"{', '.join(few)}: fewer than {number(math.ceil(least))} values over all owners, which noise may make"
        )
    share = torch.tensor(q, dtype=torch.float64)[:, None, None]
    place = torch.arange(1, cells + 1)
    # The noise of the sum up to an edge, less its share of the noise of all.
    apart = off * ((1 - share) ** 2 * place + share**2 * (cells - place)).sqrt()
    rank = (share * found[:, None].round()).ceil().clamp(min=1) - 0.5
    surely, likely, maybe = ((running + sign * apart >= rank).to(torch.int8).argmax(2) for sign in (-1, 0, 1))
    surely = torch.where((running - apart >= rank).any(2), surely, cells - 1)
    at = torch.arange(len(names))
    lower, upper, middle = edges[at, maybe], edges[at, surely + 1], (edges[at, likely] + edges[at, likely + 1]) / 2
    if cohort.first["x"].ndim == 1:
        lower, upper, middle = lower[:, 0], upper[:, 0], middle[:, 0]
    return Quantiles(
        q, names, lower, upper, found.round().to(torch.int64), 1, middle, noise=cohort.privacy, count_error=off
    )


def _locate(counts: torch.Tensor, share: float, n: float, least: int) -> tuple[int, int] | None:
    """(first, last) edge around the value of rank ceil(share · n), with at least `least` values between; None outside.

    `counts` float64[cells + 1]: how many values are at or below each edge."""
    rank = max(math.ceil(share * n), 1)
    last = int((counts >= rank).to(torch.int8).argmax())
    if last == 0 or float(counts[last]) < rank:
        return None
    first = last - 1
    while float(counts[last] - counts[first]) < least and (first > 0 or last < len(counts) - 1):
        # Towards the side that has the values of nearer rank.
        left = first > 0 and (last == len(counts) - 1 or rank - counts[first] <= counts[last] - rank + 1)
        first, last = (first - 1, last) if left else (first, last + 1)
    return first, last


def _grid(lower: torch.Tensor, upper: torch.Tensor, cells: int, *, shared: bool) -> torch.Tensor:
    """float64[quantiles, columns, cells + 1]: edges from just below `lower` to `upper`; one grid for all while `shared`."""
    low, high = (lower[:1], upper[:1]) if shared else (lower, upper)
    part = torch.arange(cells + 1, dtype=torch.float64) / cells
    edges = low[..., None] * (1 - part) + high[..., None] * part
    if shared:  # a value at the very lowest counts
        edges[..., 0] = torch.nextafter(edges[..., 0], torch.tensor(-math.inf, dtype=torch.float64))
    else:  # the very numbers that were asked before, so that cells fit
        edges[..., 0] = low
    edges[..., -1] = high
    return edges


def _steps(low: torch.Tensor, high: torch.Tensor, sections: int, tolerance: float | None) -> int:
    widest = float((high - low).max())
    wanted = widest * 2.0**-20 if tolerance is None else tolerance
    if not wanted > 0 or sections < 2:
        raise BadInput("bisection takes a positive tolerance, and 2 sections or more")
    steps = max(1, math.ceil(math.log(widest / wanted) / math.log(sections) - 1e-9))
    if steps > MAX_STEPS:
        raise BadInput(f"tolerance={tolerance} takes {steps} rounds: {MAX_STEPS} are the most; give more sections")
    return steps


def _read_q(q: float | Values) -> list[float]:
    wanted = torch.as_tensor(q, dtype=torch.float64).reshape(-1).tolist()
    if not wanted or not all(0 <= share <= 1 for share in wanted):
        raise BadInput("quantiles are between 0 and 1")
    return [float(share) for share in wanted]


def _read_bound(bound: Bound, width: int) -> torch.Tensor:
    numbers = torch.as_tensor(bound, dtype=torch.float64)
    if numbers.ndim > 1 or numbers.numel() not in (1, width) or not bool(torch.isfinite(numbers).all()):
        raise BadInput(f"bounds are two finite numbers, or two lists of one for each of the {width} columns")
    return numbers.expand(width).clone()
