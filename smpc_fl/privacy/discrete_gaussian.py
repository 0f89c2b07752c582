"""The discrete Gaussian N_Z(0, sigma^2), P(y) ∝ exp(-y^2 / 2 sigma^2) over the integers, in bulk, out of one 32-byte secret.

Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential Privacy", NeurIPS 2020, show what it is good for: over
integers, exact numbers, and the privacy of the continuous Gaussian. Their sampler takes one coin after the other. This
one rejects whole arrays, after Karney, "Sampling Exactly from the Normal Distribution", ACM TOMS 42, 2016: with B the
largest power of two up to sigma, |y| = kB + r, k has probability ∝ exp(-(kB)^2 / 2 sigma^2), r is uniform below B, and the
pair is accepted with exp(-r (2kB + r) / 2 sigma^2); a sign, and one of the two zeros, follow.

Floating point proposes and integers decide: a comparison that is closer than float64 can tell (about one in 10^13) is made
again with 256 bits. So the samples do not depend on a machine's exponential function, and their distribution is off by
at most 2^-120 in total variation, a sample (what is beyond 13.5 sigma, 2^-128, and 256 bits that end somewhere).
"""

from __future__ import annotations

import decimal
import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from smpc_fl.errors import BadInput
from smpc_fl.hashing import derive_key
from smpc_fl.prg import Prg

LARGEST = 1 << 57
"""Of sigma: 2^6 sigma still fits a signed word."""
Integers = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]

_REACH = 13.5
"""Standard deviations that have all but 2^-128 of the mass."""
_UNSURE = 2.0**-44
"""Far above what float64 may be off by in exp(-x), 0 <= x < 400, and in the fraction that it is compared with."""
_PRECISE = decimal.Context(prec=100, Emin=-(10**6), Emax=10**6)
_CANDIDATE = 24
"""Bytes: one word each for the block, for sign and place in it, and for the acceptance."""
_REGION = 1 << 36
"""Bytes of stream that a part has for itself: for 10^9 samples and more."""


@lru_cache(maxsize=8)
def _blocks(sigma: int) -> tuple[int, ...]:
    """⌊2^256 · P(block < k)⌋ for k = 1, 2, … in the proposal."""
    block = _block(sigma)
    count = math.ceil(_REACH * sigma / block)
    weights = [_exp((k * block) ** 2, 2 * sigma**2) for k in range(count)]
    total = sum(weights)
    return tuple((sum(weights[:k]) << 256) // total for k in range(1, count))


def _block(sigma: int) -> int:
    return 1 << (sigma.bit_length() - 1)


def _exp(numerator: int, denominator: int) -> int:
    """2^256 · exp(-numerator / denominator), to the nearest integer or the one beside it."""
    power = _PRECISE.exp(_PRECISE.divide(decimal.Decimal(-numerator), decimal.Decimal(denominator)))
    return int(_PRECISE.multiply(power, decimal.Decimal(1 << 256)))


class DiscreteGaussian:
    """Samples of N_Z(0, sigma²) that follow from `seed` (32 secret bytes): the same ones whenever they are asked for."""

    def __init__(self, sigma: int, seed: bytes) -> None:
        if not 1 <= sigma <= LARGEST:
            raise BadInput(f"the standard deviation of discrete noise is 1 to 2^57 units, not {sigma}")
        self._sigma, self._block = sigma, _block(sigma)
        self._edges = np.array([edge >> 192 for edge in _blocks(sigma)], np.uint64)
        self._stream = Prg(derive_key("smpc-fl/1 noise stream", seed))
        self._further = Prg(derive_key("smpc-fl/1 noise digits", seed))

    def __repr__(self) -> str:
        return f"<DiscreteGaussian of {self._sigma} units>"

    def draw(self, part: int, n: int) -> Integers:
        """int64[n], samples of part number `part`: independent of those of other parts."""
        out = np.empty(n, np.int64)
        filled, at = 0, part * _REGION
        while filled < n:
            count = (n - filled) * 4 // 3 + 16
            buffer = bytearray(_CANDIDATE * count)
            self._stream.fill(buffer, at)
            found = self._accepted(np.frombuffer(buffer, "<u8").reshape(3, count), at)[: n - filled]
            out[filled : filled + found.size] = found
            filled, at = filled + found.size, at + len(buffer)
        return out

    def _accepted(self, words: _Words, at: int) -> Integers:
        """The candidates that stay, in order. `words`: uint64[3, count], from byte `at` of the stream on."""
        sigma, block = self._sigma, self._block
        chosen, place, coin = words
        number = np.searchsorted(self._edges, chosen)
        rest = (place & np.uint64(block - 1)).astype(np.int64)
        near = rest.astype(np.float64)
        exponent = near * (near + 2.0 * block * number)
        exponent /= -2.0 * sigma**2
        margin = np.exp(exponent, out=exponent)
        margin -= coin * 2.0**-64
        accepted = margin > 0
        unsure = np.abs(margin) < _UNSURE
        unsure |= chosen == self._edges[np.minimum(number, self._edges.size - 1)]
        for i in np.flatnonzero(unsure):
            number[i], accepted[i] = self._exactly(int(chosen[i]), int(rest[i]), int(coin[i]), at + int(i))
        value = number * block + rest
        negative = place >> np.uint64(63) == 1
        accepted &= ~(negative & (value == 0))
        return np.asarray(np.where(negative, -value, value)[accepted], np.int64)

    def _exactly(self, chosen: int, rest: int, coin: int, candidate: int) -> tuple[int, bool]:
        """(block, accepted) of one candidate, with 192 further bits of each fraction; they are its own."""
        further = bytearray(48)
        self._further.fill(further, 48 * candidate)
        chosen = chosen << 192 | int.from_bytes(further[:24], "little")
        coin = coin << 192 | int.from_bytes(further[24:], "little")
        number = sum(edge <= chosen for edge in _blocks(self._sigma))
        return number, coin < _exp(rest * (rest + 2 * number * self._block), 2 * self._sigma**2)
