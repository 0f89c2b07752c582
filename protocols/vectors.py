"""A vector on its way: packed (`ring`), cut in chunks, each chunk sealed (`sealing.Stream`), one fragment of the message each.

A chunk is as many elements as the PRG makes at a time, so that arithmetic, packing and sealing of a chunk follow
one another while it is in the cache; and a fragment that is exactly a sealed chunk is opened where the socket has put it,
into the place where it is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from smpc_fl.hashing import Buffer
from smpc_fl.prg import CHUNK, Prg, add_streams
from smpc_fl.privacy.discrete_gaussian import DiscreteGaussian
from smpc_fl.ring import Ring, RingArray
from smpc_fl.sealing import TAG, Stream, StreamOpener

Parallel = Callable[[Callable[[int, int], None], int], None]
"""Calls work(first, last) for ranges that cover 0 .. n - 1, in any order or at once, and returns when all are done."""


def serial(work: Callable[[int, int], None], n: int) -> None:
    """`Parallel` in one thread."""
    work(0, n)


def chunk_elements(ring: Ring) -> int:
    return CHUNK // ring.itemsize


def chunk_size(ring: Ring) -> int:
    """Bytes of plaintext in a chunk."""
    return ring.packed_size(chunk_elements(ring))


def fragment_size(ring: Ring) -> int:
    """Bytes of a sealed chunk."""
    return chunk_size(ring) + TAG


def pack(ring: Ring, words: RingArray) -> memoryview:
    """The packed bytes of some words: those themselves, where the ring's bits are the word's."""
    if not ring.packed:
        return ring.as_buffer(words)
    packed = memoryview(bytearray(ring.packed_size(words.size)))
    ring.pack_into(words, packed)
    return packed


def stream(key: bytes, manifest_hash: bytes, ring: Ring, n: int) -> Stream:
    """The sealed stream of one vector ring[n] under its own key."""
    return Stream(key, manifest_hash, ring.packed_size(n), chunk_size(ring))


def absorb(words: RingArray, ring: Ring, sealer: VectorSealer) -> None:
    """Seals the words as they are, chunk by chunk."""
    step = chunk_elements(ring)
    for start in range(0, words.size, step):
        sealer(words[start : start + step])


def seal_sum(
    stream: Stream, ring: Ring, words: RingArray, streams: Sequence[Prg], parallel: Parallel = serial,
    noise: DiscreteGaussian | None = None,
) -> memoryview:  # fmt: skip
    """The sealed stream of `words` + every stream + the noise; `words` is left as it is, and nothing else is ever held whole."""
    sealed = np.empty(stream.sealed_length, np.uint8).data
    elements = chunk_elements(ring)

    def work(first: int, last: int) -> None:
        for number in range(first, last):
            chunk = words[number * elements : (number + 1) * elements]
            if streams or noise is not None:
                chunk = chunk.copy()
                for _ in add_streams(ring, chunk, streams, number * elements):
                    pass
            if noise is not None:
                chunk += noise.draw(number, chunk.size).astype(ring.dtype)
            stream.seal(number, pack(ring, chunk), sealed[stream.sealed(number)])

    parallel(work, stream.chunks)
    return sealed


class VectorSealer:
    """Seals a vector chunk by chunk, as each is finished, into `sealed`.

    `tags` are the chunks' authentication tags: 128 bits each under a key that is used for this vector alone. They stand for
    the vector in its commitment, where a hash of it would cost more than all else that is done to it. Only who has the key,
    the owner itself and its carrier, could find another vector with the same tags: the carrier is the one who checks them,
    and an owner chooses what it sends in any case."""

    def __init__(self, stream: Stream, ring: Ring) -> None:
        self.sealed = np.empty(stream.sealed_length, np.uint8).data
        self.tags = bytearray()
        self._stream, self._ring, self._view = stream, ring, self.sealed
        self._number = 0

    def __call__(self, chunk: RingArray) -> None:
        """Takes the next chunk of `chunk_elements` elements (the last one: of what is left)."""
        place = self._view[self._stream.sealed(self._number)]
        self._stream.seal(self._number, pack(self._ring, chunk), place)
        self.tags += place[-TAG:]
        self._number += 1


class VectorOpener:
    """Takes a sealed vector fragment by fragment and puts it into `words`, ring[n]: a sink for the transport.

    `words` is whole only once `finish` has said so."""

    def __init__(self, stream: Stream, ring: Ring, words: RingArray) -> None:
        self.words = words
        self._ring = ring
        self._opener = StreamOpener(stream, None if ring.packed else ring.as_buffer(words))
        self._done = 0

    def __repr__(self) -> str:
        return f"<VectorOpener of {self.words.size} elements>"

    def __call__(self, fragment: Buffer) -> None:
        """Takes the next sealed bytes, of any number. Raises `DecryptionFailed`, and `MalformedMessage` for bytes that are
        authentic and no packed vector."""
        for plain in self._opener.feed(fragment):
            if self._ring.packed:
                place = slice(self._done, min(self._done + chunk_elements(self._ring), self.words.size))
                self._ring.unpack_into(plain, self.words[place])
                self._done = place.stop

    def finish(self) -> bytes:
        """The tags, as the sealer had them. Raises `DecryptionFailed` when the stream was cut short."""
        self._opener.finish()
        return bytes(self._opener.tags)


def open_vector(stream: Stream, ring: Ring, n: int, sealed: Buffer) -> RingArray:
    """A whole sealed vector, ring[n]. Raises `DecryptionFailed`."""
    opener = VectorOpener(stream, ring, np.empty(n, ring.dtype))
    opener(sealed)
    opener.finish()
    return opener.words
