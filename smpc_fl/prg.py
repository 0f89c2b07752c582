"""The pseudo-random generator that turns a 32-byte seed into a share: AES-256 in counter mode (NIST SP 800-38A, 6.5).

The counter block starts at zero under a key that is used for one stream only, so block i of the stream is
AES(key, i) and any place of it can be reached at once. Bytes are uniform, hence so are the words of ring elements.
A stream of 2^32 elements is 2^31 blocks at most: PRP/PRF switching costs about 2^61 / 2^128 (Bellare and Rogaway,
EUROCRYPT 2006).

OpenSSL's AES does this at about 3 GB/s a core, if it writes into one small buffer again and again and what it wrote is
added to the vector while it is still in the cache; it frees the interpreter lock meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
CHUNK = 1 << 18
"""Bytes of keystream that are made at a time: they, and what they are added to, stay in the cache."""
_ZEROS = bytes(CHUNK)


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

    def _pieces(
        self, offset: int, length: int, scratch: npt.NDArray[np.uint8] | None = None
    ) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """(where, bytes) pieces of the stream from byte `offset` on; each overwrites the one before it, in `scratch`."""
        if offset < 0:
            raise BadInput("an offset into a stream is not negative")
        counter, skip = divmod(offset, _BLOCK)
        encryptor = Cipher(self._cipher, CTR(counter.to_bytes(_BLOCK, "big"))).encryptor()
        encryptor.update(bytes(skip))
        if scratch is None:
            scratch = _scratch(length)
        zeros, room = memoryview(_ZEROS), scratch.data
        for start in range(0, length, CHUNK):
            size = min(CHUNK, length - start)
            encryptor.update_into(zeros[:size], room)
            yield start, scratch[:size]


def add_streams(ring: Ring, acc: RingArray, streams: Sequence[Prg], offset: int = 0) -> Iterator[slice]:
    """acc <- acc + every stream, in place, chunk after chunk; `offset` in elements.

    Yields each chunk's place once all streams are in it, so that what follows (hashing, sealing) finds it in the cache.
    Nothing happens unless it is iterated. Memory: one chunk, however many streams there are."""
    return _apply(np.add, ring, acc, streams, offset)


def subtract_streams(ring: Ring, acc: RingArray, streams: Sequence[Prg], offset: int = 0) -> Iterator[slice]:
    """acc <- acc - every stream; otherwise as `add_streams`."""
    return _apply(np.subtract, ring, acc, streams, offset)


def _apply(operation: np.ufunc, ring: Ring, acc: RingArray, streams: Sequence[Prg], offset: int) -> Iterator[slice]:
    ring.check(acc)
    scratch = _scratch(acc.nbytes)  # shared: a piece is used up before the next stream writes its own
    walks = [stream._pieces(offset * ring.itemsize, acc.nbytes, scratch) for stream in streams]
    for start in range(0, acc.size, step := CHUNK // ring.itemsize):
        place = slice(start, min(start + step, acc.size))
        chunk = acc[place]
        for walk in walks:
            _, piece = next(walk)
            operation(chunk, piece.view(ring.dtype), out=chunk)
        yield place


def _scratch(length: int) -> npt.NDArray[np.uint8]:
    # `update_into` asks for a block less one byte of room beyond what it writes.
    return np.empty(min(length, CHUNK) + _BLOCK - 1, np.uint8)
