"""Which rows an owner keeps for evaluation: the same at every node that knows (run seed, owner), whatever the data."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from smpc_fl.errors import BadInput
from smpc_fl.learning.shuffle import permutation, stream

Indices = npt.NDArray[np.int64]


def holdout(rows: int, fraction: float, seed: bytes, owner: str) -> tuple[Indices, Indices]:
    """(train, test): sorted row numbers, disjoint, together 0 … rows-1.

    About `fraction` of the rows is held out: at least one where fraction > 0, and never all. Raises `BadInput` for a
    fraction outside [0, 1) or one row that would have to serve for both."""
    if not 0 <= fraction < 1:
        raise BadInput("the held-out fraction must be in [0, 1)")
    if fraction == 0:
        return np.arange(rows, dtype=np.int64), np.arange(0, dtype=np.int64)
    if rows < 2:
        raise BadInput("too few rows to hold some out: name evaluation tensors of their own, or use fraction=0")
    held_out = min(rows - 1, max(1, round(rows * fraction)))
    order = permutation(stream(seed, "holdout", owner), rows)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
