"""Rings of any number of bits through a whole round: the sum is Python's, the vectors take the bits that they have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rig import Draws, Rig

from smpc_fl.jobs import RingBits
from smpc_fl.protocols.coordinator import Released
from smpc_fl.protocols.messages import PartialSum, VectorReport
from smpc_fl.protocols.simulate import Simulation, decoded
from smpc_fl.ring import BLOCK


def vectors(owners: int, dimension: int, seed: int, clip: float = 1.0) -> dict[str, NDArray[np.float64]]:
    """Equally weighed: values in ±clip, the ends among them, then the weight 1."""
    draw = np.random.default_rng(seed)
    values = draw.uniform(-clip, clip, (owners, dimension))
    values[draw.random((owners, dimension)) < 0.2] = clip
    values[draw.random((owners, dimension)) < 0.2] = -clip
    values[:, -1] = 1.0
    return {f"owner-{i:03}": values[i] for i in range(owners)}


def check(simulation: Simulation, outcome: object) -> None:
    """The released sum is that of the owners' integers, and the mean within the error that the manifest states."""
    assert isinstance(outcome, Released)
    numbers, sent = simulation.plan.numbers, np.stack(list(simulation.vectors.values()))
    integers = [sum(map(int, slot)) for slot in np.rint(sent * 2.0**numbers.fractional_bits).T.tolist()]
    assert numbers.fixed_point.ring.to_signed(outcome.total).tolist() == integers
    total = decoded(simulation, outcome)
    np.testing.assert_allclose(total / total[-1], sent.mean(0), rtol=1e-13, atol=numbers.worst_error)


@settings(max_examples=40)
@given(st.integers(8, 64), st.integers(2, 12), st.integers(2, 4), st.integers(2, 70), st.integers(0, 2**32))
def test_the_sum_is_exact_in_a_ring_of_any_bits(
    bits: int, owners: int, aggregators: int, dimension: int, seed: int
) -> None:
    simulation = Simulation(
        vectors(owners, dimension, seed), aggregators=aggregators, ring_bits=bits, tolerance=10.0, max_samples=1, k_min=2,
        entropy=Draws(seed),
    )  # fmt: skip
    outcome = simulation.run()
    assert simulation.plan.numbers.ring_bits == bits
    check(simulation, outcome)


@pytest.mark.parametrize("bits", [8, 23, 41, 64])
def test_vectors_of_several_blocks(bits: int) -> None:
    simulation = Simulation(
        vectors(3, 2 * BLOCK + 5, bits), ring_bits=bits, tolerance=10.0, max_samples=1, k_min=2, entropy=Draws(bits)
    )
    check(simulation, simulation.run())


@pytest.mark.parametrize(("asked", "update", "bits"), [(None, 16, 23), ("fit", None, 19), (None, None, 32)])
def test_a_vector_travels_in_its_rings_bits(asked: RingBits | None, update: int | None, bits: int) -> None:
    """A 16-bit update of 100 owners takes 23 bits a coordinate, on the way in and on the way out."""
    dimension = 5000
    rig = Rig(
        vectors(100, dimension, 1), aggregators=2, ring_bits=asked, update_bits=update, tolerance=1e-2, max_samples=1
    )
    check(rig, rig.run())
    assert rig.plan.numbers.ring_bits == bits
    sizes = {
        len(send.attachment)
        for _, send, message in rig.said
        if isinstance(message, VectorReport | PartialSum) and send.attachment is not None
    }
    assert sizes
    for size in sizes:
        assert 0 <= size - dimension * bits / 8 < 100
