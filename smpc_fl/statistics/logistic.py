"""Logistic regression by Newton steps (iteratively reweighted least squares: McCullagh and Nelder, "Generalized Linear
Models", section 2.5), as federated in "GLORE", Wu et al., JAMIA 19(5), 2012.

Each step is one secure sum: the gradient Xᵀ(y - p), the Hessian XᵀWX and the log-likelihood at public coefficients β,
which travel as a literal of the expression. What the steps leak is in docs/statistics.md; how many there are is bounded
before the first one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch

from smpc_fl.errors import BadInput
from smpc_fl.pointers.pointer import PointerTensor
from smpc_fl.statistics.cohort import Cohort, Part, Totals, power_above
from smpc_fl.statistics.columns import check_missing, count_of, rows_of, warn_clamped
from smpc_fl.statistics.display import number
from smpc_fl.statistics.distributions import normal_quantile, normal_two_sided
from smpc_fl.statistics.options import Bound, Options, Settings
from smpc_fl.statistics.regression import Coefficients, Design, check_rows, design, inverse
from smpc_fl.statistics.remote import logsigmoid, products, where

MAX_STEPS = 50
_CONVERGED = 1e-8
"""Of the largest part of a step, in units of 1/bound: the next one would be about its square."""


@dataclass(frozen=True, repr=False, eq=False)
class LogisticFit(Coefficients):
    """As statsmodels' `Logit(...).fit()`: z tests, the log-likelihood of the fit and of the model with a constant alone (of
    p = 1/2 without an intercept), and the Newton steps, each a secure sum, that it took."""

    z_values: torch.Tensor
    log_likelihood: float
    null_log_likelihood: float
    steps: int

    @property
    def pseudo_r_squared(self) -> float:
        """McFadden's."""
        return 1 - self.log_likelihood / self.null_log_likelihood

    def _quantile(self, level: float) -> float:
        return normal_quantile(level)

    def _summary(self) -> str:
        return (
            f"{self.rows} rows, log-likelihood {number(self.log_likelihood)}, pseudo R² {number(self.pseudo_r_squared)}, "
            f"{self.steps} steps"
        )


def logistic_regression(
    x: Sequence[PointerTensor],
    y: Sequence[PointerTensor],
    *,
    bound: Bound,
    intercept: bool = True,
    names: Sequence[str] | None = None,
    steps: int = 25,
    **options: Unpack[Options],
) -> LogisticFit:
    """The maximum-likelihood fit of `y` [rows], 0 or 1 (or bool), on the columns of `x` [rows, c], over all rows of all
    owners: no penalty. Usually 5 to 9 rounds of p² + p + 1 numbers, p = c + 1; at most `steps`. An owner of one class
    only is nothing special. Raises `BadInput` for other labels, for one class over all owners, for a singular design and
    for classes that can be told apart without an error, whose fit is infinite. Otherwise as `linear_regression`. Refuses
    `privacy`: each step would be a noisy sum."""
    if not 1 <= steps <= MAX_STEPS:
        raise BadInput(f"steps={steps}: 1 to {MAX_STEPS} Newton steps, each is a secure sum")
    settings = Settings(**options)
    settings.refuse_privacy(
        "logistic_regression", "train a linear plan by Federation.train(privacy=…), whose rounds share one ε"
    )
    cohort = Cohort(settings, x=x, y=y)
    made = design(cohort, bound, intercept, names)
    label = cohort.first["y"].to(torch.float64)
    beta = torch.zeros(len(made.names), dtype=torch.float64)
    totals = _ask(cohort, made, label, beta, first=True)
    n, positive = _check_labels(cohort, made, totals)
    for taken in range(1, steps + 1):
        back = _back(totals, made.names, first=taken == 1)
        shift = back @ totals["gradient"]
        noise = float(totals.error["gradient"].max()) * float(back.abs().sum(1).max())
        if float(shift.abs().max()) <= max(_CONVERGED, 2 * noise):
            return _fit(made, beta + shift, back, totals, shift, n, positive, intercept, taken)
        beta = beta + shift
        if taken < steps:
            totals = _ask(cohort, made, label, beta, first=False)
    raise _unfit(steps)


def _ask(cohort: Cohort, made: Design, label: PointerTensor, beta: torch.Tensor, *, first: bool) -> Totals:
    """Gradient, Hessian and log-likelihood at `beta`; `first`: and what tells whether the data will do."""
    odds = made.z @ beta
    chance = odds.sigmoid()
    positive = label == 1
    residual = where(made.complete, positive.to(torch.float64) - chance, 0.0)
    weight = (chance * (1 - chance)).unsqueeze(1)
    per_row = where(positive, logsigmoid(odds), logsigmoid(-odds))
    likelihood = where(made.complete, per_row, 0.0)
    rows = cohort.rows_scale
    parts: dict[str, Part] = {
        "gradient": (products(made.z, residual), rows),
        "hessian": (products(made.z, made.z * weight), rows),
        "likelihood": (likelihood.sum(), rows * power_above(math.log(2) + float(beta.abs().sum()))),
    }
    if first:
        parts |= {
            "rows": rows_of(label, rows),
            "complete": count_of(made.complete, rows),
            "positive": count_of(made.complete & positive, rows),
            "negative": count_of(made.complete & (label == 0), rows),
            "outside": count_of(made.x.outside, rows),
        }
    return cohort.totals(parts)


def _check_labels(cohort: Cohort, made: Design, totals: Totals) -> tuple[int, int]:
    """(complete rows, those of class 1); `BadInput` where no fit can be."""
    check_missing((totals["rows"] - totals["complete"]).reshape(1), totals["rows"], ["x or y"], cohort.settings)
    warn_clamped(totals, ("outside", made.x))
    n, positive, negative = (int(totals[name]) for name in ("complete", "positive", "negative"))
    if positive + negative < n:
        raise BadInput(
            f"y: {n - positive - negative} labels, over all owners, are neither 0 nor 1: compare first, as y == 3"
        )
    check_rows(n, len(made.names), cohort.settings.min_count)
    if min(positive, negative) < cohort.settings.min_count:
        raise BadInput(
            f"y: one class has fewer than min_count={cohort.settings.min_count} rows over all owners together: there is "
            "nothing to tell apart"
        )
    return n, positive


def _back(totals: Totals, names: list[str], *, first: bool) -> torch.Tensor:
    """The inverse Hessian. It is the design's own at β = 0; later ones vanish where the fit goes to infinity."""
    try:
        return inverse(totals["hessian"], names, float(totals.error["hessian"].max()))
    except BadInput:
        if first:
            raise
    raise _unfit(None)


def _unfit(steps: int | None) -> BadInput:
    after = "" if steps is None else f" in {steps} steps"
    return BadInput(
        f"no coefficients were found{after}: x tells the classes of y apart, almost or altogether, so that the fit goes to "
        "infinity; leave out the columns that do, or give more steps"
    )


def _fit(
    made: Design,
    beta: torch.Tensor,
    back: torch.Tensor,
    totals: Totals,
    shift: torch.Tensor,
    n: int,
    positive: int,
    intercept: bool,
    steps: int,
) -> LogisticFit:
    standard = back.diagonal().sqrt() / made.scale
    coefficients = beta / made.scale
    z = coefficients / standard
    share = positive / n if intercept else 0.5
    off = back.abs().sum(1) * float(totals.error["gradient"].max()) + shift.abs().max() ** 2
    return LogisticFit(
        names=made.names,
        coefficients=coefficients,
        standard_errors=standard,
        p_values=torch.tensor([normal_two_sided(value) for value in z.tolist()], dtype=torch.float64),
        error=off / made.scale,
        rows=n,
        z_values=z,
        log_likelihood=float(totals["likelihood"]) + float(shift @ totals["gradient"]) / 2,
        null_log_likelihood=positive * math.log(share) + (n - positive) * math.log(1 - share),
        steps=steps,
    )
