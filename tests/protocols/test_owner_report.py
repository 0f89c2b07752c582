"""An owner's report on its disk: the sealed vector and the record that opens it. What comes back from them is the very same
report; the next attempt shares the very same integers; and what is lost is not made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from opened import carried, elements, encoded, shared
from rig import OWNERS, Rig, next_offer, owner_at, told

from smpc_fl.errors import BadInput, CapacityExceeded, SmpcError
from smpc_fl.learning.update import VectorLayout, assemble
from smpc_fl.protocols import owner as owner_module
from smpc_fl.protocols import vectors
from smpc_fl.protocols.commands import Command, Compute, Computed, EraseSecrets, Persist, Received, Send, Start
from smpc_fl.protocols.coordinator import Released
from smpc_fl.protocols.messages import Refusal, Reported, RoundClosed, SeedReport, VectorReport
from smpc_fl.protocols.owner import State
from smpc_fl.protocols.records import Accepted, Done, Reporting
from smpc_fl.protocols.simulate import COORDINATOR
from smpc_fl.ring import ring

# --- what is sent ---


def sends(rig: Rig, kind: type[SeedReport | VectorReport]) -> list[Send]:
    return [send for by, send, message in rig.said if by == "alice" and isinstance(message, kind)]


@pytest.mark.parametrize("bits", [32, 40])
def test_what_travels_is_the_sealed_vector_in_fragments_of_a_chunk(bits: int) -> None:
    rig = Rig(ring_bits=bits)
    rig.run()
    (send,) = sends(rig, VectorReport)
    assert send.piece == vectors.fragment_size(ring(bits))
    ((_, kept),) = rig.bulks["alice"]
    assert send.attachment == kept
    ((vector, *_),) = [[words for owner, words in carried(rig, "aggregator-0") if owner == "alice"]]
    assert elements(rig, vector) != encoded(rig, "alice")
    assert shared(rig, "alice") == [encoded(rig, "alice")]


def test_the_integers_themselves_are_not_kept() -> None:
    """Once shared, they are the sealed vector and the seeds: in memory and on the disk alike."""
    rig = owner_at(State.SEEDING)
    assert rig.owner()._encoded is None
    plain = rig.plan.numbers.fixed_point.encode(rig.vectors["alice"]).tobytes()
    assert plain not in bytes(rig.owner()._sealed or b"")
    assert plain not in bytes(rig.nodes["alice"].bulk or b"")


@pytest.mark.parametrize("state", [State.SEEDING, State.CARRYING])
def test_one_that_comes_back_sends_the_very_same_bytes(state: State) -> None:
    rig = owner_at(state)
    before = {(send.to, send.signed.body) for send in sends(rig, SeedReport)}
    sealed = bytes(rig.owner()._sealed or b"")
    rig.queue.clear()
    rig.crash("alice")
    rig.settle()
    assert {(send.to, send.signed.body) for send in sends(rig, SeedReport)} == before
    assert {bytes(send.attachment or b"") for send in sends(rig, VectorReport)} == {sealed}
    assert rig.owner().state is State.DONE


# --- a next attempt ---


def halfway(rig: Rig, offer: Received) -> None:
    """Alice is offered another attempt and dies when she has accepted it, before she has a report for it."""
    rig.dies = lambda by, command: by == "alice" and isinstance(getattr(command, "record", None), Reporting)
    rig.deliver("alice", offer)
    rig.dies = lambda by, command: False


@pytest.mark.parametrize("state", [State.SEEDING, State.CARRYING, State.DONE, State.REFUSED])
def test_a_crash_between_two_reports_keeps_the_integers(state: State) -> None:
    """The disk then has the new manifest, and the bulk of the last attempt."""
    rig = owner_at(state)
    offer = next_offer(rig)
    halfway(rig, offer)
    machine = rig.owner()
    assert machine.state is State.COMPUTING
    assert machine._encoded is not None
    assert elements(rig, machine._encoded) == encoded(rig, "alice")
    for _ in range(2):  # and once more
        rig.crash("alice")
    assert told(rig.owner().receive(Start(), rig.now)) == []
    commands = rig.owner().receive(offer, rig.now)
    assert not any(isinstance(command, Compute) for command in commands)
    assert [type(message) for message in told(commands)] == [SeedReport, SeedReport]
    for command in commands:
        rig.carry_out("alice", command)
    assert shared(rig, "alice") == [encoded(rig, "alice")] * 2
    assert rig.computed["alice"] == 1


def test_a_crash_between_two_reports_and_a_third_attempt() -> None:
    rig = owner_at(State.DONE)
    halfway(rig, next_offer(rig))
    rig.deliver("alice", next_offer(rig))
    assert rig.owner().state is State.SEEDING
    assert shared(rig, "alice") == [encoded(rig, "alice")] * 2


def test_the_newest_bulk_is_the_newest_reports() -> None:
    rig = owner_at(State.DONE)
    rig.deliver("alice", next_offer(rig))
    first, second = (bulk for _, bulk in rig.bulks["alice"])
    assert first != second == bytes(rig.nodes["alice"].bulk or b"")
    rig.crash("alice")
    assert rig.owner().state is State.SEEDING
    assert bytes(rig.owner()._sealed or b"") == second


# --- a report that is lost ---


def test_one_that_lost_its_report_sits_the_attempt_out_and_says_so() -> None:
    rig = owner_at(State.SEEDING)
    for _ in range(2):
        rig.crash_and_lose("alice")
        assert rig.owner().state is State.REFUSED
        (refused,) = told(rig.owner().receive(Start(), rig.now))
        assert isinstance(refused, Refusal)
        assert refused.code == "Unavailable"
        assert refused.text == "the owner lost its durable report: it sits this attempt out"
    outcome = rig.finish()
    rig.check(outcome)
    assert isinstance(outcome, Released)
    assert [entry.owner for entry in outcome.agreed] == ["bob", "carol", "dave"]
    assert "lost its durable report" in str(outcome.refusals["alice"])


def test_one_that_lost_its_report_computes_anew_for_the_next_attempt() -> None:
    """Nothing of the last attempt was released, and no seed of it is used again."""
    for state in (State.SEEDING, State.DONE):
        rig = owner_at(state)
        offer = next_offer(rig)
        rig.crash_and_lose("alice")
        accepted, _, compute = rig.owner().receive(offer, rig.now)
        assert isinstance(accepted, Persist)
        assert isinstance(accepted.record, Accepted)
        assert isinstance(compute, Compute)
        assert rig.owner().state is State.COMPUTING


def test_a_report_that_was_acknowledged_before_it_was_lost_counts() -> None:
    rig = owner_at(State.DONE)
    rig.crash_and_lose("alice")
    assert [type(message) for message in told(rig.owner().receive(Start(), rig.now))] == [Reported]
    outcome = rig.finish()
    rig.check(outcome)
    assert isinstance(outcome, Released)
    assert len(outcome.agreed) == 4


def test_what_was_closed_has_nothing_to_lose() -> None:
    """A crash between the record of the end and the erasure; and one after it."""
    rig = owner_at(State.DONE)
    rig.dies = lambda by, command: by == "alice" and isinstance(command, EraseSecrets)
    rig.deliver("alice", rig.from_(COORDINATOR, RoundClosed(rig.owner().manifest_hash, True)))
    rig.dies = lambda by, command: False
    left = rig.nodes["alice"].bulk
    assert left is not None
    machine = rig.owner()
    assert machine.state is State.CLOSED
    assert (machine._report, machine._encoded, machine._sealed) == (None, None, None)
    rig.settle()
    assert rig.nodes["alice"].bulk is None
    assert not any(isinstance(record, Reporting) for record in rig.nodes["alice"].journal)
    rig.crash("alice")
    assert rig.owner().state is State.CLOSED


# --- the vector that comes from the learning code ---

LAYOUT = VectorLayout(2)


def secure(payload: list[float], weight: float = 0.5, clip: float = 1.0) -> Any:
    return assemble(np.array(payload), weight, {}, layout=LAYOUT, clip=clip, mode="saturate")


def test_a_secure_vector_is_shared_as_its_numbers_are() -> None:
    vector = secure([0.3, -7.0])
    rig = owner_at(State.COMPUTING)
    rig.vectors = {**rig.vectors, "alice": vector.dense()}
    for command in rig.owner().receive(Computed(vector), rig.now):
        rig.carry_out("alice", command)
    assert shared(rig, "alice") == [encoded(rig, "alice")]
    outcome = rig.finish()
    assert isinstance(outcome, Released)
    everybody = [encoded(rig, owner) for owner in OWNERS]
    assert elements(rig, outcome.total) == [sum(slot) % 2**32 for slot in zip(*everybody, strict=True)]


class Unbounded:
    """A secure vector that does not keep its own word."""

    length, clip = 4, 1.0

    def encode(self, fixed: Any) -> Any:
        raise CapacityExceeded("a slot of the vector is beyond its clip")


@pytest.mark.parametrize(
    ("made", "kind", "reason"),
    [
        (lambda: secure([0.3, 0.3], clip=2.0), BadInput, "the manifest's dimension and clip"),
        (lambda: assemble(np.zeros(3), 0.5, {}, layout=VectorLayout(3), clip=1.0, mode="norm"), BadInput, "dimension"),
        (Unbounded, CapacityExceeded, "beyond its clip"),
    ],
)
def test_a_secure_vector_that_is_not_the_manifests_is_not_shared(
    made: Callable[[], Any], kind: type[SmpcError], reason: str
) -> None:
    rig = owner_at(State.COMPUTING)
    done, *rest = rig.owner().receive(Computed(made()), rig.now)
    assert isinstance(done, Persist)
    assert isinstance(done.record, Done)
    assert done.bulk is None
    (refused,) = told(rest)
    assert isinstance(refused, Refusal)
    assert refused.code == kind.__name__
    assert reason in refused.text


# --- planted faults ---


def attempts_with_crashes() -> None:
    """Two attempts, in the second of which alice dies at each of her commands in turn; she shares the same each time."""
    number, ended = 0, False
    while not ended:
        number += 1
        rig, count = owner_at(State.DONE, seed="planted"), [0]

        def dies(by: str, command: Command, count: list[int] = count, number: int = number) -> bool:
            count[0] += by == "alice"
            return by == "alice" and count[0] == number

        offer = next_offer(rig)
        rig.dies = dies
        rig.deliver("alice", offer)
        if count[0] >= number:
            rig.deliver("alice", offer)
        assert rig.owner().state is State.SEEDING
        assert shared(rig, "alice") == [encoded(rig, "alice")] * 2
        assert rig.computed["alice"] == 1
        ended = count[0] < number


def forgets_the_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vector is opened, and taken for the integers."""
    monkeypatch.setattr(owner_module, "add_streams", lambda *arguments: ())


def computes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner_module.OwnerRound, "_unseal", lambda self: None)


def test_no_crash_changes_what_is_shared() -> None:
    attempts_with_crashes()


@pytest.mark.parametrize("plant", [forgets_the_streams, computes_again])
def test_the_crashes_find_integers_that_change(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        attempts_with_crashes()
