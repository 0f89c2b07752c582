"""A federation in memory for the tests of statistics: the owners' own code and the rounding of the wire, no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pointer_world import World, at

from smpc_fl.fixed_point import FixedPoint
from smpc_fl.hashing import digest
from smpc_fl.jobs import AggregateJob, encode_job
from smpc_fl.learning.update import assemble, disassemble
from smpc_fl.nodes.registered import holding
from smpc_fl.pointers.evaluation import operand
from smpc_fl.pointers.pointer import PointerTensor
from smpc_fl.pointers.policy import check_aggregate
from smpc_fl.pointers.session import AggregateResult
from smpc_fl.privacy.discrete_gaussian import DiscreteGaussian
from smpc_fl.privacy.mechanism import Noise, check_norm
from smpc_fl.protocols.manifest import Numbers
from smpc_fl.protocols.work import public_weight, work_of
from smpc_fl.ring import RingArray

NAMES = ("alice", "bob", "carol")
AGGREGATORS = 2


class WireWorld(World):
    """Sums go through fixed point and the ring, as owners encode and the coordinator decodes them; `away` drop out."""

    away: frozenset[str] = frozenset()
    silent = False
    """Do the aggregators leave out the noise that they announce?"""
    seed = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.vectors: dict[str, Any] = {}
        self.numbers: Numbers | None = None
        self._known: dict[Any, RingArray] = {}

    def aggregate(self, job: AggregateJob, owners: Sequence[str]) -> AggregateResult:
        self.jobs.append(job)
        work = work_of(job, "aggregate")
        numbers = work.numbers(owners=len(owners), k_min=self.k_min, aggregators=AGGREGATORS)
        self.numbers = numbers
        assert numbers.ring_bits == 64
        fixed, included = numbers.fixed_point, [owner for owner in owners if owner not in self.away]
        key = encode_job(job), *included
        if key not in self._known:
            self._known[key] = self._sum(job, owners, included, fixed, numbers.noise)
        total = self._known[key].copy()
        if numbers.noise is not None and not self.silent:
            for aggregator in range(AGGREGATORS):
                secret = digest("noise", self.seed.to_bytes(4, "big"), bytes([aggregator, len(self.jobs)]))
                total += DiscreteGaussian(numbers.noise.sigma, secret).draw(0, total.size).astype(total.dtype)
        weight = public_weight(job, "aggregate", included, list(owners))
        result = disassemble(fixed.decode(total), work.layout, weight)
        return AggregateResult(result.sum, included, result.clipped, result.total_weight, numbers.worst_error)

    def _sum(
        self, job: AggregateJob, owners: Sequence[str], included: list[str], fixed: FixedPoint, noise: Noise | None
    ) -> RingArray:
        work = work_of(job, "aggregate")
        total = fixed.encode(np.zeros(work.layout.length))
        for owner in included:
            held = self.registered[owner]
            expression = check_aggregate(job, owners, leaves={n: h.spec for n, h in held.items()}, k_min=self.k_min)
            value = operand(expression, {name: h.private() for name, h in held.items()}, job.bound)
            words = assemble(value, 1.0, {}, layout=work.layout, clip=work.clip, mode=work.mode).encode(fixed)
            if noise is not None:
                check_norm(words, fixed.ring, noise)
            self.vectors[owner] = fixed.decode(words)
            total += words
        return total


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
