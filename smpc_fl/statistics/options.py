"""Keywords that every statistic takes, and what researchers are warned of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy.typing as npt
import torch

from smpc_fl.errors import BadInput
from smpc_fl.jobs import Privacy

Bound = float | Sequence[float] | torch.Tensor | npt.NDArray[Any]
"""One number, or one for each column."""
Values = Sequence[float] | torch.Tensor | npt.NDArray[Any]
"""Public numbers, in order."""


DEFAULT_ROWS = 1 << 20


class Options(TypedDict, total=False):
    """`max_rows`: public cap on one owner's rows (2^20). `min_count`: cells, groups and columns of fewer rows, over all
    owners together, are suppressed (5). `nan_policy`: "raise", or "omit" rows or values that are NaN. As in SciPy.
    `privacy`: noise for differential privacy of each owner as a whole, in proportion to `max_rows`, which is then needed:
    an owner with more rows counts as one of about so many."""

    max_rows: int
    min_count: int
    nan_policy: Literal["raise", "omit"]
    privacy: Privacy | None


@dataclass(frozen=True)
class Settings:
    """`Options`, checked."""

    max_rows: int = DEFAULT_ROWS
    min_count: int = 5
    nan_policy: Literal["raise", "omit"] = "raise"
    privacy: Privacy | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_rows <= 1 << 40:
            raise BadInput(f"max_rows={self.max_rows}: give the most rows that an owner may have, 1 to 2^40")
        if self.min_count < 1:
            raise BadInput(f"min_count={self.min_count}: 1 shows every cell, 5 or 10 are usual")
        if self.nan_policy not in ("raise", "omit"):
            raise BadInput(f'nan_policy={self.nan_policy!r}: use "raise" or "omit"')
        if self.privacy is not None:
            self._check_privacy(self.privacy)

    def _check_privacy(self, privacy: Privacy) -> None:
        if not isinstance(privacy, Privacy):
            raise BadInput(
                "privacy= of a statistic takes an sf.Privacy(delta=…, noise_multiplier=… or epsilon=…): the unit is the owner"
            )
        if self.max_rows == DEFAULT_ROWS:
            raise BadInput(
                "privacy= needs max_rows=: the noise is in proportion to it, so say how many rows an owner has"
            )
        if self.nan_policy != "omit":
            raise BadInput('with privacy= nobody is told of NaN: leave them out by nan_policy="omit"')

    def refuse_privacy(self, what: str, instead: str) -> None:
        """`BadInput` for a statistic that would be many noisy sums."""
        if self.privacy is not None:
            raise BadInput(
                f"{what} takes many sums of the same rows, each of which would cost privacy and be noisy: {instead}"
            )


class SuppressedWarning(UserWarning):
    """A result over fewer than `min_count` rows was left out (NaN)."""


class ClampedWarning(UserWarning):
    """Some values lay beyond ±bound and were taken as ±bound: the statistic is off."""
