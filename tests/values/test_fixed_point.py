"""`smpc_fl.fixed_point`: rounding, capacity and the stated error against exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpc_fl import chunks
from smpc_fl.errors import BadInput, CapacityExceeded, NotFinite, ShapeMismatch
from smpc_fl.fixed_point import FixedPoint, check_capacity, fewest_bits, largest_fractional_bits, worst_error
from smpc_fl.ring import RING32, RING64, Ring

RINGS = st.one_of(st.sampled_from([RING32, RING64]), st.integers(8, 64).map(Ring))


@st.composite
def encodable(draw: st.DrawFn) -> tuple[FixedPoint, list[float]]:
    """A format, and floats that it can hold, half-way cases among them."""
    ring = draw(RINGS)
    bits = draw(st.integers(-20, 52))
    reach = 2.0 ** (ring.bits - 2 - bits)
    most = 2 ** min(20, ring.bits - 2)
    halves = st.integers(-most, most).map(lambda k: (k + 0.5) * 2.0**-bits)
    values = draw(st.lists(st.one_of(st.floats(-reach, reach), halves), max_size=8))
    return FixedPoint(ring, bits), values


@given(encodable())
def test_nearest_is_pythons_round_of_the_exact_value(case: tuple[FixedPoint, list[float]]) -> None:
    format_, values = case
    encoded = format_.encode(np.array(values, np.float64))
    assert encoded.dtype == format_.ring.dtype
    expected = [round(Fraction(v) * Fraction(2) ** format_.fractional_bits) for v in values]  # ties to even
    assert format_.ring.to_signed(encoded).tolist() == expected


@given(encodable(), st.integers(0, 2**32))
def test_stochastic_is_a_neighbour_and_repeats_with_its_entropy(
    case: tuple[FixedPoint, list[float]], seed: int
) -> None:
    format_, values = case
    array = np.array(values, np.float64)
    encoded = format_.encode(array, "stochastic", np.random.default_rng(seed).bytes)
    for got, value in zip(format_.ring.to_signed(encoded).tolist(), values, strict=True):
        exact = Fraction(value) * Fraction(2) ** format_.fractional_bits
        # A negative value so small that 1 - |value| is 1.0 in float64 goes up to 0 always: that is ceil.
        assert got in (math.floor(exact), math.ceil(exact))
    again = format_.encode(array, "stochastic", np.random.default_rng(seed).bytes)
    assert np.array_equal(encoded, again)


@given(encodable())
def test_decode_is_the_nearest_float(case: tuple[FixedPoint, list[float]]) -> None:
    format_, values = case
    encoded = format_.encode(np.array(values, np.float64))
    decoded = format_.decode(encoded)
    assert decoded.dtype == np.float64
    scale = Fraction(2) ** format_.fractional_bits
    assert decoded.tolist() == [float(Fraction(k) / scale) for k in format_.ring.to_signed(encoded).tolist()]
    assert all(
        abs(Fraction(d) - Fraction(v)) <= 1 / (2 * scale) + abs(Fraction(v)) / 2**53
        for d, v in zip(decoded.tolist(), values, strict=True)
    )


@pytest.mark.parametrize("n", [1 << 15, (1 << 15) + 1, 100_000])
def test_long_vectors_are_encoded_like_short_ones(n: int) -> None:
    values = np.random.default_rng(3).normal(size=n)
    format_ = FixedPoint(RING32, 24)
    assert np.array_equal(format_.ring.to_signed(format_.encode(values)), np.rint(values * 2**24))


@given(RINGS, st.integers(-64, 64), st.data())
def test_elements_of_any_ring_are_decoded_whatever_stands_above_them(
    ring: Ring, bits: int, data: st.DataObject
) -> None:
    numbers = data.draw(st.lists(st.integers(-ring.largest, ring.largest), max_size=8))
    above = data.draw(st.lists(st.integers(0, 2**64 - 1), min_size=8, max_size=8))
    words = [(k + (x << ring.bits)) % 2 ** (8 * ring.itemsize) for k, x in zip(numbers, above, strict=False)]
    with patch.object(chunks, "CHUNK", 3):
        decoded = FixedPoint(ring, bits).decode(np.array(words, ring.dtype))
    assert decoded.tolist() == [float(k) * 2.0**-bits for k in numbers]


@given(RINGS, st.integers(-20, 52), st.data())
def test_any_ring_holds_what_it_says(ring: Ring, bits: int, data: st.DataObject) -> None:
    format_, reach = FixedPoint(ring, bits), 2.0 ** (ring.bits - 1 - bits)
    values = np.array(data.draw(st.lists(st.floats(-reach, reach), max_size=8)), np.float64)
    rounded = [round(Fraction(v) * Fraction(2) ** bits) for v in values.tolist()]
    with patch.object(chunks, "CHUNK", 3):
        if any(abs(k) > ring.largest for k in rounded):
            with pytest.raises(CapacityExceeded):
                format_.encode(values)
        else:
            assert ring.to_signed(format_.encode(values)).tolist() == rounded


def test_a_bound_holds_as_it_is_rounded() -> None:
    out, format_ = RING32.zeros(2), FixedPoint(RING32, 1)
    format_.put(np.array([3.2, -3.4]), out, bound=1.5)
    assert RING32.to_signed(out).tolist() == [3, -3]
    for beyond in ([0.0, 4.0], [-4.0, 0.0]):
        with pytest.raises(CapacityExceeded, match="clip"):
            format_.put(np.array(beyond), out, bound=1.5)
    with pytest.raises(CapacityExceeded, match="fit"):
        format_.put(np.array([math.nan, 0.0]), out)


def test_stochastic_rounding_is_unbiased() -> None:
    # 200,000 draws of 0.3: the mean has a standard deviation of 0.001; the entropy is fixed.
    format_ = FixedPoint(RING32, 0)
    for value in (0.3, -0.3):
        drawn = format_.decode(format_.encode(np.full(200_000, value), "stochastic", np.random.default_rng(4).bytes))
        assert abs(drawn.mean() - value) < 0.005


def test_float32_is_taken_as_it_is() -> None:
    values = np.array([0.1, -2.5], np.float32)
    format_ = FixedPoint(RING64, 30)
    assert np.array_equal(format_.encode(values), format_.encode(values.astype(np.float64)))
    assert values.tolist() == [np.float32(0.1), -2.5]


@pytest.mark.parametrize("ring", [RING32, RING64])
def test_the_ends_of_the_ring(ring: Ring) -> None:
    format_ = FixedPoint(ring, 0)
    top = float(ring.largest) if ring is RING32 else 2.0**63 - 1024
    assert ring.to_signed(format_.encode(np.array([top, -top]))).tolist() == [int(top), -int(top)]
    for value in (2.0 ** (ring.bits - 1), -(2.0 ** (ring.bits - 1)), 1e308):
        for rounding in ("nearest", "stochastic"):
            with pytest.raises(CapacityExceeded, match="more ring_bits"):
                format_.encode(np.array([0.0, value]), rounding, np.random.default_rng(0).bytes)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_overflow_of_float64_itself_is_refused(rounding: str) -> None:
    with pytest.raises(CapacityExceeded):
        FixedPoint(RING64, 52).encode(np.array([1e308]), rounding, np.random.default_rng(0).bytes)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused(bad: float) -> None:
    with pytest.raises(NotFinite, match="learning rate"):
        FixedPoint(RING32, 8).encode(np.array([0.0, bad]))


def test_errors_show_no_value() -> None:
    with pytest.raises(CapacityExceeded) as caught:
        FixedPoint(RING32, 8).encode(np.array([123456789.75]))
    assert "123456789" not in str(caught.value)


def test_wrong_arguments() -> None:
    format_ = FixedPoint(RING32, 8)
    wrong: list[npt.NDArray[Any]] = [np.zeros((2, 2)), np.zeros(2, np.int64), np.zeros(2, np.complex128)]
    for values in wrong:
        with pytest.raises(ShapeMismatch, match="float64"):
            format_.encode(values)
    with pytest.raises(BadInput, match="entropy"):
        format_.encode(np.zeros(2), "stochastic")
    with pytest.raises(ShapeMismatch):
        format_.decode(RING64.zeros(1))
    for bits in (-65, 65):
        with pytest.raises(BadInput, match="fractional bits"):
            FixedPoint(RING32, bits)
    assert format_.encode(np.zeros(0)).size == 0


# --- capacity -----------------------------------------------------------------------------------------------------


def rule(ring: Ring, bits: int, owners: int, bound: float, weight_max: float, noise: int) -> bool:
    """The rule as DESIGN states it, over rationals (the product is the owner's float64 product)."""
    slot = Fraction(weight_max * max(bound, 1.0))
    return owners * math.ceil(slot * Fraction(2) ** bits) + noise < 1 << (ring.bits - 1)


@given(
    RINGS,
    st.integers(1, 5000),
    st.floats(0, 1e12),
    st.floats(2.0**-20, 1.0),
    st.integers(0, 2**20),
)
def test_largest_fractional_bits_is_the_largest(
    ring: Ring, owners: int, bound: float, weight_max: float, noise: int
) -> None:
    try:
        bits = largest_fractional_bits(ring, owners, bound, weight_max, noise)
    except CapacityExceeded:
        assert not rule(ring, -64, owners, bound, weight_max, noise)
        return
    assert -64 <= bits <= 52
    assert rule(ring, bits, owners, bound, weight_max, noise)
    check_capacity(ring, bits, owners, bound, weight_max, noise)
    if bits < 52:
        assert not rule(ring, bits + 1, owners, bound, weight_max, noise)
        with pytest.raises(CapacityExceeded):
            check_capacity(ring, bits + 1, owners, bound, weight_max, noise)


def test_capacity_rounds_a_slot_up() -> None:
    # 2^30 - 1/2 may be encoded as 2^30 (ties to even, or stochastically), and two of those leave the ring.
    check_capacity(RING32, 0, 2, 2.0**30 - 1)
    with pytest.raises(CapacityExceeded):
        check_capacity(RING32, 0, 2, 2.0**30 - 0.5)


@given(RINGS, st.integers(1, 50), st.floats(2.0**-10, 2.0**20), st.sampled_from(["nearest", "stochastic"]))
def test_at_capacity_the_extreme_sum_still_fits(ring: Ring, owners: int, bound: float, rounding: str) -> None:
    format_ = FixedPoint(ring, largest_fractional_bits(ring, owners, bound))
    extreme = np.array([bound, -bound, 1.0])
    encoded = format_.encode(extreme, rounding, np.random.default_rng(5).bytes)  # type: ignore[arg-type]
    single = ring.to_signed(encoded).tolist()
    total = ring.zeros(3)
    for _ in range(owners):
        ring.add_into(total, encoded)
    assert ring.to_signed(total).tolist() == [owners * k for k in single]


def test_capacity_errors_name_what_would_do() -> None:
    with pytest.raises(CapacityExceeded, match=r"needs 35 bits at 24 .* use ring_bits=35, or use fewer"):
        check_capacity(RING32, 24, 100, 8.0)
    check_capacity(Ring(35), 24, 100, 8.0)
    with pytest.raises(CapacityExceeded, match="not even 64 bits would do"):
        check_capacity(RING64, 52, 5000, 8.0)
    with pytest.raises(CapacityExceeded, match="no scale lets"):
        largest_fractional_bits(RING32, 3, 1e300)
    with pytest.raises(CapacityExceeded, match="no scale lets"):
        largest_fractional_bits(RING32, 3, 1.0, noise=2**31)


@given(st.integers(-64, 52), st.integers(1, 5000), st.floats(0.0, 2.0**20), st.integers(0, 2**40))
def test_the_fewest_bits_are_those_that_no_smaller_ring_would_do(f: int, owners: int, bound: float, noise: int) -> None:
    try:
        bits = fewest_bits(f, owners, bound, noise=noise)
    except CapacityExceeded:
        with pytest.raises(CapacityExceeded, match="not even 64 bits"):
            check_capacity(RING64, f, owners, bound, noise=noise)
        return
    check_capacity(Ring(bits), f, owners, bound, noise=noise)
    assert largest_fractional_bits(Ring(bits), owners, bound, noise=noise) >= f
    if bits > 8:
        with pytest.raises(CapacityExceeded, match=f"use ring_bits={bits}"):
            check_capacity(Ring(bits - 1), f, owners, bound, noise=noise)


def test_sixteen_bit_updates_of_a_hundred_owners_take_23_bits() -> None:
    assert fewest_bits(15, 100, 1.0) == 23
    assert [fewest_bits(15, owners, 1.0) for owners in (1, 63, 64, 127, 128)] == [17, 22, 23, 23, 24]
    assert fewest_bits(0, 3, 0.0) == 8


@pytest.mark.parametrize(
    ("owners", "bound", "weight_max", "noise"),
    [
        (0, 1.0, 1.0, 0),
        (3, math.inf, 1.0, 0),
        (3, math.nan, math.nan, 0),
        (3, -1.0, 1.0, 0),
        (3, 1.0, 0.0, 0),
        (3, 1e200, 1e200, 0),
        (3, 1.0, 1.0, -1),
    ],
)
def test_wrong_capacity_arguments(owners: int, bound: float, weight_max: float, noise: int) -> None:
    with pytest.raises(BadInput, match="capacity"):
        check_capacity(RING32, 8, owners, bound, weight_max, noise)


# --- stated error -------------------------------------------------------------------------------------------------


def test_worst_error_with_an_exact_divisor() -> None:
    assert worst_error(20, 4, 2.0) == 4 * 2.0**-21 / 2.0
    assert worst_error(20, 4, 2.0, rounding="stochastic") == 2 * worst_error(20, 4, 2.0)


def test_worst_error_grows_where_it_should() -> None:
    assert worst_error(20, 4, 2.0, bound=8.0) > 9 * worst_error(20, 4, 2.0)
    assert worst_error(20, 4, 2.0, bound=8.0) > worst_error(21, 4, 2.0, bound=8.0)
    assert worst_error(20, 4, 1.0, bound=8.0) > worst_error(20, 4, 2.0, bound=8.0)
    exact, rounded = (worst_error(20, 4, 2.0, bound=8.0, exact_weights=exact) for exact in (True, False))
    assert worst_error(20, 4, 2.0) < exact < rounded
    assert worst_error(52, 4, 2.0, bound=8.0, exact_weights=True) > 8.0 * 2.0**-48
    assert worst_error(0, 4, 4.0, bound=8.0) == math.inf
    assert worst_error(0, 4, 4.0, bound=8.0, exact_weights=True) < math.inf
    assert worst_error(0, 4, 8.0, bound=8.0, rounding="stochastic") == math.inf


@pytest.mark.parametrize(
    ("owners", "least", "bound"), [(0, 1.0, 0.0), (3, 0.0, 0.0), (3, math.nan, 0.0), (3, 1.0, -1.0)]
)
def test_wrong_worst_error_arguments(owners: int, least: float, bound: float) -> None:
    with pytest.raises(BadInput, match="worst_error"):
        worst_error(20, owners, least, bound=bound)
