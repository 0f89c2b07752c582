"""Noise in proportion to what an owner's vector can weigh, in units of whatever scale, as all nodes work it out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpc_fl.errors import CapacityExceeded
from smpc_fl.fixed_point import FixedPoint
from smpc_fl.learning.update import VectorLayout, assemble, disassemble
from smpc_fl.privacy.discrete_gaussian import LARGEST
from smpc_fl.privacy.mechanism import Mechanism, Noise, check_norm, tail_of
from smpc_fl.ring import ring


@given(st.data())
def test_no_owner_is_longer_than_its_sensitivity(data: st.DataObject) -> None:
    """Whatever an owner computes, its rounded vector with all its slots passes; a unit and a thousandth more does not."""
    size = data.draw(st.sampled_from([1, 2, 17, 40_000]), "size")
    clip = data.draw(st.sampled_from([0.01, 1.0, 3.7, 1000.0]), "clip")
    bits = data.draw(st.integers(-4, 20), "fractional bits")
    draw = np.random.default_rng(data.draw(st.integers(0, 1000), "seed"))
    payload = draw.standard_normal(size) * data.draw(st.sampled_from([1e-6, 1.0, 1e9]), "size of the update")
    tail = tail_of(clip, max(clip, 1.0))
    layout = VectorLayout(size, scale=2.0**tail)
    vector = assemble(payload, data.draw(st.floats(1e-6, 1.0), "weight"), {}, layout=layout, clip=clip, mode="norm")
    words = vector.encode(FixedPoint(ring(62), bits))
    noise = Mechanism(1.0, clip, tail, layout.length).noise(bits)
    check_norm(words, ring(62), noise)
    longer = words.copy()
    longer[:1] += np.uint64(int(noise.sensitivity * 2.001) + 1)
    with pytest.raises(CapacityExceeded, match="nothing leaves"):
        check_norm(longer, ring(62), noise)


def test_noise_is_in_proportion_to_all_slots() -> None:
    noise = Mechanism(2.0, 3.0, -1, 10_000).noise(16)
    length = math.sqrt(3.0**2 + 2 * 0.25) * 2**16 + 50
    assert noise.sensitivity == math.ceil(length * (1 + 2.0**-20))
    assert noise.sigma == math.ceil(math.sqrt((2 * noise.sensitivity) ** 2 + 9))
    assert Mechanism(1e-6, 1.0, -3, 1).noise(0).sigma == 4  # above nine in the variance, whatever the multiplier


@pytest.mark.parametrize(("norm", "largest", "tail"), [(1.0, 1.0, -2), (1.1, 1.1, -2), (0.99, 1.0, -3), (1e6, 1.0, 0)])
def test_the_tail_costs_little(norm: float, largest: float, tail: int) -> None:
    assert tail_of(norm, largest) == tail
    assert 2.0**tail <= min(norm / 4, largest) < 2.0 ** (tail + 1)


def test_weight_and_flag_come_back_from_their_scale() -> None:
    layout = VectorLayout(2, scale=0.125)
    vectors = [assemble(np.array([4.0, 0.0]), w, {}, layout=layout, clip=1.0, mode="norm") for w in (0.5, 1.0)]
    total = np.sum([vector.dense() for vector in vectors], axis=0)
    assert list(total[2:]) == [1.5 * 0.125, 2 * 0.125]
    aggregate = disassemble(total, layout)
    assert (aggregate.total_weight, aggregate.clipped) == (1.5, 2)
    np.testing.assert_allclose(aggregate.mean, [1.0, 0.0])
    public = disassemble(total - 1.0, layout, 2.0)  # noise made of the tail what it likes
    assert (public.total_weight, public.clipped) == (2.0, 0)
    np.testing.assert_allclose(public.mean, [0.25, -0.5])


def test_noise_stays_within_its_bound() -> None:
    noise = Noise(1000, 1000, 0)
    assert 7.5 < noise.bound(1, 1) / 1000 < 8.5
    assert noise.bound(1 << 20, 4) / 2000 == pytest.approx(math.sqrt(2 * math.log(2) * 62), rel=1e-3)


def test_noise_that_no_word_holds_is_refused() -> None:
    mechanism = Mechanism(1.0, 1.0, -2, 4)
    assert mechanism.noise(56).sigma < LARGEST
    with pytest.raises(CapacityExceeded, match="fewer fractional bits"):
        mechanism.noise(57)
    assert mechanism.bound(57, 3) == 1 << 64
    assert mechanism.bound(20, 3) == mechanism.noise(20).bound(4, 3)
