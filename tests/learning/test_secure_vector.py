"""`SecureVector`: part by part and in one pass, bit for bit what plain whole-vector arithmetic gives."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from smpc_fl import chunks
from smpc_fl.chunks import Floats
from smpc_fl.errors import CapacityExceeded, NotFinite
from smpc_fl.fixed_point import FixedPoint
from smpc_fl.learning import update
from smpc_fl.learning.update import METRIC_BOUND, SecureVector, VectorLayout, assemble
from smpc_fl.ring import RING32, RING64, Ring

Payload = npt.NDArray[np.float32] | npt.NDArray[np.float64]


def payloads(dtype: Any, width: Literal[32, 64], reach: float) -> st.SearchStrategy[Payload]:
    ties = st.integers(-64, 64).map(lambda k: k / 128)
    elements = st.one_of(st.floats(-reach, reach, width=width), st.floats(-1, 1, width=width), ties)
    return hnp.arrays(dtype, st.integers(0, 12), elements=elements)


PAYLOADS = st.one_of(payloads(np.float32, 32, 2.0**127), payloads(np.float64, 64, 2.0**1023))
WEIGHTS = st.one_of(st.integers(1, 1024).map(lambda k: k / 1024), st.floats(0, 1, exclude_min=True))
CLIPS = st.one_of(st.floats(1e-3, 1e3), st.floats(2.0**-1000, 2.0**1000), st.just(2.0**1023))
FORMATS = st.builds(FixedPoint, st.builds(Ring, st.integers(8, 64)), st.integers(-64, 64))


@pytest.fixture(autouse=True, scope="module")
def several_parts() -> Iterator[None]:
    """Parts so short that the vectors of these tests have some, and a row to square that is shorter."""
    with patch.object(chunks, "CHUNK", 5), patch.object(update, "_ROW", 2):
        yield


def plain(payload: Payload, weight: float, loss: float, *, clip: float, mode: str) -> Floats:
    """The same on whole vectors, for a payload that is not beyond the norm."""
    values = payload.astype(np.float64)
    rates = np.array([loss]) / METRIC_BOUND
    kept, bounded = np.clip(values, -clip, clip) if mode == "saturate" else values, np.clip(rates, -1, 1)
    clipped = not (np.array_equal(kept, values) and np.array_equal(bounded, rates))
    return np.concatenate([weight * kept, weight * bounded, [weight, float(clipped)]])


def of(payload: Payload, weight: float = 1.0, loss: float = 0.5, *, clip: float, mode: Any = "norm") -> SecureVector:
    return assemble(payload, weight, {"loss": loss}, layout=VectorLayout(payload.size, ("loss",)), clip=clip, mode=mode)


@given(PAYLOADS, WEIGHTS, st.floats(-200, 200), CLIPS)
def test_saturated_slots_are_the_plain_ones(payload: Payload, weight: float, loss: float, clip: float) -> None:
    vector = of(payload, weight, loss, clip=clip, mode="saturate")
    assert np.array_equal(vector.dense(), plain(payload, weight, loss, clip=clip, mode="saturate"))
    assert vector.length == payload.size + 3


@given(PAYLOADS, WEIGHTS, st.floats(-200, 200), CLIPS)
def test_slots_within_the_norm_are_the_plain_ones(payload: Payload, weight: float, loss: float, clip: float) -> None:
    vector = of(payload, weight, loss, clip=clip)
    if vector.ratio == 1.0:
        assert np.array_equal(vector.dense(), plain(payload, weight, loss, clip=clip, mode="norm"))
    else:
        assert vector.dense()[-1] == 1.0


def exact_norm(payload: Payload) -> float:
    """By Python's own scaled sum."""
    return math.hypot(*payload.tolist())


@given(PAYLOADS, CLIPS)
def test_the_norm_neither_overflows_nor_vanishes(payload: Payload, clip: float) -> None:
    vector, norm = of(payload, clip=clip), exact_norm(payload)
    kept = vector.dense()[: payload.size]
    assert (np.abs(kept) <= clip).all()
    if norm <= clip * (1 - 1e-12):
        assert vector.ratio == 1.0
    elif norm >= clip * (1 + 1e-12):
        assert vector.ratio < 1.0
        assert vector.ratio == pytest.approx(clip / norm, rel=1e-12, abs=1e-300)


@given(PAYLOADS, WEIGHTS, CLIPS, st.sampled_from(["norm", "saturate"]), FORMATS)
def test_encoding_is_that_of_the_dense_vector(
    payload: Payload, weight: float, clip: float, mode: str, fixed: FixedPoint
) -> None:
    vector = of(payload, weight, clip=clip, mode=mode)
    try:
        expected = fixed.encode(vector.dense())
    except CapacityExceeded:
        with pytest.raises(CapacityExceeded):
            vector.encode(fixed)
        return
    encoded = vector.encode(fixed)
    assert encoded.dtype == fixed.ring.dtype
    assert encoded.tolist() == expected.tolist()


def test_a_weight_whose_product_with_the_scale_is_no_float() -> None:
    """2^-1024 · (1 + 2^-52) would be rounded, and with it what is a little more than a half to a half, and to 0."""
    weight, fixed = 2.0**-960 * (1 + 2.0**-52), FixedPoint(RING64, -64)
    vector = of(np.array([1.0, -1.0, 1.5, 0.9]) * 2.0**1023, weight, clip=1.7e308, mode="saturate")
    assert RING64.to_signed(vector.encode(fixed)).tolist() == [1, -1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", ["norm", "saturate"])
@pytest.mark.parametrize("clip", [0.05, 1.0, 1e6])
def test_long_vectors(dtype: Any, mode: str, clip: float) -> None:
    payload = np.random.default_rng(3).normal(size=100_000).astype(dtype)
    with patch.object(chunks, "CHUNK", 1 << 15), patch.object(update, "_ROW", 1 << 13):
        vector = of(payload, 0.3, clip=clip, mode=mode)
        for ring, bits_ in ((RING32, 4), (Ring(24), 2), (RING64, 40)):
            fixed = FixedPoint(ring, bits_)
            assert np.array_equal(vector.encode(fixed), fixed.encode(vector.dense()))
    if mode == "norm" and clip < 1e6:
        assert vector.ratio == pytest.approx(clip / np.linalg.norm(payload.astype(np.float64)), rel=1e-12)


def test_a_slot_that_is_all_of_the_norm_is_not_beyond_it() -> None:
    """The square's root may be a last bit below the number that was squared; the number decides."""
    for value in np.random.default_rng(1).random(200).tolist():
        below = np.nextafter(value, 0.0)
        assert of(np.array([value, 0.0, 0.0]), clip=value).ratio == 1.0
        beyond = of(np.array([value, 0.0]), clip=float(below))
        assert beyond.ratio < 1.0
        assert beyond.dense()[0] <= below


@pytest.mark.parametrize("mode", ["norm", "saturate"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 6, 10])
def test_nan_and_infinity_are_refused_wherever_they_are(mode: str, dtype: Any, bad: float, place: int) -> None:
    payload = np.ones(11, dtype)
    payload[place] = bad
    with pytest.raises(NotFinite, match="learning rate"):
        of(payload, clip=1.0, mode=mode)


def test_what_leaves_the_ring_is_refused_without_being_told() -> None:
    vector = of(np.array([1.0, 2.0, -777.0]), clip=1e3, mode="saturate")
    with pytest.raises(CapacityExceeded, match="fit 32 bits") as caught:
        vector.encode(FixedPoint(RING32, 24))
    assert "777" not in str(caught.value)
    assert "777" not in repr(vector)


@pytest.mark.parametrize("clip", [0.5, 3.0])
def test_a_payload_that_changed_after_it_was_assembled_is_caught(clip: float) -> None:
    payload = np.full(7, 0.1, np.float32)
    vector, fixed = of(payload, clip=clip), FixedPoint(RING32, 20)
    before = vector.encode(fixed)
    payload[6] = max(clip, 1.0)
    assert not np.array_equal(vector.encode(fixed), before)
    payload[6] = -1.001 * max(clip, 1.0)
    with pytest.raises(CapacityExceeded, match="clip"):
        vector.encode(fixed)


def test_it_shows_its_size_only() -> None:
    assert repr(of(np.ones(4), clip=9.0)) == "<SecureVector of 7 slots>"
