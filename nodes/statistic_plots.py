"""Results of `sf.stats` as pictures, in a PNG or SVG file. Needs matplotlib (extra `dev`)."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpc_fl.errors import BadInput
from smpc_fl.nodes.plots import new_figure, save

if TYPE_CHECKING:
    from smpc_fl.statistics.picture import Picture, Pictured


def plot_statistic(result: Pictured, path: str | os.PathLike[str]) -> None:
    """Draws a histogram, survival curve, table, group-by or regression of `sf.stats` into `path` (.png or .svg); "few" is
    what was suppressed. Raises `BadInput` for a result that has no picture, `Unavailable` without matplotlib."""
    if not hasattr(result, "picture"):
        raise BadInput(f"a {type(result).__name__} has no picture: print it")
    picture = result.picture()
    figure, canvas = new_figure(Path(path), 6.4, 3.9)
    figure.suptitle(picture.title)
    axes = figure.subplots()
    _DRAW[picture.kind](axes, picture)
    axes.set(xlabel=picture.xlabel, ylabel=picture.ylabel)
    save(canvas, Path(path))


def _bars(axes: Any, picture: Picture) -> None:
    axes.stairs([0.0 if math.isnan(y) else y for y in picture.y], picture.x, fill=True, alpha=0.7)
    for left, right, y in zip(picture.x, picture.x[1:], picture.y, strict=False):
        if math.isnan(y):
            axes.text((left + right) / 2, 0, "few", ha="center", va="bottom", fontsize="x-small")


def _steps(axes: Any, picture: Picture) -> None:
    axes.step(picture.x, picture.y, where="post")
    axes.fill_between(picture.x, picture.low, picture.high, step="post", alpha=0.2, label="95 %")
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _intervals(axes: Any, picture: Picture) -> None:
    places = range(len(picture.labels))
    axes.hlines(places, picture.low, picture.high)
    axes.plot(picture.y, places, "o")
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_yticks(places, labels=picture.labels)
    axes.invert_yaxis()


def _cells(axes: Any, picture: Picture) -> None:
    width = len(picture.columns)
    rows = [picture.y[start : start + width] for start in range(0, len(picture.y), width)]
    axes.imshow(rows, aspect="auto", cmap="Blues", alpha=0.6)
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            axes.text(j, i, "few" if math.isnan(value) else f"{value:.4g}", ha="center", va="center")
    axes.set_xticks(range(width), labels=picture.columns)
    axes.set_yticks(range(len(rows)), labels=picture.labels)


_DRAW = {"bars": _bars, "steps": _steps, "intervals": _intervals, "cells": _cells}
