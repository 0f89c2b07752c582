"""`smpc_fl.encryption`: residues against Python's integers, and sums of encrypted vectors, which come out exact."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from clear_cipher import ClearCipher
from hypothesis import given, settings
from hypothesis import strategies as st

from smpc_fl.chunks import CHUNK
from smpc_fl.encryption import MODULUS, RESIDUES, SLOTS, WORDS, Layout, most_bits, sum_digest
from smpc_fl.errors import DecryptionFailed, MalformedMessage, ShapeMismatch
from smpc_fl.ring import Ring, RingArray, ring

ELEMENTS = st.lists(st.one_of(st.sampled_from([0, 1, MODULUS - 1]), st.integers(0, MODULUS - 1)), max_size=9)


def residues(values: list[int]) -> RingArray:
    return np.array(values, RESIDUES.dtype)


@given(ELEMENTS)
def test_residues_add_modulo_q(values: list[int]) -> None:
    a, b = residues(values), residues(values[::-1])
    RESIDUES.add_into(a, b)
    assert a.tolist() == [(x + y) % MODULUS for x, y in zip(values, values[::-1], strict=True)]
    assert b.tolist() == values[::-1]


def test_long_vectors_of_residues_add_as_short_ones() -> None:
    a = np.arange(CHUNK + 5, dtype=RESIDUES.dtype)
    RESIDUES.add_into(a, np.full(CHUNK + 5, MODULUS - 5, RESIDUES.dtype))
    assert a.tolist() == [(x - 5) % MODULUS for x in range(CHUNK + 5)]
    with pytest.raises(ShapeMismatch):
        RESIDUES.add_into(a, a[1:])


@given(ELEMENTS)
def test_residues_come_back_from_54_bits_each(values: list[int]) -> None:
    packed = memoryview(bytearray(RESIDUES.packed_size(len(values))))
    RESIDUES.pack_into(residues(values), packed)
    again = RESIDUES.zeros(len(values))
    RESIDUES.unpack_into(packed, again)
    assert again.tolist() == values


@pytest.mark.parametrize("bad", [MODULUS, MODULUS + 1, (1 << 54) - 1])
def test_what_is_no_residue_is_refused(bad: int) -> None:
    words = residues([1, bad, 2])
    packed = memoryview(bytearray(RESIDUES.packed_size(3)))
    Ring(54).pack_into(words, packed)
    with pytest.raises(MalformedMessage, match="not below its modulus"):
        RESIDUES.unpack_into(packed, RESIDUES.zeros(3))


def total_of(layout: Layout, vectors: list[RingArray], cipher: ClearCipher) -> RingArray:
    total = RESIDUES.zeros(layout.words)
    for vector in vectors:
        RESIDUES.add_into(total, layout.encrypt(vector, cipher))
    return total


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 64), st.sampled_from([3, 4, 5, 16, 300]), st.sampled_from([1, 3, 700]), st.integers(0, 99))
def test_sums_are_exact_in_every_ring(bits: int, owners: int, dimension: int, seed: int) -> None:
    """Also with the largest numbers that the capacity rule lets owners send."""
    of, layout, draws = ring(bits), Layout(bits, dimension, owners), np.random.default_rng(seed)
    most = of.largest // owners
    encoded = [draws.integers(-most, most, dimension, endpoint=True) for _ in range(3)]
    encoded[0][:], encoded[1][-1] = most, -most
    found = layout.decrypt(total_of(layout, [x.astype(of.dtype) for x in encoded], ClearCipher()), ClearCipher())
    assert of.to_signed(found).tolist() == np.sum(encoded, axis=0).tolist()


@pytest.mark.parametrize("owners", [2, 3, 4, 50, 1000, 1 << 15])
def test_limbs_have_room_for_every_sum(owners: int) -> None:
    """By the numbers: whatever owners send, no limb's sum is beyond what decrypts, and the limbs hold the ring."""
    for bits in range(8, 65):
        layout = Layout(bits, 1, owners)
        width = most_bits(owners)
        if layout.limbs == 1:
            assert bits <= width
            continue
        lower = layout.step * (layout.limbs - 1)
        assert owners * ((1 << layout.step) - 1) < 1 << (width - 1)
        assert (1 << (bits - 1)) // (1 << lower) + owners < 1 << (width - 1)
        assert layout.limbs <= 8


def test_four_owners_and_32_bits_need_a_ciphertext_for_every_2048_numbers() -> None:
    assert [Layout(32, n, 4).words // WORDS for n in (1, SLOTS, SLOTS + 1)] == [1, 1, 2]
    assert [Layout(bits, SLOTS, 4).limbs for bits in (32, 35, 36, 64)] == [1, 1, 2, 2]
    assert most_bits(256) == 32


def test_noise_within_the_margin_changes_nothing_and_beyond_it_shows() -> None:
    layout, x = Layout(most_bits(4), 10, 4), np.arange(10, dtype=np.uint64)
    assert layout.decrypt(total_of(layout, [x] * 4, ClearCipher(noise=3)), ClearCipher()).tolist() == (4 * x).tolist()
    with pytest.raises(DecryptionFailed):
        layout.decrypt(total_of(layout, [x] * 4, ClearCipher(noise=200)), ClearCipher())


def spoiled(place: int, by: float) -> RingArray:
    """A sum of ten numbers with one number off by so many units."""
    layout, cipher = Layout(32, 10, 4), ClearCipher()
    total = layout.encrypt(np.arange(10, dtype=np.uint32), cipher)
    total[place] = (int(total[place]) + round(by * 2.0**21)) % MODULUS
    return total


@pytest.mark.parametrize(
    ("place", "by"),
    [(0, 0.4), (9, -0.3), (10, 1), (SLOTS - 1, -1), (SLOTS - 1, 0.4), (0, 2.0**31 + 1), (3, -(2.0**31) - 9)],
)
def test_what_is_no_sum_of_encoded_vectors_is_not_told(place: int, by: float) -> None:
    layout = Layout(32, 10, 4)
    assert layout.decrypt(spoiled(0, 0), ClearCipher()).tolist() == list(range(10))
    with pytest.raises(DecryptionFailed, match="no sum of vectors"):
        layout.decrypt(spoiled(place, by), ClearCipher())


def test_ciphertexts_are_named_by_all_of_them() -> None:
    names = [sum_digest(residues(list(values))) for values in itertools.permutations([1, 2, 3])]
    assert len({len(name) for name in names}) == 1
    assert len(set(names)) == 6
