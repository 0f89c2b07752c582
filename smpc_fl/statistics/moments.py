"""Count, mean, variance, covariance and correlation, from sums and sums of products.

One round each. With Q = Σ x², S = Σ x, n rows: mean S/n, variance (Q - S²/n) / (n - ddof). The wire is off by at most e in a
sum (`cohort.py`), so the mean by e_S/n and the variance by (e_Q + (2|S| e_S + e_S²)/n) / (n - ddof); float64 itself cancels
where the mean is much larger than the spread (Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance",
American Statistician 37(3), 1983): subtract a public guess first, as `p - 120.0`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch

from smpc_fl.errors import BadInput
from smpc_fl.pointers.pointer import PointerTensor
from smpc_fl.statistics.cohort import Cohort, Part, Totals, powers_above
from smpc_fl.statistics.columns import (
    Columns,
    check_missing,
    columns,
    count_of,
    rows_of,
    warn_clamped,
)
from smpc_fl.statistics.display import number, table
from smpc_fl.statistics.noise import Result, positive_semidefinite, symmetric, whole
from smpc_fl.statistics.options import Bound, Options, Settings, SuppressedWarning
from smpc_fl.statistics.remote import cat, ones, products, where


@dataclass(frozen=True, repr=False, eq=False)
class Summary(Result):
    """Moments of every column; float64 of the columns' shape, `count` and `missing` int64. `mean_error` and the others say
    how far the rounding on the wire, or with privacy the noise, may have moved them."""

    names: list[str]
    rows: int
    count: torch.Tensor
    missing: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor
    mean_error: torch.Tensor
    variance_error: torch.Tensor

    @property
    def std(self) -> torch.Tensor:
        return self.variance.sqrt()

    @property
    def std_error(self) -> torch.Tensor:
        """|√a - √b| = |a - b| / (√a + √b), and at most √|a - b|."""
        return torch.minimum(self.variance_error / self.std, self.variance_error.sqrt())

    def __repr__(self) -> str:
        parts = (self.count, self.missing, self.mean, self.std, self.mean_error)
        rows = zip(self.names, *(part.reshape(-1).tolist() for part in parts), strict=True)
        return table(("", "count", "missing", "mean", "std", "mean off by at most"), rows)


@dataclass(frozen=True, repr=False, eq=False)
class Covariance(Result):
    """`matrix` float64[c, c] over `rows` rows without NaN in any column, `mean` float64[c]; `error` bounds the wire's
    rounding (with privacy: the noise) of each covariance, `correlation_error` that of each correlation, to first order."""

    names: list[str]
    rows: int
    mean: torch.Tensor
    matrix: torch.Tensor
    error: torch.Tensor

    @property
    def correlation(self) -> torch.Tensor:
        """Pearson's r float64[c, c]; NaN for a column that is constant."""
        spread = self.matrix.diagonal().clamp(min=0).sqrt()
        return self.matrix / torch.outer(spread, spread)

    @property
    def correlation_error(self) -> torch.Tensor:
        relative = self.error.diagonal() / self.matrix.diagonal() / 2
        spread = self.matrix.diagonal().clamp(min=0).sqrt()
        return self.error / torch.outer(spread, spread) + self.correlation.abs() * (relative[:, None] + relative)

    def __repr__(self) -> str:
        return table(("", *self.names), [(n, *row) for n, row in zip(self.names, self.matrix.tolist(), strict=True)])


def count(pointers: Sequence[PointerTensor], **options: Unpack[Options]) -> torch.Tensor:
    """How many values of each column are not NaN, over all owners: int64[columns], exact. As `DataFrame.count`."""
    cohort = Cohort(Settings(**options), x=pointers)
    valid = ~cohort.first["x"].to(torch.float64).isnan()
    totals = cohort.totals({"count": count_of(valid, cohort.rows_scale)}, math.sqrt(_width(valid)))
    return whole(totals["count"]).to(torch.int64)


def mean(pointers: Sequence[PointerTensor], *, bound: Bound, **options: Unpack[Options]) -> torch.Tensor:
    """The mean over all rows of all owners: float64[columns]. `bound`: no |value| is larger (one number, or one a
    column); what is beyond counts as ±bound, with a warning. One round; off by at most N² · 2^-61 · bound · max_rows / rows."""
    cohort, column, totals = _sums(pointers, bound, options, squares=False)
    return _mean(cohort, column, totals)


def variance(
    pointers: Sequence[PointerTensor], *, bound: Bound, ddof: int = 1, **options: Unpack[Options]
) -> torch.Tensor:
    """The variance over all rows of all owners, over rows - `ddof`; otherwise as `mean`."""
    return describe(pointers, bound=bound, ddof=ddof, **options).variance


def std(pointers: Sequence[PointerTensor], *, bound: Bound, ddof: int = 1, **options: Unpack[Options]) -> torch.Tensor:
    """The standard deviation; otherwise as `variance`."""
    return describe(pointers, bound=bound, ddof=ddof, **options).std


def describe(pointers: Sequence[PointerTensor], *, bound: Bound, ddof: int = 1, **options: Unpack[Options]) -> Summary:
    """Count, missing values, mean, variance and their errors, in one round; otherwise as `mean`."""
    cohort, column, totals = _sums(pointers, bound, options, squares=True)
    n, s, q = totals["count"], totals["sum"], totals["squares"]
    e_n, e_s, e_q = (totals.error[name] for name in ("count", "sum", "squares"))
    least = cohort.least(float(e_n.max()))
    left = torch.where(n > ddof, n - ddof, torch.nan)
    spread = (q - s * s / n).clamp(min=0) / left
    mean_error, variance_error = e_s / n, (e_q + (2 * s.abs() * e_s + e_s * e_s) / n) / left
    if cohort.privacy:
        mean, spread = s / n, torch.minimum(spread, column.bound.square())
        # Independent noise in all three, to first order.
        mean_error = torch.hypot(e_s, mean * e_n) / n
        variance_error = (e_q**2 + (2 * mean * e_s) ** 2 + ((mean**2 - spread) * e_n) ** 2).sqrt() / n
    return Summary(
        names=column.names,
        rows=int(totals["rows"]),
        count=n.to(torch.int64),
        missing=totals["missing"].to(torch.int64),
        mean=_mean(cohort, column, totals),
        variance=torch.where(n < least, torch.nan, spread),
        mean_error=mean_error,
        variance_error=variance_error,
        noise=cohort.privacy,
        count_error=float(e_n.max()) if cohort.privacy else 0.0,
    )


def covariance(
    pointers: Sequence[PointerTensor], *, bound: Bound, ddof: int = 1, **options: Unpack[Options]
) -> Covariance:
    """The covariance matrix of the columns of float[rows, c], over rows - `ddof`, from rows without any NaN; one round of
    (c + 1)² + c + 1 numbers. Raises `BadInput` for fewer than max(min_count, 2) rows; otherwise as `mean`."""
    cohort = Cohort(Settings(**options), x=pointers)
    column = columns(cohort.first["x"], bound, "x", cohort.settings, table=True)
    complete = column.valid.all(1)
    scale = torch.cat([torch.ones(1, dtype=torch.float64), column.scale])
    products = gram(complete, [column.values * (1 / column.scale)])
    parts = {
        "rows": rows_of(cohort.first["x"], cohort.rows_scale),
        "outside": count_of(column.outside, cohort.rows_scale),
    }
    # A row's part of ZᵀZ is zzᵀ, whose norm is that of z, squared: each of its 1 + c elements is within ±1.
    totals = cohort.totals(cohort.checked(parts) | {"products": (products, cohort.rows_scale)}, len(scale))
    check_complete(totals, cohort.settings, ["a column"])
    warn_clamped(totals, ("outside", column))
    sums, e = totals["products"], float(totals.error["products"].max())
    if cohort.privacy:
        sums = symmetric(sums)
    n, s = sums[0, 0], sums[0, 1:]
    least = max(cohort.least(e), ddof + 1)
    if n < least:
        raise BadInput(f"x: fewer than {number(least)} rows are complete over all owners")
    left, rescale = n - ddof, torch.outer(scale, scale)[1:, 1:]
    matrix = (sums[1:, 1:] - torch.outer(s, s) / n) / left
    error = (e + (e * (s.abs()[:, None] + s.abs()) + e * e) / n) / left
    if cohort.privacy:
        matrix, error = positive_semidefinite(matrix), _noise_error(matrix, s / n, e) / n
    return Covariance(
        column.names, int(n), s / n * column.scale, matrix * rescale, error * rescale,
        noise=cohort.privacy, count_error=e if cohort.privacy else 0.0,
    )  # fmt: skip


def _noise_error(matrix: torch.Tensor, mean: torch.Tensor, e: float) -> torch.Tensor:
    """n times how far noise of `e` in each of the sums of products moves covariances, to first order; those off the diagonal are
    means of two."""
    own = torch.eye(len(mean), dtype=torch.float64)
    means = mean[:, None] ** 2 + mean**2
    squares = (1 + own) / 2 + means * (1 + own) / 2 + (torch.outer(mean, mean) - matrix) ** 2
    return e * squares.sqrt()


def correlation(pointers: Sequence[PointerTensor], *, bound: Bound, **options: Unpack[Options]) -> torch.Tensor:
    """Pearson's correlation matrix float64[c, c]; otherwise as `covariance`."""
    return covariance(pointers, bound=bound, **options).correlation


def gram(complete: PointerTensor, parts: Sequence[PointerTensor]) -> PointerTensor:
    """ZᵀZ of Z = [1, parts…], float64[rows, 1 + columns] within ±1, over the rows where `complete` is true."""
    z = where(complete.unsqueeze(1), cat([ones(parts[0][:, :1]), *parts], 1), 0.0)
    return products(z, z)


def check_complete(totals: Totals, settings: Settings, fields: Sequence[str]) -> None:
    """`BadInput` for rows with NaN in `fields`, unless they are to be omitted; "products" has the complete ones."""
    if settings.privacy is None:
        missing = totals["rows"] - totals["products"][0, 0]
        check_missing(missing.reshape(1), totals["rows"], [" or ".join(fields)], settings)


def _sums(
    pointers: Sequence[PointerTensor], bound: Bound, options: Options, *, squares: bool
) -> tuple[Cohort, Columns, Totals]:
    cohort = Cohort(Settings(**options), x=pointers)
    column = columns(cohort.first["x"], bound, "x", cohort.settings)
    rows, scale = cohort.rows_scale, column.scale
    parts: dict[str, Part] = {"count": count_of(column.valid, rows), "sum": (column.values.sum(0), rows * scale)}
    if squares:
        square = column.bound.square()
        parts["squares"] = (column.values.square().sum(0), rows * (square if column.tight else powers_above(square)))
    if cohort.privacy:
        # A row has either NaN or a value, which adds to all of the others.
        row_norm = math.sqrt(len(parts) * _width(column.valid))
        totals = cohort.totals(parts | {"missing": count_of(~column.valid, rows)}, row_norm)
        totals |= {name: whole(totals[name]) for name in ("count", "missing")}
        totals["rows"] = (totals["count"] + totals["missing"]).max()
        return cohort, column, totals
    parts |= {"rows": rows_of(cohort.first["x"], rows), "outside": count_of(column.outside, rows)}
    totals = cohort.totals(parts)
    totals["missing"] = totals["rows"] - totals["count"]
    check_missing(totals["missing"], totals["rows"], column.names, cohort.settings)
    warn_clamped(totals, ("outside", column))
    return cohort, column, totals


def _width(valid: PointerTensor) -> int:
    """Columns."""
    return math.prod(d for d in valid.known_shape[1:] if d is not None)


def _mean(cohort: Cohort, column: Columns, totals: Totals) -> torch.Tensor:
    """NaN where it is over too few rows."""
    least = cohort.least(float(totals.error["count"].max()))
    small = totals["count"] < least
    if bool(small.any()):
        names = [name for name, few in zip(column.names, small.reshape(-1).tolist(), strict=True) if few]
        why = f"min_count={cohort.settings.min_count} rows"
        if least > cohort.settings.min_count:
            why = f"the {least:.0f} rows that the noise may make"
        warnings.warn(
            f"{', '.join(names)}: fewer than {why} over all owners, suppressed", SuppressedWarning, stacklevel=4
        )
    value = totals["sum"] / totals["count"]
    return torch.where(small, torch.nan, value.clamp(-column.bound, column.bound) if cohort.privacy else value)
