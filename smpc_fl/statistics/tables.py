"""Contingency tables of two columns of codes, and Pearson's chi-square test of independence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch

from smpc_fl.errors import BadInput
from smpc_fl.jobs import Privacy
from smpc_fl.pointers.pointer import PointerTensor
from smpc_fl.statistics.cohort import Cohort, Part
from smpc_fl.statistics.columns import check_missing, count_of, one_column, rows_of
from smpc_fl.statistics.display import number, table
from smpc_fl.statistics.distributions import chi_square_upper
from smpc_fl.statistics.groups import Categories, one_hot, read_categories
from smpc_fl.statistics.noise import DEVIATIONS, Result, whole
from smpc_fl.statistics.options import Options, Settings
from smpc_fl.statistics.picture import Picture
from smpc_fl.statistics.remote import products, where
from smpc_fl.statistics.suppression import Suppress, at_owner, check_suppress, small_cells


@dataclass(frozen=True, repr=False, eq=False)
class ContingencyTable(Result):
    """`counts` float64[rows, columns], exact without privacy, NaN where suppressed; `other`: rows of the data in no cell."""

    rows: list[str]
    columns: list[str]
    counts: torch.Tensor
    other: int
    left_out: int

    def picture(self) -> Picture:
        cells = self.counts.reshape(-1).tolist()
        return Picture("cells", "Contingency table", "b", "a", cells, labels=self.rows, columns=self.columns)

    def __repr__(self) -> str:
        lines = [(label, *row) for label, row in zip(self.rows, self.counts.tolist(), strict=True)]
        return table(("", *self.columns), lines)


@dataclass(frozen=True, repr=False)
class ChiSquare(Result):
    """`least_expected`: the smallest expected count; below 5 the p-value is rough (Cochran, Biometrics 10, 1954). With privacy
    it is rough, too, where `count_error` is not far below that."""

    statistic: float
    p_value: float
    degrees: int
    count: int
    least_expected: float

    def __repr__(self) -> str:
        return (
            f"chi-square {number(self.statistic)} with {self.degrees} degrees of freedom, p = {self.p_value:.3g}, "
            f"{self.count} rows, least expected count {number(self.least_expected)}"
        )


def crosstab(
    a: Sequence[PointerTensor],
    b: Sequence[PointerTensor],
    rows: Categories,
    columns: Categories,
    *,
    suppress: Suppress = "total",
    **options: Unpack[Options],
) -> ContingencyTable:
    """How many rows have each pair of codes of `a` [rows] and `b` [rows]; exact, one round of len(rows) · len(columns) + 3
    numbers. Cells of fewer than `min_count` rows are suppressed, see `suppression.py`; no margins are given, and whoever
    has them from elsewhere may find a suppressed cell again."""
    settings = Settings(**options)
    check_suppress(suppress, settings)
    counts, other, left_out, noise, off = _cells(a, b, rows, columns, settings, owner=suppress == "owner")
    if noise:
        counts = whole(counts)
    elif suppress == "total":
        counts = torch.where(small_cells(counts, settings.min_count), torch.nan, counts)
    return ContingencyTable(
        read_categories(rows, "rows")[0], read_categories(columns, "columns")[0], counts, other, left_out,
        noise=noise, count_error=off,
    )  # fmt: skip


def chi_square(
    a: Sequence[PointerTensor],
    b: Sequence[PointerTensor],
    rows: Categories,
    columns: Categories,
    *,
    correction: bool = True,
    **options: Unpack[Options],
) -> ChiSquare:
    """Pearson's chi-square test of independence, with Yates' correction for two by two, as `scipy.stats.chi2_contingency`;
    one round, exact but for float64. The session has the whole table on the way. Raises `BadInput` for a category that
    no row has, and for fewer than `min_count` rows.

    With privacy a cell's variance under independence is about its expected count and that of the noise, so squares are over
    both: roughly chi-square again (Gaboardi et al., "Differentially Private Chi-Squared Hypothesis Testing", ICML 2016, sum
    up its exact law by simulation). `BadInput` where a row or a column of the table drowns in the noise."""
    settings = Settings(**options)
    counts, _, _, noise, off = _cells(a, b, rows, columns, settings, owner=False)
    n = counts.sum()
    if float(n) < settings.min_count:
        raise BadInput(f"fewer than min_count={settings.min_count} rows have a listed pair of codes")
    for field, categories, margin in (("rows", rows, counts.sum(1)), ("columns", columns, counts.sum(0))):
        labels = read_categories(categories, field)[0]
        drowned = off * math.sqrt(counts.numel() / len(labels))
        if empty := [label for label, total in zip(labels, margin.tolist(), strict=True) if total <= drowned]:
            none = "the noise hides how many rows have" if noise else "no row has"
            raise BadInput(f"{none} {', '.join(empty)} of {field}: leave the category out of the test")
        if len(labels) < 2:
            raise BadInput(f"{field}: a test of independence needs two categories or more")
    expected = torch.outer(counts.sum(1), counts.sum(0)) / n
    degrees = (counts.shape[0] - 1) * (counts.shape[1] - 1)
    apart = counts - expected
    if correction and degrees == 1:
        apart = apart.abs() - torch.clamp(apart.abs(), max=0.5)
    statistic = float((apart.square() / (expected + (off / DEVIATIONS) ** 2)).sum())
    return ChiSquare(
        statistic, chi_square_upper(statistic, degrees), degrees, round(float(n)), float(expected.min()),
        noise=noise, count_error=off,
    )  # fmt: skip


def _cells(
    a: Sequence[PointerTensor],
    b: Sequence[PointerTensor],
    rows: Categories,
    columns: Categories,
    settings: Settings,
    *,
    owner: bool,
) -> tuple[torch.Tensor, int, int, Privacy | None, float]:
    """(counts float64[rows, columns], rows in no cell, rows that owners left out, the noise that is in them, how far it may
    move a count)."""
    (_, row_codes), (_, column_codes) = read_categories(rows, "rows"), read_categories(columns, "columns")
    cohort = Cohort(settings, a=a, b=b)
    left, right = (one_column(cohort.first[field], field).to(torch.float64) for field in ("a", "b"))
    cells = products(one_hot(left, row_codes), one_hot(right, column_codes))
    scale = cohort.rows_scale
    complete = ~(left.isnan() | right.isnan())
    if cohort.privacy:
        # A row is in one cell, or in none.
        noisy = cohort.totals({"cells": (cells, 1.0), "other": (complete.sum() - cells.sum(), 1.0)}, 1.0)
        return noisy["cells"], int(whole(noisy["other"])), 0, cohort.privacy, float(noisy.error["other"])
    parts: dict[str, Part] = {
        "rows": rows_of(left, scale),
        "complete": count_of(complete, scale),
        "in_cells": (cells.sum(), scale),
    }
    if owner:
        keep, parts["left_out"] = at_owner(cells, cohort.settings.min_count, scale)
        cells = where(keep, cells, 0.0)
    totals = cohort.totals(parts | {"cells": (cells, scale)})
    missing = totals["rows"] - totals["complete"]
    check_missing(missing, totals["rows"], ["a or b"], cohort.settings)
    other = int(totals["complete"] - totals["in_cells"])
    return totals["cells"], other, int(totals["left_out"]) if owner else 0, None, 0.0
