"""Fewer bytes of an update, in ways that commute with adding: rotation, low-bit quantisation, a mask from a public seed.

Owner:   v = Δ + residual  ->  the masked coordinates, clipped  ->  rotated  ->  n-bit integers
Server:  the mean of the integers   ->  rotated back            ->  zeros where nothing travelled

The rotation is a randomised Hadamard transform in blocks (Suresh et al., "Distributed Mean Estimation with Limited
Communication", ICML 2017, section 3): coordinates become alike, so that a few bits serve them all. Rounding is stochastic,
and what it and the mask lose stays with the owner as a residual for the next round (error feedback: Seide et al. 2014;
Karimireddy et al., ICML 2019). The mask is drawn for a round from the job's public seed, the same for everybody (Konečný
et al. 2016, "random mask"), because masks of their own, top-k above all, neither add nor stay secret: which coordinates an
owner sends would tell of its data. Either a sketch of the whole update goes through it (the paper's section 3), or owners
train nothing else to begin with (its section 2, a structured update).

All that is public derives from (job seed, round); rounding draws from a stream of the owner's. NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from smpc_fl.chunks import Floats
from smpc_fl.learning.shuffle import permutation, stream
from smpc_fl.plans.layout import Vector
from smpc_fl.prg import Prg
from smpc_fl.ring import RING64

BLOCK = 1 << 12
"""Coordinates that are rotated together: enough to be alike, and in the cache."""
SMALLEST = 1 << 8
"""Coordinates of the last block, at least: filled up to its size, it costs no more than so many numbers."""
SPREAD = 4.0
"""Standard deviations of a rotated coordinate that the integers reach at most: 6 of 100,000 saturate."""


class Compression(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`bits`: of an owner's number; on the wire it takes bits + log2(owners), rounded up, at least 8. `keep`: part of the
    coordinates that travel in a round. `train_kept`: owners train these coordinates only, so nothing has to wait at home;
    a larger learning rate makes up for the others. `rotate`, `feedback`: as above; without feedback the mean is unbiased,
    and noisier.

    The job's `clip` is the norm of what travels that the integers are made for: near the usual one, or bits are wasted.
    Weights become multiples of 2^-(bits - 1), the largest 1; the mean divides by their exact sum all the same."""

    bits: Annotated[int, Meta(ge=2, le=24)] = 8
    keep: Annotated[float, Meta(gt=0, le=1)] = 1.0
    train_kept: bool = False
    rotate: bool = True
    feedback: bool = True


@dataclass(frozen=True)
class Compressor:
    """One round's public part. `size`: s, the coordinates of an update."""

    how: Compression
    size: int
    clip: float
    seed: bytes
    round_number: int

    @property
    def kept(self) -> int:
        """Coordinates that travel."""
        return max(1, math.ceil(self.how.keep * self.size))

    @property
    def length(self) -> int:
        """Numbers of the payload: the kept coordinates, filled up to whole blocks."""
        return sum(self._blocks()) if self.how.rotate else self.kept

    @property
    def bound(self) -> float:
        """What the largest integer stands for."""
        if not self.how.rotate:
            return self.clip
        return min(self.clip, self._spreads * self.clip / math.sqrt(self.length))

    @property
    def mask(self) -> Vector | None:
        """float32[s], 1 where owners train; None where they train everything."""
        places = self._places() if self.how.train_kept else None
        if places is None:
            return None
        out: Vector = np.zeros(self.size, np.float32)
        out[places] = 1
        return out

    def compress(self, update: Vector, residual: Vector, weight: float, owner: str) -> tuple[Floats, Vector, bool]:
        """(payload float64[length] within ±1, next residual float32[s], was it clipped?) of an update float32[s].

        `payload` times `weight`, of which 2^-(bits - 1) is a part, is a whole number of units 2^-(bits - 1)."""
        whole: Floats = update.astype(np.float64) + residual
        places = self._places()
        chosen: Floats = whole if places is None else whole[places]
        norm = float(np.sqrt(np.dot(chosen, chosen)))
        clipped = norm > self.clip
        if clipped:  # and what is cut off is lost: kept back, it would come again and again
            chosen *= self.clip / norm
            whole[slice(None) if places is None else places] = chosen
        rotated: Floats = self._rotate(chosen) if self.how.rotate else chosen
        units = weight * 2.0 ** (self.how.bits - 1)
        scaled = np.clip(rotated / self.bound, -1.0, 1.0) * units
        down = np.floor(scaled)
        payload: Floats = (down + (self._uniform(owner) < scaled - down)) / units
        if not self.how.feedback:
            return payload, np.zeros_like(residual), clipped
        return payload, (whole - self._spread(payload, 1.0)).astype(np.float32), clipped

    def expand(self, mean: Floats) -> Floats:
        """float64[s] of the mean payload float64[length]: what the owners' updates come to."""
        return self._spread(mean, 1.0 if self.how.feedback else self.size / self.kept)

    # --- the parts ---

    @property
    def _spreads(self) -> float:
        """Standard deviations that the integers reach. Where the residual keeps what is beyond them, those of the least squared
        error of a normal number, rounded at random by an owner of half the largest weight: 0.95 for 2 bits, 1.95 for 4,
        3.4 for 8."""
        return min(SPREAD, 0.45 * self.how.bits) if self.how.feedback else SPREAD

    def _spread(self, payload: Floats, factor: float) -> Floats:
        values: Floats = np.multiply(payload, self.bound * factor)
        values = self._rotate_back(values) if self.how.rotate else values
        places = self._places()
        if places is None:
            return values
        out: Floats = np.zeros(self.size, np.float64)
        out[places] = values
        return out

    def _places(self) -> npt.NDArray[np.int64] | None:
        """int64[kept], shuffled, so that blocks are alike; None where all coordinates travel."""
        if self.kept == self.size:
            return None
        return permutation(self._public("mask"), self.size)[: self.kept]

    def _public(self, use: str) -> Prg:
        return stream(self.seed, f"compression {use}", "", self.round_number)

    def _uniform(self, owner: str) -> Floats:
        words = stream(self.seed, "compression rounding", owner, self.round_number).expand(RING64, self.length)
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def _signs(self) -> Floats:
        bits = np.unpackbits(self._public("signs").expand(RING64, -(-self.length // 64)).view(np.uint8))
        return 1.0 - 2.0 * bits[: self.length].astype(np.float64)

    def _blocks(self) -> Iterator[int]:
        """Sizes of the blocks, powers of two that hold what is kept: whole ones, and what the rest takes, rounded up."""
        yield from [BLOCK] * (self.kept // BLOCK)
        rest = self.kept % BLOCK
        if rest >= SMALLEST:
            rest = -(-rest // SMALLEST) * SMALLEST
            yield from (1 << place for place in reversed(range(rest.bit_length())) if rest >> place & 1)
        elif rest:
            yield 1 << (rest - 1).bit_length()

    def _rotate(self, chosen: Floats) -> Floats:
        padded = np.zeros(self.length)
        padded[: self.kept] = chosen
        padded *= self._signs()
        return self._transform(padded)

    def _rotate_back(self, rotated: Floats) -> Floats:
        return (self._transform(rotated) * self._signs())[: self.kept]

    def _transform(self, values: Floats) -> Floats:
        """The Hadamard transform of each block, scaled so that it is its own inverse."""
        out, start = np.empty_like(values), self.kept // BLOCK * BLOCK
        out[:start] = hadamard(values[:start].reshape(-1, BLOCK)).reshape(-1)
        for size in list(self._blocks())[self.kept // BLOCK :]:
            out[start : start + size] = hadamard(values[None, start : start + size])[0]
            start += size
        return out


def hadamard(rows: Floats) -> Floats:
    """float64[r, n], n a power of two: each row times the orthonormal Hadamard matrix (Fino and Algazi 1976)."""
    out, n = rows.copy(), rows.shape[1]
    half = 1
    while half < n:
        pairs = out.reshape(len(out), n // (2 * half), 2, half)
        first, second = pairs[:, :, 0].copy(), pairs[:, :, 1]
        pairs[:, :, 0] += second
        np.subtract(first, second, out=pairs[:, :, 1])
        half *= 2
    out *= 1 / math.sqrt(n)
    return out


def weight_in_units(weight: float, bits: int) -> float:
    """The nearest multiple of 2^-(bits - 1), at least one: exact in the integers that carry it."""
    units = 2.0 ** (bits - 1)
    return max(1.0, round(weight * units)) / units
