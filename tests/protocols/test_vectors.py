"""Vectors on their way: what was sealed chunk by chunk is opened in fragments of any size, as it was or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smpc_fl import prg
from smpc_fl.errors import DecryptionFailed, MalformedMessage
from smpc_fl.prg import CHUNK, Prg, add_streams
from smpc_fl.protocols import vectors
from smpc_fl.protocols.vectors import VectorOpener, VectorSealer, open_vector, seal_sum
from smpc_fl.ring import Ring, RingArray
from smpc_fl.sealing import TAG, Stream

KEY, MANIFEST = b"k" * 32, b"m" * 32
STREAMS = [Prg(bytes([number]) * 32) for number in range(4)]
RINGS = st.integers(8, 64).map(Ring)


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> Iterator[None]:
    """Chunks of 16 or 8 elements: a vector of a few dozen has many, and a short one at its end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prg, "CHUNK", 64)
        patch.setattr(vectors, "CHUNK", 64)
        yield


def draw(ring: Ring, n: int, seed: int) -> RingArray:
    """Words whose unused bits are not 0, as arithmetic leaves them."""
    return np.random.default_rng(seed).integers(0, 1 << 8 * ring.itemsize, n, ring.dtype, endpoint=False)


def low(ring: Ring, words: RingArray) -> list[int]:
    return [int(word) % (1 << ring.bits) for word in words]


def stream(ring: Ring, n: int, key: bytes = KEY, manifest: bytes = MANIFEST) -> Stream:
    return vectors.stream(key, manifest, ring, n)


def seal(ring: Ring, words: RingArray) -> VectorSealer:
    """The words, chunk by chunk through a sealer."""
    sealer, step = VectorSealer(stream(ring, words.size), ring), vectors.chunk_elements(ring)
    for start in range(0, words.size, step):
        sealer(words[start : start + step])
    return sealer


# --- there and back ---


@given(RINGS, st.integers(1, 70), st.integers(0, 2**32), st.data())
def test_a_vector_comes_whole_in_fragments_of_any_size(ring: Ring, n: int, seed: int, data: st.DataObject) -> None:
    words = draw(ring, n, seed)
    sealer = seal(ring, words)
    assert len(sealer.sealed) == ring.packed_size(n) + TAG * -(-n // vectors.chunk_elements(ring))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sealer.sealed)), max_size=5)))
    opener = VectorOpener(stream(ring, n), ring, np.full(n, ring.largest, ring.dtype))
    for start, end in pairwise([0, *cuts, len(sealer.sealed)]):
        opener(memoryview(sealer.sealed)[start:end])
    assert opener.finish() == sealer.tags
    assert opener.words.tolist() == low(ring, words)
    assert open_vector(stream(ring, n), ring, n, bytes(sealer.sealed)).tolist() == low(ring, words)


@pytest.mark.parametrize("bits", [8, 23, 32, 41, 64])
def test_a_fragment_is_a_sealed_chunk_and_is_opened_where_it_lies(bits: int) -> None:
    """Whoever sends in pieces of `fragment_size` spares the receiver every copy."""
    ring = Ring(bits)
    n = 3 * vectors.chunk_elements(ring) + 1
    sealer = seal(ring, draw(ring, n, bits))
    opener = VectorOpener(stream(ring, n), ring, np.zeros(n, ring.dtype))
    size = vectors.fragment_size(ring)
    fragments = [sealer.sealed[start : start + size] for start in range(0, len(sealer.sealed), size)]
    assert len(fragments) == 4
    for number, fragment in enumerate(fragments, 1):
        opener(fragment)
        assert len(opener._opener.tags) == number * TAG
        assert not opener._opener._pending
    assert opener.finish() == sealer.tags


@pytest.mark.parametrize("bits", [8, 32, 33, 64])
@pytest.mark.parametrize("rest", [-1, 0, 1])
def test_sizes_around_a_chunk_as_long_as_it_really_is(bits: int, rest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prg, "CHUNK", CHUNK)
    monkeypatch.setattr(vectors, "CHUNK", CHUNK)
    ring = Ring(bits)
    n = vectors.chunk_elements(ring) + rest
    words, sealer = draw(ring, n, bits), seal(ring, draw(ring, n, bits))
    assert len(sealer.tags) == TAG * (1 + (rest > 0))
    assert np.array_equal(
        open_vector(stream(ring, n), ring, n, sealer.sealed), words & ring.dtype.type((1 << bits) - 1)
    )


def test_it_shows_its_size_alone() -> None:
    ring = Ring(32)
    assert repr(VectorOpener(stream(ring, 5), ring, draw(ring, 5, 1))) == "<VectorOpener of 5 elements>"


# --- what does not open ---


def cut_short(sealed: bytes) -> list[bytes]:
    return [sealed[:-1], sealed[:TAG], b"", sealed[: len(sealed) // 2]]


def too_long(sealed: bytes) -> list[bytes]:
    return [sealed + b"\0", sealed * 2]


def altered(sealed: bytes) -> list[bytes]:
    places = range(0, len(sealed), 5)
    return [sealed[:k] + bytes([sealed[k] ^ 1]) + sealed[k + 1 :] for k in places]


def reordered(sealed: bytes) -> list[bytes]:
    size = vectors.fragment_size(Ring(23))
    return [
        sealed[size : 2 * size] + sealed[:size] + sealed[2 * size :],
        sealed[:size] + sealed[:size] + sealed[2 * size :],
    ]


@pytest.mark.parametrize("made", [cut_short, too_long, altered, reordered])
@pytest.mark.parametrize("size", [7, 10_000])
def test_what_is_not_the_vector_does_not_open(made: Callable[[bytes], list[bytes]], size: int) -> None:
    ring, n = Ring(23), 45
    for wrong in made(bytes(seal(ring, draw(ring, n, 1)).sealed)):
        opener = VectorOpener(stream(ring, n), ring, ring.zeros(n))
        with pytest.raises(DecryptionFailed):  # noqa: PT012
            for start in range(0, len(wrong), size):
                opener(wrong[start : start + size])
            opener.finish()


def test_it_opens_as_what_it_is_and_for_whom_it_is_alone() -> None:
    ring, n = Ring(32), 45
    sealed = seal(ring, draw(ring, n, 1)).sealed
    for other, size in (
        (stream(ring, n, key=MANIFEST), n),
        (stream(ring, n, manifest=KEY), n),
        (stream(ring, n + 1), n + 1),
        (stream(ring, n - 1), n - 1),
    ):
        with pytest.raises(DecryptionFailed):
            open_vector(other, ring, size, sealed)
    # As many bytes in a ring of other bits, whose chunks are as long.
    with pytest.raises(DecryptionFailed):
        open_vector(stream(Ring(64), n // 2 + 1), Ring(64), n // 2 + 1, sealed)


def test_padding_that_is_not_zero_is_no_vector() -> None:
    """Authentic bytes: the owner itself has packed them wrongly."""
    ring, n = Ring(9), 3
    packed = bytearray(vectors.pack(ring, draw(ring, n, 1)))
    packed[-1] |= 0x80
    sealed = bytearray(stream(ring, n).sealed_length)
    stream(ring, n).seal(0, packed, memoryview(sealed))
    with pytest.raises(MalformedMessage, match="padding"):
        open_vector(stream(ring, n), ring, n, sealed)


# --- sums ---


def in_halves(work: Callable[[int, int], None], n: int) -> None:
    """The later half first."""
    work(n // 2, n)
    work(0, n // 2)


def one_by_one(work: Callable[[int, int], None], n: int) -> None:
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(work, number, number + 1) for number in range(n)]:
            done.result()


@settings(max_examples=40)
@given(RINGS, st.integers(1, 70), st.integers(0, 4), st.integers(0, 2**32))
def test_a_sum_is_the_same_however_the_work_is_divided(ring: Ring, n: int, streams: int, seed: int) -> None:
    words, added = draw(ring, n, seed), STREAMS[:streams]
    before = words.copy()
    sealed = seal_sum(stream(ring, n), ring, words, added)
    assert np.array_equal(words, before), "it is the sum that stays"
    for parallel in (in_halves, one_by_one):
        assert seal_sum(stream(ring, n), ring, words, added, parallel) == sealed
    total = words.copy()
    for _ in add_streams(ring, total, added):
        pass
    assert open_vector(stream(ring, n), ring, n, sealed).tolist() == low(ring, total)
    assert seal(ring, total).sealed == sealed
