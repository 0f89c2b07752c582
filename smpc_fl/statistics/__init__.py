"""Federated statistics: `sf.stats`. Each is one line over pointers, and comes out of secure sums alone.

    sf.stats.mean([fed[o].tensor("x") for o in fed.owners], bound=200.0)

docs/statistics.md has them in one table, with what each costs and what it leaks.
"""

from smpc_fl.statistics.groups import GroupBy, group_by
from smpc_fl.statistics.histogram import Histogram, histogram
from smpc_fl.statistics.linear import LinearFit, linear_regression
from smpc_fl.statistics.logistic import LogisticFit, logistic_regression
from smpc_fl.statistics.moments import (
    Covariance,
    Summary,
    correlation,
    count,
    covariance,
    describe,
    mean,
    std,
    variance,
)
from smpc_fl.statistics.noise import spent
from smpc_fl.statistics.options import ClampedWarning, SuppressedWarning
from smpc_fl.statistics.quantiles import Quantiles, median, quantiles
from smpc_fl.statistics.survival import SurvivalCurve, kaplan_meier
from smpc_fl.statistics.tables import ChiSquare, ContingencyTable, chi_square, crosstab

__all__ = [
    "ChiSquare",
    "ClampedWarning",
    "ContingencyTable",
    "Covariance",
    "GroupBy",
    "Histogram",
    "LinearFit",
    "LogisticFit",
    "Quantiles",
    "Summary",
    "SuppressedWarning",
    "SurvivalCurve",
    "chi_square",
    "correlation",
    "count",
    "covariance",
    "crosstab",
    "describe",
    "group_by",
    "histogram",
    "kaplan_meier",
    "linear_regression",
    "logistic_regression",
    "mean",
    "median",
    "quantiles",
    "spent",
    "std",
    "variance",
]
