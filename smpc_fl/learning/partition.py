"""Partitions of one table among owners, for experiments: who would hold which rows.

    parts = sf.partition.dirichlet(y, 10, alpha=0.1, rng=np.random.default_rng(1))
    sf.simulate(plan, parts.split({"x": x, "y": y}), …)

Every row goes to exactly one owner. `owners` is how many ("owner-0", "owner-1", …) or their names. A generator of the same
seed, and the same release of NumPy, gives the same partition.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from smpc_fl.errors import BadInput

Indices = npt.NDArray[np.int64]
Owners = int | Sequence[str]

_TRIES = 10_000
"""Draws until every owner has its `min_rows`; a draw costs microseconds."""


@dataclass(frozen=True)
class Partition:
    """`rows`: sorted row numbers int64[n] of each owner, by name. Made by hand, too, it holds every row exactly once.

    Raises `BadInput` for rows that are missing, shared, or out of range."""

    rows: Mapping[str, Indices] = field(repr=False)

    def __post_init__(self) -> None:
        together = np.sort(np.concatenate([np.empty(0, np.int64), *self.rows.values()]))
        if not np.array_equal(together, np.arange(len(together))):
            raise BadInput("a partition holds each row of 0 … n-1 exactly once: some are missing, or at two owners")

    @property
    def sizes(self) -> dict[str, int]:
        """{owner: number of its rows}."""
        return {owner: len(rows) for owner, rows in self.rows.items()}

    def counts(self, labels: Any) -> tuple[npt.NDArray[Any], Indices]:
        """(the classes of `labels`, sorted; int64[owners, classes], the rows that each owner has of each)."""
        kinds, codes = np.unique(_column(labels), return_inverse=True)
        self._check_length("labels", len(codes))
        return kinds, np.stack([np.bincount(codes[rows], minlength=len(kinds)) for rows in self.rows.values()])

    def split(self, tensors: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """{owner: {tensor name: its rows}}, as `LocalFederation` and `simulate` take it. `tensors`: arrays or torch
        tensors with one row for each row of the partition. Raises `BadInput`."""
        for name, tensor in tensors.items():
            self._check_length(f"tensor {name!r}", len(tensor))
        return {owner: {name: tensor[rows] for name, tensor in tensors.items()} for owner, rows in self.rows.items()}

    def _check_length(self, what: str, length: int) -> None:
        rows = sum(self.sizes.values())
        if length != rows:
            raise BadInput(
                f"{what}: {length} rows, and the partition is of {rows}: give the table that it was made for"
            )


def iid(rows: int, owners: Owners, *, rng: np.random.Generator) -> Partition:
    """Shuffled and dealt out like cards: all owners hold the same sort of data, and as many rows but for one."""
    names = _names(owners)
    _check_rows(rows, names, 1)
    order = rng.permutation(rows)
    return _partition(names, [order[first :: len(names)] for first in range(len(names))])


def quantity(rows: int, owners: Owners, *, alpha: float, rng: np.random.Generator, min_rows: int = 1) -> Partition:
    """The same sort of data at all owners, but some have much more of it: their shares of the rows are one draw from
    Dirichlet(alpha, …, alpha) (Li et al. 2022, "Federated Learning on Non-IID Data Silos").

    `alpha`: 0.5 is strong, 100 nearly even. Drawn again until every owner has `min_rows`."""
    names = _names(owners)
    _check_rows(rows, names, min_rows)
    _check_alpha(alpha)
    sizes = _until(lambda: _shares(rng, alpha, len(names), rows), min_rows)
    return _partition(names, np.split(rng.permutation(rows), np.cumsum(sizes)[:-1]))


def dirichlet(
    labels: Any, owners: Owners, *, alpha: float, rng: np.random.Generator, min_rows: int = 10, equal: bool = False
) -> Partition:
    """Owners that differ in what they see: each class is dealt out by shares of its own, one draw from
    Dirichlet(alpha, …, alpha) over the owners (Yurochkin et al. 2019, section 4). Owners then differ in size as well.

    With `equal` they are of one size, but for one row: each draws its own mixture of classes from Dirichlet(alpha · p), p
    being the whole table's, and gets rows by it while its classes last (Hsu et al. 2019, section 3).

    `labels`: one a row. `alpha`: 0.1 leaves an owner a few classes, 100 is nearly IID. Without `equal` drawn again until
    every owner has `min_rows`, as Li et al. 2022 do."""
    kinds, codes, available = np.unique(_column(labels), return_inverse=True, return_counts=True)
    names = _names(owners)
    _check_rows(len(codes), names, min_rows)
    _check_alpha(alpha)

    def classes_apart() -> Indices:
        return np.stack([_shares(rng, alpha, len(names), int(count)) for count in available], axis=1)

    taken = _equal(rng, alpha, len(names), available) if equal else _until(classes_apart, min_rows)
    parts: list[list[Indices]] = [[] for _ in names]
    for kind in range(len(kinds)):
        order = rng.permutation(np.flatnonzero(codes == kind))
        for part, rows in zip(parts, np.split(order, np.cumsum(taken[:, kind])[:-1]), strict=True):
            part.append(rows)
    return _partition(names, [np.concatenate(part) for part in parts])


def by_column(values: Any, *, min_rows: int = 1, rest: str | None = None) -> Partition:
    """An owner for each value of a column, such as a site or a state, and named after it: the rows of "VA Long Beach" are
    those of the owner "VA-Long-Beach".

    `rest`: the owner that gets the rows of all values with fewer than `min_rows`; without it they are refused. Raises
    `BadInput` for missing values as well, and for two values that would have one name."""
    kinds, codes, available = np.unique(_column(values), return_inverse=True, return_counts=True)
    names = [re.sub(r"[^A-Za-z0-9_.@-]+", "-", str(kind)).lstrip("_.@-")[:64] for kind in kinds]
    twice = sorted({name for name in names if names.count(name) > 1 or not name})
    if twice:
        raise BadInput(
            f"values of the column do not make names, or one twice ({', '.join(map(repr, twice))}): rename them"
        )
    small = [name for name, count in zip(names, available, strict=True) if count < min_rows]
    if small and rest is None:
        raise BadInput(f'{", ".join(small)}: fewer than min_rows={min_rows} rows; name an owner for them: rest="other"')
    found: dict[str, list[Indices]] = {}
    for kind, name in enumerate(names):
        found.setdefault(str(rest) if name in small else name, []).append(np.flatnonzero(codes == kind))
    partition = _partition(list(found), [np.concatenate(parts) for parts in found.values()])
    if small and partition.sizes[str(rest)] < min_rows:
        raise BadInput(
            f"{rest!r} would have fewer than min_rows={min_rows} rows itself: lower it, or join values first"
        )
    return partition


def _partition(names: Sequence[str], parts: Sequence[Indices]) -> Partition:
    return Partition({name: np.sort(part).astype(np.int64) for name, part in zip(names, parts, strict=True)})


def _shares(rng: np.random.Generator, alpha: float, owners: int, rows: int) -> Indices:
    """int64[owners], `rows` in shares drawn from Dirichlet(alpha, …, alpha)."""
    shares = rng.dirichlet(np.full(owners, alpha))
    cuts = np.minimum(np.cumsum(shares)[:-1] * rows, rows).astype(np.int64)
    return np.diff(cuts, prepend=0, append=rows)


def _equal(rng: np.random.Generator, alpha: float, owners: int, available: Indices) -> Indices:
    """int64[owners, classes], each owner's rows by a mixture of its own. A class that runs out leaves its share to the
    owner's other classes, and in the end to what there is: every pass fills the owner or uses up a class."""
    rows = int(available.sum())
    left, taken = available.copy(), np.zeros((owners, len(available)), np.int64)
    for owner in range(owners):
        mixture = rng.dirichlet(alpha * available / rows)
        missing = rows // owners + (owner < rows % owners)
        while missing:
            weights = np.where(left > 0, mixture, 0.0)
            if weights.sum() < 1e-9:
                weights = left.astype(np.float64)
            drawn = np.minimum(rng.multinomial(missing, weights / weights.sum()), left)
            taken[owner] += drawn
            left -= drawn
            missing -= int(drawn.sum())
    return taken


def _until(draw: Callable[[], Indices], min_rows: int) -> Indices:
    """The first draw, int64[owners] or int64[owners, classes], that leaves each owner `min_rows`."""
    for _ in range(_TRIES):
        taken = draw()
        if taken.reshape(len(taken), -1).sum(1).min() >= min_rows:
            return taken
    raise BadInput(
        f"in {_TRIES:,} draws some owner always had fewer than min_rows={min_rows} rows: "
        "raise alpha, lower min_rows, or take fewer owners"
    )


def _names(owners: Owners) -> list[str]:
    if isinstance(owners, int):
        width = len(str(owners - 1))
        return [f"owner-{number:0{width}}" for number in range(owners)]
    names = list(owners)
    if isinstance(owners, str) or len(set(names)) < len(names):
        raise BadInput("owners: how many, or a list of names that are all different")
    return names


def _column(values: Any) -> npt.NDArray[Any]:
    """One value a row: numbers, or text."""
    column = np.asarray(values)
    if column.ndim != 1 or len(column) == 0:
        raise BadInput(f"labels and columns have one value a row, and one row at least, not shape {column.shape}")
    if column.dtype.kind == "O" and all(isinstance(value, str) for value in column):
        column = column.astype(str)
    if column.dtype.kind not in "biufU" or (column.dtype.kind == "f" and np.isnan(column).any()):
        raise BadInput("labels and columns hold numbers or text alone: fill in what is missing, such as None and NaN")
    return column


def _check_rows(rows: int, names: Sequence[str], min_rows: int) -> None:
    if min_rows < 0 or not 1 <= len(names) * max(min_rows, 1) <= rows:
        raise BadInput(
            f"{rows} rows for {len(names)} owners with {min_rows} at least for each: take fewer owners, or lower min_rows"
        )


def _check_alpha(alpha: float) -> None:
    if not (math.isfinite(alpha) and alpha > 0):
        raise BadInput(f"alpha={alpha}: a number over 0; 0.1 for owners that differ much, 100 for hardly")
