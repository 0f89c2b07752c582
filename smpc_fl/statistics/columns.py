"""What is done to every private column before it is summed: NaN is set aside, the rest is kept within a public bound.

Nothing of it is silent: how many values were NaN, and how many beyond the bound, is part of the same secure vector, as
totals over all owners. Which owner has them is not told: it would be that owner's own number.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

from smpc_fl.errors import BadInput, ShapeMismatch
from smpc_fl.pointers.pointer import PointerTensor
from smpc_fl.statistics.cohort import Part, Totals, powers_above
from smpc_fl.statistics.options import Bound, ClampedWarning, Settings
from smpc_fl.statistics.remote import ones, where


@dataclass(frozen=True)
class Columns:
    """Columns of one field: `values` float64[rows, …] within ±`bound`, 0 where they are NaN; `valid` and `outside` are
    bool[rows, …]. `names`: `x[3]` for a column, `x` where there is but one; `scale`: the power of two above each one's
    bound, or with `tight` the bound itself."""

    names: list[str]
    values: PointerTensor
    valid: PointerTensor
    outside: PointerTensor
    bound: torch.Tensor
    tight: bool = False

    @property
    def scale(self) -> torch.Tensor:
        return self.bound if self.tight else powers_above(self.bound)


def column_names(field: str, pointer: PointerTensor) -> list[str]:
    sizes = [d for d in pointer.known_shape[1:] if d is not None]
    if not sizes:
        return [field]
    places = torch.cartesian_prod(*(torch.arange(size) for size in sizes)).reshape(-1, len(sizes))
    return [f"{field}{list(map(int, place))}" for place in places]


def read_bound(bound: Bound, pointer: PointerTensor, field: str) -> torch.Tensor:
    """float64[columns], positive and finite. Raises `BadInput`."""
    tail = [d for d in pointer.known_shape[1:] if d is not None]
    try:
        numbers = torch.as_tensor(bound, dtype=torch.float64)
        numbers = numbers.expand(tail).clone()
    except (RuntimeError, TypeError, ValueError):
        raise BadInput(f"the bound of {field} is one positive number, or one for each of its columns {tail}") from None
    if not bool((torch.isfinite(numbers) & (numbers > 0)).all()):
        raise BadInput(f"the bound of {field} is positive and finite, in every column")
    return numbers


def columns(pointer: PointerTensor, bound: Bound, field: str, settings: Settings, *, table: bool = False) -> Columns:
    """Set NaN aside and clamp to ±`bound`. `table`: as float64[rows, columns], also one column."""
    names = column_names(field, pointer)
    pointer = a_table(pointer, field) if table else pointer
    limits = read_bound(bound, pointer, field)
    one = float(limits.reshape(-1)[0])
    limit: float | torch.Tensor = one if bool((limits == one).all()) else limits  # a number reads better in a request
    x = pointer.to(torch.float64)
    valid = ~x.isnan()
    values = where(valid, x.clamp(-limit, limit), 0.0)
    return Columns(names, values, valid, x.abs() > limit, limits, tight=settings.privacy is not None)


def one_column(pointer: PointerTensor, field: str) -> PointerTensor:
    """`pointer`, if it is one column of numbers; `ShapeMismatch` otherwise."""
    if pointer.ndim != 1:
        raise ShapeMismatch(
            f"{field}: {pointer.describe()} at {pointer.owner} has shape {pointer.shape}, and one column is needed: take "
            "it as p[:, 3]"
        )
    return pointer


def a_table(pointer: PointerTensor, field: str) -> PointerTensor:
    """`pointer` as float64[rows, columns]; `ShapeMismatch` for more dimensions."""
    if pointer.ndim > 2:
        raise ShapeMismatch(
            f"{field}: {pointer.describe()} at {pointer.owner} has shape {pointer.shape}: take rows and columns, by "
            "p.flatten(1)"
        )
    table: PointerTensor = pointer.to(torch.float64)
    return table if pointer.ndim == 2 else table.unsqueeze(1)


def count_of(mask: PointerTensor, rows_scale: float) -> Part:
    """How many of bool[rows, …] are true, over the rows."""
    return mask.sum(0), rows_scale


def rows_of(pointer: PointerTensor, rows_scale: float) -> Part:
    """How many rows there are."""
    column = pointer if pointer.ndim == 1 else pointer.flatten(1)[:, 0]
    return ones(column).sum(), rows_scale


def check_missing(missing: torch.Tensor, rows: torch.Tensor, names: list[str], settings: Settings) -> None:
    """`BadInput` for NaN, unless they are to be omitted."""
    if settings.nan_policy == "raise" and bool((missing > 0).any()):
        worst = ", ".join(
            f"{name}: {int(count)} of {int(rows)}"
            for name, count in zip(names, missing.reshape(-1), strict=True)
            if count > 0
        )
        raise BadInput(
            f'NaN among the values ({worst} rows, all owners together): leave them out by nan_policy="omit", or let '
            "pointers fill them in, as p.nan_to_num(0.0)"
        )


def warn_clamped(totals: Totals, *checked: tuple[str, Columns]) -> None:
    """Says which columns had values beyond their bounds, by the totals of these names."""
    said = [
        f"{name} ({int(count)} beyond ±{float(bound):g})"
        for key, column in checked
        if key in totals  # not with privacy
        for name, count, bound in zip(column.names, totals[key].reshape(-1), column.bound.reshape(-1), strict=True)
        if count > 0
    ]
    if said:
        warnings.warn(
            f"values beyond the bound were taken as ±bound: {', '.join(said)}; the statistic is off, give a larger bound",
            ClampedWarning,
            stacklevel=4,
        )
