"""Ordinary least squares from sufficient statistics: XᵀX, Xᵀy and yᵀy summed over owners are all that it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch

from smpc_fl.pointers.pointer import PointerTensor
from smpc_fl.statistics.cohort import Cohort
from smpc_fl.statistics.columns import columns, count_of, rows_of, warn_clamped
from smpc_fl.statistics.display import number
from smpc_fl.statistics.distributions import f_upper, t_quantile, t_two_sided
from smpc_fl.statistics.moments import check_complete, gram
from smpc_fl.statistics.noise import DEVIATIONS, symmetric
from smpc_fl.statistics.options import Bound, Options, Settings
from smpc_fl.statistics.regression import Coefficients, check_rows, design, inverse


@dataclass(frozen=True, repr=False, eq=False)
class LinearFit(Coefficients):
    """As statsmodels' `OLS(...).fit()`: t tests with `degrees` = rows - p degrees of freedom, `r_squared` about the mean (about
    0 without an intercept), `residual_variance`, the F test of all slopes together."""

    t_values: torch.Tensor
    degrees: int
    residual_variance: float
    r_squared: float
    f_statistic: float
    f_p_value: float

    @property
    def adjusted_r_squared(self) -> float:
        centred = int("intercept" in self.names)
        return 1 - (1 - self.r_squared) * (self.rows - centred) / self.degrees

    def _quantile(self, level: float) -> float:
        return t_quantile(level, self.degrees)

    def _summary(self) -> str:
        return (
            f"{self.rows} rows, R² {number(self.r_squared)}, residual variance {number(self.residual_variance)}, "
            f"F {number(self.f_statistic)} (p = {self.f_p_value:.3g})"
        )


def linear_regression(
    x: Sequence[PointerTensor],
    y: Sequence[PointerTensor],
    *,
    bound: Bound,
    y_bound: float,
    intercept: bool = True,
    names: Sequence[str] | None = None,
    **options: Unpack[Options],
) -> LinearFit:
    """Least squares of `y` [rows] on the columns of `x` [rows, c] over all rows of all owners; one round of (c + 2)² + few
    numbers. `bound`, `y_bound`: no |value| is larger (of `x`: one number, or one a column). Rows with NaN are refused,
    or omitted by `nan_policy`. Raises `BadInput` for a singular design, naming the columns, and for too few rows.

    With privacy standard errors, t tests and p-values count the noise, to first order; R² and the F test do not."""
    cohort = Cohort(Settings(**options), x=x, y=y)
    made = design(cohort, bound, True, names)  # products with ones give the means; without an intercept they go unused
    target = columns(cohort.first["y"], y_bound, "y", cohort.settings)
    products = gram(
        made.complete, [made.x.values * (1 / made.x.scale), (target.values * (1 / target.scale)).unsqueeze(1)]
    )
    parts = {
        "rows": rows_of(cohort.first["y"], cohort.rows_scale),
        "outside_x": count_of(made.x.outside, cohort.rows_scale),
        "outside_y": count_of(target.outside, cohort.rows_scale),
    }
    # A row's part of ZᵀZ is zzᵀ, whose norm is that of z, squared: 1, c columns and y are within ±1.
    row_norm = len(made.names) + 1
    totals = cohort.totals(cohort.checked(parts) | {"products": (products, cohort.rows_scale)}, row_norm)
    check_complete(totals, cohort.settings, ["x", "y"])
    warn_clamped(totals, ("outside_x", made.x), ("outside_y", target))
    return _solve(
        totals["products"], float(totals.error["products"].max()), made.names, made.scale, float(target.scale), intercept,
        cohort,
    )  # fmt: skip


def _solve(
    products: torch.Tensor,
    e: float,
    names: list[str],
    scale: torch.Tensor,
    y_scale: float,
    intercept: bool,
    cohort: Cohort,
) -> LinearFit:
    """`products` = ZᵀZ of Z = [1, x / scale, y / y_scale], each off by at most `e`."""
    noisy, deviation = cohort.privacy is not None, e / DEVIATIONS
    slopes = len(names) - 1
    parameters = slopes + intercept
    if noisy:
        products = symmetric(products)
        products[0, 0] = products[0, 0].round()
    n = float(products[0, 0])
    check_rows(n, parameters, cohort.settings.min_count)
    means = products[0, 1:] / n if intercept else torch.zeros(slopes + 1, dtype=torch.float64)
    # About the means, which is the same fit and loses fewer digits.
    about = products[1:, 1:] - n * torch.outer(means, means)
    off = e * (1 + 2 * float(means.abs().max()) + e / n) if intercept else e
    if noisy:  # in the spectral norm, [-means, I] from both sides
        off = spectral(deviation, slopes + 2) * (1 + float(means.square().sum())) / (2 * slopes)
    a, b, spread = about[:-1, :-1], about[:-1, -1], float(about[-1, -1])
    back = inverse(a, names[1:], off, noisy=noisy)
    beta = back @ b
    residual = max(spread - float(beta @ b), 0.0)
    degrees = int(n) - parameters
    variance = residual / degrees
    errors = (variance * back.diagonal()).sqrt()
    moved = back.abs().sum(1) * off * (1 + float(beta.abs().sum()))
    unit = y_scale / scale[1:]
    coefficients, standard, error = beta * unit, errors * unit, moved * unit
    if intercept:
        first = means[-1] - means[:-1] @ beta
        first_error = (variance * (1 / n + means[:-1] @ back @ means[:-1])).sqrt()
        first_moved = e / n * (1 + float(beta.abs().sum())) + float(means[:-1].abs() @ moved)
        coefficients = torch.cat([(first * y_scale)[None], coefficients])
        standard = torch.cat([(first_error * y_scale)[None], standard])
        error = torch.cat([torch.tensor([first_moved * y_scale], dtype=torch.float64), error])
    if noisy:
        kept = slice(0 if intercept else 1, -1)
        added = noise_of_fit(products[kept, kept], coefficients / y_scale * scale[kept.start :], deviation)
        added *= y_scale / scale[kept.start :]
        standard, error = torch.hypot(standard, added), DEVIATIONS * added
    t = coefficients / standard
    explained = spread - residual
    f = explained / slopes / variance if variance > 0 else math.inf
    return LinearFit(
        names=names if intercept else names[1:],
        coefficients=coefficients,
        standard_errors=standard,
        p_values=torch.tensor([t_two_sided(value, degrees) for value in t.tolist()], dtype=torch.float64),
        error=error,
        rows=int(n),
        t_values=t,
        degrees=degrees,
        residual_variance=variance * y_scale**2,
        r_squared=explained / spread if spread > 0 else math.nan,
        f_statistic=f,
        f_p_value=f_upper(f, slopes, degrees),
        noise=cohort.privacy,
        count_error=DEVIATIONS * deviation if noisy else 0.0,
    )


def noise_of_fit(gram: torch.Tensor, coefficients: torch.Tensor, deviation: float) -> torch.Tensor:
    """Standard deviations float64[p] of coefficients β = G⁻¹b, to first order, where noise W of `deviation` was added to all of
    M = [G, b; bᵀ, ·], which then was made symmetric.

    δβ = G⁻¹(δM v), v = [-β, 1], and δM = (W + Wᵀ) / 2 makes cov(δM v) = deviation² / 2 · (|v|² I + v vᵀ)."""
    back = torch.linalg.inv(gram)
    length = 1 + float(coefficients.square().sum())
    variance = length * back.square().sum(1) + (back @ coefficients).square()
    deviations: torch.Tensor = deviation * (variance / 2).sqrt()
    return deviations


def spectral(deviation: float, size: int) -> float:
    """What the largest eigenvalue of the symmetric half of such a noise seldom is above: 2 s √n of Wigner's semicircle, with
    s = deviation / √2 off the diagonal, and three such deviations more."""
    return deviation / math.sqrt(2) * (2 * math.sqrt(size) + DEVIATIONS)
