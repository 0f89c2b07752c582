"""Keywords that every statistic takes, and what researchers are warned of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy.typing as npt
import torch

from smpc_fl.errors import BadInput

Bound = float | Sequence[float] | torch.Tensor | npt.NDArray[Any]
"""One number, or one for each column."""
Values = Sequence[float] | torch.Tensor | npt.NDArray[Any]
"""Public numbers, in order."""


class Options(TypedDict, total=False):
    """`max_rows`: public cap on one owner's rows (2^20). `min_count`: cells, groups and columns of fewer rows, over all
    owners together, are suppressed (5). `nan_policy`: "raise", or "omit" rows or values that are NaN. As in SciPy."""

    max_rows: int
    min_count: int
    nan_policy: Literal["raise", "omit"]


@dataclass(frozen=True)
class Settings:
    """`Options`, checked."""

    max_rows: int = 1 << 20
    min_count: int = 5
    nan_policy: Literal["raise", "omit"] = "raise"

    def __post_init__(self) -> None:
        if not 1 <= self.max_rows <= 1 << 40:
            raise BadInput(f"max_rows={self.max_rows}: give the most rows that an owner may have, 1 to 2^40")
        if self.min_count < 1:
            raise BadInput(f"min_count={self.min_count}: 1 shows every cell, 5 or 10 are usual")
        if self.nan_policy not in ("raise", "omit"):
            raise BadInput(f'nan_policy={self.nan_policy!r}: use "raise" or "omit"')


class SuppressedWarning(UserWarning):
    """A result over fewer than `min_count` rows was left out (NaN)."""


class ClampedWarning(UserWarning):
    """Some values lay beyond ±bound and were taken as ±bound: the statistic is off."""
