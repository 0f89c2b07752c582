"""Plots: a file that is a picture, in both formats."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from smpc_fl.errors import Unavailable
from smpc_fl.nodes.plots import Panel, draw, draw_curves

PANELS = [
    Panel("Loss", "cross-entropy", {"training": [0.7, 0.5, 0.4]}, {}),
    Panel("Accuracy", "AUC", {"secure": [0.8, 0.85], "one": [0.9] * 50}, {"pooled": 0.88}),
]


@pytest.mark.parametrize(("name", "magic"), [("curves.png", b"\x89PNG"), ("curves.svg", b"<?xml")])
def test_curves_become_a_picture(tmp_path: Path, name: str, magic: bytes) -> None:
    target = tmp_path / "made" / name
    draw(target, "Four hospitals", PANELS)
    assert target.read_bytes().startswith(magic)


@pytest.mark.parametrize("rounds", [[], [{"loss": 0.7}, {"loss": 0.5, "val_loss": 0.6, "val_auc": 0.8}]])
def test_metrics_of_rounds_become_curves(tmp_path: Path, rounds: list[dict[str, float]]) -> None:
    draw_curves(rounds, tmp_path / "run.svg")
    text = (tmp_path / "run.svg").read_text()
    assert text.startswith("<?xml")


def test_without_matplotlib_plots_are_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(Unavailable, match="pip install"):
        draw(tmp_path / "curves.png", "", PANELS)
