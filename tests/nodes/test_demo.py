"""The demonstration, short: real processes, the same weights as plain FedAvg, its files, its verdict."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from smpc_fl.errors import RunFailed
from smpc_fl.nodes.demo import main as demo
from smpc_fl.nodes.demo.heart import HOSPITALS
from smpc_fl.nodes.demo.main import SplitResult, check, main
from smpc_fl.nodes.demo.report import show_results


def result(*, secure: float = 0.9, worst: float = 1e-7) -> SplitResult:
    return SplitResult(
        pooled=0.9,
        alone=dict.fromkeys(HOSPITALS, 0.8),
        secure=secure,
        estimate=secure,
        worst_difference=worst,
        losses=[0.6, 0.5],
        held_out_losses=[0.6, 0.5],
        aucs=[0.8, 0.9],
        seconds=1.0,
        uploaded=dict.fromkeys(HOSPITALS, 1000),
    )


@pytest.mark.slow  # tests/test_readme.py runs the demo's own command, which ends badly if its verdict is bad
@pytest.mark.timeout(300)
def test_four_hospitals_train(tmp_path: Path) -> None:
    shown = io.StringIO()
    (item,) = main(output=tmp_path, splits=1, rounds=3, aggregators=2, console=Console(file=shown, width=80))
    assert item.worst_difference <= 1e-6
    assert abs(item.difference) < 0.02
    assert abs(item.estimate - item.secure) < 0.01
    assert item.alone["switzerland"] < item.secure
    assert len(item.losses) == 3
    assert item.losses[-1] < item.losses[0]
    assert all(count > 0 for count in item.uploaded.values())
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "results.json").read_text())[0]["secure"] == item.secure
    assert "VA Long Beach alone" in shown.getvalue()


def test_the_table_fits_a_terminal() -> None:
    shown = io.StringIO()
    show_results(Console(file=shown, width=80), [result()] * 5, 60.0)
    lines = shown.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert any(line.split() == ["secure,", "all", "hospitals", *["0.900"] * 6] for line in lines)


def test_the_verdict() -> None:
    check([result()] * 5)
    check([result(secure=0.8)])  # one split proves nothing about the median
    with pytest.raises(RunFailed, match="plain FedAvg"):
        check([result(worst=1e-3)])
    with pytest.raises(RunFailed, match="pooled"):
        check([result(secure=0.88)] * 5)


def test_limits_are_those_that_are_promised() -> None:
    assert demo.LARGEST_WEIGHT_DIFFERENCE == 1e-4
    assert demo.LARGEST_MEDIAN_AUC_DIFFERENCE == 0.01
