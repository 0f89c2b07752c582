"""Pictures that a person can look at, as PNG or SVG files: curves of a run, who holds what. Needs matplotlib (extra `dev`)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smpc_fl.errors import BadInput, Unavailable
from smpc_fl.learning.partition import Partition

if TYPE_CHECKING:
    from matplotlib.backend_bases import FigureCanvasBase
    from matplotlib.figure import Figure

MOST_CLASSES = 40
"""Colours that a picture of a partition may have."""


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
    figure, canvas = new_figure(path, 5.2 * len(panels), 3.9)
    from matplotlib.ticker import MaxNLocator

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
    save(canvas, path)


def plot_partition(
    partition: Partition,
    labels: Any,
    path: str | os.PathLike[str],
    *,
    title: str = "",
    names: Mapping[Any, str] | None = None,
) -> None:
    """Draws who holds what into `path` (.png or .svg): a bar for each owner, a colour for each class; on the left in
    rows, on the right in per cent of the owner's own.

    `labels`: one a row of the table; `names`: what a class is called, if not by its label. Raises `BadInput` for more
    than MOST_CLASSES classes, `Unavailable` without matplotlib."""
    kinds, counts = partition.counts(labels)
    if len(kinds) > MOST_CLASSES:
        raise BadInput(f"{len(kinds)} classes are more than a picture shows: give labels with {MOST_CLASSES} at most")
    owners, sizes = list(partition.rows), counts.sum(1)
    shown = [(names or {}).get(kind.item(), str(kind)) for kind in kinds]
    figure, canvas = new_figure(Path(path), 9.5, min(max(1.5 + 0.27 * len(owners), 2.6), 11))
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    palette = colormaps["tab10" if len(kinds) <= 10 else "turbo"]
    colours = palette(np.arange(10) if len(kinds) <= 10 else np.linspace(0, 1, len(kinds)))
    absolute, relative = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for axes, bars in ((absolute, counts), (relative, 100 * counts / sizes.clip(1)[:, None])):
        starts = bars.cumsum(1) - bars
        for kind, name in enumerate(shown):
            axes.barh(owners, bars[:, kind], left=starts[:, kind], color=colours[kind], label=name, height=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    if len(owners) <= 60:
        for place, size in enumerate(sizes):
            absolute.annotate(
                f"{size:,}", (size, place), (3, 0), textcoords="offset points", va="center", fontsize="x-small"
            )
    else:
        absolute.set_yticks([])  # names would lie on each other
        absolute.set_ylabel(f"{len(owners):,} owners")
    absolute.set(xlabel="rows", xlim=(0, 1.12 * sizes.max()), ylim=(len(owners) - 0.4, -0.6))
    absolute.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    relative.set(xlabel="% of the owner's rows", xlim=(0, 100))
    relative.tick_params(left=False)
    figure.suptitle(title or f"{sizes.sum():,} rows at {len(owners)} owners")
    handles, captions = absolute.get_legend_handles_labels()
    figure.legend(handles, captions, loc="outside right center", fontsize="small", ncols=1 + (len(kinds) - 1) // 20)
    save(canvas, Path(path))


def new_figure(path: Path, width: float, height: float) -> tuple[Figure, FigureCanvasBase]:
    """A figure in inches, and what draws it: no global state of pyplot's, no display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        raise Unavailable("plots need matplotlib: pip install 'smpc-fl[dev]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, FigureCanvasSVG(figure) if path.suffix == ".svg" else FigureCanvasAgg(figure)


def save(canvas: FigureCanvasBase, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_figure(str(path), dpi=120)
