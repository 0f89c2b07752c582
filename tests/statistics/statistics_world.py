"""A federation in memory for the tests of statistics: the owners' own code and the rounding of the wire, no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pointer_world import World, at

from smpc_fl.jobs import AggregateJob
from smpc_fl.learning.update import assemble, disassemble
from smpc_fl.nodes.registered import holding
from smpc_fl.pointers.evaluation import operand
from smpc_fl.pointers.pointer import PointerTensor
from smpc_fl.pointers.policy import check_aggregate
from smpc_fl.pointers.session import AggregateResult
from smpc_fl.protocols.manifest import choose_numbers
from smpc_fl.protocols.work import work_of

NAMES = ("alice", "bob", "carol")


class WireWorld(World):
    """Sums go through fixed point and the ring, as owners encode and the coordinator decodes them; `away` drop out."""

    away: frozenset[str] = frozenset()

    def aggregate(self, job: AggregateJob, owners: Sequence[str]) -> AggregateResult:
        self.jobs.append(job)
        work = work_of(job, "aggregate")
        numbers = choose_numbers(
            owners=len(owners), clip=work.clip, max_samples=work.max_samples, k_min=self.k_min, tolerance=work.tolerance,
            ring_bits=work.ring_bits,
        )  # fmt: skip
        assert numbers.ring_bits == 64
        fixed = numbers.fixed_point
        total = fixed.encode(np.zeros(work.layout.length))
        included = [owner for owner in owners if owner not in self.away]
        for owner in included:
            held = self.registered[owner]
            expression = check_aggregate(job, owners, leaves={n: h.spec for n, h in held.items()}, k_min=self.k_min)
            value = operand(expression, {name: h.private() for name, h in held.items()}, job.bound)
            total += assemble(value, 1.0, {}, layout=work.layout, clip=work.clip, mode=work.mode).encode(fixed)
        result = disassemble(fixed.decode(total), work.layout)
        return AggregateResult(result.sum, included, result.clipped, result.total_weight)


def world(**fields: Sequence[Any]) -> WireWorld:
    """alice, bob and carol, with one array of each field: `world(x=[xa, xb, xc])`."""
    return WireWorld(
        {
            owner: [holding(name, torch.as_tensor(parts[i]), group="data") for name, parts in fields.items()]
            for i, owner in enumerate(NAMES)
        }
    )


def pooled(made: World, name: str) -> Any:
    """All rows of all owners, as NumPy has them."""
    return np.concatenate([made.registered[owner][name].private().numpy() for owner in NAMES])


def of(made: World, name: str) -> list[PointerTensor]:
    """The field's pointers."""
    return [at(made, owner, name) for owner in NAMES]


def cut(array: Any, sizes: Sequence[int] = (7, 60)) -> list[Any]:
    """Rows for three owners: the first few, some more, and the rest."""
    return [np.ascontiguousarray(part) for part in np.split(np.asarray(array), np.cumsum(sizes))]


def close(got: torch.Tensor, expected: Any, error: torch.Tensor | float, slack: float = 1e-12) -> None:
    """|got - expected| <= the stated error, and float64's own share of the size of what is compared."""
    reference = torch.as_tensor(np.asarray(expected, dtype=np.float64))
    room = torch.as_tensor(error, dtype=torch.float64) + slack * reference.abs().clamp(min=1e-3)
    off = (got - reference).abs()
    assert got.shape == reference.shape
    assert bool((off <= room).all()), (off.max(), room.min())
