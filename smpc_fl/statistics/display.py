"""Results as text: small tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def number(value: float) -> str:
    """At most six significant digits; whole numbers whole, `-` for what is not there."""
    if math.isnan(value):
        return "-"
    return str(int(value)) if value == round(value, 0) and abs(value) < 1e15 else f"{value:.6g}"


def table(header: Sequence[str], rows: Iterable[Sequence[object]], limit: int = 40) -> str:
    """Columns side by side; after `limit` rows, how many more there are."""
    cells = [[number(cell) if isinstance(cell, float | int) else str(cell) for cell in row] for row in rows]
    more = len(cells) - limit
    shown = [list(header), *cells[:limit]]
    widths = [max(len(row[i]) for row in shown) for i in range(len(header))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in shown]
    return "\n".join([*lines, f"… and {more} more"] if more > 0 else lines)
