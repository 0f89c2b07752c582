"""`smpc_fl.ring`: vectors over Z_2^32 and Z_2^64 against Python's own integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpc_fl.errors import BadInput, MalformedMessage, ShapeMismatch
from smpc_fl.ring import RING32, RING64, Ring, RingArray, ring

RINGS = st.sampled_from([RING32, RING64])


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Ring, list[int], list[int]]:
    chosen = draw(RINGS)
    edges = st.sampled_from([0, 1, chosen.largest, chosen.largest + 1, chosen.modulus - 1])
    element = st.one_of(edges, st.integers(0, chosen.modulus - 1))
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
    assert a.tolist() == [(x + y) % chosen.modulus for x, y in zip(left, right, strict=True)]
    chosen.subtract_from(a, b)
    assert a.tolist() == left
    assert b.tolist() == right
    chosen.subtract_from(a, b)
    assert a.tolist() == [(x - y) % chosen.modulus for x, y in zip(left, right, strict=True)]


@given(pairs())
def test_signed_reading_is_twos_complement(case: tuple[Ring, list[int], list[int]]) -> None:
    chosen, values, _ = case
    signed = chosen.to_signed(vector(chosen, values))
    assert signed.dtype == np.int64
    assert signed.tolist() == [x if x <= chosen.largest else x - chosen.modulus for x in values]


@given(pairs())
def test_bytes_are_little_endian_words(case: tuple[Ring, list[int], list[int]]) -> None:
    chosen, values, _ = case
    array = vector(chosen, values)
    data = chosen.to_bytes(array)
    assert data == b"".join(x.to_bytes(chosen.itemsize, "little") for x in values)
    assert bytes(chosen.as_buffer(array)) == data
    assert chosen.from_bytes(data, len(values)).tolist() == values


def test_properties() -> None:
    assert (ring(32), ring(64)) == (RING32, RING64)
    assert (RING32.itemsize, RING64.itemsize) == (4, 8)
    assert (RING32.modulus, RING64.modulus) == (2**32, 2**64)
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
        for operation in (RING32.add_into, RING32.subtract_from):
            with pytest.raises(ShapeMismatch):
                operation(acc, other)
    with pytest.raises(ShapeMismatch):
        RING64.to_signed(acc)
    with pytest.raises(ShapeMismatch):
        RING64.to_bytes(acc)
    with pytest.raises(ShapeMismatch, match="strided"):
        RING32.as_buffer(RING32.zeros(4)[::2])
    assert acc.tolist() == [0, 0]
