"""The coordinator's machine, event by event."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from opened import elements
from rig import KEY, Rig, aborts

from smpc_fl.errors import (
    CohortTooSmall,
    Equivocation,
    JobNotApproved,
    ManifestRefused,
    NotFinite,
    RoundAborted,
    Unavailable,
)
from smpc_fl.protocols import codec
from smpc_fl.protocols.commands import Command, Computed, Finished, PeerUp, Received, Send, Start, Tick, WakeAt
from smpc_fl.protocols.coordinator import GivenUp, Released, State
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
    Refusal,
    ReleaseReceipt,
    Reported,
    RoundClosed,
    RoundOffer,
    Vote,
    Votes,
)
from smpc_fl.protocols.simulate import COORDINATOR


def at(state: State, **more: object) -> Rig:
    """A round whose coordinator has just come to this state."""
    rig = Rig(**more)  # type: ignore[arg-type]
    rig.begin()
    rig.deliver(*rig.queue.popleft())  # its own start
    while rig.coordinator.state is not state:
        if not rig.queue:
            rig.pass_time()
        rig.deliver(*rig.queue.popleft())
    return rig


def kinds(commands: list[Command]) -> list[type[Message]]:
    return [type(codec.decode_message(command.signed.body)) for command in commands if isinstance(command, Send)]


def hear(rig: Rig, sender: str, message: Message, attachment: bytes | None = None) -> list[Command]:
    return rig.tell(COORDINATOR, sender, message, attachment)


TO_AN_AGGREGATOR: dict[State, list[type[Message]]] = {
    State.PREPARING: [PrekeyRequest],
    State.ENDORSING: [ManifestOffer],
    State.COLLECTING: [ManifestOffer],
    State.AGREEING: [ManifestOffer, FrozenLists],
    State.RELEASING: [ManifestOffer, FrozenLists, Votes],
    State.DONE: [ReleaseReceipt],
}


@pytest.mark.parametrize("state", TO_AN_AGGREGATOR)
def test_a_peer_that_is_back_is_told_what_it_may_have_missed(state: State) -> None:
    rig = at(state)
    assert kinds(rig.coordinator.receive(PeerUp("aggregator-1"), rig.now)) == TO_AN_AGGREGATOR[state]
    to_owner = {State.COLLECTING: [RoundOffer], State.DONE: [RoundClosed]}.get(state, [])
    assert kinds(rig.coordinator.receive(PeerUp("alice"), rig.now)) == to_owner
    assert rig.coordinator.receive(PeerUp("rita"), rig.now) == []


def test_an_owner_hears_whether_it_is_in_the_sum() -> None:
    rig = at(State.DONE)
    hash_ = rig.coordinator.manifest_hash
    assert rig.coordinator.closed("alice") == RoundClosed(hash_, released=True, included=True)
    assert rig.coordinator.closed("nobody") == RoundClosed(hash_, released=True, included=False)
    assert at(State.RELEASING).coordinator.closed("alice").included is False
    assert at(State.PREPARING).coordinator.closed("alice") == RoundClosed(bytes(32), released=False)


def test_an_owner_that_has_settled_is_not_asked_again() -> None:
    rig = at(State.COLLECTING)
    hash_ = rig.coordinator.manifest_hash
    hear(rig, "alice", Reported(hash_, KEY, 4000))
    hear(rig, "bob", Refusal("NotFinite", "diverged", "report", hash_))
    for owner, asked in (("alice", []), ("bob", []), ("carol", [RoundOffer])):
        assert kinds(rig.coordinator.receive(PeerUp(owner), rig.now)) == asked


def test_a_refusal_of_one_that_has_reported_is_no_news() -> None:
    """It came back from a crash, sent its report again, and an aggregator has frozen its list since."""
    rig = at(State.COLLECTING)
    hash_ = rig.coordinator.manifest_hash
    hear(rig, "alice", Reported(hash_, KEY, 4000))
    assert hear(rig, "alice", Refusal("ReportTooLate", "frozen", "report", hash_)) == []
    assert rig.coordinator.refusals == {}
    hear(rig, "bob", Refusal("ReportTooLate", "frozen", "report", hash_))
    assert set(rig.coordinator.refusals) == {"bob"}


def test_when_all_have_settled_the_lists_are_frozen_early() -> None:
    rig = at(State.COLLECTING)
    hash_ = rig.coordinator.manifest_hash
    for owner in ("alice", "bob", "carol"):
        assert hear(rig, owner, Reported(hash_, KEY, 10)) == []
    assert kinds(hear(rig, "dave", Refusal("NotFinite", "diverged", "report", hash_))) == [FreezeRequest] * 3
    assert hear(rig, "dave", Reported(hash_, KEY, 10)) == []


def test_the_books_of_the_round() -> None:
    vectors = dict(Rig().vectors)
    vectors["dave"] = np.full(4, np.nan)
    rig = Rig(vectors)
    rig.owner("alice").uploaded = 4321
    outcome = rig.run()
    rig.check(outcome)
    assert isinstance(outcome, Released)
    assert outcome.uploaded["alice"] == 4321
    assert set(outcome.uploaded) == {"alice", "bob", "carol"}
    assert {owner: type(error) for owner, error in outcome.refusals.items()} == {"dave": NotFinite}
    assert "total" not in repr(outcome)


def test_refusals_of_too_many_owners_end_the_attempt() -> None:
    for codes, kind in ((("NotFinite", "NotFinite"), NotFinite), (("NotFinite", "JobNotApproved"), CohortTooSmall)):
        rig = at(State.COLLECTING)
        hash_ = rig.coordinator.manifest_hash
        assert hear(rig, "alice", Refusal(codes[0], "first", "offer", hash_)) == []
        commands = hear(rig, "bob", Refusal(codes[1], "second", "offer", hash_))
        assert kinds(commands) == [AbortRequest] * 3
        rig.queue.extend((COORDINATOR, rig.from_(a.sender, codec.decode_message(a.body))) for a in aborts(rig))
        outcome = rig.finish()
        assert isinstance(outcome, GivenUp)
        assert type(outcome.error) is kind
        assert "alice: first; bob: second" in outcome.error.message


def test_refusals_about_something_else_are_not_counted() -> None:
    rig = Rig()
    for owner in rig.plan.cohort:
        assert hear(rig, owner, Refusal("JobNotApproved", "an older job")) == []
    assert rig.coordinator.refusals == {}
    rig = at(State.ENDORSING)
    assert hear(rig, "aggregator-0", Refusal("ManifestRefused", "old", "manifest", KEY)) == []
    assert rig.coordinator.state is State.ENDORSING
    rig = at(State.COLLECTING)
    assert hear(rig, "aggregator-0", Refusal("ReportTooLate", "old", "report", rig.coordinator.manifest_hash)) == []
    assert rig.coordinator.state is State.COLLECTING


def test_an_aggregators_refusal_ends_the_attempt_by_its_own_error() -> None:
    rig = at(State.ENDORSING)
    refusal = Refusal("CohortTooSmall", "my floor is 9", "manifest", rig.coordinator.manifest_hash)
    rig.deliver(COORDINATOR, rig.from_("aggregator-1", refusal))
    outcome = rig.finish()
    assert isinstance(outcome, GivenUp)
    assert type(outcome.error) is CohortTooSmall
    assert outcome.error.peer == "aggregator-1"
    assert len(outcome.aborts) == 3


@pytest.mark.parametrize("state", [State.PREPARING, State.ENDORSING, State.COLLECTING, State.AGREEING])
def test_an_abort_is_shown_to_all_and_ends_the_attempt(state: State) -> None:
    rig = at(state)
    abort = rig.from_("aggregator-0", codec.decode_message(aborts(rig)[0].body))
    rig.said.clear()
    rig.down.add("aggregator-0")  # it has aborted
    rig.deliver(COORDINATOR, abort)
    shown = [] if state is State.PREPARING else [Votes] * 3
    assert [type(message) for by, _, message in rig.said if by == COORDINATOR] == [*shown, *[AbortRequest] * 3]
    assert rig.coordinator.receive(abort, rig.now) == []
    outcome = rig.finish()
    assert isinstance(outcome, GivenUp)
    assert isinstance(outcome.error, RoundAborted)
    assert [signed.sender for signed in outcome.aborts] == list(rig.plan.aggregators)


def test_an_abort_of_another_attempt_is_nothing() -> None:
    rig = at(State.COLLECTING)
    assert hear(rig, "aggregator-0", AttemptAborted(rig.plan.run, rig.plan.round, 1, "")) == []
    assert hear(rig, "aggregator-0", AttemptAborted(KEY[:16], rig.plan.round, 0, "")) == []


def two_statements(kind: type[Message]) -> tuple[Rig, str, Released | GivenUp]:
    """An aggregator that signs two statements where only one may be, and how the round ends."""
    rig = Rig()
    rig.begin()
    _, event = rig.until(kind, COORDINATOR)
    hash_ = rig.coordinator.manifest_hash
    rig.deliver(COORDINATOR, event)
    # Of an endorsement there is only one: the same under another signature is two statements as well.
    other = Received(event.sender, event.message, msgspec.structs.replace(event.signed, signature=bytes(64)))
    if kind is not Endorsement:
        other = rig.from_(event.sender, FrozenList(hash_, []) if kind is FrozenList else Vote(hash_, KEY))
    rig.deliver(COORDINATOR, other)
    assert rig.coordinator.state is State.ABORTING
    return rig, event.sender, rig.finish()


@pytest.mark.parametrize("kind", [Endorsement, FrozenList])
def test_two_statements_where_one_may_be_end_the_attempt_by_name(kind: type[Message]) -> None:
    rig, liar, outcome = two_statements(kind)
    assert isinstance(outcome, GivenUp)
    assert type(outcome.error) is Equivocation
    assert outcome.error.peer == liar
    assert not rig.sent_by("aggregator-0", PartialSum)


def test_a_second_vote_undoes_no_vote_for_the_set() -> None:
    """Votes for S from all oblige each to release: the round ends with that sum, and with no other."""
    rig, _, outcome = two_statements(Vote)
    assert isinstance(outcome, Released)
    rig.check(outcome)


def test_nothing_aborts_once_the_set_is_agreed() -> None:
    rig = at(State.RELEASING)
    hash_ = rig.coordinator.manifest_hash
    assert hear(rig, "aggregator-0", Vote(hash_, KEY)) == []
    assert hear(rig, "aggregator-0", codec.decode_message(aborts(rig)[0].body)) == []
    assert rig.coordinator.state is State.RELEASING
    outcome = rig.finish()
    rig.check(outcome)
    assert isinstance(outcome, Released)


def test_a_vote_for_something_else_than_the_lists_is_waited_out() -> None:
    """All aggregators are in league and vote for a set that is not the lists': nobody here can read such a sum."""
    rig = Rig()
    rig.begin()
    rig.until(FrozenLists)
    rig.queue.clear()
    rig.down |= set(rig.plan.aggregators)
    for aggregator in rig.plan.aggregators:
        rig.queue.append((COORDINATOR, rig.from_(aggregator, Vote(rig.coordinator.manifest_hash, KEY))))
    outcome = rig.finish()
    assert isinstance(outcome, GivenUp)
    assert outcome.aborts == ()


def test_false_partial_sums_are_not_taken() -> None:
    rig = Rig()
    rig.begin()
    _, event = rig.until(PartialSum, COORDINATOR)
    message, good = event.message, bytes(event.attachment or b"")
    assert isinstance(message, PartialSum)
    for other, attachment in (
        (msgspec.structs.replace(message, set_hash=KEY), good),
        (message, None),
        (message, good[:-1]),
        (message, bytes([good[0] ^ 1]) + good[1:]),
        (msgspec.structs.replace(message, ephemeral=KEY), good),
        (msgspec.structs.replace(message, ephemeral=bytes(32)), good),
        (msgspec.structs.replace(message, manifest_hash=KEY), good),
    ):
        assert hear(rig, event.sender, other, attachment) == []
    assert hear(rig, "aggregator-2" if event.sender != "aggregator-2" else "aggregator-1", message, good) == []
    assert not rig.coordinator._partials
    assert rig.coordinator._total is None
    assert hear(rig, event.sender, message, good) == []
    assert rig.coordinator._partials == {event.sender}
    alone = elements(rig, rig.coordinator._result)
    assert hear(rig, event.sender, message, good) == []
    assert elements(rig, rig.coordinator._result) == alone, "one that comes twice is added once"


def test_strangers_are_not_heard() -> None:
    rig = at(State.ENDORSING)
    rita = Received("rita", Endorsement(rig.coordinator.manifest_hash), rig.parties["alice"].sign(Endorsement(KEY)))
    assert rig.coordinator.receive(rita, rig.now) == []
    assert hear(rig, "aggregator-0", Prekey(*rig.aggregator().key, KEY)) == []
    with pytest.raises(TypeError, match="gets no Computed"):
        rig.coordinator.receive(Computed(np.zeros(1)), rig.now)


@pytest.mark.parametrize("state", [State.PREPARING, State.ENDORSING, State.COLLECTING, State.AGREEING])
def test_silence_ends_the_attempt_and_says_whose(state: State) -> None:
    rig = at(state)
    rig.queue.clear()
    rig.down |= {"aggregator-1", *rig.plan.cohort}
    (wake,) = rig.coordinator.receive(Tick(), rig.now)
    assert isinstance(wake, WakeAt)
    outcome = rig.finish()
    assert isinstance(outcome, GivenUp)
    assert isinstance(outcome.error, Unavailable)
    assert "aggregator-1" in outcome.error.message
    assert "start it again" in outcome.error.message
    assert outcome.aborts == (), "without the abort of every aggregator there is no next attempt"
    assert rig.coordinator.receive(Tick(), rig.now + 1e6) == []
    assert rig.coordinator.receive(PeerUp("aggregator-0"), rig.now) == []


def test_a_release_that_does_not_come_ends_the_round() -> None:
    rig = at(State.RELEASING)
    rig.queue.clear()
    rig.down.add("aggregator-2")
    outcome = rig.finish()
    assert isinstance(outcome, GivenUp)
    assert outcome.aborts == ()
    assert "releasing" in str(outcome.error)


def test_a_restart_after_the_end_gives_the_same_sum() -> None:
    rig = Rig()
    first = rig.run()
    rig.crash(COORDINATOR)
    commands = rig.coordinator.receive(Start(), rig.now)
    assert kinds(commands) == [ReleaseReceipt] * 3
    finished = commands[-1]
    assert isinstance(finished, Finished)
    assert isinstance(first, Released)
    np.testing.assert_array_equal(finished.outcome.total, first.total)
    assert finished.outcome.agreed == tuple(first.agreed)


def test_a_restart_between_the_set_and_the_votes_relays_the_votes_again() -> None:
    rig = at(State.RELEASING)
    rig.queue.clear()  # the votes are lost
    rig.crash(COORDINATOR)
    outcome = rig.finish()
    rig.check(outcome)
    assert isinstance(outcome, Released)


def test_the_error_of_a_mixed_end_names_every_refusal() -> None:
    rig = at(State.COLLECTING)
    hash_ = rig.coordinator.manifest_hash
    hear(rig, "alice", Refusal("JobNotApproved", "rejected by its owner", "offer", hash_))
    rig.down |= {"alice", "bob"}
    outcome = rig.finish()
    assert isinstance(outcome, GivenUp)
    assert type(outcome.error) is JobNotApproved
    assert "alice: rejected by its owner" in outcome.error.message
    assert not isinstance(outcome.error, ManifestRefused)
