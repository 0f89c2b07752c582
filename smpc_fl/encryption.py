"""Homomorphic encryption of a secure vector: what travels, is added and is decrypted where one aggregator adds ciphertexts
instead of shares. Numbers alone; the encryption itself is handed in (`Cipher`), as entropy is.

CKKS (Cheon, Kim, Kim, Song, "Homomorphic Encryption for Arithmetic of Approximate Numbers", ASIACRYPT 2017) with add-only
parameters: N = 4096, coefficient moduli of 54 and 54 bits, of which SEAL keeps the second for keys. A ciphertext is two
polynomials of N coefficients modulo the prime q, and carries N/2 numbers. Their sum is the sum of the residues modulo q: so a
vector of ciphertexts is a vector over Z_q (`RESIDUES`), and travels, is sealed and added as one over Z_2^b is. Nobody but
an owner ever needs the library, and no parser of its reads what a peer has sent: a residue is a number below q, or refused.

What comes out is exact. Decryption gives sum + noise, and noise tells of the key to whoever has the ciphertext (Li and
Micciancio, "On the Security of Homomorphic Encryption on Approximate Numbers", EUROCRYPT 2021). So the encoded integers x of
a fixed-point vector are put so far above the noise that rounding gives Σx itself, and Σx alone leaves the owner who decrypts:
what is told is a function of the owners' numbers, and the noise in no part of it. `most_bits` is the margin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from smpc_fl.chunks import chunks
from smpc_fl.errors import DecryptionFailed, MalformedMessage
from smpc_fl.hashing import Buffer, digest
from smpc_fl.ring import Ring, RingArray, ring

DEGREE = 4096
"""N: coefficients of a polynomial. With 108 bits of moduli in all it has 128 bits of security (homomorphicencryption.org,
"Homomorphic Encryption Standard", 2018, table 1: at most 109)."""
MODULI = (54, 54)
"""Bits of the coefficient moduli: that of the ciphertexts, and SEAL's own for keys."""
SLOTS = DEGREE // 2
"""Numbers in a ciphertext."""
SCALE_BITS = 40
MODULUS = 18014398509293569
"""q, the 54-bit prime that SEAL takes for these parameters (1 modulo 2N)."""
WORDS = 2 * DEGREE
"""Residues in a ciphertext."""
ROOM = 52
"""A sum's plaintext is at most 2^52 < q / 2 in any coefficient, so that it does not wrap."""
NOISE = 12
"""2^12: standard deviation of the noise of one encryption in any slot, at most. It is that of the rounding when SEAL gives up
the second modulus: ((N/24)·(1 + |s(ζ)|²))^½ in slot ζ, with |s(ζ)|² of mean 2N/3: 2^9.4 in the mean (measured: 685), and
above 2^12 in one of a key's slots for one key in 10^12."""
TAIL = 8
"""Standard deviations that are counted on: a chance of 10^-15 for each number."""

Floats = npt.NDArray[np.float64]


class Residues(Ring):
    """Z_q: elements are below q, sums are taken modulo q. Packed as 54 bits each."""

    __slots__ = ()

    def add_into(self, acc: RingArray, other: RingArray) -> None:
        self.check(acc, other.size)
        self.check(other)
        q = np.uint64(MODULUS)
        for place in chunks(acc.size):
            part = acc[place]
            part += other[place]  # below 2^55
            np.minimum(part, part - q, out=part)  # which is huge where it is below 0

    def unpack_into(self, data: Buffer, words: RingArray) -> None:
        """Raises `MalformedMessage` also for an element that is not below q."""
        super().unpack_into(data, words)
        if words.size and int(words.max()) >= MODULUS:
            raise MalformedMessage("a ciphertext has a residue that is not below its modulus")


RESIDUES = Residues(MODULI[0])


class Cipher(Protocol):
    """The owners' common key. `id`: 32 bytes that name it, in manifests."""

    @property
    def id(self) -> bytes: ...

    def encrypt(self, values: Floats) -> RingArray:
        """Fresh ciphertexts, residues[WORDS] for every SLOTS of the `values`, which fill them."""

    def decrypt(self, words: RingArray) -> Floats:
        """The numbers in them, with their noise."""


def most_bits(owners: int) -> int:
    """The largest integers, with their sign, whose sums over so many owners come out exact from one number each: their unit
    is four times the noise of `owners` encryptions or more, so that rounding is right, and what is no such sum shows."""
    return ROOM + 1 - math.ceil(NOISE + math.log2(TAIL) + 2 + math.log2(owners) / 2)


@dataclass(frozen=True)
class Layout:
    """How vectors ring[dimension] of `bits` bits are encrypted for their sum over at most `owners`, as follows from a manifest.

    An integer of more than `most_bits` is cut in limbs of `step` bits, the lowest first, of which only the last has a sign:
    each is a number of its own, all first limbs before all second ones, and has room for what the owners' sum carries."""

    bits: int
    dimension: int
    owners: int

    @property
    def limbs(self) -> int:
        whole = most_bits(self.owners)
        return 1 if self.bits <= whole else 1 + math.ceil((self.bits - whole + 1) / self.step)

    @property
    def step(self) -> int:
        return most_bits(self.owners) - 1 - (self.owners - 1).bit_length()

    @property
    def words(self) -> int:
        """Residues that stand for a vector."""
        return WORDS * -(-self.limbs * self.dimension // SLOTS)

    @property
    def _unit(self) -> int:
        """The exponent of what a limb is multiplied by: the largest sum takes the room."""
        width = self.bits if self.limbs == 1 else most_bits(self.owners)
        return ROOM - (width - 1) - SCALE_BITS

    def encrypt(self, encoded: RingArray, cipher: Cipher) -> RingArray:
        """The ciphertexts, residues[words], of an encoded vector, ring[dimension]."""
        values = np.zeros(SLOTS * self.words // WORDS, np.float64)
        rest = ring(self.bits).to_signed(encoded)
        for limb in range(self.limbs):
            last = limb == self.limbs - 1
            values[self._place(limb)] = rest if last else rest & ((1 << self.step) - 1)
            rest = rest >> self.step
        return cipher.encrypt(np.ldexp(values, self._unit, out=values))

    def decrypt(self, total: RingArray, cipher: Cipher) -> RingArray:
        """The encoded sum, ring[dimension], in the ciphertexts `total`: exactly Σx, without the noise.

        Raises `DecryptionFailed` for what is no sum of encoded vectors under this key: numbers off their grid by a quarter and
        more, larger than sums can be, or where none belong. That makes it hard to learn of the key from crafted ciphertexts; it
        does not show whose vectors are in a sum."""
        exact = np.ldexp(cipher.decrypt(total), -self._unit)
        whole = np.rint(exact)
        most = 2.0 ** (ROOM - SCALE_BITS - self._unit)
        padding = whole[self.limbs * self.dimension :]
        if not (np.all(np.abs(exact - whole) < 0.25) and np.all(np.abs(whole) <= most)) or np.any(padding):
            raise DecryptionFailed(
                "what came to be decrypted is no sum of vectors under the owners' key", phase="decrypt"
            )
        found = np.zeros(self.dimension, np.int64)
        for limb in range(self.limbs):
            found += whole[self._place(limb)].astype(np.int64) << self.step * limb  # modulo 2^64
        return found.astype(ring(self.bits).dtype)

    def _place(self, limb: int) -> slice:
        return slice(limb * self.dimension, (limb + 1) * self.dimension)


def sum_digest(words: RingArray) -> bytes:
    """32 bytes that name these very ciphertexts."""
    return digest("smpc-fl/1 encrypted sum", RESIDUES.as_buffer(words))
