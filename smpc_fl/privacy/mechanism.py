"""How much noise a kind of round asks for: what one owner's vector can weigh (its L2 norm), and sigma in proportion to it.

Every slot that leaves counts: [payload ‖ weight ‖ clipped flag], the payload within the L2 norm `norm`, each slot of the
tail within 2^tail. In units of the scale 2^f, rounded to nearest in n slots, a vector is no longer than

    sensitivity = (sqrt(norm^2 + 2 · 4^tail) · 2^f + sqrt(n) / 2) · (1 + 2^-20)

and the owner holds its very integers against that before they leave: nothing that floating point did before then matters.

Each aggregator adds N_Z(0, sigma^2) to its partial sum, sigma^2 = (multiplier · sensitivity)^2 + 9. That is what becomes of
a continuous Gaussian with 9 less in its variance when it is rounded to an integer by N_Z(0, 9) about it (Peikert, "An
Efficient and Parallel Gaussian Sampler for Lattices", CRYPTO 2010, theorem 3.1; by its smoothing parameter up to a factor of
1 ± 4 exp(-2 pi^2 · 9), less than 2^-250, a slot). Such rounding commutes with a shift by integers, so it is post-processing:
the accountant of the continuous Gaussian with this multiplier may be believed to the last digit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from smpc_fl.chunks import chunks
from smpc_fl.errors import CapacityExceeded
from smpc_fl.privacy.discrete_gaussian import LARGEST
from smpc_fl.ring import Ring, RingArray

_MARGIN = 2.0**-20
"""Relative, for float64's rounding where norms are taken."""
_ROUNDING = 9
"""Variance that the integers cost; see above."""


class Noise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As a manifest states it, in units of its scale: `sigma`, the standard deviation of each aggregator's discrete Gaussian
    noise in every slot; `sensitivity`, the longest L2 norm of an owner's vector; `tail`: the weight and the clipped flag are
    multiplied by 2^tail before they are scaled. `centre`: where all weights are 1, and so public, what a weight is in these
    units; the norm is then that of the distance from this, and in the slot of the flag from half of it. 0: from nothing."""

    sigma: Annotated[int, Meta(ge=1, le=LARGEST)]
    sensitivity: Annotated[int, Meta(ge=1, le=LARGEST)]
    tail: Annotated[int, Meta(ge=-64, le=64)]
    centre: Annotated[int, Meta(ge=0, le=LARGEST)] = 0

    def bound(self, slots: int, aggregators: int) -> int:
        """The most that the aggregators' noise together adds to any of the slots, but for one chance in 2^40.

        Discrete Gaussians are subgaussian (Canonne, Kamath and Steinke 2020, corollary 17): P(|Σ| > t sqrt(m) sigma) <=
        2 exp(-t² / 2), here with t² = 2 ln 2 · (41 + log2 slots), rounded up in integers so that all nodes say the same."""
        return math.ceil(deviations(slots, aggregators) * self.sigma)


def deviations(slots: int, aggregators: int = 1) -> float:
    """How many standard deviations of one aggregator's noise `Noise.bound` allows for."""
    return math.sqrt(1.3863 * (41 + slots.bit_length()) * aggregators)


@dataclass(frozen=True)
class Mechanism:
    """What a job asks of one kind of round. `multiplier`: sigma over the sensitivity; `norm`: L2 bound of a weighed payload;
    `tail`: as in `Noise`; `slots` of the whole vector. `centred`: weights are all 1 (`Noise.centre`)."""

    multiplier: float
    norm: float
    tail: int
    slots: int
    centred: bool = False

    def noise(self, fractional_bits: int) -> Noise:
        """In units of this scale. Raises `CapacityExceeded`."""
        # Addition, product and square root round alike on every machine: all nodes come to the same integers.
        longest = math.sqrt(self.norm * self.norm + (0.25 if self.centred else 2) * 4.0**self.tail)
        length = (math.ldexp(longest, fractional_bits) + math.sqrt(self.slots) / 2) * (1 + _MARGIN)
        sigma = math.sqrt((self.multiplier * length) ** 2 + _ROUNDING)
        if not sigma <= LARGEST or not length <= LARGEST:
            raise CapacityExceeded("the noise is larger than 2^57 units: use fewer fractional bits, or a smaller clip")
        sensitivity = math.ceil(length)
        unit = self.tail + fractional_bits
        if self.centred and not 1 <= unit <= LARGEST.bit_length() - 1:
            raise CapacityExceeded(
                "the count of clipped owners does not fit this scale: use more bits, or less count_noise"
            )
        centre = 1 << unit if self.centred else 0
        return Noise(
            math.ceil(math.sqrt((self.multiplier * sensitivity) ** 2 + _ROUNDING)), sensitivity, self.tail, centre
        )

    def bound(self, fractional_bits: int, aggregators: int) -> int:
        """`Noise.bound` in units of this scale; more than any ring holds where there is no such noise."""
        try:
            return self.noise(fractional_bits).bound(self.slots, aggregators)
        except CapacityExceeded:
            return 1 << 64


def tail_of(norm: float, largest: float) -> int:
    """The exponent for the slots behind a payload of this norm: a quarter of it at most, so that they cost 6 % of noise, and
    no slot above `largest` (public, both)."""
    return math.frexp(min(norm / 4, largest))[1] - 1


def check_norm(words: RingArray, ring: Ring, noise: Noise) -> None:
    """Raises `CapacityExceeded` unless the owner's integers, ring[d], are within the sensitivity that was agreed on."""
    squares = 0.0
    for place in chunks(words.size):
        part = ring.to_signed(words[place]).astype(float)
        squares += float(part @ part)
    if noise.centre:
        for value, middle in zip(ring.to_signed(words[-2:]).tolist(), (noise.centre, noise.centre / 2), strict=True):
            squares += (value - middle) ** 2 - float(value) ** 2
    if squares > (noise.sensitivity * (1 - _MARGIN / 2)) ** 2:
        raise CapacityExceeded(
            "the vector is longer than the sensitivity that the noise was chosen for: nothing leaves"
        )
