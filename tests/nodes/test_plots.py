"""Plots: a file that is a picture, in both formats."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from smpc_fl.errors import Unavailable
from smpc_fl.nodes.plots import Panel, draw

PANELS = [
    Panel("Loss", "cross-entropy", {"training": [0.7, 0.5, 0.4]}, {}),
    Panel("Accuracy", "AUC", {"secure": [0.8, 0.85], "one": [0.9] * 50}, {"pooled": 0.88}),
]


@pytest.mark.parametrize(("name", "magic"), [("curves.png", b"\x89PNG"), ("curves.svg", b"<?xml")])
def test_curves_become_a_picture(tmp_path: Path, name: str, magic: bytes) -> None:
    target = tmp_path / "made" / name
    draw(target, "Four hospitals", PANELS)
    assert target.read_bytes().startswith(magic)


def test_without_matplotlib_plots_are_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(Unavailable, match="pip install"):
        draw(tmp_path / "curves.png", "", PANELS)
