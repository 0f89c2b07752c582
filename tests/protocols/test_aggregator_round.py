"""The aggregator's machine, event by event. (What it refuses: test_refusals.py and test_tampering.py.)"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from rig import KEY, Rig, aborts, aggregator_at, offered, refusal

from smpc_fl.errors import Equivocation, MalformedMessage, ManifestRefused, UnknownMember, WrongRole
from smpc_fl.protocols import codec
from smpc_fl.protocols.aggregator import State
from smpc_fl.protocols.commands import Command, Computed, EraseSecrets, PeerUp, Persist, Send, Start, Tick, WakeAt
from smpc_fl.protocols.messages import (
    AbortRequest,
    AttemptAborted,
    Endorsement,
    FreezeRequest,
    FrozenList,
    FrozenLists,
    ManifestOffer,
    Message,
    PartialSum,
    Prekey,
    PrekeyRequest,
    ReleaseReceipt,
    RoundOffer,
    SeedReport,
    VectorReport,
    Vote,
    Votes,
)
from smpc_fl.protocols.records import Frozen, Prepared, Released, Voted
from smpc_fl.protocols.simulate import COORDINATOR
from smpc_fl.shares import carrier

ME = "aggregator-0"
AFTER_THE_FREEZE: dict[State, list[type[Message]]] = {
    State.OPEN: [],
    State.FROZEN: [FrozenList],
    State.VOTED: [FrozenList, Vote],
    State.RELEASED: [FrozenList, Vote, PartialSum],
    State.CLOSED: [],
}


def kinds(commands: list[Command]) -> list[type[Message]]:
    return [type(codec.decode_message(command.signed.body)) for command in commands if isinstance(command, Send)]


def manifest_offer(rig: Rig) -> ManifestOffer:
    (event, *_) = (e for e in rig.received[ME] if isinstance(e.message, ManifestOffer))
    assert isinstance(event.message, ManifestOffer)
    return event.message


@pytest.mark.parametrize("state", AFTER_THE_FREEZE)
def test_an_offer_that_comes_again_gets_all_that_was_said_since(state: State) -> None:
    """So a coordinator that was killed needs nothing but its manifest."""
    rig = aggregator_at(state)
    for _ in range(2):
        again = rig.tell(ME, COORDINATOR, manifest_offer(rig))
        if state is State.CLOSED:
            assert "is closed" in refusal(again).message
        else:
            assert kinds(again) == [Endorsement, *AFTER_THE_FREEZE[state]]
        rig.crash(ME)


@pytest.mark.parametrize("state", [State.FROZEN, State.VOTED, State.RELEASED, State.CLOSED])
def test_whatever_comes_again_gets_the_same_answer(state: State) -> None:
    rig = aggregator_at(state)
    hash_ = rig.aggregator().manifest_hash
    said = AFTER_THE_FREEZE[state]
    assert kinds(rig.tell(ME, COORDINATOR, FreezeRequest(hash_))) == said
    if state is not State.FROZEN:
        lists = FrozenLists(hash_, [rig.parties[a].sign(FrozenList(hash_, [])) for a in rig.plan.aggregators])
        assert kinds(rig.tell(ME, COORDINATOR, lists)) == said
    if state in (State.RELEASED, State.CLOSED):
        assert kinds(rig.tell(ME, COORDINATOR, Votes(hash_, aborts(rig)))) == said, "released is released"
        assert kinds(rig.tell(ME, COORDINATOR, AbortRequest(*rig.aggregator().key))) == said
    if state is State.CLOSED:
        assert rig.tell(ME, COORDINATOR, ReleaseReceipt(hash_)) == []


def test_one_that_voted_for_a_set_is_bound_to_it() -> None:
    rig = aggregator_at(State.VOTED)
    assert kinds(rig.tell(ME, COORDINATOR, AbortRequest(*rig.aggregator().key))) == [FrozenList, Vote]
    assert rig.aggregator().state is State.VOTED


def test_a_peers_abort_frees_it() -> None:
    """A peer that aborted before it voted will never vote for S: nothing can be released any more."""
    for by_vote in (True, False):
        rig = aggregator_at(State.VOTED)
        hash_ = rig.aggregator().manifest_hash
        freeing = [rig.parties["aggregator-1"].sign(Vote(hash_, b"", "no"))] if by_vote else aborts(rig)[1:2]
        commands = rig.tell(ME, COORDINATOR, Votes(hash_, freeing))
        assert kinds(commands) == [AttemptAborted]
        assert rig.aggregator().state is State.ABORTED


def test_one_that_voted_for_an_abort_aborts_whatever_the_others_are_for() -> None:
    rig = Rig()
    rig.down |= {"alice", "bob"}
    rig.begin()
    rig.until(Vote)
    hash_ = rig.aggregator().manifest_hash
    commands = rig.tell(ME, COORDINATOR, Votes(hash_, [rig.parties["aggregator-1"].sign(Vote(hash_, KEY))]))
    assert kinds(commands) == [AttemptAborted]
    assert rig.aggregator()._abort_reason == "this aggregator voted to abort"


def test_a_vote_for_the_set_and_an_abort_after_it_is_an_abort() -> None:
    rig = aggregator_at(State.VOTED)
    vote = rig.aggregator()._vote
    assert vote is not None
    hash_ = rig.aggregator().manifest_hash
    for order in (1, -1):
        rig = aggregator_at(State.VOTED)
        both = [rig.parties["aggregator-1"].sign(Vote(hash_, vote.choice)), aborts(rig)[1]][::order]
        assert kinds(rig.tell(ME, COORDINATOR, Votes(hash_, both))) == [AttemptAborted]


def test_what_was_aborted_stays_aborted() -> None:
    rig = aggregator_at(State.ABORTED)
    hash_, key = rig.aggregator().manifest_hash, rig.aggregator().key
    repeated: list[Message] = [PrekeyRequest(*key), AbortRequest(*key), manifest_offer(rig), Votes(hash_, aborts(rig))]
    for crashed in (False, True):
        for message in repeated:
            assert kinds(rig.tell(ME, COORDINATOR, message)) == [AttemptAborted]
        # A restart finds how the attempt ended, and nothing else of it.
        assert kinds(rig.tell(ME, COORDINATOR, FreezeRequest(hash_))) == ([AttemptAborted] if crashed else [])
        rig.crash(ME)
    assert rig.aggregator().receive(Start(), rig.now) == [EraseSecrets()]
    assert rig.aggregator().receive(Tick(), rig.now) == [EraseSecrets()]


def test_the_same_prekey_is_given_again_until_the_end() -> None:
    rig = aggregator_at(State.PREPARED)
    first = rig.tell(ME, COORDINATOR, PrekeyRequest(*rig.aggregator().key))
    assert kinds(first) == [Prekey]
    rig.crash(ME)
    assert rig.tell(ME, COORDINATOR, PrekeyRequest(*rig.aggregator().key)) == first
    assert len([record for record in rig.written[ME] if isinstance(record, Prepared)]) == 1
    closed = aggregator_at(State.CLOSED)
    error = refusal(closed.tell(ME, COORDINATOR, PrekeyRequest(*closed.aggregator().key)))
    assert "this attempt is closed" in error.message


def test_only_the_coordinator_drives_a_round() -> None:
    rig = aggregator_at(State.FROZEN)
    hash_, key = rig.aggregator().manifest_hash, rig.aggregator().key
    spoken: list[Message] = [
        PrekeyRequest(*key), manifest_offer(rig), FreezeRequest(hash_), FrozenLists(hash_, aborts(rig)),
        Votes(hash_, aborts(rig)), AbortRequest(*key), ReleaseReceipt(hash_),
    ]  # fmt: skip
    for message in spoken:
        for sender in ("alice", "aggregator-1"):
            assert type(refusal(rig.tell(ME, sender, message))) is WrongRole
    assert rig.aggregator().state is State.FROZEN


def test_each_machine_is_for_one_attempt() -> None:
    rig = Rig()
    run, round_, attempt = rig.aggregator().key
    for other in ((KEY[:16], round_, attempt), (run, round_ + 1, attempt), (run, round_, attempt + 1)):
        for message in (PrekeyRequest(*other), AbortRequest(*other)):
            error = refusal(rig.tell(ME, COORDINATOR, message))
            assert type(error) is ManifestRefused
            assert "another round or attempt" in error.message
    other_rig = Rig(seed="other", parties=rig.parties)
    _, event = offered(other_rig)
    assert isinstance(event.message, RoundOffer)
    assert (
        "another round or attempt" in refusal(rig.tell(ME, COORDINATOR, ManifestOffer(event.message.manifest))).message
    )


def test_strangers_to_the_round_and_other_messages_are_refused() -> None:
    rig = aggregator_at(State.OPEN)
    hash_ = rig.aggregator().manifest_hash
    report = SeedReport(hash_, [KEY, KEY, KEY], KEY, b"")
    assert type(refusal(rig.tell(ME, "aggregator-1", report))) is UnknownMember
    few = SeedReport(hash_, [KEY, KEY], KEY, b"")
    assert "one commitment for each aggregator" in refusal(rig.tell(ME, "bob", few)).message
    error = refusal(rig.tell(ME, "alice", Endorsement(hash_)))
    assert type(error) is MalformedMessage
    assert "an aggregator takes no Endorsement" in error.message
    with pytest.raises(TypeError, match="gets no Computed"):
        rig.aggregator().receive(Computed(np.zeros(1)), rig.now)


def test_a_seed_is_not_for_the_carrier_and_a_vector_for_nobody_else() -> None:
    for kind in (SeedReport, VectorReport):
        rig = Rig()
        rig.begin()
        _, event = rig.until(kind)
        owner = event.sender
        carrier_ = carrier(owner, rig.plan.cohort, rig.plan.round, rig.plan.aggregators)
        rig.settle()
        for name in rig.plan.aggregators:
            fresh = aggregator_at(State.OPEN)  # the same round, in which nothing was taken yet
            number = rig.plan.aggregators.index(name)
            while fresh.aggregator(number).state is not State.OPEN:
                fresh.deliver(*fresh.queue.popleft())
            if (name == carrier_) == (kind is SeedReport):
                error = refusal(fresh.tell(name, owner, event.message, event.attachment))
                assert "goes to its carrier, and only there" in error.message


def test_too_early_is_refused() -> None:
    rig = aggregator_at(State.OPEN)
    hash_ = rig.aggregator().manifest_hash
    lists = FrozenLists(hash_, [rig.parties[a].sign(FrozenList(hash_, [])) for a in rig.plan.aggregators[1:]])
    assert "the lists of exactly all aggregators" in refusal(rig.tell(ME, COORDINATOR, lists)).message
    votes = Votes(hash_, [rig.parties["aggregator-1"].sign(Vote(hash_, KEY))])
    assert "has not voted yet" in refusal(rig.tell(ME, COORDINATOR, votes)).message
    assert type(refusal(Rig().tell(ME, COORDINATOR, FreezeRequest(KEY)))) is ManifestRefused


def test_the_deadline_freezes_and_a_restart_does_not_forget_it() -> None:
    rig = aggregator_at(State.OPEN)
    manifest = rig.aggregator().manifest
    assert manifest is not None
    end = manifest.deadline + rig.rules.retention
    assert rig.aggregator().receive(Tick(), manifest.deadline - 0.1) == [WakeAt(manifest.deadline)]
    rig.crash(ME)
    assert rig.aggregator().receive(Start(), rig.now) == [WakeAt(manifest.deadline)]
    frozen, *rest = rig.aggregator().receive(Tick(), manifest.deadline)
    assert isinstance(frozen, Persist)
    assert isinstance(frozen.record, Frozen)
    assert kinds(rest) == [FrozenList]
    assert rest[-1] == WakeAt(end)
    assert rig.aggregator().receive(Tick(), manifest.deadline + 1) == [WakeAt(end)]
    assert rig.aggregator().receive(PeerUp(COORDINATOR), rig.now) == []
    assert Rig().aggregator().receive(Start(), 0.0) == []


def test_each_step_is_durable_before_it_is_said() -> None:
    rig = Rig()
    rig.run()
    order = [type(record).__name__ for record in rig.written[ME] if not isinstance(record, Prepared)]
    assert Counter(order[1:5]) == {"SeedTaken": 2, "VectorAdded": 2}
    assert [order[0], *order[5:]] == ["Accepted", "Frozen", "Voted", "Released", "Closed"]
    assert len([r for r in rig.written[ME] if isinstance(r, Voted | Released)]) == 2


def test_another_manifest_for_the_same_attempt_is_equivocation() -> None:
    rig = aggregator_at(State.OPEN)
    signed = manifest_offer(rig).manifest
    other = rig.parties[COORDINATOR].sign(codec.decode_message(signed.body))
    assert kinds(rig.tell(ME, COORDINATOR, ManifestOffer(other))) == [Endorsement], "the same bytes again"
    shifted = rig.parties[COORDINATOR].sign(Endorsement(KEY))
    assert type(refusal(rig.tell(ME, COORDINATOR, ManifestOffer(shifted)))) is Equivocation
