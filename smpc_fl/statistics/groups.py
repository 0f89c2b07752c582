"""Groups by a public list of categories: counts, sums, means of each group, and tables of two such columns.

Owners turn a column of codes into one-hot columns, by comparison with the public codes, and multiply: no shape depends on
which codes there are. Codes that are not in the list are counted, all together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

import torch

from smpc_fl.errors import BadInput
from smpc_fl.pointers.pointer import PointerTensor
from smpc_fl.statistics.cohort import Cohort, Part
from smpc_fl.statistics.columns import Columns, check_missing, columns, count_of, one_column, rows_of, warn_clamped
from smpc_fl.statistics.display import table
from smpc_fl.statistics.noise import Result, whole
from smpc_fl.statistics.options import Bound, Options, Settings
from smpc_fl.statistics.picture import Picture
from smpc_fl.statistics.remote import products, where
from smpc_fl.statistics.suppression import Suppress, at_owner, check_suppress, small_cells

Categories = Mapping[str, float] | Sequence[float]
"""{label: code}, or codes alone."""
MAX_CATEGORIES = 1024


@dataclass(frozen=True, repr=False, eq=False)
class GroupBy(Result):
    """`counts` and `sums` float64[groups, columns] (or [groups] for one column), NaN where suppressed; `other`: rows of no
    listed category, `missing`: of none at all (NaN). `error` bounds the wire's rounding of a sum, or with privacy the noise."""

    labels: list[str]
    names: list[str]
    counts: torch.Tensor
    sums: torch.Tensor
    error: torch.Tensor
    other: int
    missing: int
    left_out: int

    @property
    def means(self) -> torch.Tensor:
        return self.sums / self.counts

    def picture(self) -> Picture:
        means = self.means.reshape(-1).tolist()
        return Picture("cells", "Means of groups", "column", "group", means, labels=self.labels, columns=self.names)

    def __repr__(self) -> str:
        counts, means, sums = (
            part.reshape(len(self.labels), -1).tolist() for part in (self.counts, self.means, self.sums)
        )
        rows = [
            (label, name, counts[i][j], means[i][j], sums[i][j])
            for i, label in enumerate(self.labels)
            for j, name in enumerate(self.names)
        ]
        return table(("group", "column", "count", "mean", "sum"), rows)


def group_by(
    values: Sequence[PointerTensor],
    by: Sequence[PointerTensor],
    categories: Categories,
    *,
    bound: Bound,
    suppress: Suppress = "total",
    **options: Unpack[Options],
) -> GroupBy:
    """Count, sum and mean of `values` float[rows] or float[rows, c] in each group of the codes `by` [rows]; one round of
    2 · groups · columns + few numbers. `bound`: as in `mean`. Counts are exact. Groups of fewer than `min_count`
    values are suppressed, see `suppression.py`. The owners need memory for rows · groups numbers."""
    settings = Settings(**options)
    check_suppress(suppress, settings)
    labels, codes = read_categories(categories, "categories")
    cohort = Cohort(settings, values=values, by=by)
    column = columns(cohort.first["values"], bound, "values", cohort.settings, table=True)
    key = one_column(cohort.first["by"], "by").to(torch.float64)
    member = one_hot(key, codes)
    rows = cohort.rows_scale
    counts = products(member, column.valid.to(torch.float64))
    sums = products(member, column.values)
    if cohort.privacy:
        return _noisy(cohort, labels, column, key, member, {"counts": (counts, 1.0), "sums": (sums, column.scale)})
    parts: dict[str, Part] = {
        "rows": rows_of(key, rows),
        "keyed": count_of(~key.isnan(), rows),
        "listed": (member.sum(), rows),
        "valid": count_of(column.valid, rows),
        "outside": count_of(column.outside, rows),
    }
    if suppress == "owner":
        keep, parts["left_out"] = at_owner(counts, cohort.settings.min_count, rows)
        counts, sums = where(keep, counts, 0.0), where(keep, sums, 0.0)
    parts |= {"counts": (counts, rows), "sums": (sums, rows * column.scale)}
    totals = cohort.totals(parts)
    check_missing((totals["rows"] - totals["keyed"]).reshape(1), totals["rows"], ["by"], cohort.settings)
    check_missing(totals["rows"] - totals["valid"], totals["rows"], column.names, cohort.settings)
    warn_clamped(totals, ("outside", column))
    shown, added, error = totals["counts"], totals["sums"], totals.error["sums"].expand_as(totals["sums"])
    if suppress == "total":
        hidden = torch.stack([small_cells(cell, cohort.settings.min_count) for cell in shown.T], 1)
        shown, added = torch.where(hidden, torch.nan, shown), torch.where(hidden, torch.nan, added)
    shape = shown.shape[: cohort.first["values"].ndim]
    return GroupBy(
        labels,
        column.names,
        shown.reshape(shape),
        added.reshape(shape),
        error.reshape(shape),
        other=int(totals["keyed"] - totals["listed"]),
        missing=int(totals["rows"] - totals["keyed"]),
        left_out=int(totals["left_out"]) if suppress == "owner" else 0,
    )


def _noisy(
    cohort: Cohort,
    labels: list[str],
    column: Columns,
    key: PointerTensor,
    member: PointerTensor,
    parts: dict[str, Part],
) -> GroupBy:
    """With privacy: sums of groups of fewer rows than the noise may make are NaN, the others within what their counts allow."""
    # A row is in one group, where it adds to a count and a sum of each column, or in none.
    row_norm = math.sqrt(2 * len(column.names))
    totals = cohort.totals(
        parts | {"other": ((~key.isnan()).sum() - member.sum(), 1.0), "missing": count_of(key.isnan(), 1.0)}, row_norm
    )
    counts, off = whole(totals["counts"]), float(totals.error["missing"])
    sums = torch.minimum(torch.maximum(totals["sums"], -counts * column.scale), counts * column.scale)
    sums = torch.where(counts < cohort.least(off), torch.nan, sums)
    error = totals.error["sums"].expand_as(sums)
    counts, sums, error = (part.reshape(part.shape[: cohort.first["values"].ndim]) for part in (counts, sums, error))
    other, missing = (int(whole(totals[name])) for name in ("other", "missing"))
    return GroupBy(labels, column.names, counts, sums, error, other, missing, 0, noise=cohort.privacy, count_error=off)


def one_hot(key: PointerTensor, codes: torch.Tensor) -> PointerTensor:
    """float64[rows, codes]: 1 where the key is the code."""
    member: PointerTensor = (key.unsqueeze(1) == codes).to(torch.float64)
    return member


def read_categories(categories: Categories, field: str) -> tuple[list[str], torch.Tensor]:
    """(labels, codes float64[k]). Raises `BadInput` for none, too many, or one twice."""
    named = (
        categories if isinstance(categories, Mapping) else {f"{code:g}": code for code in _numbers(categories, field)}
    )
    codes = torch.tensor([float(code) for code in named.values()], dtype=torch.float64)
    given = len(categories)
    if not 1 <= given <= MAX_CATEGORIES or len(set(codes.tolist())) != given or not bool(torch.isfinite(codes).all()):
        raise BadInput(f"{field}: 1 to {MAX_CATEGORIES} codes, finite and none twice, are needed")
    return [str(label) for label in named], codes


def _numbers(categories: Sequence[float], field: str) -> list[float]:
    try:
        return [float(code) for code in categories]
    except (TypeError, ValueError):
        raise BadInput(f"{field}: codes are numbers; name them as {{'female': 0, 'male': 1}}") from None
