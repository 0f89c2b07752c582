"""Where simulated owners' tensors come from: given by name, made by a function of the owner's number, or a table dealt out.

Owners without names of their own are called `owner-000000`, `owner-000001`, …: an owner's name, and so its shuffles and
its data, does not depend on how many others there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from smpc_fl.errors import BadInput
from smpc_fl.learning import partition
from smpc_fl.nodes.ledger.base import Dataset, Ledger, TensorInfo
from smpc_fl.nodes.owner_data import Holdings

Array = npt.NDArray[Any]
Tensors = Mapping[str, Any]
"""{tensor name: array or torch tensor, rows first}."""
Make = Callable[[int], Tensors]
Split = Literal["deal", "blocks"]

_DATASET = "data"


def name_of(number: int) -> str:
    return f"owner-{number:06d}"


class Part(Protocol):
    """The data of a batch's owners, as it travels to a worker."""

    def load(self, owner: str) -> Tensors:
        """What `owner` holds; for data that are made, made now, in the worker."""


@dataclass(frozen=True)
class Given:
    """Tensors that the caller had; a worker gets those of its own batch."""

    tensors: Mapping[str, Tensors] = field(repr=False)

    def load(self, owner: str) -> Tensors:
        return self.tensors[owner]


@dataclass(frozen=True)
class Made:
    """Tensors that a function makes, or loads, where they are used: what travels is the function's name."""

    make: Make

    def load(self, owner: str) -> Tensors:
        return self.make(int(owner.removeprefix("owner-")))


@dataclass(frozen=True)
class Owners:
    """`names`, sorted, and their data."""

    names: tuple[str, ...]
    data: Given | Made

    def part(self, names: Sequence[str]) -> Part:
        """The data of these owners alone."""
        if isinstance(self.data, Made):
            return self.data
        return Given({name: self.data.tensors[name] for name in names})


def read_owners(owners: Mapping[str, Tensors] | tuple[int, Make]) -> Owners:
    """What a caller means by `owners`: {name: tensors}, or (count, function of the owner's number).

    Raises `BadInput` for what is neither, or for tensors that a node could not hold."""
    if isinstance(owners, Mapping):
        given: dict[str, Tensors] = {}
        for name, tensors in owners.items():
            if not isinstance(name, str) or not isinstance(tensors, Mapping):
                raise BadInput('owners: give {"name": {"x": tensor, …}, …}, or (count, function of the number)')
            given[name] = arrays(tensors)
        found = Owners(tuple(sorted(given)), Given(given))
    else:
        match owners:
            case (int(count), make) if count > 0 and callable(make):
                found = Owners(tuple(name_of(number) for number in range(count)), Made(make))
            case _:
                raise BadInput("owners: give a mapping, or (count, function of the owner's number) with a count over 0")
    return found


def arrays(tensors: Tensors) -> dict[str, Array]:
    """Tensors as the arrays that a node would read from its disk. Raises `BadInput`."""
    found: dict[str, Array] = {}
    for name, tensor in tensors.items():
        array = np.asarray(tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else tensor)
        if array.ndim == 0 or array.dtype.kind not in "fiub":
            raise BadInput(f"tensor {name!r} must be an array of numbers with rows first")
        found[name] = np.ascontiguousarray(array)
    return found


def holdings(tensors: Tensors) -> Holdings:
    """A node's view of an owner's data, over memory in the place of a ledger: the same code computes on it."""
    return Holdings(cast(Ledger, _Memory(arrays(tensors))))


class _Memory:
    """As much of a ledger as computing needs: one data set, with nothing published."""

    def __init__(self, tensors: dict[str, Array]) -> None:
        self._tensors = tensors

    def datasets(self) -> list[Dataset]:
        infos = {name: TensorInfo(array.shape[1:], str(array.dtype)) for name, array in self._tensors.items()}
        return [Dataset(_DATASET, infos)]

    def load_private(self, name: str) -> dict[str, Array]:
        return self._tensors


def deal(tensors: Tensors, owners: int, *, split: Split = "deal", seed: int = 0) -> dict[str, dict[str, Array]]:
    """One table as `owners` tables, {name: tensors}, whose numbers of rows differ by one at most.

    "deal": the rows are shuffled (by `seed`) and dealt out like cards: owner i gets cards i, i + owners, …, so that all
    owners hold the same sort of data. "blocks": the first owner gets the first rows and so on, in the table's order: sort
    the table by label, or by site, for owners that differ. Raises `BadInput` for fewer rows than owners."""
    table = arrays(tensors)
    counts = {len(array) for array in table.values()}
    if len(counts) != 1:
        raise BadInput("a table's tensors have one row each for every row: these differ in length")
    (rows,) = counts
    if not 1 <= owners <= rows:
        raise BadInput(f"{rows} rows for {owners} owners: each needs one row at least")
    names = [name_of(number) for number in range(owners)]
    if split == "deal":
        return partition.iid(rows, names, rng=np.random.default_rng(seed)).split(table)
    blocks = np.array_split(np.arange(rows), owners)
    return partition.Partition(dict(zip(names, blocks, strict=True))).split(table)
