"""What a result looks like, as plain numbers: `sf.plot_statistic(result, path)` draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class Picture:
    """ "bars": `y` between the edges `x`. "steps": `y` from each of `x` on, with a band `low` to `high`. "intervals": `y` with
    `low` and `high`, one for each of `labels`. "cells": `y` row by row, `labels` for rows, `columns` for columns. NaN is
    what was suppressed."""

    kind: Literal["bars", "steps", "intervals", "cells"]
    title: str
    xlabel: str
    ylabel: str
    y: Sequence[float]
    x: Sequence[float] = ()
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    labels: Sequence[str] = ()
    columns: Sequence[str] = ()


class Pictured(Protocol):
    """A result that people would rather look at."""

    def picture(self) -> Picture: ...
