"""The pseudo-random generator that turns a 32-byte seed into a share: AES-256 in counter mode (NIST SP 800-38A, 6.5).

The counter block starts at zero under a key that is used for one stream only, so block i of the stream is
AES(key, i) and any place of it can be reached at once. Bytes are uniform, hence so are ring elements of 32 or 64 bits.
A stream of 2^32 elements is 2^31 blocks at most: PRP/PRF switching costs about 2^61 / 2^128 (Bellare and Rogaway,
EUROCRYPT 2006).

OpenSSL's AES does this at about 3 GB/s a core, if it writes into one small buffer again and again and what it wrote is
added to the vector while it is still in the cache; it frees the interpreter lock meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from smpc_fl.errors import BadInput
from smpc_fl.hashing import derive_key
from smpc_fl.ring import Ring, RingArray

SEED_SIZE = 32
KEY_SIZE = 32

_BLOCK = 16
_CHUNK = 1 << 18  # bytes
_ZEROS = bytes(_CHUNK)


def stream_key(seed: bytes, manifest_hash: bytes, owner: str, aggregator: str, vector: str) -> bytes:
    """The AES key of one stream: BLAKE2b(seed; manifest, owner, aggregator, name of the vector), 32 bytes.

    So one seed never gives the same stream in two rounds, for two owners, two aggregators or two vectors."""
    if len(seed) != SEED_SIZE:
        raise BadInput(f"a seed has {SEED_SIZE} bytes, not {len(seed)}")
    return derive_key("smpc-fl/1 prg", seed, manifest_hash, owner.encode(), aggregator.encode(), vector.encode())


class Prg:
    """The stream of one key. Every call starts anew at its `offset`; nothing is remembered between calls."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        """`key`: 32 bytes. Raises `BadInput` for another size."""
        if len(key) != KEY_SIZE:
            raise BadInput(f"a stream key has {KEY_SIZE} bytes, not {len(key)}")
        self._cipher = AES256(key)

    def fill(self, buffer: bytearray | memoryview, offset: int = 0) -> None:
        """Overwrites `buffer` with the stream from byte `offset` on."""
        out = memoryview(buffer).cast("B")
        for start, piece in self._pieces(offset, out.nbytes):
            out[start : start + piece.size] = piece.data

    def expand(self, ring: Ring, n: int, offset: int = 0) -> RingArray:
        """Elements offset .. offset + n - 1 of the stream, a new ring[n]."""
        out = ring.zeros(n)
        self.fill(ring.as_buffer(out), offset * ring.itemsize)
        return out

    def add_into(self, ring: Ring, acc: RingArray, offset: int = 0) -> None:
        """acc <- acc + stream, in place; `offset` in elements."""
        ring.check(acc)
        for place, piece in self._elements(ring, acc.size, offset):
            np.add(acc[place], piece, out=acc[place])

    def subtract_from(self, ring: Ring, acc: RingArray, offset: int = 0) -> None:
        """acc <- acc - stream, in place; `offset` in elements."""
        ring.check(acc)
        for place, piece in self._elements(ring, acc.size, offset):
            np.subtract(acc[place], piece, out=acc[place])

    def _elements(self, ring: Ring, n: int, offset: int) -> Iterator[tuple[slice, RingArray]]:
        for start, piece in self._pieces(offset * ring.itemsize, n * ring.itemsize):
            first = start // ring.itemsize
            elements = piece.view(ring.dtype)
            yield slice(first, first + elements.size), elements

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """(where, bytes) pieces of the stream from byte `offset` on; each overwrites the one before it."""
        if offset < 0:
            raise BadInput("an offset into a stream is not negative")
        counter, skip = divmod(offset, _BLOCK)
        encryptor = Cipher(self._cipher, CTR(counter.to_bytes(_BLOCK, "big"))).encryptor()
        encryptor.update(bytes(skip))
        # `update_into` asks for a block less one byte of room beyond what it writes.
        scratch = np.empty(min(length, _CHUNK) + _BLOCK - 1, np.uint8)
        zeros, room = memoryview(_ZEROS), scratch.data
        for start in range(0, length, _CHUNK):
            size = min(_CHUNK, length - start)
            encryptor.update_into(zeros[:size], room)
            yield start, scratch[:size]
