"""Whole rounds with noise: its variance after dropouts and under collusion, the same noise after a crash, and manifests whose
noise is not what the job or a node's policy wants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from rig import Draws

from smpc_fl.errors import CapacityExceeded, CohortTooSmall, PrecisionTooLow
from smpc_fl.fixed_point import check_capacity
from smpc_fl.hashing import derive_key
from smpc_fl.privacy.discrete_gaussian import DiscreteGaussian
from smpc_fl.privacy.mechanism import Mechanism
from smpc_fl.protocols import partial
from smpc_fl.protocols.aggregator import AggregatorRound
from smpc_fl.protocols.coordinator import CoordinatorRound, GivenUp, Released
from smpc_fl.protocols.decryption import Decryption
from smpc_fl.protocols.manifest import choose_numbers
from smpc_fl.protocols.messages import PartialSum
from smpc_fl.protocols.simulate import COORDINATOR, Simulation
from smpc_fl.protocols.vectors import chunk_elements
from smpc_fl.ring import RingArray, ring

OWNERS = ("alice", "bob", "carol", "dave")
Signed = npt.NDArray[np.int64]


def simulation(size: int, **settings: Any) -> Simulation:
    vectors = {owner: np.zeros(size) for owner in OWNERS}
    for number, vector in enumerate(vectors.values(), 1):
        vector[:3] = 0.1 * number
    defaults: dict[str, Any] = {"aggregators": 3, "k_min": 3, "max_samples": 1, "entropy": Draws("noisy")}
    return Simulation(vectors, mechanism=Mechanism(1.5, 1.0, -2, size), **(defaults | settings))


def noise_of(simulation: Simulation, outcome: Released) -> Signed:
    """What the release has besides the sum of the agreed owners' integers."""
    fixed = simulation.plan.numbers.fixed_point
    exact = fixed.ring.zeros(simulation.plan.dimension)
    for entry in outcome.agreed:
        fixed.ring.add_into(exact, fixed.encode(simulation.vectors[entry.owner]))
    return fixed.ring.to_signed(outcome.total - exact)


def own_noise(simulation: Simulation, aggregator: str, secret: bytes, choice: bytes) -> Signed:
    """What an aggregator that tells its secret has added."""
    machine, plan = simulation.nodes[aggregator].machine, simulation.plan
    assert plan.numbers.noise is not None
    source = DiscreteGaussian(
        plan.numbers.noise.sigma, derive_key("smpc-fl/1 noise", secret, machine.manifest_hash, choice)
    )
    step = chunk_elements(ring(plan.numbers.ring_bits))
    parts = range(-(-plan.dimension // step))
    return np.concatenate([source.draw(part, min(step, plan.dimension - part * step)) for part in parts])


def machine(simulation: Simulation, aggregator: str) -> AggregatorRound:
    found = simulation.nodes[aggregator].machine
    assert isinstance(found, AggregatorRound)
    return found


class Watched(Simulation):
    """Remembers each aggregator's prekey, and every partial sum that it sends, opened."""

    sums: dict[str, list[RingArray]]
    secrets: dict[str, bytes]
    choice: bytes
    crashes_once = ""

    def carry_out(self, by: str, command: Any) -> None:
        message = self.parties[by].read(command.signed) if hasattr(command, "signed") else None
        if isinstance(message, PartialSum):
            coordinator = self.nodes[COORDINATOR].machine
            assert isinstance(coordinator, CoordinatorRound)
            assert coordinator.manifest is not None
            assert coordinator._key is not None
            words = partial.open_(
                message, command.attachment, by, coordinator.manifest, self.parties[COORDINATOR], coordinator._key
            )
            self.choice = message.set_hash
            self.sums.setdefault(by, []).append(words)
            prekey = machine(self, by)._prekey
            assert prekey is not None
            self.secrets[by] = prekey.private.reveal()
            if by == self.crashes_once:
                self.crashes_once = ""
                self.crash(by)  # the release was decided and never left
                return
        super().carry_out(by, command)


def watched(size: int, **settings: Any) -> Watched:
    made = simulation(size, **settings)
    made.__class__ = Watched
    assert isinstance(made, Watched)
    made.sums, made.secrets = {}, {}
    return made


def test_the_variance_survives_dropouts_and_all_aggregators_but_one() -> None:
    """10^6 slots, one owner that never reports, and two of three aggregators that tell what they added."""
    size = 1_000_000
    world = watched(size)
    world.down.add("bob")
    outcome = world.run()
    assert isinstance(outcome, Released)
    assert [entry.owner for entry in outcome.agreed] == ["alice", "carol", "dave"]
    assert world.plan.numbers.noise is not None
    sigma = world.plan.numbers.noise.sigma
    assert sigma == pytest.approx(1.5 * world.plan.numbers.noise.sensitivity, rel=1e-6)
    noise = noise_of(world, outcome)
    assert abs((noise / sigma).var() / 3 - 1) < 0.01
    for aggregator in ("aggregator-0", "aggregator-2"):
        noise -= own_noise(world, aggregator, world.secrets[aggregator], world.choice)
    assert abs((noise / sigma).var() - 1) < 0.01
    assert np.array_equal(noise, own_noise(world, "aggregator-1", world.secrets["aggregator-1"], world.choice))


@pytest.mark.parametrize("bits", [23, 32, 64])
def test_a_crash_before_the_release_draws_no_second_noise(bits: int) -> None:
    """The partial sum is made, the node dies, comes back from its journal and makes it again: the very same integers."""
    world = watched(300, ring_bits=bits, tolerance=1.0)
    world.crashes_once = "aggregator-1"
    outcome = world.run()
    assert isinstance(outcome, Released)
    before, *after = world.sums["aggregator-1"]
    assert after
    words = world.plan.numbers.fixed_point.ring
    for again in after:
        assert np.array_equal(words.to_signed(again), words.to_signed(before))
    assert world.plan.numbers.noise is not None
    assert 0.7 < noise_of(world, outcome).std() / (3**0.5 * world.plan.numbers.noise.sigma) < 1.3


def test_another_attempt_has_another_noise() -> None:
    """Of two manifests (one of them aborted) the noise is independent; and what is erased cannot be made again."""
    world = watched(200)
    outcome = world.run()
    assert isinstance(outcome, Released)
    other = watched(200, entropy=Draws("another"))
    second = other.run()
    assert isinstance(second, Released)
    assert abs(np.corrcoef(noise_of(world, outcome), noise_of(other, second))[0, 1]) < 0.3
    assert machine(world, "aggregator-0")._prekey is None
    assert not any(type(record).__name__ == "Prepared" for record in world.nodes["aggregator-0"].journal)


# --- what a manifest may say ---


def given_up(world: Simulation) -> GivenUp:
    outcome = world.run()
    assert isinstance(outcome, GivenUp)
    return outcome


@pytest.mark.parametrize("mechanism", [None, Mechanism(1.4, 1.0, -2, 8), Mechanism(1.5, 0.9, -2, 8)])
def test_owners_want_the_noise_of_the_job(mechanism: Mechanism | None) -> None:
    """None, or less than the job that the owners approved asks for: nobody reports."""
    world = simulation(8)
    world.plan = replace(
        world.plan,
        numbers=choose_numbers(
            owners=4,
            clip=1.0,
            max_samples=1,
            k_min=3,
            tolerance=1e-3,
            ring_bits=None,
            mechanism=mechanism,
            aggregators=3,
        ),
    )
    world.nodes[COORDINATOR].machine = world._machine(COORDINATOR, [])
    outcome = given_up(world)
    assert "the manifest's noise is not that of the approved job" in str(outcome.error)


@pytest.mark.parametrize(("least", "what"), [(1.6, "a mechanism"), (0.1, "no noise at all")])
@pytest.mark.parametrize("where", ["aggregator", "owner"])
def test_a_node_may_want_more_noise_than_the_job(least: float, what: str, where: str) -> None:
    world = simulation(8) if what == "a mechanism" else Simulation(
        {owner: np.zeros(8) for owner in OWNERS}, entropy=Draws("quiet")
    )  # fmt: skip
    for id_, node in world.nodes.items():
        if id_.startswith("aggregator") == (where == "aggregator") and id_ != COORDINATOR:
            assert not isinstance(node.machine, CoordinatorRound | Decryption)
            node.machine.rules = replace(node.machine.rules, least_noise=least)
    assert f"no sum with less noise than {least:g} times" in str(given_up(world).error)


def test_a_policy_that_is_met_changes_nothing() -> None:
    world = simulation(8)
    for id_, node in world.nodes.items():
        if id_ != COORDINATOR:
            assert not isinstance(node.machine, CoordinatorRound | Decryption)
            node.machine.rules = replace(node.machine.rules, least_noise=1.5)
    assert isinstance(world.run(), Released)


def test_a_vector_that_is_too_long_stays_at_its_owner() -> None:
    """Every slot is within the clip, and all of them together are not: the noise was not chosen for that."""
    world = simulation(8)
    world.vectors = {owner: np.full(8, 0.9) for owner in OWNERS}
    outcome = given_up(world)
    assert isinstance(outcome.error, CapacityExceeded | CohortTooSmall)
    assert "longer than the sensitivity" in str(outcome.error)


# --- numbers ---

SETTINGS: dict[str, Any] = {"owners": 10, "clip": 1.0, "k_min": 3, "aggregators": 3}


def test_the_ring_holds_the_sum_and_its_noise() -> None:
    mechanism = Mechanism(10.0, 1.0, -2, 1000)
    quiet = choose_numbers(**SETTINGS, max_samples=1, tolerance=1e-3, ring_bits=32)
    noisy = choose_numbers(**SETTINGS, max_samples=1, tolerance=1e-3, ring_bits=32, mechanism=mechanism)
    assert noisy.fractional_bits < quiet.fractional_bits
    bound = mechanism.bound(noisy.fractional_bits, 3)
    check_capacity(ring(32), noisy.fractional_bits, 10, 1.0, noise=bound)
    with pytest.raises(CapacityExceeded):
        check_capacity(
            ring(32), noisy.fractional_bits + 1, 10, 1.0, noise=mechanism.bound(noisy.fractional_bits + 1, 3)
        )
    assert quiet.noise is None
    assert noisy.noise == mechanism.noise(noisy.fractional_bits)


def test_noise_that_does_not_fit_is_refused_with_the_bits_that_do() -> None:
    mechanism = Mechanism(10.0, 1.0, -2, 1000)
    with pytest.raises(PrecisionTooLow, match=r"use ring_bits=\d\d or more"):
        choose_numbers(**SETTINGS, max_samples=1, tolerance=1e-3, ring_bits=15, mechanism=mechanism)
    with pytest.raises(CapacityExceeded, match=r"less noise .* ring_bits=\d\d would do"):
        choose_numbers(**SETTINGS, max_samples=1, tolerance=1e-3, ring_bits=8, mechanism=mechanism)
    loud = Mechanism(1e6, 1.0, -2, 10**9)
    assert choose_numbers(**SETTINGS, max_samples=1, tolerance=1e-3, ring_bits=None, mechanism=loud).ring_bits == 64
    fit = choose_numbers(**SETTINGS, max_samples=1, tolerance=1e-3, ring_bits="fit", mechanism=mechanism)
    small = choose_numbers(**SETTINGS, max_samples=1, tolerance=0.1, ring_bits=None, update_bits=8, mechanism=mechanism)
    for numbers in (fit, small):
        most = mechanism.bound(numbers.fractional_bits, 3)
        check_capacity(ring(numbers.ring_bits), numbers.fractional_bits, 10, 1.0, noise=most)
        with pytest.raises(CapacityExceeded):
            check_capacity(ring(numbers.ring_bits - 1), numbers.fractional_bits, 10, 1.0, noise=most)


def test_the_worst_error_states_the_noise() -> None:
    """Over the least weight; in the divisor too, where weights are secret; without a bound where the noise may drown them."""
    mechanism = Mechanism(0.01, 1.0, -2, 50)
    quiet = choose_numbers(**SETTINGS, max_samples=1, tolerance=1e-3, ring_bits=32)
    public = choose_numbers(**SETTINGS, max_samples=1, tolerance=1e-3, ring_bits=32, mechanism=mechanism)
    assert public.noise is not None
    noise = public.noise.bound(50, 3) * 2.0**-public.fractional_bits
    assert public.worst_error == pytest.approx(noise / 3, rel=1e-3)
    assert 100 * quiet.worst_error < public.worst_error
    secret = choose_numbers(**SETTINGS, max_samples=2, tolerance=1e-3, ring_bits=32, mechanism=mechanism)
    assert secret.worst_error == pytest.approx((noise + 4 * noise) / (1.5 - 4 * noise), rel=0.01)
    drowned = choose_numbers(**SETTINGS, max_samples=1024, tolerance=1e-3, ring_bits=32, mechanism=mechanism)
    assert drowned.worst_error == float("inf")
