"""Secure aggregates: one computation over many owners, of which only the mean or the sum comes out.

The operands are pointers with one lineage, one at each owner. All that owners would refuse is refused here first, before
anything is sent (`policy.py`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import torch

from smpc_fl.errors import BadInput, IsolationRefused, ShapeMismatch, WeightOutOfRange
from smpc_fl.jobs import AggregateJob, Privacy, RingBits
from smpc_fl.pointers.pointer import PointerTensor
from smpc_fl.pointers.policy import check_cohort, check_weights
from smpc_fl.pointers.session import AggregateResult
from smpc_fl.privacy.accounting import calibrated


class SaturatedWarning(UserWarning):
    """Some owners' operands had elements beyond ±bound (or NaN), which were saturated: the aggregate is off."""


class OwnersMissingWarning(UserWarning):
    """Some owners dropped out: the aggregate is exact, over the others."""


def secure_mean(
    pointers: Sequence[PointerTensor],
    weights: Sequence[float] | None = None,
    *,
    bound: float,
    max_samples: int | None = None,
    tolerance: float = 1e-3,
    ring_bits: RingBits | None = None,
    privacy: Privacy | None = None,
) -> torch.Tensor:
    """The element-wise weighted mean over owners, [shape of one pointer]; nothing else leaves them.

    `weights`: one for each pointer, positive, none over half of their sum; without them each owner weighs by its own
    number of rows, which stays secret (`max_samples` is a public cap on it). `bound`: elements beyond ±bound saturate,
    and a `SaturatedWarning` says at how many owners; an `OwnersMissingWarning` names owners that dropped out.
    `tolerance`: largest decoding error of an element. `ring_bits`: bits that one takes on the wire, 8 to 64, or "fit" for
    the fewest that the tolerance allows. `privacy`: noise for differential privacy; then nobody is told of elements that
    saturate, and weights by rows are noisy too: give equal ones, or a `max_samples` that rows come near to.

    float64 for operands of float64 and int64, float32 otherwise. Raises `IsolationRefused`, `CohortTooSmall`,
    `WeightOutOfRange`, `ShapeMismatch`, `BadInput` before anything is sent, and what an owner refuses with."""
    return _aggregate(pointers, "mean", weights, bound, max_samples, tolerance, ring_bits, privacy)


def secure_sum(
    pointers: Sequence[PointerTensor],
    *,
    bound: float,
    tolerance: float = 1e-3,
    ring_bits: RingBits | None = None,
    privacy: Privacy | None = None,
) -> torch.Tensor:
    """The element-wise sum over owners; otherwise as `secure_mean`."""
    return _aggregate(pointers, "sum", None, bound, None, tolerance, ring_bits, privacy)


def _aggregate(
    pointers: Sequence[PointerTensor],
    reduce: Literal["mean", "sum"],
    weights: Sequence[float] | None,
    bound: float,
    max_samples: int | None,
    tolerance: float,
    ring_bits: RingBits | None,
    privacy: Privacy | None,
) -> torch.Tensor:
    pointers = list(pointers)
    if not pointers or not all(isinstance(pointer, PointerTensor) for pointer in pointers):
        raise BadInput("an aggregate takes a list of pointers, one at each owner")
    first = pointers[0]
    session = first.session
    if any(pointer.session is not session for pointer in pointers):
        raise BadInput("the pointers belong to different sessions: take them all from one federation")
    check_cohort([pointer.owner for pointer in pointers], session.k_min)
    shape = _common(pointers)
    given = None if weights is None else _numbers(weights)
    if given is not None:
        check_weights(given, len(pointers))
        largest = max(given)
        given = [weight / largest for weight in given]
    _check_positive(bound=bound, tolerance=tolerance)
    order = sorted(range(len(pointers)), key=lambda place: pointers[place].owner)
    settings: dict[str, Any] = {
        "reduce": reduce,
        "bound": float(bound),
        "weights": None if given is None else [given[place] for place in order],
        "tolerance": float(tolerance),
        "ring_bits": ring_bits,
        "privacy": privacy and msgspec.to_builtins(calibrated(privacy, 1)),
    }
    if max_samples is not None:
        settings["max_samples"] = max_samples
    result = run_job(first, [pointers[place].owner for place in order], settings)
    if result.clipped and privacy is None:  # with noise it is a guess
        warnings.warn(
            f"{result.clipped} of {len(result.included)} owners had elements beyond ±{bound:g} (or NaN), which were "
            "saturated: the aggregate is off; choose a larger bound, or nan_to_num and clamp first",
            SaturatedWarning,
            stacklevel=3,
        )
    missing = sorted({pointer.owner for pointer in pointers} - set(result.included))
    if missing:
        warnings.warn(
            f"{', '.join(missing)} dropped out: the {reduce} is over {', '.join(result.included)} only",
            OwnersMissingWarning,
            stacklevel=3,
        )
    dtype = torch.float64 if first.dtype in (torch.float64, torch.int64) else torch.float32
    return torch.from_numpy(result.value.reshape(shape)).to(dtype, copy=True)


def run_job(pointer: PointerTensor, owners: Sequence[str], settings: Mapping[str, Any]) -> AggregateResult:
    """The aggregate of `pointer`'s computation, which has no rows left, over `owners` (sorted ids), each of whom computes it
    on its own tensors. `settings`: the other fields of `AggregateJob`; `BadInput` where they do not fit."""
    shape = [dimension for dimension in pointer.known_shape if dimension is not None]
    fields = {"type": "AggregateJob", "expression": pointer.expression, "shape": shape, **settings}
    try:
        job = msgspec.convert(fields, AggregateJob)
    except msgspec.ValidationError as error:
        raise BadInput(f"the aggregate's settings do not fit: {error}") from None
    return pointer.session.aggregate(job, owners)


def _common(pointers: Sequence[PointerTensor]) -> list[int]:
    """The one shape of pointers of one lineage."""
    first = pointers[0]
    for other in pointers[1:]:
        if other.expression != first.expression:
            raise IsolationRefused(
                f"the operands are not one computation: {first.owner} has {first.describe()}, {other.owner} has "
                f"{other.describe()}; do the same at every owner"
            )
    shape = [dimension for dimension in first.known_shape if dimension is not None]
    for pointer in pointers:
        if None in pointer.known_shape:
            raise ShapeMismatch(
                f"{pointer.describe()} at {pointer.owner} has shape {pointer.shape}, and owners have different rows: "
                "reduce over them first, as p.mean(0)"
            )
        if list(pointer.known_shape) != shape or pointer.dtype != first.dtype:
            raise ShapeMismatch(
                f"{first.owner} has {first.dtype} of shape {first.shape}, {pointer.owner} has {pointer.dtype} of shape "
                f"{pointer.shape}: an aggregate is element by element over equal shapes"
            )
    return shape


def _numbers(weights: Sequence[float]) -> list[float]:
    try:
        return [float(weight) for weight in weights]
    except (TypeError, ValueError):
        raise WeightOutOfRange("weights are numbers, one for each pointer") from None


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise BadInput(f"{name} is a positive, finite number")
