"""Every field of a manifest, report, receipt, list or vote, changed: by a stranger, or by the member itself, who can sign
it again. Nothing of it is taken, and where statements conflict nothing is released."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from rig import (
    OWNERS,
    Draws,
    Rig,
    aborts,
    aggregator_at,
    changed,
    offered,
    owner_at,
    refusal,
)

from smpc_fl.errors import (
    BadSignature,
    DecryptionFailed,
    Equivocation,
    MalformedMessage,
    ManifestRefused,
    ReportTooLate,
    SmpcError,
    WrongRole,
)
from smpc_fl.privacy.mechanism import Noise
from smpc_fl.protocols import codec
from smpc_fl.protocols.aggregator import State as AggregatorState
from smpc_fl.protocols.commands import Received, Send
from smpc_fl.protocols.coordinator import GivenUp
from smpc_fl.protocols.messages import (
    Entry,
    FrozenList,
    FrozenLists,
    Manifest,
    ManifestOffer,
    Message,
    PartialSum,
    Receipt,
    RoundOffer,
    SeedReport,
    VectorReport,
    Vote,
    Votes,
)
from smpc_fl.protocols.owner import State as OwnerState
from smpc_fl.protocols.records import SeedTaken, VectorAdded
from smpc_fl.protocols.simulate import COORDINATOR, federation
from smpc_fl.shares import carrier

OTHER = bytes([1]) * 32

# --- every field of every message, changed ---


def flipped(value: Any) -> Any:
    """Another value of the same type."""
    match value:
        case bool():
            return not value
        case bytes():
            return bytes([value[0] ^ 1]) + value[1:] if value else b"\1"
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case [first, *rest] if len(value) > 1:
            return [flipped(first), *rest] if isinstance(first, bytes) else rest
        case list():
            return [] if value else [b"\1" * 32]
        case None:
            return Noise(4, 1, 0)
        case _:
            raise AssertionError(value)


@pytest.mark.parametrize("field", Manifest.__struct_fields__)
def test_a_changed_manifest_is_neither_shared_under_nor_accepted(field: str) -> None:
    """The coordinator changes one field after the aggregators have endorsed, and signs again."""
    rig = Rig()
    manifest, event = offered(rig)
    offer = event.message
    assert isinstance(offer, RoundOffer)
    value = "evaluate" if field == "purpose" else flipped(getattr(manifest, field))
    other = rig.parties[COORDINATOR].sign(changed(manifest, **{field: value}))
    refusal(rig.tell("alice", COORDINATOR, RoundOffer(other, offer.endorsements), rig.plan.model))
    assert not rig.sent_by("alice", SeedReport)
    error = refusal(rig.tell("aggregator-0", COORDINATOR, ManifestOffer(other)))
    assert type(error) is Equivocation
    unsigned = msgspec.structs.replace(other, signature=offer.manifest.signature)
    assert type(refusal(rig.tell("alice", COORDINATOR, RoundOffer(unsigned, offer.endorsements)))) is BadSignature


def caught_report(kind: type[Message]) -> tuple[Rig, str, Received]:
    rig = Rig()
    rig.begin()
    to, event = rig.until(kind)
    return rig, to, event


@pytest.mark.parametrize("kind", [SeedReport, VectorReport])
@pytest.mark.parametrize("field", [*VectorReport.__struct_fields__, "attachment"])
def test_a_changed_report_is_not_taken(kind: type[Any], field: str) -> None:
    """Changed by the owner itself, who can sign it again; a stranger cannot even do that."""
    rig, to, event = caught_report(kind)
    message, attachment = event.message, event.attachment
    if field == "attachment":
        if kind is SeedReport:
            return
        assert attachment is not None
        cases = [flipped(bytes(attachment)), bytes(attachment)[:-1], bytes(attachment) + b"\0", None]
        errors = {type(refusal(rig.tell(to, event.sender, message, case))) for case in cases}
        assert errors == {DecryptionFailed, MalformedMessage}
        return
    if not hasattr(message, field):
        return
    other = msgspec.structs.replace(message, **{field: flipped(getattr(message, field))})
    error = refusal(rig.tell(to, event.sender, other, attachment))
    assert isinstance(error, DecryptionFailed | MalformedMessage | ManifestRefused)
    unsigned = msgspec.structs.replace(event.signed, body=codec.encode(other))
    with pytest.raises(BadSignature):
        rig.parties[to].read(unsigned)
    (taken, _) = rig.tell(to, event.sender, message, attachment)
    assert type(getattr(taken, "record", None)) is (SeedTaken if kind is SeedReport else VectorAdded)


def test_a_share_that_does_not_match_its_commitment_is_not_taken() -> None:
    rig, to, event = caught_report(SeedReport)
    owner = rig.owner(event.sender)
    report = owner._report
    assert report is not None
    index = rig.plan.aggregators.index(to)
    blinders = [flipped(blinder) if i == index else blinder for i, blinder in enumerate(report.blinders)]
    owner._report = msgspec.structs.replace(report, blinders=blinders)  # the list of commitments stays
    send = owner._seed_report(to)
    error = refusal(rig.tell(to, event.sender, owner.party.read(send.signed)))
    assert isinstance(error, DecryptionFailed)
    assert "does not match its commitment" in error.message


def test_one_owner_cannot_speak_for_another() -> None:
    rig, to, event = caught_report(SeedReport)
    thief = "bob" if event.sender != "bob" else "carol"
    error = refusal(rig.tell(to, thief, event.message))
    assert isinstance(error, DecryptionFailed | MalformedMessage)


def test_a_second_report_is_misbehaviour_and_the_first_counts() -> None:
    """An owner that shares another vector after all: another report id, refused by name."""
    rig, to, event = caught_report(SeedReport)
    rig.deliver(to, event)
    message = event.message
    assert isinstance(message, SeedReport)
    other = msgspec.structs.replace(message, commitments=[flipped(message.commitments[0]), *message.commitments[1:]])
    error = refusal(rig.tell(to, event.sender, other))
    assert type(error) is Equivocation
    assert "the first counts" in error.message
    again = rig.tell(to, event.sender, message)
    assert [codec.decode_message(command.signed.body) for command in again if isinstance(command, Send)] == [
        Receipt(message.manifest_hash, event.sender, rig.owner(event.sender).report_id)
    ]
    assert len(again) == 1


def test_reports_are_replayed_in_vain() -> None:
    """In another round of the same federation, and after the list was frozen."""
    rig, to, event = caught_report(SeedReport)
    other = Rig(seed="another run", parties=rig.parties)
    offered(other)
    assert type(refusal(other.tell(to, event.sender, event.message))) is ManifestRefused
    rig.settle()
    late = aggregator_at(AggregatorState.FROZEN)
    machine = late.aggregator()
    machine._reports.clear()
    report = next(e for e in late.received["aggregator-0"] if isinstance(e.message, SeedReport))
    assert type(refusal(machine.receive(report, late.now))) is ReportTooLate


# --- receipts ---


@pytest.mark.parametrize("field", Receipt.__struct_fields__)
def test_a_changed_receipt_counts_for_nobody(field: str) -> None:
    rig = owner_at(OwnerState.SEEDING)
    good = Receipt(rig.owner().manifest_hash, "alice", rig.owner().report_id)
    other = msgspec.structs.replace(good, **{field: flipped(getattr(good, field))})
    assert rig.tell("alice", "aggregator-1", other) == []
    assert rig.tell("alice", "bob", good) == []
    assert rig.tell("alice", "aggregator-0", good) == [], "the carrier has nothing to receipt yet"
    assert rig.owner().state is OwnerState.SEEDING
    # and in the vector's report, the carrier looks at each
    rig, to, event = caught_report(VectorReport)
    message = event.message
    assert isinstance(message, VectorReport)
    first = message.receipts[0]
    said = codec.decode(first.body, Receipt)
    false = rig.parties[first.sender].sign(msgspec.structs.replace(said, **{field: flipped(getattr(said, field))}))
    for receipts in ([false, *message.receipts[1:]], message.receipts[1:], [message.receipts[0]] * 2):
        with_false = msgspec.structs.replace(message, receipts=receipts)
        error = refusal(rig.tell(to, event.sender, with_false, event.attachment))
        assert type(error) is MalformedMessage


# --- lists and votes ---


def no_sum(rig: Rig) -> None:
    assert not [message for _, _, message in rig.said if isinstance(message, PartialSum)]


def lists_of(rig: Rig, **of: FrozenList) -> FrozenLists:
    """Every aggregator's list as it is, but for those given."""
    hash_ = rig.aggregator().manifest_hash
    entries = rig.aggregator()._entries
    given = {name.replace("_", "-"): one for name, one in of.items()}
    return FrozenLists(
        hash_, [rig.parties[a].sign(given.get(a, FrozenList(hash_, entries))) for a in rig.plan.aggregators]
    )


def test_lists_that_cannot_be_are_refused() -> None:
    rig = aggregator_at(AggregatorState.FROZEN)
    hash_, entries = rig.aggregator().manifest_hash, rig.aggregator()._entries
    good = lists_of(rig)
    doubled = [*entries, Entry("dave", OTHER)]
    cases: list[tuple[FrozenLists, type[SmpcError], str]] = [
        (lists_of(rig, aggregator_1=FrozenList(OTHER, entries)), MalformedMessage, "another manifest"),
        (lists_of(rig, aggregator_1=FrozenList(hash_, entries[::-1])), MalformedMessage, "not sorted"),
        (lists_of(rig, aggregator_1=FrozenList(hash_, doubled)), MalformedMessage, "names an owner twice"),
        (lists_of(rig, aggregator_1=FrozenList(hash_, [*entries, Entry("eve", OTHER)])), MalformedMessage, "outside"),
        (FrozenLists(hash_, good.lists[1:]), MalformedMessage, "exactly all aggregators"),
        (
            FrozenLists(hash_, [*good.lists, rig.parties["aggregator-1"].sign(FrozenList(hash_, entries[1:]))]),
            Equivocation,
            "two different final lists",
        ),
        (FrozenLists(hash_, [rig.parties["bob"].sign(FrozenList(hash_, entries))]), WrongRole, "not an aggregator"),
        (FrozenLists(OTHER, good.lists), ManifestRefused, "has not accepted"),
    ]
    for message, kind, reason in cases:
        error = refusal(rig.tell("aggregator-0", COORDINATOR, message))
        assert type(error) is kind, reason
        assert reason in error.message
    assert rig.aggregator().state is AggregatorState.FROZEN
    no_sum(rig)


def votes_of(rig: Rig, **of: Vote) -> Votes:
    vote = rig.aggregator()._vote
    assert vote is not None
    own = Vote(rig.aggregator().manifest_hash, vote.choice)
    given = {name.replace("_", "-"): one for name, one in of.items()}
    return Votes(own.manifest_hash, [rig.parties[a].sign(given.get(a, own)) for a in rig.plan.aggregators])


def test_votes_that_cannot_be_are_refused_and_release_nothing() -> None:
    rig = aggregator_at(AggregatorState.VOTED)
    hash_ = rig.aggregator().manifest_hash
    good = votes_of(rig)
    choice = codec.decode(good.votes[0].body, Vote).choice
    again = rig.parties["aggregator-1"].sign(Vote(hash_, flipped(choice)))
    outsider = Rig(aggregators=4, parties=federation(list(OWNERS), [f"aggregator-{i}" for i in range(5)], Draws(1)))
    cases: list[tuple[Votes, type[SmpcError], str]] = [
        (votes_of(rig, aggregator_1=Vote(OTHER, choice)), MalformedMessage, "another manifest"),
        (Votes(hash_, good.votes[1:2]), MalformedMessage, "the vote of every aggregator"),
        (Votes(hash_, [*good.votes, again]), Equivocation, "two different votes"),
        (Votes(hash_, [rig.parties["bob"].sign(Vote(hash_, choice))]), WrongRole, "not an aggregator"),
        (Votes(OTHER, good.votes), ManifestRefused, "has not accepted"),
        (Votes(hash_, [rig.parties["aggregator-1"].sign(FrozenList(hash_, []))]), MalformedMessage, "expected Vote"),
        (Votes(hash_, aborts(rig, 5)), MalformedMessage, "expected Vote"),
    ]
    for message, kind, reason in cases:
        error = refusal(rig.tell("aggregator-0", COORDINATOR, message))
        assert type(error) is kind, reason
        assert reason in error.message
    assert rig.aggregator().state is AggregatorState.VOTED
    no_sum(rig)
    rig = aggregator_at(AggregatorState.VOTED, parties=outsider.parties, aggregators=3)
    fifth = rig.parties["aggregator-4"].sign(Vote(rig.aggregator().manifest_hash, choice))
    error = refusal(rig.tell("aggregator-0", COORDINATOR, Votes(rig.aggregator().manifest_hash, [fifth])))
    assert "outside this round" in error.message


def test_votes_for_two_sets_end_the_attempt_without_a_sum() -> None:
    rig = aggregator_at(AggregatorState.VOTED)
    other = Vote(rig.aggregator().manifest_hash, OTHER)
    rig.deliver("aggregator-0", rig.from_(COORDINATOR, votes_of(rig, aggregator_1=other)))
    assert rig.aggregator().state is AggregatorState.ABORTED
    no_sum(rig)
    (aborted,) = (m for by, _, m in rig.said if by == "aggregator-0" and hasattr(m, "attempt") and hasattr(m, "reason"))
    assert "aggregator-1 against aggregator-0" in aborted.reason


def test_an_aggregator_that_shows_each_a_different_list_gets_no_sum() -> None:
    """A traitor signs two lists; a coordinator that is in league shows one to each of the honest: they vote for different
    sets, and stop. The owner that makes the difference is one that the traitor itself carries: nobody else can object."""
    rig = Rig()
    rig.begin()
    to, event = rig.until(FrozenLists)
    message = event.message
    assert isinstance(message, FrozenLists)
    entries = codec.decode(message.lists[2].body, FrozenList).entries
    assert carrier("carol", rig.plan.cohort, rig.plan.round, rig.plan.aggregators) == "aggregator-2"
    without = [entry for entry in entries if entry.owner != "carol"]
    shorter = rig.parties["aggregator-2"].sign(FrozenList(message.manifest_hash, without))
    rig.deliver(to, rig.from_(COORDINATOR, FrozenLists(message.manifest_hash, [*message.lists[:2], shorter])))
    outcome = rig.finish()
    rig.check(outcome)
    assert isinstance(outcome, GivenUp)
    assert "different sets" in str(outcome.error)
    assert {rig.aggregator(number).state for number in range(3)} == {AggregatorState.ABORTED}
    no_sum(rig)
