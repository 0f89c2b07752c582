"""Loss curves that a person can look at, as a PNG or SVG file. Needs matplotlib (extra `dev`)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from smpc_fl.errors import Unavailable


@dataclass(frozen=True)
class Panel:
    """One plot: `curves` are values after rounds 1, 2, … (NaN: none), by label; `levels` are lines to compare with."""

    title: str
    ylabel: str
    curves: Mapping[str, Sequence[float]]
    levels: Mapping[str, float]


def draw_curves(rounds: Sequence[Mapping[str, float]], path: str | os.PathLike[str]) -> None:
    """Draws the metrics of each round into `path` (.png or .svg): losses in one panel, all others in another."""
    names = sorted({name for metrics in rounds for name in metrics})
    curves = {name: [metrics.get(name, math.nan) for metrics in rounds] for name in names}
    groups = {
        "loss": {name: values for name, values in curves.items() if name.endswith("loss")},
        "score": {name: values for name, values in curves.items() if not name.endswith("loss")},
    }
    panels = [Panel(kind, kind, chosen, {}) for kind, chosen in groups.items() if chosen]
    draw(Path(path), f"{len(rounds)} rounds", panels or [Panel("loss", "loss", {}, {})])


def draw(path: Path, title: str, panels: Sequence[Panel]) -> None:
    """Draws panels side by side into `path` (.png or .svg). Raises `Unavailable` without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise Unavailable("plots need matplotlib: pip install 'smpc-fl[dev]'") from None
    figure = Figure(figsize=(5.2 * len(panels), 3.9), layout="constrained")
    canvas = FigureCanvasSVG(figure) if path.suffix == ".svg" else FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for label, values in panel.curves.items():
            axes.plot(range(1, len(values) + 1), values, label=label, marker="." if len(values) < 40 else None)
        for index, (label, level) in enumerate(panel.levels.items()):
            axes.axhline(level, label=label, color=f"C{index + len(panel.curves)}", linestyle="--", linewidth=1)
        axes.set(title=panel.title, xlabel="round", ylabel=panel.ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if panel.curves or panel.levels:
            axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_figure(str(path), dpi=120)
