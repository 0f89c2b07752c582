"""Linear and logistic regression: statsmodels on the pooled rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.datasets import load_breast_cancer, load_diabetes
from statistics_world import close, cut, of, world

import smpc_fl as sf

X, Y = load_diabetes(return_X_y=True, scaled=False)
NAMES = load_diabetes().feature_names
BOUND = [128.0, 2, 64, 256, 512, 512, 128, 16, 8, 256]
CX, CY = load_breast_cancer(return_X_y=True)
CX, CBOUND = CX[:, [0, 1, 4, 6]], [32.0, 64, 1, 1]


def test_least_squares_is_statsmodels() -> None:
    made = world(x=cut(X), y=cut(Y))
    got = sf.stats.linear_regression(of(made, "x"), of(made, "y"), bound=BOUND, y_bound=512, names=NAMES)
    expected = sm.OLS(Y, sm.add_constant(X)).fit()
    close(got.coefficients, expected.params, got.error, slack=1e-10)
    close(got.standard_errors, expected.bse, got.error, slack=1e-9)
    close(got.t_values, expected.tvalues, 1e-9, slack=1e-9)
    close(got.p_values, expected.pvalues, 1e-9)
    close(got.interval(0.9), expected.conf_int(0.1), got.error.max(), slack=1e-9)
    for name in ("rsquared", "rsquared_adj", "mse_resid", "fvalue", "f_pvalue"):
        ours = {"rsquared": "r_squared", "rsquared_adj": "adjusted_r_squared", "mse_resid": "residual_variance",
                "fvalue": "f_statistic", "f_pvalue": "f_p_value"}[name]  # fmt: skip
        assert getattr(got, ours) == pytest.approx(getattr(expected, name), rel=1e-9)
    assert (got.rows, got.degrees, got.names) == (442, 431, ["intercept", *NAMES])
    assert float((got.error / got.standard_errors).max()) < 1e-6
    assert got["bmi"] == float(got.coefficients[3])
    assert "442 rows, R² 0.517" in repr(got)
    assert len(made.jobs) == 1


def test_without_an_intercept_and_with_one_column() -> None:
    made = world(x=cut(X[:, :3].astype(np.float32)), y=cut(Y))
    x, y = of(made, "x"), of(made, "y")
    got = sf.stats.linear_regression(x, y, bound=128, y_bound=512, intercept=False)
    expected = sm.OLS(Y, X[:, :3].astype(np.float32).astype(np.float64)).fit()
    close(got.coefficients, expected.params, got.error, slack=1e-10)
    close(got.standard_errors, expected.bse, got.error, slack=1e-9)
    assert got.r_squared == pytest.approx(expected.rsquared)
    assert got.adjusted_r_squared == pytest.approx(expected.rsquared_adj)
    assert got.names == ["x[0]", "x[1]", "x[2]"]
    one = sf.stats.linear_regression([p[:, 2] for p in x], y, bound=64, y_bound=512)
    close(one.coefficients, sm.OLS(Y, sm.add_constant(X[:, 2].astype(np.float32))).fit().params, one.error, slack=1e-7)
    assert one.names == ["intercept", "x"]


def test_rows_with_holes_are_left_out_whole() -> None:
    x, y = X[:, :2].copy(), Y.copy()
    x[::9, 1], y[5] = np.nan, np.nan
    made = world(x=cut(x), y=cut(y))
    with pytest.raises(sf.BadInput, match="x or y: 51 of 442"):
        sf.stats.linear_regression(of(made, "x"), of(made, "y"), bound=128, y_bound=512)
    got = sf.stats.linear_regression(of(made, "x"), of(made, "y"), bound=128, y_bound=512, nan_policy="omit")
    expected = sm.OLS(y, sm.add_constant(x), missing="drop").fit()
    close(got.coefficients, expected.params, got.error, slack=1e-10)
    assert got.rows == expected.nobs


def test_a_perfect_fit() -> None:
    made = world(x=cut(X[:, :1]), y=cut(np.full(442, 3.0)))
    got = sf.stats.linear_regression(of(made, "x"), of(made, "y"), bound=128, y_bound=4)
    close(got.coefficients, [3.0, 0.0], got.error, slack=1e-9)
    assert np.isnan(got.r_squared) or 0 <= got.r_squared <= 1
    assert 0 <= got.f_p_value <= 1


def test_logistic_regression_is_statsmodels() -> None:
    made = world(x=cut(CX), y=cut(CY))
    got = sf.stats.logistic_regression(of(made, "x"), of(made, "y"), bound=CBOUND)
    expected = sm.Logit(CY, sm.add_constant(CX)).fit(disp=0, tol=1e-14, maxiter=100)
    close(got.coefficients, expected.params, got.error, slack=1e-9)
    close(got.standard_errors, expected.bse, got.error, slack=1e-7)
    close(got.z_values, expected.tvalues, 1e-7, slack=1e-7)
    close(got.p_values, expected.pvalues, 1e-9)
    close(got.interval(), expected.conf_int(), got.error.max(), slack=1e-7)
    assert got.log_likelihood == pytest.approx(expected.llf, rel=1e-9)
    assert got.null_log_likelihood == pytest.approx(expected.llnull, rel=1e-9)
    assert got.pseudo_r_squared == pytest.approx(expected.prsquared, rel=1e-9)
    assert float((got.error / got.standard_errors).max()) < 1e-6
    assert got.steps == len(made.jobs) <= 12
    assert "569 rows, log-likelihood" in repr(got)


def test_an_owner_of_one_class_is_nothing_special() -> None:
    order = np.argsort(CY, kind="stable")
    x, y = CX[order], CY[order] == 1
    sizes = (100, 300)  # alice has class 0 alone, carol class 1 alone
    assert len(set(y[:100])) == len(set(y[400:])) == 1
    made = world(x=cut(x, sizes), y=cut(y, sizes))
    got = sf.stats.logistic_regression(of(made, "x"), of(made, "y"), bound=CBOUND, intercept=False, names=list("abcd"))
    expected = sm.Logit(y.astype(float), x).fit(disp=0, tol=1e-14, maxiter=100)
    close(got.coefficients, expected.params, got.error, slack=1e-9)
    assert got.null_log_likelihood == pytest.approx(-569 * np.log(2))
    assert got.names == list("abcd")


def test_far_outliers() -> None:
    """Their log-odds are thousands, and the fit converges all the same."""
    rng = np.random.default_rng(1)
    x = rng.standard_cauchy((300, 1)).clip(-1000, 1000)
    y = (rng.random(300) < 1 / (1 + np.exp(-3 * x[:, 0]))).astype(np.int64)
    made = world(x=cut(x), y=cut(y))
    got = sf.stats.logistic_regression(of(made, "x"), of(made, "y"), bound=1000, intercept=False, steps=50)
    expected = sm.Logit(y, x).fit(disp=0, method="bfgs", gtol=1e-10, maxiter=500)
    close(got.coefficients, expected.params, 1e-5)


@pytest.mark.parametrize(
    ("x", "y", "options", "sentence"),
    [
        (CX, CY * 0, {}, "y: one class has fewer than min_count=5 rows over all owners"),
        (CX, CY + 1, {}, r"y: 357 labels, over all owners, are neither 0 nor 1: compare first, as y == 3"),
        (CX, np.where(CY == 1, np.nan, 0), {}, "x or y: 357 of 569"),
        (CX[:, [0, 1, 2, 2]], CY, {}, r"x: x\[\d\].* depend on each other .* leave one of them out"),
        (CX * [1, 0, 1, 1], CY, {}, r"x: x\[1\] is constant"),
        (
            np.column_stack([CX[:, :3], CY]),
            CY,
            {"max_rows": 1 << 36},
            "no coefficients were found: x tells the classes of y apart",
        ),
        (CX, CY, {"steps": 3}, "no coefficients were found in 3 steps"),
        (CX, CY, {"steps": 51}, "steps=51: 1 to 50"),
        (CX, CY, {"names": ["a", "a", "b", "c"]}, "names: x has 4 columns"),
        (CX[:4], CY[:4], {}, "fewer than 6 rows of x and y are complete"),
    ],
)
def test_logistic_regressions_that_cannot_be(x: Any, y: Any, options: dict[str, Any], sentence: str) -> None:
    made = world(x=cut(x, (1, 1)), y=cut(y, (1, 1)))
    with pytest.raises(sf.BadInput, match=sentence):
        sf.stats.logistic_regression(of(made, "x"), of(made, "y"), bound=CBOUND, **options)


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (X[:, [0, 2, 0]], r"x: a, c depend on each other over all owners together \(a singular design matrix\)"),
        (np.column_stack([X[:, 0], X[:, 2], X[:, 0] + 2 * X[:, 2]]), "x: a, b, c depend on each other"),
        (np.column_stack([X[:, 0], X[:, 2], np.full(442, 7.0)]), "x: c is constant over all owners together"),
        (X[:4, :3], "fewer than 5 rows"),
    ],
)
def test_designs_that_are_singular(x: Any, sentence: str) -> None:
    made = world(x=cut(x, (1, 1)), y=cut(Y[: len(x)], (1, 1)))
    with pytest.raises(sf.BadInput, match=sentence):
        sf.stats.linear_regression(of(made, "x"), of(made, "y"), bound=512, y_bound=512, names=list("abc"))


def test_questions_to_a_fit_that_cannot_be() -> None:
    made = world(x=cut(X[:, :1]), y=cut(Y))
    got = sf.stats.linear_regression(of(made, "x"), of(made, "y"), bound=128, y_bound=512)
    with pytest.raises(sf.BadInput, match="no coefficient is called 'weight': there are intercept, x"):
        _ = got["weight"]
    with pytest.raises(sf.BadInput, match="level=95"):
        got.interval(95)


def test_targets_beyond_their_bound() -> None:
    made = world(x=cut(X[:, :1]), y=cut(Y))
    with pytest.warns(sf.stats.ClampedWarning, match=r"x\[0\] \(\d+ beyond ±50\), y \(\d+ beyond ±300\)"):
        sf.stats.linear_regression(of(made, "x"), of(made, "y"), bound=50, y_bound=300)
    with pytest.warns(sf.stats.ClampedWarning, match="beyond ±70"):
        sf.stats.logistic_regression([p[:, 0] for p in of(made, "x")], [p > 150 for p in of(made, "y")], bound=70)
