"""Real numbers as ring elements: v -> round(v · 2^f) mod 2^b, and back.

Fixed point with a public scale in a ring that is large enough for the sum is what makes secure aggregation exact
(Catrina and Saxena, "Secure Computation with Fixed-Point Numbers", FC 2010; Bonawitz et al., "Practical Secure
Aggregation", CCS 2017, sums modulo an R that no sum reaches): the ring's sum is the integers' sum, bit for bit, and only
each owner's one rounding separates it from the real sum.

Stochastic rounding (Gupta et al., ICML 2015, section 3.1) goes up with a probability equal to the fraction, so that
its expectation is the value itself, at twice the worst error.

The capacity rule: the sum of N owners stays in the ring if N · ceil(w_max · max(bound, 1) · 2^f) + noise
<= 2^(b-1) - 1. It holds for both roundings, and for weighted slots, unweighted flags and weights alike (max(bound, 1);
leave weight_max at 1.0 where a slot of size 1 goes unweighted).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from smpc_fl.chunks import Floats, chunks, floats
from smpc_fl.entropy import Entropy
from smpc_fl.errors import BadInput, CapacityExceeded, NotFinite, ShapeMismatch
from smpc_fl.ring import LEAST_BITS, MOST_BITS, Ring, RingArray

Rounding = Literal["nearest", "stochastic"]

MOST_FRACTIONAL_BITS = 52
"""More would be finer than a float64 near 1."""
LEAST_FRACTIONAL_BITS = -64


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """Numbers with `fractional_bits` bits after the point (-64..64, negative: multiples of a power of two) in `ring`."""

    ring: Ring
    fractional_bits: int

    def __post_init__(self) -> None:
        if not LEAST_FRACTIONAL_BITS <= self.fractional_bits <= 64:
            raise BadInput(f"{self.fractional_bits} fractional bits: use {LEAST_FRACTIONAL_BITS} to 64")

    @property
    def scale(self) -> float:
        """2^fractional_bits; multiplying by it is exact."""
        return 2.0**self.fractional_bits

    def encode(
        self, values: npt.NDArray[np.floating], rounding: Rounding = "nearest", entropy: Entropy | None = None
    ) -> RingArray:
        """float64[n] (or a narrower float) -> ring[n].

        `nearest` rounds ties to even and repeats; `stochastic` draws 8 bytes of `entropy` an element. Raises `NotFinite`
        for NaN or infinity, and `CapacityExceeded` for a value that the ring cannot hold; never clips."""
        if values.ndim != 1 or values.dtype.kind != "f" or values.dtype.itemsize > 8:
            raise ShapeMismatch(f"expected float64[n], got {values.ndim} dimensions of {values.dtype}")
        if rounding == "stochastic" and entropy is None:
            raise BadInput("stochastic rounding needs a source of entropy")
        out: RingArray = np.empty(values.size, self.ring.dtype)
        for place, part in floats(values):
            with np.errstate(over="ignore"):  # what overflows does not fit
                part *= self.scale
            if rounding == "stochastic" and entropy is not None:
                _round_stochastically(part, entropy)
            try:
                self.put(part, out[place])
            except CapacityExceeded:
                if np.isfinite(values[place]).all():
                    raise
                raise NotFinite(
                    "a vector holds NaN or infinity: find the step that diverged (often too high a learning rate)"
                ) from None
        return out

    def put(self, scaled: Floats, out: RingArray, bound: float = math.inf) -> None:
        """out <- `scaled`, values times `scale`, rounded to nearest (in place).

        Raises `CapacityExceeded` where one does not fit the ring, as NaN does not, or is beyond ±bound (as rounded)."""
        np.rint(scaled, out=scaled)
        largest = max(float(scaled.max(initial=0.0)), -float(scaled.min(initial=0.0)))
        if not largest < 2.0 ** (self.ring.bits - 1):
            raise CapacityExceeded(
                f"a value does not fit {self.ring.bits} bits with {self.fractional_bits} after the point: "
                "use a smaller bound or clip, fewer fractional bits, or more ring_bits"
            )
        if largest > np.rint(bound * self.scale):
            raise CapacityExceeded("a slot of the vector is beyond its clip: the sum could leave the ring")
        np.copyto(out.view(f"<i{self.ring.itemsize}"), scaled, casting="unsafe")

    def decode(self, a: RingArray) -> Floats:
        """ring[n] -> float64[n]: exact up to 53 significant bits, then rounded to nearest."""
        self.ring.check(a)
        values = np.empty(a.size, np.float64)
        # Moved up to the top of its word, an element has its sign where the processor looks for it.
        spare = 8 * self.ring.itemsize - self.ring.bits
        unit = 2.0 ** -(self.fractional_bits + spare)
        for place in chunks(a.size):
            words = a[place] << spare if spare else a[place]
            np.copyto(values[place], words.view(f"<i{self.ring.itemsize}"))
            values[place] *= unit
        return values


def _round_stochastically(part: Floats, entropy: Entropy) -> None:
    """part <- floor(part) + (U < fraction), U = k · 2^-53 uniform: a bias below 2^-53."""
    down = np.floor(part)
    uniform = (np.frombuffer(entropy(8 * part.size), "<u8") >> np.uint64(11)) * 2.0**-53
    with np.errstate(invalid="ignore"):  # inf - inf, refused by the caller as too large
        np.subtract(part, down, out=part)
    np.add(down, uniform < part, out=part)


def largest_fractional_bits(
    ring: Ring, owners: int, bound: float, weight_max: float = 1.0, noise: int | Callable[[int], int] = 0
) -> int:
    """The finest scale that the capacity rule allows, at most 52. `noise`: bound on the total noise, in ring units; or that
    as a function of the scale's fractional bits.

    Raises `CapacityExceeded` where even 2^64 as the unit is too fine."""
    for bits in range(MOST_FRACTIONAL_BITS, LEAST_FRACTIONAL_BITS - 1, -1):
        most = noise if isinstance(noise, int) else noise(bits)
        if _total(bits, owners, bound, weight_max, most) <= ring.largest:
            return bits
    raise CapacityExceeded(
        f"no scale lets the sum of {owners} owners fit {ring.bits} bits: use a smaller bound, less noise or more ring_bits"
    )


def check_capacity(
    ring: Ring, fractional_bits: int, owners: int, bound: float, weight_max: float = 1.0, noise: int = 0
) -> None:
    """Raises `CapacityExceeded`, with what would do, where the sum of `owners` values could leave the ring."""
    needed = _total(fractional_bits, owners, bound, weight_max, noise).bit_length() + 1  # one for the sign
    if needed > ring.bits:
        remedy = f"use ring_bits={needed}, or" if needed <= MOST_BITS else f"not even {MOST_BITS} bits would do,"
        raise CapacityExceeded(
            f"the sum of {owners} owners with bound {bound:g} needs {needed} bits at {fractional_bits} fractional bits "
            f"and could leave the ring of {ring.bits}: {remedy} use fewer fractional bits"
        )


def fewest_bits(fractional_bits: int, owners: int, bound: float, weight_max: float = 1.0, noise: int = 0) -> int:
    """The bits of the smallest ring, 8 to 64, that the capacity rule allows at this scale.

    Raises `CapacityExceeded` where not even 64 will do."""
    check_capacity(Ring(MOST_BITS), fractional_bits, owners, bound, weight_max, noise)
    return max(LEAST_BITS, _total(fractional_bits, owners, bound, weight_max, noise).bit_length() + 1)


def _total(fractional_bits: int, owners: int, bound: float, weight_max: float, noise: int) -> int:
    """The largest absolute value of the encoded sum, exactly (Python integers)."""
    # The owner's product w · x is a float64 too, and rounding is monotonous: |fl(w · x)| <= fl(w_max · bound).
    slot = weight_max * max(bound, 1.0)
    if owners < 1 or not math.isfinite(slot) or bound < 0 or weight_max <= 0 or noise < 0:
        raise BadInput("capacity: owners must be at least 1, bound finite and not negative, weight_max positive")
    return owners * math.ceil(Fraction(slot) * Fraction(2) ** fractional_bits) + noise


def worst_error(
    fractional_bits: int,
    owners: int,
    least_total_weight: float,
    *,
    bound: float = 0.0,
    exact_weights: bool = False,
    rounding: Rounding = "nearest",
) -> float:
    """Bound on |decoded mean - exact weighted mean| in any slot, for any total weight >= `least_total_weight` = W.

    Each owner's rounding is off by at most u = 2^-(f+1) (nearest; 2^-f stochastic), so a decoded *sum* is off by at most
    N · u. `bound` = B is the largest |value| of an owner; the float64 arithmetic around (one product an owner, decoding,
    division, and a float64 mean by `fsum` to compare with) adds at most 2^-48 · B.

    - `exact_weights`: every weight is a multiple of 2^-f, as 1 is, or a count over a power of two that is at most 2^f.
      The divisor Σw is then exact: N · u / W. (W = 1 gives the bound of a sum.)
    - Otherwise the weights are rounded too: (1 + B) · N · u / (W - N · u), and infinity where W <= 2 · N · u.

    With `bound` = 0 both the divisor's rounding and float64's are left out: N · u / W, which is too small for a mean
    whose weights are not exact."""
    if owners < 1 or not least_total_weight > 0 or not bound >= 0:
        raise BadInput("worst_error: owners and least_total_weight must be positive, bound not negative")
    off = owners * 2.0 ** -(fractional_bits + (1 if rounding == "nearest" else 0))
    if exact_weights or bound == 0:
        rounded = off / least_total_weight
    elif least_total_weight <= 2 * off:
        return math.inf
    else:
        # With sums S, |S| <= B · W, that are off by |e1|, |e2| <= N · u:
        # (S + e1) / (W + e2) - S / W = (e1 - (S / W) · e2) / (W + e2).
        rounded = (1 + bound) * off / (least_total_weight - off)
    return rounded if bound == 0 else rounded * (1 + 2.0**-48) + bound * 2.0**-48
