"""What every side of a comparison computes: the same prepared updates, the same weights.

A round, on every side: the server has a model, float32[d]; it goes to every owner; each has its update ready at once,
because local training costs the same everywhere and would hide what is compared; the server ends with Σ w·Δ / Σ w.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from smpc_fl.learning.update import TRAIN_METRICS, SecureVector, VectorLayout, assemble
from smpc_fl.protocols.manifest import Numbers, choose_numbers

Vector = npt.NDArray[np.float32]

MAX_SAMPLES = 1024
CLIP = 1.0
LOSS = 0.5
TOLERANCE = 1.0
"""Of the worst decoding error, which would be for three owners of one row each; the error itself is measured."""
K_MIN = 3


@dataclass(frozen=True)
class Task:
    """`owners` N, `dimension` d, `aggregators` m (none on the plain sides), `bits` of the ring."""

    owners: int
    dimension: int
    aggregators: int = 3
    bits: int = 32
    seed: int = 2026

    @property
    def names(self) -> list[str]:
        """The owners, sorted."""
        return [f"owner-{i:03d}" for i in range(self.owners)]

    @property
    def aggregator_names(self) -> list[str]:
        return [f"aggregator-{i + 1}" for i in range(self.aggregators)]

    def weight(self, owner: int) -> float:
        """In (0, 1], different for each owner, a whole multiple of 1 / MAX_SAMPLES."""
        return (257 + 61 * owner % 768) / MAX_SAMPLES

    def update(self, owner: int) -> Vector:
        """float32[d], normal, of L2 norm about 0.9: below the clip."""
        generator = np.random.default_rng([self.seed, owner])
        values = generator.standard_normal(self.dimension, np.float32)
        values *= np.float32(0.9 * CLIP / self.dimension**0.5)
        return values

    # --- the secure side ---

    @property
    def layout(self) -> VectorLayout:
        return VectorLayout(self.dimension, TRAIN_METRICS)

    @property
    def numbers(self) -> Numbers:
        return choose_numbers(
            owners=self.owners, clip=CLIP, max_samples=MAX_SAMPLES, k_min=K_MIN, tolerance=TOLERANCE,
            ring_bits=self.bits,
        )  # fmt: skip

    @property
    def digest(self) -> bytes:
        """Stands for an approved job's."""
        return hashlib.sha256(repr(self).encode()).digest()

    def vector(self, owner: int, update: Vector) -> SecureVector:
        """What the owner's node makes of its update: weighed, clipped, the loss and the weight appended."""
        return assemble(update, self.weight(owner), {"loss": LOSS}, layout=self.layout, clip=CLIP, mode="norm")

    def integers(self) -> npt.NDArray[np.unsignedinteger]:
        """The sum in the ring that an exact round releases: ring[d + 3]."""
        fixed = self.numbers.fixed_point
        total = fixed.ring.zeros(self.layout.length)
        for owner in range(self.owners):
            total += self.vector(owner, self.update(owner)).encode(fixed)
        return total

    def mean(self) -> npt.NDArray[np.float64]:
        """The weighted mean in float64: float64[d]."""
        total, weights = np.zeros(self.dimension), 0.0
        for owner in range(self.owners):
            total += np.float64(self.weight(owner)) * self.update(owner)
            weights += self.weight(owner)
        return total / weights
