"""The owner's machine, event by event. (What it refuses: test_refusals.py.)"""

from __future__ import annotations

import numpy as np
import pytest
from rig import KEY, Rig, next_offer, offered, owner_at, refusal, told

from smpc_fl.errors import Equivocation, ManifestRefused, ModelMismatch
from smpc_fl.protocols import codec
from smpc_fl.protocols.commands import (
    Compute,
    Computed,
    EraseSecrets,
    Finished,
    PeerUp,
    Persist,
    Received,
    Send,
    Start,
    Tick,
    WakeAt,
)
from smpc_fl.protocols.messages import (
    FreezeRequest,
    Receipt,
    Refusal,
    Reported,
    RoundClosed,
    RoundOffer,
    SeedReport,
    VectorReport,
)
from smpc_fl.protocols.owner import State
from smpc_fl.protocols.records import SECRET, Accepted, Done, Reporting
from smpc_fl.protocols.simulate import COORDINATOR
from smpc_fl.shares import carrier


def test_all_of_a_report_is_one_record_before_its_first_byte() -> None:
    rig = owner_at(State.COMPUTING)
    commands = rig.owner().receive(Computed(rig.vectors["alice"]), rig.now)
    first, *rest = commands
    assert isinstance(first, Persist)
    assert isinstance(first.record, Reporting)
    assert first.bulk is not None
    assert bytes(first.bulk()) == bytes(rig.owner()._sealed or b"")
    assert [type(message) for message in told(rest)] == [SeedReport, SeedReport]
    assert rig.owner().uploaded == 0


def test_seeds_go_first_and_the_vector_carries_all_receipts() -> None:
    rig = Rig()
    rig.run()
    for owner in rig.plan.cohort:
        sent = [(send.to, message) for by, send, message in rig.said if by == owner]
        kinds = [type(message) for _, message in sent]
        assert kinds == [SeedReport, SeedReport, VectorReport, Reported]
        to, vector = sent[2]
        assert isinstance(vector, VectorReport)
        assert to == carrier(owner, rig.plan.cohort, rig.plan.round, rig.plan.aggregators)
        assert [signed.sender for signed in vector.receipts] == sorted(set(rig.plan.aggregators) - {to})


def test_an_upload_costs_little_more_than_the_vector() -> None:
    for aggregators in (2, 5):
        vectors = {owner: np.full(200_000, 0.5) for owner in ("alice", "bob", "carol")}
        rig = Rig(vectors, aggregators=aggregators, ring_bits=32)
        rig.run()
        bytes_ = sum(
            len(codec.encode(send.signed)) + len(send.attachment or b"") for by, send, _ in rig.said if by == "alice"
        )
        assert bytes_ <= 1.01 * 4 * 200_000


def test_what_was_not_answered_is_said_again_to_whoever_comes_back() -> None:
    rig = owner_at(State.SEEDING)
    to_one = rig.owner().receive(PeerUp("aggregator-1"), rig.now)
    assert [(c.to, type(m)) for c, m in zip(to_one, told(to_one), strict=True) if isinstance(c, Send)] == [
        ("aggregator-1", SeedReport)
    ]
    assert rig.owner().receive(PeerUp("aggregator-0"), rig.now) == [], "the carrier's turn has not come"
    rig = owner_at(State.CARRYING)
    (vector,) = rig.owner().receive(PeerUp("aggregator-0"), rig.now)
    assert isinstance(vector, Send)
    assert vector.attachment
    rig = owner_at(State.DONE)
    assert [type(m) for m in told(rig.owner().receive(PeerUp(COORDINATOR), rig.now))] == [Reported]
    rig = owner_at(State.REFUSED)
    assert [type(m) for m in told(rig.owner().receive(PeerUp(COORDINATOR), rig.now))] == [Refusal]
    rig = owner_at(State.COMPUTING)
    assert rig.owner().receive(PeerUp(COORDINATOR), rig.now) == []


def test_no_secret_is_kept_for_good_when_nobody_ends_the_round() -> None:
    for state in State:
        rig = owner_at(state)
        manifest = rig.owner().manifest
        if manifest is None:
            assert rig.owner().receive(Tick(), 1e9) == []
            continue
        end = manifest.deadline + rig.rules.retention
        before = [] if state is State.CLOSED else [WakeAt(end)]
        assert rig.owner().receive(Tick(), end - 1) == before
        rig.crash("alice")
        assert [c for c in rig.owner().receive(Start(), end - 1) if isinstance(c, WakeAt)] == before
        if state is State.CLOSED:
            continue
        closed, erase, finished = rig.owner().receive(Tick(), end)
        assert isinstance(closed, Persist)
        assert (erase, finished) == (EraseSecrets(), Finished(False))
        assert rig.owner().state is State.CLOSED
        assert rig.owner().receive(Tick(), end) == []


def test_an_offer_that_comes_again_is_answered_alike() -> None:
    rig = Rig()
    _, event = offered(rig)
    (accepted, _, compute) = rig.owner().receive(event, rig.now)
    assert isinstance(accepted, Persist)
    assert isinstance(accepted.record, Accepted)
    assert isinstance(compute, Compute)
    assert rig.owner().receive(event, rig.now) == [], "it computes already"
    other_model = Received(event.sender, event.message, event.signed, b"1234")
    assert type(refusal(rig.owner().receive(other_model, rig.now))) is ModelMismatch
    rig = owner_at(State.DONE)
    again = rig.received["alice"][0]
    assert [type(m) for m in told(rig.owner().receive(again, rig.now))] == [Reported]


def test_an_owner_that_died_while_computing_computes_again() -> None:
    rig = owner_at(State.COMPUTING)
    offer = rig.received["alice"][0]
    rig.crash("alice")
    assert told(rig.owner().receive(Start(), rig.now)) == []
    assert [type(command) for command in rig.owner().receive(offer, rig.now)] == [Compute]


def test_a_receipt_that_comes_twice_changes_nothing() -> None:
    rig = owner_at(State.CARRYING)
    receipt = Receipt(rig.owner().manifest_hash, "alice", rig.owner().report_id)
    assert rig.tell("alice", "aggregator-1", receipt) == []
    rig = owner_at(State.DONE)
    assert rig.tell("alice", "aggregator-0", receipt) == []


def test_an_offer_of_another_round_is_refused() -> None:
    rig = Rig()
    offered(rig)
    other = Rig(seed="other", parties=rig.parties)
    _, foreign = offered(other)
    error = refusal(rig.owner().receive(foreign, rig.now))
    assert type(error) is ManifestRefused
    assert "of another round" in error.message


def test_an_older_attempt_does_not_come_back() -> None:
    rig = owner_at(State.DONE)
    first = rig.received["alice"][0]
    rig.deliver("alice", next_offer(rig))
    assert type(refusal(rig.owner().receive(first, rig.now))) is Equivocation


def test_what_is_not_for_an_owner_is_left() -> None:
    rig = owner_at(State.SEEDING)
    assert rig.tell("alice", COORDINATOR, FreezeRequest(rig.owner().manifest_hash)) == []
    assert rig.tell("alice", "aggregator-0", RoundClosed(rig.owner().manifest_hash, True)) == []
    assert rig.tell("alice", COORDINATOR, RoundClosed(KEY, True)) == []
    assert Rig().tell("alice", COORDINATOR, RoundClosed(b"\0" * 32, True)) == []
    assert rig.owner().state is State.SEEDING


@pytest.mark.parametrize("released", [True, False])
def test_the_end_erases_the_rounds_secrets(released: bool) -> None:
    rig = owner_at(State.DONE)
    closed, erase, finished = rig.tell("alice", COORDINATOR, RoundClosed(rig.owner().manifest_hash, released))
    assert isinstance(closed, Persist)
    assert erase == EraseSecrets()
    assert finished == Finished(released)
    assert rig.owner().receive(Start(), rig.now) == [EraseSecrets()], "also after a crash between the two"
    assert rig.tell("alice", COORDINATOR, RoundClosed(rig.owner().manifest_hash, released)) == []
    machine = rig.owner()
    assert (machine._report, machine._encoded, machine._sealed) == (None, None, None)


def test_a_closed_round_is_rebuilt_closed() -> None:
    rig = owner_at(State.CLOSED)
    assert {type(record).__name__ for record in rig.nodes["alice"].journal} & SECRET == set()
    rig.crash("alice")
    assert rig.owner().state is State.CLOSED
    offer = rig.received["alice"][0]
    assert isinstance(offer.message, RoundOffer)
    assert "has closed the round" in refusal(rig.owner().receive(offer, rig.now)).message


def test_what_was_refused_is_told_again_after_a_crash() -> None:
    rig = owner_at(State.REFUSED)
    (refused,) = told(rig.owner().receive(Start(), rig.now))
    rig.crash("alice")
    assert told(rig.owner().receive(Start(), rig.now)) == [refused]
    assert isinstance(refused, Refusal)
    assert refused.code == "ReportTooLate"
    assert [record.code for record in rig.nodes["alice"].journal if isinstance(record, Done)] == ["ReportTooLate"]
