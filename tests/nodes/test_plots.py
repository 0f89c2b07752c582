"""Plots: a file that is a picture, in both formats."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from smpc_fl.errors import BadInput, Unavailable
from smpc_fl.learning.partition import dirichlet, iid
from smpc_fl.nodes.plots import Panel, draw, draw_curves, plot_partition

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


@pytest.mark.parametrize(("owners", "classes"), [(4, 11), (61, 2)])
def test_a_partition_becomes_bars(tmp_path: Path, owners: int, classes: int) -> None:
    """Text stays text in an SVG file, as comments: owners' names and sizes where there is room, every class."""
    labels = np.arange(1600) % classes
    partition = dirichlet(labels, owners, alpha=1, rng=np.random.default_rng(0), min_rows=5)
    plot_partition(partition, labels, tmp_path / "split.svg", names={0: "healthy"})
    text = (tmp_path / "split.svg").read_text()
    assert ("<!-- owner-0 -->" in text) == (owners == 4)
    assert ("<!-- 61 owners -->" in text) == (owners == 61)
    assert f"<!-- 1,600 rows at {owners} owners -->" in text
    assert "<!-- healthy -->" in text
    assert f"<!-- {classes - 1} -->" in text


def test_too_many_classes_are_no_picture(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="41 classes"):
        plot_partition(iid(41, 2, rng=np.random.default_rng(0)), np.arange(41), tmp_path / "split.png")
