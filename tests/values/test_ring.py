"""`smpc_fl.ring`: vectors over Z_2^8 to Z_2^64 against Python's own integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smpc_fl.errors import BadInput, MalformedMessage, ShapeMismatch
from smpc_fl.ring import BLOCK, RING32, RING64, Ring, RingArray, ring

RINGS = st.one_of(st.sampled_from([RING32, RING64]), st.integers(8, 64).map(Ring))
EVERY = range(8, 65)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Ring, list[int], list[int]]:
    chosen = draw(RINGS)
    edges = st.sampled_from([0, 1, chosen.largest, chosen.largest + 1, 2**chosen.bits - 1])
    element = st.one_of(edges, st.integers(0, 2**chosen.bits - 1))
    n = draw(st.integers(0, 12))
    some = st.lists(element, min_size=n, max_size=n)
    return chosen, draw(some), draw(some)


def vector(chosen: Ring, values: list[int]) -> RingArray:
    return np.array(values, chosen.dtype)


@given(pairs())
def test_arithmetic_is_that_of_integers_modulo(case: tuple[Ring, list[int], list[int]]) -> None:
    chosen, left, right = case
    a, b = vector(chosen, left), vector(chosen, right)
    chosen.add_into(a, b)
    assert elements(chosen, a) == [(x + y) % 2**chosen.bits for x, y in zip(left, right, strict=True)]
    assert elements(chosen, b) == right


def elements(chosen: Ring, words: RingArray) -> list[int]:
    """The elements of Z_2^b that stand in the words, whatever is above their b bits."""
    return [int(word) % 2**chosen.bits for word in words]


@given(pairs())
def test_signed_reading_is_twos_complement(case: tuple[Ring, list[int], list[int]]) -> None:
    chosen, values, _ = case
    words = vector(chosen, values)
    expected = [x if x <= chosen.largest else x - 2**chosen.bits for x in values]
    if chosen.packed:
        words |= chosen.dtype.type(2**chosen.bits)  # what arithmetic may leave above
    before = words.tolist()
    signed = chosen.to_signed(words)
    assert signed.dtype == np.int64
    assert signed.tolist() == expected
    signed += 1
    assert words.tolist() == before


@given(pairs())
def test_bytes_are_little_endian_words(case: tuple[Ring, list[int], list[int]]) -> None:
    chosen, values, _ = case
    array = vector(chosen, values)
    data = chosen.as_buffer(array)
    assert bytes(data) == b"".join(x.to_bytes(chosen.itemsize, "little") for x in values)
    assert chosen.from_bytes(data, len(values)).tolist() == values


def test_properties() -> None:
    assert (ring(32), ring(64)) == (RING32, RING64)
    assert [Ring(bits).itemsize for bits in EVERY] == [4] * 25 + [8] * 32
    assert [bits for bits in EVERY if not Ring(bits).packed] == [32, 64]
    assert Ring(23).largest == 2**22 - 1
    assert (RING32.itemsize, RING64.itemsize) == (4, 8)
    assert (RING32.largest, RING64.largest) == (2**31 - 1, 2**63 - 1)
    assert (RING32.dtype, RING64.dtype) == (np.dtype("<u4"), np.dtype("<u8"))
    assert RING64.zeros(3).tolist() == [0, 0, 0]
    assert RING64.zeros(3).dtype == RING64.dtype


@pytest.mark.parametrize("bits", [-1, 0, 7, 65, 128])
def test_there_are_no_other_rings(bits: int) -> None:
    with pytest.raises(BadInput, match="use 8 to 64"):
        ring(bits)


def test_views_are_writable_where_the_buffer_is() -> None:
    data = bytearray(8)
    view = RING32.from_bytes(data, 2)
    view += 1
    assert data == b"\1\0\0\0\1\0\0\0"
    assert not RING32.from_bytes(bytes(8), 2).flags.writeable
    RING32.as_buffer(view)[0] = 7
    assert view.tolist() == [7, 1]


@pytest.mark.parametrize(("size", "n"), [(7, 2), (9, 2), (12, 2), (0, 1), (4, 0)])
def test_wrong_length_of_bytes(size: int, n: int) -> None:
    with pytest.raises(MalformedMessage, match="bytes long"):
        RING32.from_bytes(bytes(size), n)


def test_wrong_vectors_are_refused_before_anything_changes() -> None:
    acc = RING32.zeros(2)
    for other in (RING32.zeros(1), RING64.zeros(2), np.zeros((2, 1), "<u4"), np.zeros(2, "<i4"), np.zeros(2, ">u4")):
        with pytest.raises(ShapeMismatch):
            RING32.add_into(acc, other)
    with pytest.raises(ShapeMismatch):
        RING64.to_signed(acc)
    with pytest.raises(ShapeMismatch):
        RING64.as_buffer(acc)
    with pytest.raises(ShapeMismatch, match="strided"):
        RING32.as_buffer(RING32.zeros(4)[::2])
    assert acc.tolist() == [0, 0]


# --- packing ------------------------------------------------------------------------------------------------------


def random_words(chosen: Ring, n: int, seed: int) -> RingArray:
    """Words with all their bits at random, also those above the ring's."""
    return np.frombuffer(np.random.default_rng(seed).bytes(n * chosen.itemsize), chosen.dtype)


def packed(chosen: Ring, words: RingArray) -> bytearray:
    out = bytearray(b"\xaa" * chosen.packed_size(words.size))
    chosen.pack_into(words, memoryview(out))
    return out


def unpacked(chosen: Ring, data: bytes | bytearray, n: int) -> RingArray:
    words = np.full(n, chosen.dtype.type(2**31 + 5))
    chosen.unpack_into(data, words)
    return words


def as_defined(chosen: Ring, words: list[int]) -> bytes:
    """The layout of one block, straight from its definition, element by element."""
    out, first, padded = b"", 0, words + [0] * (-len(words) % 8)
    for width in (32, 16, 8, 4, 2, 1):
        if not chosen.bits & width:
            continue
        fields = [(word >> first) % (1 << width) for word in padded]
        if width >= 8:
            out += b"".join(field.to_bytes(width // 8, "little") for field in fields[: len(words)])
        else:
            m = len(padded) * width // 8
            out += bytes(sum(fields[i + j * m] << j * width for j in range(8 // width)) for i in range(m))
        first += width
    return out if chosen.bits < 64 else b"".join(word.to_bytes(8, "little") for word in words)


SIZES = st.one_of(
    st.integers(0, 200),
    st.integers(0, 3 * BLOCK + 7),
    st.sampled_from([k * BLOCK + rest for k in (0, 1, 2, 3) for rest in (-64, -1, 0, 1, 7) if k * BLOCK + rest >= 0]),
)


@settings(max_examples=150)
@given(st.integers(8, 64), SIZES, st.integers(0, 2**32))
def test_what_is_packed_comes_back_without_what_was_above(bits: int, n: int, seed: int) -> None:
    chosen = Ring(bits)
    words = random_words(chosen, n, seed)
    data = packed(chosen, words)
    assert len(data) == n * (bits // 8) + -(-n // 8) * (bits % 8) < n * bits / 8 + 8
    assert np.array_equal(unpacked(chosen, data, n), words & chosen.dtype.type(2**chosen.bits - 1))


@pytest.mark.parametrize("bits", EVERY)
def test_all_bits_at_all_small_sizes_are_as_defined(bits: int) -> None:
    chosen = Ring(bits)
    for n in (*range(18), 63, 64, 65, 128):
        words = random_words(chosen, n, n)
        data = packed(chosen, words)
        assert data == as_defined(chosen, words.tolist())
        assert np.array_equal(unpacked(chosen, data, n), words & chosen.dtype.type(2**chosen.bits - 1))


@pytest.mark.parametrize("bits", [8, 11, 16, 23, 31, 32, 41, 63, 64])
def test_blocks_stand_alone(bits: int) -> None:
    chosen = Ring(bits)
    words = random_words(chosen, 2 * BLOCK + 9, bits)
    whole = packed(chosen, words)
    parts = [words[:BLOCK], words[BLOCK : 2 * BLOCK], words[2 * BLOCK :]]
    assert whole == b"".join(packed(chosen, part) for part in parts)
    assert chosen.packed_size(words.size) == sum(chosen.packed_size(part.size) for part in parts)


def test_sums_of_packed_vectors_are_sums() -> None:
    """A word that was packed and unpacked adds up like the word itself."""
    chosen = Ring(23)
    left, right = (random_words(chosen, 1000, seed) for seed in (1, 2))
    total = unpacked(chosen, packed(chosen, left), 1000)
    chosen.add_into(total, unpacked(chosen, packed(chosen, right), 1000))
    assert np.array_equal(chosen.to_signed(total), chosen.to_signed(left + right))


@pytest.mark.parametrize("bits", [b for b in EVERY if b % 8])
def test_padding_that_is_not_zero_is_refused(bits: int) -> None:
    chosen = Ring(bits)
    for n in (1, 9, 63, BLOCK + 3):
        data = packed(chosen, chosen.zeros(n))
        data[-1] = 0xFF
        with pytest.raises(MalformedMessage, match="padding"):
            unpacked(chosen, data, n)
    whole = packed(chosen, chosen.zeros(64))
    whole[-1] = 0xFF
    assert unpacked(chosen, whole, 64).any()  # no padding there


@pytest.mark.parametrize("bits", [8, 23, 32, 63, 64])
def test_packed_bytes_of_another_size_are_refused(bits: int) -> None:
    chosen = Ring(bits)
    size = chosen.packed_size(10)
    for wrong in (0, size - 1, size + 1, 2 * size):
        with pytest.raises(MalformedMessage, match=rf"10 elements of {bits} bits is not {wrong} bytes"):
            unpacked(chosen, bytes(wrong), 10)
        with pytest.raises(ShapeMismatch, match="do not pack into"):
            chosen.pack_into(chosen.zeros(10), memoryview(bytearray(wrong)))
    for other in (RING32.zeros(10), RING64.zeros(10), np.zeros((10, 1), chosen.dtype)):
        if other.dtype != chosen.dtype or other.ndim == 2:
            with pytest.raises(ShapeMismatch, match="expected a vector"):
                chosen.pack_into(other, memoryview(bytearray(size)))
            with pytest.raises(ShapeMismatch, match="expected a vector"):
                chosen.unpack_into(bytes(size), other)


@pytest.mark.parametrize("bits", [16, 23, 32, 47, 64])
def test_bytes_may_begin_anywhere(bits: int) -> None:
    """A message puts its vector where it pleases, not where words begin."""
    chosen = Ring(bits)
    words = random_words(chosen, 100, 3)
    out = bytearray(chosen.packed_size(100) + 1)
    chosen.pack_into(words, memoryview(out)[1:])
    assert out[1:] == packed(chosen, words)
    back = chosen.zeros(100)
    chosen.unpack_into(memoryview(out)[1:], back)
    assert packed(chosen, back) == out[1:]
