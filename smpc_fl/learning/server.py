"""The server's step: from the model and the weighted sum of what owners sent to the next model. NumPy only.

Buffers (batch norm's running statistics) are averaged whatever the strategy: model + mean of changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from smpc_fl.chunks import Floats, chunks
from smpc_fl.errors import NotFinite, ShapeMismatch
from smpc_fl.learning.shared import Shared
from smpc_fl.learning.strategy import About, Strategy
from smpc_fl.plans.layout import Vector


@dataclass(frozen=True, eq=False)
class Server:
    """What the server has between two rounds: the model float32[d], and what the strategy keeps, float32[s] each."""

    model: Vector = field(repr=False)
    kept: dict[str, Vector] = field(repr=False)

    @classmethod
    def first(cls, strategy: Strategy, shared: Shared, model: Vector) -> Server:
        """Before the first round."""
        kept = {name: np.full(shared.size, value, np.float32) for name, value in strategy.keeps().items()}
        return cls(model, kept)

    @classmethod
    def from_vector(cls, strategy: Strategy, shared: Shared, vector: Vector) -> Server:
        """As `vector` gave it, float32[d + kept · s]; a model alone is one before the first round. Raises `ShapeMismatch`."""
        d, s, names = shared.model.size, shared.size, list(strategy.keeps())
        if vector.size == d:
            return cls.first(strategy, shared, vector)
        if vector.size != d + s * len(names):
            raise ShapeMismatch(
                f"a model with {len(names)} vectors beside it has {d + s * len(names)} numbers, not {vector.size}"
            )
        return cls(vector[:d], {name: vector[d + s * n : d + s * (n + 1)] for n, name in enumerate(names)})

    @property
    def vector(self) -> Vector:
        """All of it, one behind the other: what is kept on disk, and what a run goes on from."""
        return np.concatenate([self.model, *self.kept.values()]) if self.kept else self.model

    def shown(self, strategy: Strategy) -> Vector:
        """What owners get: the model, and what the strategy shows of what it keeps."""
        shown = [self.kept[name] for name in strategy.SHOWS]
        return np.concatenate([self.model, *shown]) if shown else self.model


def shown_of(strategy: Strategy, shared: Shared, vector: Vector) -> tuple[Vector, dict[str, Vector]]:
    """At an owner: (model float32[d], what is shown beside it float32[s] each). Raises `ShapeMismatch`."""
    d, s = shared.model.size, shared.size
    if vector.size != d + s * len(strategy.SHOWS):
        raise ShapeMismatch(
            f"a model of this job is float32[{d + s * len(strategy.SHOWS)}], not {vector.dtype}[{vector.size}]"
        )
    return vector[:d], {name: vector[d + s * n : d + s * (n + 1)] for n, name in enumerate(strategy.SHOWS)}


def places(strategy: Strategy, size: int) -> Iterator[tuple[str, slice]]:
    """Each part of what an owner sends, with its place in the payload."""
    start = 0
    for name, length in strategy.parts(size).items():
        yield name, slice(start, start + length)
        start += length


def serve(strategy: Strategy, server: Server, total: Floats, shared: Shared, about: About, *, weight: float) -> Server:
    """After a round: `total` is the owners' weighted sum of payloads, `weight` the sum of their weights; computed in
    float64, rounded once. Raises `ShapeMismatch`; `NotFinite` when the step leaves float32."""
    shared.model.check(server.model)
    if total.shape != (sum(strategy.parts(shared.size).values()),):
        raise ShapeMismatch(f"what owners send is {strategy.parts(shared.size)}, not {total.size} numbers")
    sums = {name: total[place] for name, place in places(strategy, shared.size)}
    before = shared.gather(server.model)
    after = np.empty_like(before)
    kept = {name: vector.copy() for name, vector in server.kept.items()}
    with np.errstate(over="ignore"):  # an overflow is reported below, by name
        for trained, stretch in shared.layout.stretches():
            for part in chunks(stretch.stop - stretch.start):
                place = slice(stretch.start + part.start, stretch.start + part.stop)
                if trained:
                    mean = {name: (v[place] if v.size == shared.size else v) / weight for name, v in sums.items()}
                    own = {name: vector[place].astype(np.float64) for name, vector in kept.items()}
                    step = strategy.step(mean, own, about)
                    for name, vector in own.items():
                        kept[name][place] = vector
                else:
                    step = sums["update"][place] / weight
                step += before[place]
                after[place] = step
    if not (np.isfinite(after).all() and all(np.isfinite(vector).all() for vector in kept.values())):
        raise NotFinite("the next model holds NaN or infinity: lower the learning rate")
    return Server(shared.scatter(after, server.model), kept)
