"""Numbers of a round, and what the hashes cover. (What a broken manifest meets: test_refusals.py.)"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig import KEY, LOW_ORDER, Rig, offered

from smpc_fl.errors import CapacityExceeded, MalformedMessage, PrecisionTooLow
from smpc_fl.fixed_point import check_capacity, worst_error
from smpc_fl.jobs import RingBits
from smpc_fl.protocols import codec
from smpc_fl.protocols.envelopes import check_key
from smpc_fl.protocols.manifest import (
    Numbers,
    choose_numbers,
    manifest_hash,
    model_digest,
    set_hash,
    stated_error,
    subject_of,
)
from smpc_fl.protocols.messages import (
    Entry,
    FreezeRequest,
    ManifestOffer,
    PrekeyRequest,
    RoundOffer,
    Signed,
    StatusRequest,
)
from smpc_fl.ring import RING32, RING64, ring

HASH, RUN = bytes(range(32)), bytes(range(16))


@given(
    st.integers(1, 4096), st.floats(1e-3, 1e6), st.integers(1, 1 << 20), st.integers(1, 50),
    st.sampled_from([None, "fit", 23, 32, 48, 64]), st.sampled_from([None, None, 8, 16, 40]),
)  # fmt: skip
def test_chosen_numbers_fit_and_are_precise_enough(
    owners: int, clip: float, max_samples: int, k_min: int, bits: RingBits | None, update: int | None
) -> None:
    try:
        numbers = choose_numbers(
            owners=owners, clip=clip, max_samples=max_samples, k_min=k_min, tolerance=1e-3, ring_bits=bits,
            update_bits=update,
        )  # fmt: skip
    except (PrecisionTooLow, CapacityExceeded):
        return
    assert bits in (None, "fit", numbers.ring_bits)
    assert numbers.worst_error <= 1e-3
    check_capacity(ring(numbers.ring_bits), numbers.fractional_bits, owners, clip)
    assert numbers.fixed_point.ring.bits == numbers.ring_bits


def test_the_smaller_ring_is_taken_where_it_will_do() -> None:
    common = {"owners": 5, "clip": 10.0, "k_min": 3, "tolerance": 1e-3}
    assert choose_numbers(max_samples=1 << 14, ring_bits=None, **common).ring_bits == 32  # type: ignore[arg-type]
    assert choose_numbers(max_samples=10_000, ring_bits=None, **common).ring_bits == 64  # type: ignore[arg-type]
    assert choose_numbers(max_samples=1, ring_bits=64, **common).ring_bits == 64  # type: ignore[arg-type]


def test_a_ring_that_will_not_do_is_refused_with_the_one_that_would() -> None:
    with pytest.raises(PrecisionTooLow, match=r"ring_bits=32 .* use ring_bits=47 or more") as caught:
        choose_numbers(owners=50, clip=100.0, max_samples=10_000, k_min=3, tolerance=1e-3, ring_bits=32)
    assert caught.value.phase == "manifest"
    choose_numbers(owners=50, clip=100.0, max_samples=10_000, k_min=3, tolerance=1e-3, ring_bits=47)
    bits: list[RingBits | None] = [23, 32, 64, None, "fit"]
    for asked in bits:
        with pytest.raises(PrecisionTooLow, match=r"with ring_bits=64 .*: use a smaller clip"):
            choose_numbers(owners=50, clip=1e15, max_samples=10_000, k_min=3, tolerance=1e-3, ring_bits=asked)
    with pytest.raises(PrecisionTooLow, match=r"with ring_bits=64 .*: use a smaller clip"):
        choose_numbers(owners=3, clip=1.0, max_samples=1, k_min=3, tolerance=1e-30, ring_bits="fit")
    with pytest.raises(CapacityExceeded, match="more ring_bits"):
        choose_numbers(owners=200, clip=1.0, max_samples=1, k_min=3, tolerance=1e-3, ring_bits=8)


NUMBERS = st.tuples(
    st.integers(3, 500), st.floats(1e-3, 1e6), st.integers(1, 1 << 20), st.integers(3, 50), st.floats(1e-9, 1e3)
).filter(lambda case: case[3] <= case[0])  # k_min owners at most


@given(NUMBERS)
def test_a_ring_that_fits_is_the_smallest_that_will_do(case: tuple[int, float, int, int, float]) -> None:
    owners, clip, max_samples, k_min, tolerance = case

    def choose(bits: RingBits) -> Numbers:
        return choose_numbers(
            owners=owners, clip=clip, max_samples=max_samples, k_min=k_min, tolerance=tolerance, ring_bits=bits
        )

    try:
        fitting = choose("fit")
    except PrecisionTooLow:
        with pytest.raises(PrecisionTooLow):
            choose(64)
        return
    assert fitting == choose(fitting.ring_bits)
    assert fitting.worst_error <= tolerance
    for smaller in range(8, fitting.ring_bits):
        with pytest.raises((PrecisionTooLow, CapacityExceeded)):
            choose(smaller)


def test_updates_of_so_many_bits() -> None:
    """16-bit updates of 100 equally weighted owners travel as 23 bits a coordinate."""
    common: dict[str, Any] = {"owners": 100, "max_samples": 1, "k_min": 3, "tolerance": 1e-2}
    numbers = choose_numbers(clip=1.0, ring_bits=None, update_bits=16, **common)
    assert numbers == Numbers(23, 15, stated_error(15, owners=100, clip=1.0, max_samples=1, k_min=3))
    assert numbers == choose_numbers(clip=1.0, ring_bits="fit", update_bits=16, **common)
    assert choose_numbers(clip=1.0, ring_bits=32, update_bits=16, **common) == replace(numbers, ring_bits=32)
    # A clip of 8 takes three bits more before the point, one of 8.01 four.
    assert choose_numbers(clip=8.0, ring_bits=None, update_bits=16, **common).fractional_bits == 12
    assert choose_numbers(clip=8.01, ring_bits=None, update_bits=17, **common).fractional_bits == 12
    assert choose_numbers(clip=0.5, ring_bits=None, update_bits=16, **common).fractional_bits == 15
    assert choose_numbers(clip=1.0, ring_bits=64, update_bits=64, **common | {"owners": 3}).fractional_bits == 52
    with pytest.raises(CapacityExceeded, match="could leave the ring of 22: use ring_bits=23"):
        choose_numbers(clip=1.0, ring_bits=22, update_bits=16, **common)
    with pytest.raises(CapacityExceeded, match="not even 64 bits"):
        choose_numbers(clip=1e6, ring_bits=None, update_bits=64, **common)


def test_updates_of_too_few_bits_are_refused_with_those_that_would_do() -> None:
    common: dict[str, Any] = {"owners": 100, "clip": 1.0, "max_samples": 1024, "k_min": 3, "tolerance": 1e-2}
    with pytest.raises(PrecisionTooLow, match=r"ring_bits=23 and 15 bits .* off by 0\.521, .*: use update_bits=22, a"):
        choose_numbers(ring_bits=None, update_bits=16, **common)
    assert choose_numbers(ring_bits=None, update_bits=22, **common).ring_bits == 29
    with pytest.raises(PrecisionTooLow, match="use update_bits=22"):
        choose_numbers(ring_bits=None, update_bits=21, **common)


def test_weights_over_a_power_of_two_are_exact() -> None:
    """Then the divisor Σw carries no rounding; other weights are rounded like the rest, and the bound says so."""
    exact = stated_error(20, owners=4, clip=8.0, max_samples=1 << 10, k_min=3)
    assert exact == worst_error(20, 4, 3 / (1 << 10))
    rounded = stated_error(20, owners=4, clip=8.0, max_samples=(1 << 10) - 1, k_min=3)
    assert rounded > 8.9 * exact
    too_fine = stated_error(20, owners=4, clip=8.0, max_samples=1 << 21, k_min=3)
    assert too_fine == math.inf
    assert stated_error(20, owners=4, clip=8.0, max_samples=1, k_min=3) == worst_error(20, 4, 3.0)


def test_the_manifests_hash_covers_sender_and_body() -> None:
    manifest, event = offered(Rig())
    offer = event.message
    assert isinstance(offer, RoundOffer)
    signed = offer.manifest
    assert codec.encode(manifest) == signed.body
    assert manifest_hash(signed) == manifest_hash(Signed(signed.sender, signed.body, bytes(64)))
    assert manifest_hash(signed) != manifest_hash(Signed("mallory", signed.body, signed.signature))
    assert manifest_hash(signed) != manifest_hash(Signed(signed.sender, signed.body + b"\0", signed.signature))


def test_a_set_is_hashed_as_a_sorted_list() -> None:
    one, two = Entry("alice", HASH), Entry("bob", HASH[::-1])
    assert set_hash(HASH, [one, two]) == set_hash(HASH, [two, one])
    sets = [[], [one], [two], [one, two], [one, one], [Entry("alic", b"e" + HASH[1:])]]
    assert len({set_hash(HASH, entries) for entries in sets} | {set_hash(HASH[::-1], [one])}) == len(sets) + 1


def test_a_models_digest_is_over_its_bytes() -> None:
    assert model_digest(b"abcd") == model_digest(bytearray(b"abcd")) == model_digest(memoryview(b"abcd"))
    assert model_digest(b"") != model_digest(b"\0")


def test_what_a_refusal_is_about() -> None:
    _, event = offered(Rig())
    offer = event.message
    assert isinstance(offer, RoundOffer)
    hash_ = manifest_hash(offer.manifest)
    assert subject_of(offer) == subject_of(ManifestOffer(offer.manifest)) == hash_
    assert subject_of(FreezeRequest(HASH)) == HASH
    assert subject_of(PrekeyRequest(RUN, 0, 0)) == RUN
    assert subject_of(StatusRequest()) == b""


def test_keys_of_low_order_are_not_sealed_to() -> None:
    check_key(KEY, "bob")
    for key in (LOW_ORDER, bytes([1]) + bytes(31), bytes.fromhex("ec" + "ff" * 30 + "7f")):
        with pytest.raises(MalformedMessage, match="key of bob is of low order"):
            check_key(key, "bob")


def test_numbers_know_their_fixed_point() -> None:
    assert Numbers(32, 20, 0.0).fixed_point.ring == RING32
    assert Numbers(64, 20, 0.0).fixed_point.ring == RING64
