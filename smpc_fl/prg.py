"""The pseudo-random generator that turns a 32-byte seed into a share: AES-256 in counter mode (NIST SP 800-38A, 6.5).

The stream of a key comes in chunks of 256 KiB. Block i of chunk k is AES(key, k ‖ i + 2), k in 12 bytes and i + 2 in 4,
big-endian: no two blocks have the same input, and any place of the stream can be reached at once. Bytes are uniform,
hence so are the words of ring elements. A stream of 2^32 elements is 2^31 blocks at most: PRP/PRF switching costs about
2^61 / 2^128 (Bellare and Rogaway, EUROCRYPT 2006).

These counter blocks are those of AES-GCM with nonce k (SP 800-38D, 7.1), so a chunk is what GCM makes of zeros, and its
tag is dropped: OpenSSL's GCM runs the same counters through the processor's vector AES, its plain counter mode does not
(15 against 7.5 GB/s a core; 2.3 against 2.9 where there is no vector AES). It writes into one small buffer again and
again, and what it wrote is added to the vector while it is still in the cache; the interpreter lock is free meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from smpc_fl.errors import BadInput
from smpc_fl.hashing import derive_key
from smpc_fl.ring import Ring, RingArray

SEED_SIZE = 32
KEY_SIZE = 32

_TAG = 16
CHUNK = 1 << 18
"""Bytes of keystream that are made at a time: they, and what they are added to, stay in the cache."""
_LEAST = 1 << 12
_ZEROS = memoryview(bytes(CHUNK))


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
        self._cipher = AESGCM(key)

    def fill(self, buffer: bytearray | memoryview, offset: int = 0) -> None:
        """Overwrites `buffer` with the stream from byte `offset` on."""
        out = memoryview(buffer).cast("B")
        scratch = _scratch()
        for place, number, part in _cut(offset, out.nbytes):
            self._chunk(number, part.stop, scratch)
            out[place] = scratch[part]

    def expand(self, ring: Ring, n: int, offset: int = 0) -> RingArray:
        """Elements offset .. offset + n - 1 of the stream, a new ring[n]."""
        out = ring.zeros(n)
        self.fill(ring.as_buffer(out), offset * ring.itemsize)
        return out

    def _chunk(self, number: int, length: int, scratch: memoryview) -> None:
        """The first `length` bytes of a chunk into `scratch`, with a tag behind them that is not for use."""
        self._cipher.encrypt_into(number.to_bytes(12, "big"), _ZEROS[:length], None, scratch[: length + _TAG])


class Reader:
    """The stream of one key, from front to back."""

    __slots__ = ("_at", "_chunk", "_made", "_prg")

    def __init__(self, key: bytes) -> None:
        """`key`: 32 bytes. Raises `BadInput` for another size."""
        self._prg = Prg(key)
        self._at = 0
        self._chunk = 0  # whose beginning `_made` is
        self._made = memoryview(b"")

    def read(self, buffer: memoryview) -> None:
        """Overwrites `buffer`, of unsigned bytes, with what comes next."""
        done, size = 0, buffer.nbytes
        while done < size:
            number, skip = divmod(self._at, CHUNK)
            length = min(CHUNK - skip, size - done)
            if length == CHUNK and size - done >= CHUNK + _TAG:
                # Straight to where it belongs; the tag behind it is overwritten by the next chunk.
                self._prg._chunk(number, CHUNK, buffer[done : done + CHUNK + _TAG])
            else:
                part = slice(skip, skip + length)
                buffer[done : done + length] = self._beginning(number, part.stop)[part]
            done += length
            self._at += length

    def _beginning(self, number: int, length: int) -> memoryview:
        """Of a chunk, at least so many bytes: made twice as long as is asked for, lest short reads make it again and again."""
        if number != self._chunk or length > self._made.nbytes:
            size = min(CHUNK, max(2 * length, _LEAST))
            scratch = np.empty(size + _TAG, np.uint8).data
            self._prg._chunk(number, size, scratch)
            self._chunk, self._made = number, scratch[:size]
        return self._made


def add_streams(ring: Ring, acc: RingArray, streams: Sequence[Prg], offset: int = 0) -> Iterator[slice]:
    """acc <- acc + every stream, in place, chunk after chunk; `offset` in elements.

    Yields each chunk's place once all streams are in it, so that what follows (packing, sealing) finds it in the cache.
    Nothing happens unless it is iterated. Memory: one chunk, however many streams there are."""
    return _apply(np.add, ring, acc, streams, offset)


def subtract_streams(ring: Ring, acc: RingArray, streams: Sequence[Prg], offset: int = 0) -> Iterator[slice]:
    """acc <- acc - every stream; otherwise as `add_streams`."""
    return _apply(np.subtract, ring, acc, streams, offset)


def _apply(operation: np.ufunc, ring: Ring, acc: RingArray, streams: Sequence[Prg], offset: int) -> Iterator[slice]:
    ring.check(acc)
    scratch = _scratch()
    words = np.frombuffer(scratch[:CHUNK], ring.dtype)
    for place, number, part in _cut(offset * ring.itemsize, acc.nbytes):
        elements = slice(place.start // ring.itemsize, place.stop // ring.itemsize)
        chunk, piece = acc[elements], words[part.start // ring.itemsize : part.stop // ring.itemsize]
        for stream in streams:
            stream._chunk(number, part.stop, scratch)
            operation(chunk, piece, out=chunk)
        yield elements


def _cut(offset: int, length: int) -> Iterator[tuple[slice, int, slice]]:
    """(where of `length` bytes, number of the stream's chunk, where in the chunk), from byte `offset` of the stream on."""
    if offset < 0:
        raise BadInput("an offset into a stream is not negative")
    start = 0
    while start < length:
        number, skip = divmod(offset + start, CHUNK)
        size = min(CHUNK - skip, length - start)
        yield slice(start, start + size), number, slice(skip, skip + size)
        start += size


def _scratch() -> memoryview:
    return np.empty(CHUNK + _TAG, np.uint8).data
