"""Histograms over public edges: owners count, by sorting, how many values lie below each edge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch

from smpc_fl.errors import BadInput
from smpc_fl.pointers.pointer import PointerTensor
from smpc_fl.statistics.cohort import Cohort, Part
from smpc_fl.statistics.columns import check_missing, count_of, one_column, rows_of
from smpc_fl.statistics.display import number, table
from smpc_fl.statistics.noise import Result, whole
from smpc_fl.statistics.options import Options, Settings, Values
from smpc_fl.statistics.picture import Picture
from smpc_fl.statistics.remote import below, cat, where
from smpc_fl.statistics.suppression import Suppress, at_owner, check_suppress, small_cells

MAX_EDGES = 1 << 16


@dataclass(frozen=True, repr=False, eq=False)
class Histogram(Result):
    """`counts` float64[bins] of `edges` float64[bins + 1], exact without privacy, NaN where suppressed. `below` and `above`:
    outside the edges; `missing`: NaN; `left_out`: in cells that owners suppressed themselves."""

    edges: torch.Tensor
    counts: torch.Tensor
    below: float
    above: float
    missing: int
    left_out: int

    def picture(self) -> Picture:
        return Picture("bars", "Histogram", "value", "rows", self.counts.tolist(), self.edges.tolist())

    def __repr__(self) -> str:
        pairs = zip(self.edges.tolist(), self.edges.tolist()[1:], strict=False)
        bins = [f"[{number(low)}, {number(high)})" for low, high in pairs]
        rows = [("below", self.below), *zip(bins, self.counts.tolist(), strict=True), ("above", self.above)]
        return table(("bin", "rows"), rows)


def histogram(
    pointers: Sequence[PointerTensor], edges: Values, *, suppress: Suppress = "total", **options: Unpack[Options]
) -> Histogram:
    """How many values of one column lie in each bin, as `numpy.histogram(values, edges)` counts them: bins are closed
    below, the last one above, too. Exact; one round of len(edges) + 3 numbers. `suppress`: see `suppression.py`."""
    settings = Settings(**options)
    check_suppress(suppress, settings)
    cohort = Cohort(settings, x=pointers)
    x = one_column(cohort.first["x"], "x").to(torch.float64)
    bounds = read_edges(edges)
    inner = torch.cat([bounds[:-1], next_above(bounds[-1:])])
    valid = ~x.isnan()
    low = below(where(valid, x, torch.inf).msort(), inner)  # a search does not know where NaN belongs
    found = valid.sum()
    cells = cat([low[:1], low[1:] - low[:-1], found - low[-1:]]).to(torch.float64)
    if cohort.privacy:
        # A row is in one cell, or has NaN.
        noisy = cohort.totals({"cells": (cells, 1.0), "missing": count_of(~valid, 1.0)}, 1.0)
        counts, off = whole(noisy["cells"]), float(noisy.error["missing"])
        return Histogram(
            bounds, counts[1:-1], float(counts[0]), float(counts[-1]), int(whole(noisy["missing"])), 0,
            noise=cohort.privacy, count_error=off,
        )  # fmt: skip
    parts: dict[str, Part] = {"rows": rows_of(x, cohort.rows_scale), "found": (found, cohort.rows_scale)}
    if suppress == "owner":
        keep, parts["left_out"] = at_owner(cells, cohort.settings.min_count, cohort.rows_scale)
        cells = where(keep, cells, 0.0)
    parts["cells"] = (cells, cohort.rows_scale)
    totals = cohort.totals(parts)
    missing = totals["rows"] - totals["found"]
    check_missing(missing, totals["rows"], ["x"], cohort.settings)
    counts = totals["cells"]
    if suppress == "total":
        counts = torch.where(small_cells(counts, cohort.settings.min_count), torch.nan, counts)
    left_out = int(totals["left_out"]) if suppress == "owner" else 0
    return Histogram(bounds, counts[1:-1], float(counts[0]), float(counts[-1]), int(missing), left_out)


def read_edges(edges: Values) -> torch.Tensor:
    """float64[2 or more], finite, increasing. Raises `BadInput`."""
    try:
        bounds = torch.as_tensor(edges, dtype=torch.float64).clone()
    except (TypeError, ValueError, RuntimeError):
        raise BadInput("edges are public, increasing numbers") from None
    if bounds.ndim != 1 or not 2 <= len(bounds) <= MAX_EDGES or not bool(torch.isfinite(bounds).all()):
        raise BadInput(f"edges are 2 to {MAX_EDGES} finite numbers, in one dimension")
    if bool((bounds.diff() <= 0).any()):
        raise BadInput("edges increase: sort them and leave none twice")
    return bounds


def next_above(values: torch.Tensor) -> torch.Tensor:
    """The next larger float64."""
    return torch.nextafter(values, torch.full_like(values, math.inf))
