"""Rows and labels of one owner, and how an experiment divides them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
Chosen = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Table:
    """`x`: numbers, rows first, as the owner's network takes them; `y`: int64[n], the classes."""

    x: npt.NDArray[Any] = field(repr=False)
    y: Labels = field(repr=False)

    def rows(self, chosen: Chosen) -> Table:
        return Table(self.x[chosen], self.y[chosen])


@dataclass(frozen=True)
class Division:
    """One owner's rows: to train on, to choose a setting by, and to be judged by once."""

    train: Table
    validation: Table
    test: Table


def concatenate(tables: Sequence[Table]) -> Table:
    return Table(np.concatenate([table.x for table in tables]), np.concatenate([table.y for table in tables]))


def divide(tables: Mapping[str, Table], number: int) -> dict[str, Division]:
    """The division `number` of every owner's rows, the same at each call: a fifth to test, a fifth of the others to
    validate, of each class."""
    divided = {}
    for index, (owner, table) in enumerate(sorted(tables.items())):
        rng = np.random.default_rng([number, index])
        held_out = _of_each_class(table.y, 0.2, rng)
        others = table.rows(~held_out)
        validation = _of_each_class(others.y, 0.2, rng)
        divided[owner] = Division(others.rows(~validation), others.rows(validation), table.rows(held_out))
    return divided


def _of_each_class(y: Labels, fraction: float, rng: np.random.Generator) -> Chosen:
    """bool[n], `fraction` of the rows of each class, at random; one row at least."""
    chosen = np.zeros(len(y), dtype=np.bool_)
    for kind in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == kind))
        chosen[rows[: round(len(rows) * fraction)]] = True
    if not chosen.any():
        chosen[rng.integers(len(y))] = True
    return chosen
