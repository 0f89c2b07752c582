"""The secure vector of one owner, before fixed point: [w·payload ‖ w·metrics ‖ w ‖ clipped], float64[length].

The same slots carry a model update (payload Δ, clipped by its L2 norm, as DP-SGD clips: Abadi et al. 2016, Algorithm 1),
an evaluation and a pointer aggregate (payload clipped slot by slot). Summed over owners and divided by the sum of the
weights, it is the weighted mean of McMahan et al. 2017, Algorithm 1, without any nₖ in the clear.

Nothing is clipped in silence: the last slot counts the owners whose payload or metrics were. A weight is never clipped:
out of range it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from smpc_fl.chunks import Floats, floats
from smpc_fl.errors import BadInput, NotFinite, RoundAborted, ShapeMismatch, WeightOutOfRange
from smpc_fl.fixed_point import FixedPoint
from smpc_fl.ring import RingArray

METRIC_BOUND = 100.0
"""Public bound of a metric: what is beyond ±100 saturates, and is counted."""

TRAIN_METRICS = ("loss",)
"""Metrics in the vector of a training round."""

_LEAST_SQUARES = 2.0**-900
"""Below this, squares that vanished could count."""
_ROW = 1 << 13
"""Elements that are squared at once: from 10,000 on OpenBLAS takes a second thread, which costs more than it saves."""


@dataclass(frozen=True)
class VectorLayout:
    """`payload` slots, one for each metric, then the weight and the clipped flag. The slots after the payload's are
    multiplied by `scale`, so that they cost little of a noise that is as large in all slots (`privacy.mechanism`)."""

    payload: int
    metrics: tuple[str, ...] = ()
    scale: float = 1.0

    @property
    def length(self) -> int:
        """Slots of the secure vector."""
        return self.payload + len(self.metrics) + 2


@dataclass(frozen=True, eq=False)
class Aggregate:
    """What the sum over owners says: weighted `sum` of the payloads float64[payload], weighted mean metrics, the sum of
    the weights, and how many owners had something clipped; `flags`: the same as it came, with the noise if there is some."""

    sum: Floats
    metrics: dict[str, float]
    total_weight: float
    clipped: int
    flags: float

    @cached_property
    def mean(self) -> Floats:
        """The weighted mean of the payloads, float64[payload]."""
        return self.sum / self.total_weight


def denominator(max_samples: int) -> int:
    """The next power of two: weights rows / 2^k are whole multiples of the scale's unit, so that fixed point keeps their
    sum, which the mean is divided by, exact."""
    return 1 << (max_samples - 1).bit_length()


def row_weight(rows: int, max_samples: int) -> float:
    """An owner's weight, rows / denominator(max_samples). Raises `WeightOutOfRange`, which does not tell the rows.

    The limit is the denominator, not `max_samples` itself: whoever asks with one cap after another learns how many digits
    the number of rows has (in base 2), and nothing more."""
    most = denominator(max_samples)
    if not 0 < rows <= most:
        raise WeightOutOfRange(
            f"the number of rows is not in 1..{most}: raise the job's max_samples, or publish fewer rows"
        )
    return rows / most


@dataclass(frozen=True, eq=False, repr=False)
class SecureVector:
    """One owner's vector as `assemble` made it: the payload as it came, and what clipping and weighing will do to it.

    The numbers are worked out part by part, when they are encoded: nothing of the vector's size is made but the result."""

    payload: npt.NDArray[np.floating]
    clip: float
    """Every slot is within ±max(clip, 1)."""
    ratio: float
    """What the payload is multiplied by so that its L2 norm is at most the clip; 1 where it is that."""
    saturates: bool
    """Is each slot of the payload limited to ±clip? (False where none is beyond.)"""
    weight: float
    tail: Floats
    """float64[metrics + 2], the slots after the payload's, weighed."""

    def __repr__(self) -> str:
        return f"<SecureVector of {self.length} slots>"

    @property
    def length(self) -> int:
        """Slots."""
        return self.payload.size + self.tail.size

    def dense(self) -> Floats:
        """float64[length], the numbers themselves."""
        out = np.empty(self.length, np.float64)
        for place, part in floats(self.payload):
            self._limit(part)
            np.multiply(part, self.weight, out=out[place])
        out[self.payload.size :] = self.tail
        return out

    def encode(self, fixed: FixedPoint) -> RingArray:
        """ring[length], `fixed.encode(self.dense())` bit for bit, in one pass. Raises `CapacityExceeded`, also for a slot
        beyond ±max(clip, 1)."""
        out: RingArray = np.empty(self.length, fixed.ring.dtype)
        # w · v · 2^f is rounded once, in w · v, so the scale, a power of two, may come first; unless the product of both
        # leaves the normal floats, where it would not be exact.
        factors = [self.weight * fixed.scale]
        if factors[0] / fixed.scale != self.weight:
            factors = [self.weight, fixed.scale]
        with np.errstate(over="ignore"):  # what overflows does not fit
            for place, part in floats(self.payload):
                self._limit(part)
                for factor in factors:
                    part *= factor
                fixed.put(part, out[place], max(self.clip, 1.0))
        out[self.payload.size :] = fixed.encode(self.tail)
        return out

    def _limit(self, part: Floats) -> None:
        if self.ratio < 1:
            part *= self.ratio
        if self.saturates:
            np.clip(part, -self.clip, self.clip, out=part)


def assemble(
    payload: npt.NDArray[np.floating],
    weight: float,
    metrics: Mapping[str, float],
    *,
    layout: VectorLayout,
    clip: float,
    mode: Literal["norm", "saturate"],
    clipped: bool = False,
) -> SecureVector:
    """One owner's vector. `payload` is kept, not copied: leave it as it is until the vector is encoded. `clipped`: it has
    been, before it came here.

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
    rates = np.array([metrics[name] for name in layout.metrics], dtype=np.float64) / METRIC_BOUND
    _check_finite(float(np.abs(rates).max(initial=0.0)))
    bounded = np.clip(rates, -1.0, 1.0)
    norm = _norm(payload, clip) if mode == "norm" else 0.0
    # A last bit less than the quotient: no slot comes out above `clip`, which the ring's capacity does not foresee.
    ratio = math.nextafter(clip / norm, 0.0) if norm > clip else 1.0
    saturates = mode == "saturate" and _peak(payload) > clip
    clipped = clipped or norm > clip or saturates or not np.array_equal(bounded, rates)
    tail = np.concatenate([weight * bounded, [weight, float(clipped)]]) * layout.scale
    return SecureVector(payload, clip, ratio, saturates, weight, tail)


def _norm(payload: npt.NDArray[np.floating], clip: float) -> float:
    """The L2 norm; at least the largest magnitude where it is above `clip`, or where that is."""
    squares = _squares(payload, 1.0)
    if not _LEAST_SQUARES < squares < math.inf:  # NaN, too
        # The largest magnitude is divided out, so that squares neither overflow nor vanish.
        peak = _peak(payload)
        return peak * math.sqrt(_squares(payload, peak)) if peak else 0.0
    norm = math.sqrt(squares)
    return norm if norm < clip * (1 - 2.0**-20) else max(norm, _peak(payload))


def _squares(payload: npt.NDArray[np.floating], unit: float) -> float:
    """Σ (v / unit)², NaN or infinity if that leaves float64."""
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for _, part in floats(payload):
            if unit != 1.0:
                part /= unit
            rows = part[: part.size // _ROW * _ROW].reshape(-1, _ROW)
            rest = part[rows.size :]
            total += float(np.vecdot(rows, rows).sum() + np.vecdot(rest, rest))
    return total


def _peak(payload: npt.NDArray[np.floating]) -> float:
    """The largest magnitude. Raises `NotFinite`."""
    peak = max(float(payload.max(initial=0.0)), -float(payload.min(initial=0.0)))
    _check_finite(peak)
    return peak


def _check_finite(peak: float) -> None:
    if not math.isfinite(peak):
        raise NotFinite(
            "the update or its loss holds NaN or infinity: lower the learning rate, or fill in missing values in the model"
        )


def disassemble(total: Floats, layout: VectorLayout, weight: float | None = None) -> Aggregate:
    """The aggregate in the decoded sum float64[length] over owners, of which it keeps a view. `weight`: the sum of the
    weights where that is public, so that a noisy slot need not tell it.

    Raises `RoundAborted` when the weights sum to nothing."""
    if total.shape != (layout.length,):
        raise ShapeMismatch(f"the sum of this round has {layout.length} slots, not shape {total.shape}")
    weight = float(total[-2]) / layout.scale if weight is None else weight
    flags = float(total[-1]) / layout.scale
    if not weight > 0:
        raise RoundAborted("the sum of the weights is not positive: no mean can be told from it")
    rates = total[layout.payload : -2] / layout.scale / weight * METRIC_BOUND
    metrics = {name: float(rate) for name, rate in zip(layout.metrics, rates, strict=True)}
    return Aggregate(total[: layout.payload], metrics, weight, max(0, round(flags)), flags)
