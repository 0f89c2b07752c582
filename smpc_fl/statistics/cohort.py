"""From pointers at many owners to totals: the one place where a statistic meets the federation.

A computation is spelt once, for the first owner's pointers (`draft.py`), and every owner computes those very bytes on its
own tensors, which all have been checked to be alike. What a statistic needs is scaled by public powers of two to ±`reach`,
put behind each other as one vector float64[d], and leaves as one secure sum in the ring of 64 bits: one round, 8 d bytes an
owner. `reach`, 2^floor(log2(2047 / N)) for N owners, fills the ring at 52 fractional bits, the most there are: a total is
off by at most N · 2^-53 / reach <= N² · 2^-63 of its scale (`fixed_point.worst_error`); counts are exact.

With privacy the vector's L2 norm is what is bounded, and ±1 stands for the most that `max_rows` rows may have (`noise.py`): the
ring's capacity rule leaves room for the noise.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from msgspec import to_builtins

from smpc_fl.errors import BadInput, ShapeMismatch, Unavailable
from smpc_fl.fixed_point import largest_fractional_bits, worst_error
from smpc_fl.pointers.aggregates import OwnersMissingWarning, run_job
from smpc_fl.pointers.pointer import PointerTensor
from smpc_fl.pointers.policy import check_cohort
from smpc_fl.privacy.accounting import calibrated
from smpc_fl.privacy.mechanism import deviations
from smpc_fl.ring import ring
from smpc_fl.statistics.draft import Draft
from smpc_fl.statistics.noise import DEVIATIONS
from smpc_fl.statistics.options import Settings
from smpc_fl.statistics.remote import cat

RING_BITS = 64
ROUNDING = 1e-6
"""Of noisy sums, in units of an owner's largest norm, which noise of any use is far above."""
Part = tuple[PointerTensor, float | torch.Tensor]
"""A value without rows, and a power of two that no owner's is beyond (for each of its elements, if it is a tensor)."""


class Totals(dict[str, torch.Tensor]):
    """Sums over owners by name, float64; `error`: how far each may be off by the rounding on the wire, or `DEVIATIONS`
    standard deviations of the noise."""

    def __init__(self, values: Mapping[str, torch.Tensor], error: Mapping[str, torch.Tensor]) -> None:
        super().__init__(values)
        self.error = dict(error)


class Cohort:
    """Tensors of one table at each owner, by field; `first` are drafts of the first owner's, in which computations are spelt."""

    def __init__(self, settings: Settings, **fields: Sequence[PointerTensor]) -> None:
        """One pointer an owner in each field. Raises `BadInput`, `ShapeMismatch`, `IsolationRefused`, `CohortTooSmall`."""
        self.settings = settings
        by_owner = {field: _by_owner(field, pointers) for field, pointers in fields.items()}
        names = list(fields)
        self.owners = sorted(by_owner[names[0]])
        for field in names[1:]:
            if sorted(by_owner[field]) != self.owners:
                raise BadInput(
                    f"{field} is from {', '.join(sorted(by_owner[field]))}, {names[0]} from {', '.join(self.owners)}: "
                    "give one pointer of each owner in both"
                )
        first = {field: at[self.owners[0]] for field, at in by_owner.items()}
        session = first[names[0]].session
        if any(pointer.session is not session for at in by_owner.values() for pointer in at.values()):
            raise BadInput("the pointers belong to different sessions: take them all from one federation")
        check_cohort(self.owners, session.k_min)
        for field, at in by_owner.items():
            _check_alike(field, list(at.values()))
        for owner in self.owners:
            _check_together({field: at[owner] for field, at in by_owner.items()})
        draft = Draft(session)
        self.first = {field: draft.take(pointer) for field, pointer in first.items()}
        self.privacy = None if settings.privacy is None else calibrated(settings.privacy, 1)
        # With noise every row is worth the same, and `row_norm` says how much.
        self.rows_scale = 1.0 if self.privacy else power_above(settings.max_rows)
        self.reach, self.error = wire(len(self.owners))
        self.included: list[str] | None = None

    def totals(self, parts: Mapping[str, Part], row_norm: float = 0.0) -> Totals:
        """The parts' sums over all owners, in one secure sum. With privacy what one row adds to all of the parts, each over
        its scale, has at most the L2 norm `row_norm`, > 0.

        Raises `BadInput` where an owner has more than `max_rows` rows (not with privacy), `Unavailable` where an owner that
        was in an earlier sum of this statistic dropped out, and what owners refuse with."""
        settings: dict[str, Any] = {"reduce": "sum", "ring_bits": RING_BITS}
        if self.privacy is None:
            unit, error = self.reach, self.error
            settings |= {"bound": self.reach, "tolerance": error}
        else:
            assert row_norm > 0
            unit, error = 1 / (self.settings.max_rows * row_norm), 0.0
            settings |= {"bound": 1.0, "norm": True, "tolerance": ROUNDING, "privacy": to_builtins(self.privacy)}
        scaled = [(value.to(torch.float64) * (unit / scale)).reshape(-1) for value, scale in parts.values()]
        result = run_job(cat(scaled), self.owners, settings)
        if self.privacy is not None:  # and `clipped` is a guess
            error = DEVIATIONS * result.worst_error / deviations(result.value.size + 2)
        elif result.clipped:
            raise BadInput(
                f"{result.clipped} of {len(result.included)} owners have more than max_rows={self.settings.max_rows} rows "
                "of these fields: give a larger max_rows"
            )
        self._include(result.included)
        flat, at = torch.from_numpy(result.value.copy()), 0
        values: dict[str, torch.Tensor] = {}
        errors: dict[str, torch.Tensor] = {}
        for name, (pointer, scale) in parts.items():
            shape = [d for d in pointer.known_shape if d is not None]
            size = math.prod(shape)
            values[name] = flat[at : at + size].reshape(shape) * (scale / unit)
            errors[name] = torch.full(shape, error / unit, dtype=torch.float64) * scale
            at += size
        return Totals(values, errors)

    def checked(self, parts: Mapping[str, Part]) -> dict[str, Part]:
        """Parts that only tell whether the data are as they should be: none with privacy, as noise could not."""
        return {} if self.privacy else dict(parts)

    def least(self, error: float = 0.0) -> float:
        """The fewest rows that something is told of, where their number may be off by `error`: `min_count`; with privacy also
        what noise alone might make."""
        return max(self.settings.min_count, error) if self.privacy else self.settings.min_count

    def _include(self, included: list[str]) -> None:
        if self.included is None and included != self.owners:
            missing = ", ".join(sorted(set(self.owners) - set(included)))
            warnings.warn(
                f"{missing} dropped out: the statistic is over {', '.join(included)} only",
                OwnersMissingWarning,
                stacklevel=4,
            )
        elif self.included not in (None, included):
            changed = ", ".join(sorted(set(included) ^ set(self.included or ())))
            raise Unavailable(
                f"{changed} dropped out, or came back, between two steps of this statistic: try again when all are there"
            )
        self.included = included


def wire(owners: int) -> tuple[float, float]:
    """(`reach`, how far a sum of values within ±`reach` may be off) for so many owners."""
    reach = 2.0 ** max(0, (2047 // owners).bit_length() - 1)
    fractional_bits = largest_fractional_bits(ring(RING_BITS), owners, reach)
    return reach, worst_error(fractional_bits, owners, 1.0)


def power_above(value: float) -> float:
    """The least power of two above `value`, > 0: scaling by it is exact, and what rounding adds has room."""
    return 2.0 ** math.frexp(value)[1]


def powers_above(values: torch.Tensor) -> torch.Tensor:
    """`power_above` of each element."""
    return torch.pow(2.0, torch.frexp(values).exponent.to(torch.float64))


def _by_owner(field: str, pointers: Sequence[PointerTensor]) -> dict[str, PointerTensor]:
    given = list(pointers)
    if not given or not all(isinstance(pointer, PointerTensor) for pointer in given):
        raise BadInput(f"{field}: a statistic takes a list of pointers, one at each owner")
    check_cohort([pointer.owner for pointer in given], 0)
    return {pointer.owner: pointer for pointer in given}


def _check_alike(field: str, pointers: Sequence[PointerTensor]) -> None:
    """Is it the same tensor at every owner, with the same columns and type?"""
    first = pointers[0]
    for other in pointers:
        if not other.ndim:
            raise ShapeMismatch(f"{field}: {other.describe()} at {other.owner} has no rows: take a tensor that has")
        if other.expression != first.expression:
            raise ShapeMismatch(
                f"{field}: {first.owner} has {first.describe()}, {other.owner} has {other.describe()}: take the same "
                "tensor, with the same operations, at every owner"
            )
        if other.known_shape[1:] != first.known_shape[1:] or other.dtype != first.dtype:
            raise ShapeMismatch(
                f"{field}: {first.describe()} is {first.dtype} of shape {first.shape} at {first.owner}, {other.dtype} of "
                f"shape {other.shape} at {other.owner}: let owners publish the same columns in the same type"
            )


def _check_together(pointers: Mapping[str, PointerTensor]) -> None:
    """Do one owner's fields line up row by row?"""
    (name, first), *rest = pointers.items()
    for field, other in rest:
        if type(other.shape[0]) is not type(first.shape[0]) or other.shape[0] != first.shape[0]:
            raise ShapeMismatch(
                f"{name} and {field} at {first.owner} ({first.describe()}, {other.describe()}) are not of one table: "
                "let the owner publish them together, as one dataset"
            )
