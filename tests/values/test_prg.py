"""`smpc_fl.prg`: against counter mode itself and a published vector, and each way of reading the stream against the plain one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from smpc_fl.errors import BadInput, ShapeMismatch
from smpc_fl.prg import CHUNK, Prg, add_streams, stream_key, subtract_streams
from smpc_fl.ring import RING32, RING64, Ring, RingArray

KEY = bytes(range(32))
OTHERS = [Prg(bytes([k]) * 32) for k in range(3)]


def exhaust(places: Iterator[slice]) -> list[slice]:
    """Lets `add_streams` do its work; the places that it gave."""
    return list(places)


def plain_stream(key: bytes, length: int) -> bytes:
    """Chunk after chunk of AES-256-CTR, with the counter mode's own interface."""
    stream = bytearray()
    for number in range(-(-length // CHUNK)):
        first = number.to_bytes(12, "big") + (2).to_bytes(4, "big")
        stream += Cipher(algorithms.AES256(key), modes.CTR(first)).encryptor().update(bytes(CHUNK))
    return bytes(stream[:length])


STREAM = plain_stream(KEY, 2 * CHUNK + 4096)


def test_published_vector() -> None:
    # McGrew and Viega, "The Galois/Counter Mode of Operation", test case 14: AES-256, zeros under nonce zero.
    block = bytearray(16)
    Prg(bytes(32)).fill(block)
    assert block.hex() == "cea7403d4d606b6e074ec5d3baf39d18"


@given(st.integers(0, 4096), st.integers(0, 300))
def test_any_place_of_the_stream(offset: int, length: int) -> None:
    out = bytearray(b"\xaa" * length)
    Prg(KEY).fill(memoryview(out), offset)
    assert out == STREAM[offset : offset + length]


@pytest.mark.parametrize("length", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 17])
@pytest.mark.parametrize("offset", [0, 5])
def test_across_chunks(length: int, offset: int) -> None:
    out = bytearray(length)
    Prg(KEY).fill(out, offset)
    assert out == STREAM[offset : offset + length]


@settings(max_examples=40)
@given(
    st.sampled_from([RING32, RING64, Ring(8), Ring(23), Ring(48)]),
    st.one_of(st.integers(0, 50), st.sampled_from([CHUNK // 8, CHUNK // 4 + 3, CHUNK // 4])),
    st.integers(0, 40),
    st.integers(0, 3),
    st.integers(0, 2**32),
)
def test_expand_add_and_subtract_agree(ring: Ring, n: int, offset: int, others: int, seed: int) -> None:
    prg, start = Prg(KEY), offset * ring.itemsize
    expected = np.frombuffer(STREAM[start : start + n * ring.itemsize], ring.dtype)
    assert np.array_equal(prg.expand(ring, n, offset), expected)
    streams = [prg, *OTHERS[:others]]
    total = sum((other.expand(ring, n, offset) for other in OTHERS[:others]), expected)
    base = np.random.default_rng(seed).integers(0, 1 << 8 * ring.itemsize, n, ring.dtype, endpoint=False)
    acc = base.copy()
    exhaust(add_streams(ring, acc, streams, offset))
    assert np.array_equal(acc, base + total)
    exhaust(subtract_streams(ring, acc, streams, offset))
    assert np.array_equal(acc, base)
    exhaust(subtract_streams(ring, acc, streams[::-1], offset))
    assert np.array_equal(acc, base - total)


@pytest.mark.parametrize("ring", [RING32, RING64])
@pytest.mark.parametrize("rest", [-1, 0, 1])
def test_a_place_is_given_when_all_streams_are_in_it_and_none_beyond_is_touched(ring: Ring, rest: int) -> None:
    step = CHUNK // ring.itemsize
    n = 2 * step + rest
    acc, streams = ring.zeros(n), [Prg(KEY), OTHERS[0]]
    total: RingArray = streams[0].expand(ring, n) + streams[1].expand(ring, n)
    done = 0
    for place in add_streams(ring, acc, streams):
        assert place == slice(done, min(done + step, n))
        done = place.stop
        assert np.array_equal(acc[:done], total[:done])
        assert not acc[done:].any()
    assert done == n


def test_without_streams_or_elements_nothing_changes() -> None:
    acc = np.arange(5, dtype="<u4")
    assert exhaust(add_streams(RING32, acc, [])) == [slice(0, 5)]
    assert acc.tolist() == [0, 1, 2, 3, 4]
    assert exhaust(subtract_streams(RING32, RING32.zeros(0), [Prg(KEY)])) == []
    untouched = RING32.zeros(2)
    add_streams(RING32, untouched, [Prg(KEY)])  # not iterated
    assert not untouched.any()


def test_strided_accumulators_work_too() -> None:
    whole = RING32.zeros(20)
    exhaust(add_streams(RING32, whole[::2], [Prg(KEY)]))
    assert np.array_equal(whole[::2], Prg(KEY).expand(RING32, 10))
    assert not whole[1::2].any()


def test_wrong_arguments() -> None:
    with pytest.raises(BadInput, match="32 bytes, not 16"):
        Prg(bytes(16))
    with pytest.raises(BadInput, match="not negative"):
        Prg(KEY).fill(bytearray(4), -1)
    with pytest.raises(BadInput, match="32 bytes, not 31"):
        stream_key(bytes(31), bytes(32), "alice", "a1", "update")
    for operation in (add_streams, subtract_streams):
        with pytest.raises(ShapeMismatch):
            exhaust(operation(RING32, RING64.zeros(2), [Prg(KEY)]))
        with pytest.raises(BadInput, match="not negative"):
            exhaust(operation(RING32, RING32.zeros(2), [Prg(KEY)], -1))


def test_stream_key_separates_all_that_it_is_bound_to() -> None:
    base = (bytes(32), bytes(32), "alice", "a1", "update")
    variants: list[tuple[bytes, bytes, str, str, str]] = [
        base,
        (b"\1" * 32, *base[1:]),
        (base[0], b"\1" * 32, *base[2:]),
        (*base[:2], "bob", *base[3:]),
        (*base[:3], "a2", base[4]),
        (*base[:4], "evaluate"),
        (*base[:2], "alicea", "1", base[4]),
    ]
    assert len({stream_key(*variant) for variant in variants}) == len(variants)
    # Independent spelling of the same key.
    parts = (bytes(32), b"alice", b"a1", b"update")
    prefixed = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    assert (
        stream_key(*base) == hashlib.blake2b(prefixed, digest_size=32, key=bytes(32), person=b"smpc-fl/1 prg").digest()
    )


def test_bytes_look_uniform() -> None:
    # Chi-squared with 255 degrees of freedom: 99.9 % of uniform streams stay below 330.5 (the key is fixed).
    counts = Counter(STREAM)
    expected = len(STREAM) / 256
    assert sum((counts[b] - expected) ** 2 / expected for b in range(256)) < 330.5
