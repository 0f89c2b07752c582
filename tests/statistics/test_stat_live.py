"""What docs/statistics.md shows, run as written over a federation of processes, on three hospitals' own patients: every number
is that of pandas, SciPy, statsmodels or lifelines on all patients together."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch
from documents import FENCE, ROOT
from lifelines import KaplanMeierFitter
from scipy import stats as scipy_stats
from statistics_world import close

NUMBERS = ["age", "trestbps", "thalch", "oldpeak"]


@pytest.mark.timeout(300)
def test_statistics_of_three_hospitals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block, _ = FENCE.finditer((ROOT / "docs" / "statistics.md").read_text(encoding="utf-8"))
    (tmp_path / "block.py").write_text(block["text"], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    got = runpy.run_path("block.py")
    assert (tmp_path / "survival.svg").read_text().startswith("<?xml")

    table: pd.DataFrame = got["table"]
    x = table[NUMBERS].astype(np.float64)
    summary, spread, quarters, groups = (got[name] for name in ("summary", "spread", "quarters", "groups"))
    assert (summary.rows, summary.missing.tolist()) == (len(x), x.isna().sum().tolist())
    assert summary.missing.sum() > 0
    close(summary.mean, x.mean(), summary.mean_error)
    close(summary.std, x.std(), summary.std_error)
    close(spread.matrix, x.dropna().cov(), spread.error)
    close(spread.correlation, x.dropna().corr(), spread.correlation_error)

    shares = [0.25, 0.5, 0.75]
    expected = [np.quantile(x[name].dropna(), shares, method="inverted_cdf") for name in NUMBERS]
    close(quarters.values, np.stack(expected, 1), quarters.error)

    cells = np.histogram(x["age"], range(20, 90, 10))[0]
    seen = ~got["ages"].counts.isnan().numpy()
    assert got["ages"].counts[seen].tolist() == cells[seen].tolist()
    assert cells[~seen].min() < 5 <= cells[seen].min()

    by_ill = x.groupby(table["ill"])
    assert groups.counts.tolist() == by_ill.count().to_numpy().tolist()
    close(groups.means, by_ill.mean(), groups.error / groups.counts)

    counts = pd.crosstab(table["male"], table["ill"])
    assert got["cross"].counts.tolist() == counts.to_numpy().tolist()
    chi = scipy_stats.chi2_contingency(counts)
    assert (got["test"].statistic, got["test"].p_value) == pytest.approx((chi.statistic, chi.pvalue))

    line, paired = got["line"], x[["age", "thalch"]].dropna()
    ols = sm.OLS(paired["thalch"], sm.add_constant(paired["age"])).fit()
    close(line.coefficients, ols.params, line.error, slack=1e-9)
    close(line.standard_errors, ols.bse, line.error, slack=1e-9)

    complete = x.notna().all(axis=1)
    logit = sm.Logit(table["ill"][complete], sm.add_constant(x[complete])).fit(disp=0, tol=1e-12)
    close(got["fit"].coefficients, logit.params, got["fit"].error, slack=1e-9)
    close(got["fit"].standard_errors, logit.bse, got["fit"].error, slack=1e-7)

    curve = got["curve"]
    fitted = KaplanMeierFitter().fit(x["age"], table["ill"], timeline=np.arange(25, 80))
    shown = ~curve.survival.isnan()
    assert shown.sum() > 45
    close(curve.survival[shown], fitted.survival_function_["KM_estimate"].to_numpy()[shown.numpy()], 1e-12)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_private_histogram_of_twelve_practices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, block = FENCE.finditer((ROOT / "docs" / "statistics.md").read_text(encoding="utf-8"))
    (tmp_path / "block.py").write_text(block["text"], encoding="utf-8")
    namespace = runpy.run_path(str(tmp_path / "block.py"))
    got = namespace["ages"]
    everybody = np.concatenate([each["age"] for each in namespace["owners"].values()])
    exact = torch.from_numpy(np.histogram(everybody, [0, 40, 60, 120])[0])
    assert bool(((got.counts - exact).abs() < 2 * got.count_error).all())
    assert got.privacy.epsilon == pytest.approx(8.0, rel=0.01)
    assert "for each owner" in capsys.readouterr().out
