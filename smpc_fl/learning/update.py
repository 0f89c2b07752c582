"""The secure vector of one owner, before fixed point: [w·payload ‖ w·metrics ‖ w ‖ clipped], float64[length].

The same slots carry a model update (payload Δ, clipped by its L2 norm, as DP-SGD clips: Abadi et al. 2016, Algorithm 1),
an evaluation and a pointer aggregate (payload clipped slot by slot). Summed over owners and divided by the sum of the
weights, it is the weighted mean of McMahan et al. 2017, Algorithm 1, without any nₖ in the clear.

Nothing is clipped in silence: the last slot counts the owners whose payload or metrics were. A weight is never clipped:
out of range it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from smpc_fl.errors import BadInput, NotFinite, RoundAborted, ShapeMismatch, WeightOutOfRange

METRIC_BOUND = 100.0
"""Public bound of a metric: what is beyond ±100 saturates, and is counted."""

TRAIN_METRICS = ("loss",)
"""Metrics in the vector of a training round."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class VectorLayout:
    """`payload` slots, one for each metric, then the weight and the clipped flag."""

    payload: int
    metrics: tuple[str, ...] = ()

    @property
    def length(self) -> int:
        """Slots of the secure vector."""
        return self.payload + len(self.metrics) + 2


@dataclass(frozen=True, eq=False)
class Aggregate:
    """What the sum over owners says: weighted `mean` and `sum` of the payloads float64[payload], weighted mean metrics,
    the sum of the weights, and how many owners had something clipped."""

    mean: Floats
    sum: Floats
    metrics: dict[str, float]
    total_weight: float
    clipped: int


def denominator(max_samples: int) -> int:
    """The next power of two: weights rows / 2^k are whole multiples of the scale's unit, so that fixed point keeps their
    sum, which the mean is divided by, exact."""
    return 1 << (max_samples - 1).bit_length()


def row_weight(rows: int, max_samples: int) -> float:
    """An owner's weight, rows / denominator(max_samples). Raises `WeightOutOfRange`, which does not tell the rows."""
    if not 0 < rows <= max_samples:
        raise WeightOutOfRange(
            f"the number of rows is not in 1..{max_samples}: raise the job's max_samples, or publish fewer rows"
        )
    return rows / denominator(max_samples)


def assemble(
    payload: npt.NDArray[np.floating],
    weight: float,
    metrics: Mapping[str, float],
    *,
    layout: VectorLayout,
    clip: float,
    mode: Literal["norm", "saturate"],
) -> Floats:
    """float64[length] of one owner.

    `mode` "norm" scales the payload down to the L2 norm `clip`; "saturate" limits each slot to ±clip. Either way no slot
    is beyond ±max(clip, 1). Raises `ShapeMismatch`, `NotFinite`, `WeightOutOfRange` (weight not in (0, 1])."""
    if payload.shape != (layout.payload,):
        raise ShapeMismatch(f"a payload has {layout.payload} slots, not shape {payload.shape}")
    if metrics.keys() != set(layout.metrics):
        raise BadInput(f"the metrics of this vector are {sorted(layout.metrics)}, not {sorted(metrics)}")
    if not 0 < weight <= 1:  # also refuses NaN
        raise WeightOutOfRange(
            "a weight must be in (0, 1]: weights are rows / max_samples, or normalised by the largest"
        )
    values = payload.astype(np.float64)
    rates = np.array([metrics[name] for name in layout.metrics], dtype=np.float64) / METRIC_BOUND
    if not (np.isfinite(values).all() and np.isfinite(rates).all()):
        raise NotFinite(
            "the update or its loss holds NaN or infinity: lower the learning rate, or fill in missing values in the model"
        )
    kept = _limit_norm(values, clip) if mode == "norm" else np.clip(values, -clip, clip)
    bounded = np.clip(rates, -1.0, 1.0)
    clipped = not (np.array_equal(kept, values) and np.array_equal(bounded, rates))
    return np.concatenate([weight * kept, weight * bounded, [weight, float(clipped)]])


def _limit_norm(values: Floats, clip: float) -> Floats:
    # The largest magnitude is divided out first, so that squares neither overflow nor vanish.
    peak = float(np.max(np.abs(values), initial=0.0))
    if peak == 0.0:
        return values
    norm = peak * float(np.linalg.norm(values / peak))
    if norm <= clip:
        return values
    # Rounding could leave a slot a last bit above `clip`, which the ring's capacity does not foresee.
    limited: Floats = np.clip(values / norm * clip, -clip, clip)
    return limited


def disassemble(total: Floats, layout: VectorLayout) -> Aggregate:
    """The aggregate in the decoded sum float64[length] over owners. Raises `RoundAborted` when the weights sum to nothing."""
    if total.shape != (layout.length,):
        raise ShapeMismatch(f"the sum of this round has {layout.length} slots, not shape {total.shape}")
    weight, clipped = float(total[-2]), float(total[-1])
    if not weight > 0:
        raise RoundAborted("the sum of the weights is not positive: no mean can be told from it")
    payload: Floats = total[: layout.payload]
    rates = total[layout.payload : -2] / weight * METRIC_BOUND
    metrics = {name: float(rate) for name, rate in zip(layout.metrics, rates, strict=True)}
    return Aggregate(payload / weight, payload.copy(), metrics, weight, round(clipped))
