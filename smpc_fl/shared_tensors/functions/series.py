"""Smooth functions on an interval: a Fourier series of a longer period, in one opening (turning.py)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from smpc_fl.shared_tensors.draft import Value
from smpc_fl.shared_tensors.turning import COEFFICIENT_BITS

SCALE = 40
"""Of a result: 2^-20 of rounding for each harmonic and its amplitude, twice."""


@dataclass(frozen=True, slots=True)
class Series:
    """constant + Σ_j cosines[j-1] · cos(2π j x / period) + sines[j-1] · sin(…)."""

    period: float
    constant: float
    cosines: tuple[float, ...]
    sines: tuple[float, ...]

    def of(self, x: Value, *, stretch: float = 1.0, scale: int = SCALE) -> Value:
        """The series at stretch · x: 1 round, 4 bytes, 16 dealt for each harmonic. x may have any scale."""
        turn = round(2.0 ** (64 - x.scale) * stretch / self.period)
        used = [j for j, pair in enumerate(zip(self.cosines, self.sines, strict=True)) if any(pair)]
        result = x.draft.step(
            "series",
            x,
            turn=turn,
            harmonics=[j + 1 for j in used],
            cosines=[round(self.cosines[j] * 2.0**COEFFICIENT_BITS) for j in used],
            sines=[round(self.sines[j] * 2.0**COEFFICIENT_BITS) for j in used],
            scale=scale,
        )
        if not self.constant:
            return result
        return result + x.draft.public(torch.tensor(self.constant, dtype=torch.float64), scale)
