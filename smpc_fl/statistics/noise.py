"""Statistics with differential privacy: what results say of it, and how noisy numbers are made sensible.

One row adds a vector to its owner's sums whose L2 norm a statistic knows (`row_norm`), so `max_rows` rows are within
`max_rows` times that. The owner scales what is longer down to it before it shares, and the aggregators' noise is in proportion
(`privacy.mechanism`): replacing all rows of an owner moves the sums by at most twice that norm. What is done here to numbers
that have come out costs no further privacy (post-processing: Dwork and Roth, "The Algorithmic Foundations of Differential
Privacy", proposition 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from smpc_fl.jobs import Privacy
from smpc_fl.privacy import accounting
from smpc_fl.privacy.accounting import Spent, calibrated

DEVIATIONS = 3.0
"""Of the noise: what an `error` of a statistic with privacy is."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Result:
    """Base of results. With privacy, `noise` is what was asked for, with its noise multiplier, and `count_error` three standard
    deviations of the noise in a count of rows."""

    noise: Privacy | None = None
    count_error: float = 0.0

    @property
    def privacy(self) -> Spent | None:
        """What the statistic cost each owner; None without privacy. Raises `Unavailable` without dp-accounting."""
        return None if self.noise is None else spent(self.noise)


def spent(privacy: Privacy, releases: int = 1) -> Spent:
    """What so many statistics with this privacy cost each owner: ε, δ, the unit, noise multiplier and accountant. With
    `epsilon=` each is given as much. Raises `Unavailable` without dp-accounting."""
    return accounting.spent(calibrated(privacy, 1), releases, releases)


def whole(counts: torch.Tensor) -> torch.Tensor:
    """The nearest counts that there may be."""
    return counts.clamp(min=0).round()


def increasing(values: torch.Tensor) -> torch.Tensor:
    """A sequence float64[..., n] that never falls, beside `values`: midway between the least that is nowhere below and the
    largest that is nowhere above. The same where it never fell."""
    above = values.cummax(-1).values
    below = -(-values).flip(-1).cummax(-1).values.flip(-1)
    return (above + below) / 2


def symmetric(matrix: torch.Tensor) -> torch.Tensor:
    """The mean of a matrix and its transpose, whose noises are independent."""
    return (matrix + matrix.T) / 2


def positive_semidefinite(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest such matrix in the Frobenius norm: without the negative eigenvalues (Higham, "Computing a Nearest
    Symmetric Positive Semidefinite Matrix", Linear Algebra and its Applications 103, 1988, theorem 2.1)."""
    values, vectors = torch.linalg.eigh(matrix)
    nearest: torch.Tensor = (vectors * values.clamp(min=0)) @ vectors.T
    return nearest
