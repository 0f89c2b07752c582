"""Whole rounds: exact sums, crashes between any two commands, hostile networks, next attempts. The sum is always exact
over the agreed set, nobody counts twice, no two sets are released, and every round ends."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from ahead import Ahead
from hypothesis import given, settings
from hypothesis import strategies as st
from opened import encoded, shared
from rig import OWNERS, Draws, Rig, powers

from smpc_fl.errors import CohortTooSmall, ReportTooLate, Unavailable
from smpc_fl.protocols.commands import Command, Event, PeerUp, Received
from smpc_fl.protocols.coordinator import GivenUp, Released
from smpc_fl.protocols.manifest import stated_error
from smpc_fl.protocols.messages import (
    FrozenLists,
    PartialSum,
    Receipt,
    RoundOffer,
    SeedReport,
    VectorReport,
)
from smpc_fl.protocols.owner import State
from smpc_fl.protocols.records import SECRET, Reporting
from smpc_fl.protocols.simulate import COORDINATOR, Simulation, decoded

# --- exact aggregation ---


@settings(max_examples=20)
@given(st.data())
def test_the_sum_is_pythons_sum_and_the_mean_is_within_its_bound(data: st.DataObject) -> None:
    owners = data.draw(st.one_of(st.integers(2, 8), st.integers(9, 50)), "owners")
    aggregators = data.draw(st.integers(2, 7), "aggregators")
    bits = data.draw(st.sampled_from([32, 40, 64]), "bits")
    clip = data.draw(st.sampled_from([0.25, 1.0, 1000.0]) if bits > 32 else st.sampled_from([0.25, 1.0]), "clip")
    dimension = data.draw(st.integers(1, 12), "payload")
    max_samples = data.draw(st.sampled_from([1, 64, 100] if bits == 64 else [1, 64]), "max_samples")
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32), "seed"))
    rows = draw.integers(1, max_samples + 1, owners)
    payload = draw.uniform(-clip, clip, (owners, dimension)) * draw.choice([0.0, 1e-9, 1.0], (owners, dimension))
    payload[draw.random((owners, dimension)) < 0.1] = clip
    weights = rows / max_samples
    vectors = {
        f"owner-{i:02}": np.append(weights[i] * payload[i], weights[i]) for i in range(owners)
    }  # fmt: skip
    simulation = Simulation(
        vectors, aggregators=aggregators, ring_bits=bits, clip=clip, max_samples=max_samples, k_min=2,
        round_number=data.draw(st.integers(0, 9), "round"), entropy=Draws(bits),
    )  # fmt: skip
    outcome = simulation.run()
    assert isinstance(outcome, Released)
    assert len(outcome.agreed) == owners
    fixed = simulation.plan.numbers.fixed_point
    integers = [fixed.encode(vector) for vector in vectors.values()]
    for slot, value in enumerate(outcome.total):
        assert int(value) % 2**bits == sum(int(vector[slot]) for vector in integers) % 2**bits
    total = decoded(simulation, outcome)
    exact = (weights[:, None] * payload).sum(0) / weights.sum()
    bound = stated_error(
        fixed.fractional_bits, owners=owners, clip=clip, max_samples=max_samples, k_min=2
    )  # fmt: skip
    np.testing.assert_allclose(total[:-1] / total[-1], exact, rtol=1e-13, atol=bound)


def test_every_owner_has_one_carrier_and_the_load_is_even() -> None:
    carried = Counter[str]()
    for number in range(3):
        rig = Rig(seed=number, round_number=number)
        rig.check(rig.run())
        by_aggregator = Counter(send.to for _, send, message in rig.said if isinstance(message, VectorReport))
        assert sorted(by_aggregator.values()) == [1, 1, 2]
        carried += by_aggregator
    assert set(carried.values()) == {4}


# --- crashes ---


def commands_of(seed: object) -> Counter[str]:
    """How many commands each node carries out in a round without faults."""
    counted = Counter[str]()

    def count(by: str, command: Command) -> bool:
        counted[by] += 1
        return False

    rig = Rig(seed=seed)
    rig.dies = count
    rig.check(rig.run())
    return counted


def one_crash(node: str, number: int) -> Rig:
    """A rig in which `node` dies just before its command of this number, once."""
    rig = Rig(seed="crash")
    counted = Counter[str]()

    def dies(by: str, command: Command) -> bool:
        counted[by] += 1
        return by == node and counted[by] == number

    rig.dies = dies
    return rig


@pytest.mark.parametrize("node", ["alice", "dave", "aggregator-0", "aggregator-2", COORDINATOR])
def test_a_crash_at_any_boundary_changes_nothing(node: str) -> None:
    for number in range(1, commands_of("crash")[node] + 1):
        rig = one_crash(node, number)
        outcome = rig.run()
        assert isinstance(outcome, Released), number
        rig.check(outcome)
        assert len(outcome.agreed) == len(OWNERS), number


@pytest.mark.parametrize("node", ["alice", "aggregator-1", COORDINATOR])
def test_two_crashes_in_a_row_change_nothing(node: str) -> None:
    for number in range(1, commands_of("crash")[node] + 1, 3):
        rig = Rig(seed="crash")
        counted = Counter[str]()

        def dies(by: str, command: Command, counted: Counter[str] = counted, number: int = number) -> bool:
            counted[by] += 1
            return by == node and counted[by] in (number, number + 1)

        rig.dies = dies
        outcome = rig.run()
        assert isinstance(outcome, Released), number
        rig.check(outcome)


def test_an_owner_that_comes_back_sends_the_very_same_report() -> None:
    rig = Rig()
    rig.begin()
    _, first = rig.until(SeedReport)
    rig.settle()
    owner = first.sender
    for _ in range(2):
        rig.crash(owner)
        rig.settle()
    seeds = {
        (send.to, send.signed.body) for by, send, message in rig.said if by == owner and isinstance(message, SeedReport)
    }
    vectors = [send.attachment for by, send, message in rig.said if by == owner and isinstance(message, VectorReport)]
    assert len(seeds) == 2
    assert len(set(map(bytes, filter(None, vectors)))) == 1
    assert len([record for record in rig.written[owner] if isinstance(record, Reporting)]) == 1


# --- owners that stay away ---


@pytest.mark.parametrize("kind", [RoundOffer, Receipt])
def test_an_owner_lost_before_or_during_its_upload_is_not_in_the_set(kind: type[RoundOffer] | type[Receipt]) -> None:
    rig = Rig()
    rig.begin()
    rig.until(kind, "bob")
    rig.down.add("bob")
    outcome = rig.finish()
    assert isinstance(outcome, Released)
    rig.check(outcome)
    assert [entry.owner for entry in outcome.agreed] == ["alice", "carol", "dave"]


def test_an_owner_lost_after_its_upload_is_in_the_set() -> None:
    rig = Rig()
    rig.begin()
    rig.dies = lambda by, command: False
    while not any(by == "bob" for by, _, message in rig.said if isinstance(message, VectorReport)):
        rig.deliver(*rig.queue.popleft())
    rig.down.add("bob")
    outcome = rig.finish()
    assert isinstance(outcome, Released)
    rig.check(outcome)
    assert len(outcome.agreed) == 4


def test_the_plain_simulation_goes_on_without_an_owner_that_is_down() -> None:
    simulation = Simulation(powers(), max_samples=128, entropy=Draws("plain"))
    simulation.down.add("carol")
    outcome = simulation.run()
    assert isinstance(outcome, Released)
    expected = sum(vector for owner, vector in simulation.vectors.items() if owner != "carol")
    np.testing.assert_allclose(decoded(simulation, outcome), expected, atol=1e-7)


def test_too_few_reports_at_the_deadline_release_nothing() -> None:
    rig = Rig()
    rig.down |= {"alice", "bob"}
    outcome = rig.run()
    assert isinstance(outcome, GivenUp)
    assert isinstance(outcome.error, CohortTooSmall)
    assert "2 complete reports, k_min is 3" in str(outcome.error)
    assert len(outcome.aborts) == 3
    rig.check(outcome)
    assert not rig.sent_by("aggregator-0", PartialSum)


def test_a_report_after_the_freeze_is_refused_by_name() -> None:
    rig = Rig()
    rig.begin()
    carrier, late = rig.until(VectorReport)
    rig.queue.appendleft(rig.until(FrozenLists))  # time passed, the deadline came: every list is frozen
    rig.deliver(carrier, late)
    outcome = rig.finish()
    assert isinstance(outcome, Released)
    rig.check(outcome)
    assert late.sender not in {entry.owner for entry in outcome.agreed}
    assert rig.owner(late.sender).state is State.REFUSED
    assert isinstance(outcome.refusals[late.sender], ReportTooLate)
    assert f"{carrier} refused the report" in str(outcome.refusals[late.sender])


# --- next attempts ---


def given_up(rig: Rig) -> GivenUp:
    """The first attempt, ended by the coordinator's patience when all lists were lost on their way."""
    rig.begin()
    rig.until(FrozenLists)
    rig.queue.clear()
    outcome = rig.finish()
    assert isinstance(outcome, GivenUp)
    return outcome


def test_the_next_attempt_shares_the_same_integers_under_fresh_randomness() -> None:
    rig = Rig()
    outcome = given_up(rig)
    assert isinstance(outcome.error, Unavailable)
    assert len(outcome.aborts) == 3
    rig.next_attempt(outcome.aborts)
    again = rig.run()
    assert isinstance(again, Released)
    rig.check(again)
    assert len(again.agreed) == 4
    for owner in OWNERS:
        first, second = (record for record in rig.written[owner] if isinstance(record, Reporting))
        assert shared(rig, owner) == [encoded(rig, owner)] * 2
        assert len({bulk for _, bulk in rig.bulks[owner]}) == 2
        secrets = [*first.seeds.values(), *second.seeds.values(), *first.blinders, *second.blinders]
        secrets += [first.ephemeral, second.ephemeral, first.vector_key, second.vector_key]
        assert len(set(secrets)) == len(secrets)
    rig.close(released=True)
    assert {rig.owner(owner).state for owner in OWNERS} == {State.CLOSED}
    for owner in OWNERS:
        assert not [record for record in rig.nodes[owner].journal if type(record).__name__ in SECRET]
        assert rig.nodes[owner].bulk is None


def test_aborts_of_all_attempts_are_carried_over() -> None:
    rig = Rig()
    for attempt in range(3):
        outcome = given_up(rig)
        assert len(outcome.aborts) == 3 * (attempt + 1)
        rig.next_attempt(outcome.aborts)
    last = rig.run()
    rig.check(last)
    assert isinstance(last, Released)


@pytest.mark.parametrize("node", ["alice", "aggregator-0", COORDINATOR])
def test_a_crash_at_any_boundary_of_a_next_attempt_changes_nothing(node: str) -> None:
    number, ended = 0, False
    while not ended:
        number += 1
        rig = Rig(seed="next")
        rig.next_attempt(given_up(rig).aborts)
        counted = Counter[str]()

        def dies(by: str, command: Command, counted: Counter[str] = counted, number: int = number) -> bool:
            counted[by] += 1
            return by == node and counted[by] == number

        rig.dies = dies
        outcome = rig.run()
        assert isinstance(outcome, Released), number
        rig.check(outcome)
        never_twice(rig)
        ended = counted[node] < number


def test_an_owner_that_computes_slowly_computes_once() -> None:
    rig = Rig()
    rig.begin()
    rig.until(RoundOffer, "alice")
    rig.queue.clear()  # the others do not get the offer
    outcome = rig.finish()
    assert isinstance(outcome, GivenUp)
    rig.next_attempt(outcome.aborts)
    assert isinstance(rig.run(), Released)
    assert rig.computed == Counter(dict.fromkeys(OWNERS, 1))


# --- the end ---


def test_whoever_missed_the_end_is_told_when_it_is_back() -> None:
    rig = Rig()
    outcome = rig.run()
    assert {rig.aggregator(i).state.name for i in range(3)} == {"CLOSED"}
    rig.crash("alice")
    rig.settle()
    assert rig.owner().state is State.CLOSED
    assert not [record for record in rig.nodes["alice"].journal if type(record).__name__ in SECRET]
    assert rig.nodes["alice"].bulk is None
    rig.crash(COORDINATOR)
    rig.settle()
    assert isinstance(outcome, Released)
    again = rig.outcome
    assert isinstance(again, Released)
    np.testing.assert_array_equal(again.total, outcome.total)


# --- a hostile network ---


class Network:
    """Delivers what is under way in any order; loses, doubles and delays it, and crashes nodes, until it has done so
    `faults` times. What is lost is lost with its connection: both ends learn of it when they are connected again."""

    def __init__(self, rig: Rig, seed: int, faults: int = 40) -> None:
        self.rig, self.faults, self.draw = rig, faults, np.random.default_rng(seed)

    def run(self, steps: int = 20_000) -> Released | GivenUp:
        rig, draw = self.rig, self.draw
        rig.begin()
        for _ in range(steps):
            if rig.outcome is not None and not rig.queue:
                rig.settle()
                return rig.outcome
            if not rig.queue:
                rig.pass_time()
            number = int(draw.integers(len(rig.queue))) if self.faults else 0
            to, event = rig.queue[number]
            del rig.queue[number]
            if self.faults and draw.random() < 0.2:
                self.faults -= 1
                self.fault(to, event)
            else:
                rig.deliver(to, event)
        raise AssertionError("the round did not end")

    def fault(self, to: str, event: Event) -> None:
        rig, draw = self.rig, self.draw
        kind = draw.choice(
            ["lost", "doubled", "delayed", "crash", "time", "disk"], p=[0.3, 0.25, 0.2, 0.15, 0.05, 0.05]
        )
        if kind == "lost" and isinstance(event, Received):
            rig.queue += [(to, PeerUp(event.sender)), (event.sender, PeerUp(to))]
            return
        if kind == "doubled" and isinstance(event, Received):
            rig.deliver(to, event)
        if kind == "crash":
            rig.crash(str(draw.choice(list(rig.nodes))))
        if kind == "time":
            rig.pass_time()
        if kind == "disk" and isinstance(rig, Ahead):
            rig.disk_fails(str(draw.choice(list(rig.nodes))))
        rig.queue.append((to, event))


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("kind", [Rig, Ahead])
def test_a_hostile_network_never_makes_a_sum_wrong(kind: type[Rig], part: int) -> None:
    """Nor do nodes whose machines are ahead of their disks, and which take vectors in as they come."""
    ends = Counter[str]()
    for seed in range(25 * part, 25 * (part + 1)):
        rig = kind(powers(k_min=3), seed=seed, round_number=seed, aggregators=2 + seed % 3)
        network = Network(rig, seed)
        outcome = network.run()
        rig.check(outcome)
        attempts = 1
        while isinstance(outcome, GivenUp) and outcome.aborts and attempts < 4:
            rig.next_attempt(outcome.aborts)
            outcome = network.run()
            rig.check(outcome)
            attempts += 1
        ends[f"{type(outcome).__name__} {attempts}"] += 1
        never_twice(rig)
    assert ends["Released 1"] > 12


def never_twice(rig: Rig) -> None:
    """An owner shares the very same integers whenever it shares, and each time under fresh seeds."""
    for owner in rig.plan.cohort:
        reports = [record for record in rig.written[owner] if isinstance(record, Reporting)]
        assert all(elements == encoded(rig, owner) for elements in shared(rig, owner))
        assert len({seed for report in reports for seed in report.seeds.values()}) == sum(len(r.seeds) for r in reports)
