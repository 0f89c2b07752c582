"""Results of statistics as pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import smpc_fl as sf
from smpc_fl.statistics.groups import GroupBy
from smpc_fl.statistics.histogram import Histogram
from smpc_fl.statistics.linear import LinearFit
from smpc_fl.statistics.survival import SurvivalCurve
from smpc_fl.statistics.tables import ContingencyTable


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


RESULTS: dict[str, Any] = {
    "Histogram": Histogram(numbers(0, 1, 2, 4), numbers(7, math.nan, 9), 0, 0, 0, 0),
    "Kaplan-Meier, 9 rows": SurvivalCurve(numbers(1, 2, 3), numbers(9, 8, 6), numbers(1, 2, 0), numbers(8 / 9, 2 / 3, 2 / 3), 9),
    "Contingency table": ContingencyTable(["a", "b"], ["ill", "well"], numbers(7, 8, 9, math.nan).reshape(2, 2), 0, 0),
    "Means of groups": GroupBy(["a", "b"], ["x"], numbers(5, math.nan), numbers(9, math.nan), numbers(0, 0), 0, 0, 0),
    "Coefficients, 20 rows": LinearFit(
        ["intercept", "age"], numbers(1, 2), numbers(0.1, 0.2), numbers(0, 0), numbers(0, 0), 20, numbers(1, 1), 18, 1.0, 0.5,
        9.0, 0.01,
    ),
}  # fmt: skip


@pytest.mark.parametrize("title", RESULTS)
def test_a_result_becomes_a_picture(title: str, tmp_path: Path) -> None:
    sf.plot_statistic(RESULTS[title], tmp_path / "made" / "picture.svg")
    text = (tmp_path / "made" / "picture.svg").read_text()
    assert f"<!-- {title} -->" in text
    if title in ("Histogram", "Contingency table", "Means of groups"):
        assert "<!-- few -->" in text


def test_what_has_no_picture(tmp_path: Path) -> None:
    with pytest.raises(sf.BadInput, match="a Tensor has no picture"):
        sf.plot_statistic(torch.ones(3), tmp_path / "no.png")  # type: ignore[arg-type]
