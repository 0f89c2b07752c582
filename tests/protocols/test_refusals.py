"""What an owner refuses, before anything secret leaves it: each with its own error class, and a sentence that says what to do.
An aggregator refuses a manifest by the same rules."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from rig import (
    KEY,
    LOW_ORDER,
    OWNERS,
    Draws,
    Rig,
    aborts,
    changed,
    endorsed,
    next_offer,
    offered,
    owner_at,
    powers,
    prekeys,
    refusal,
    with_membership,
)

from smpc_fl.errors import (
    AggregatorsNotPinned,
    BadInput,
    BadSignature,
    CapacityExceeded,
    CohortTooSmall,
    Equivocation,
    JobNotApproved,
    MalformedMessage,
    ManifestRefused,
    ModelMismatch,
    NotFinite,
    PrecisionTooLow,
    ReportTooLate,
    RevokedKey,
    SmpcError,
    UnknownMember,
    VersionMismatch,
    WeightOutOfRange,
    WrongRole,
)
from smpc_fl.identity import Identity
from smpc_fl.jobs import AggregateJob
from smpc_fl.protocols import codec
from smpc_fl.protocols.commands import Command, Computed, ComputeFailed
from smpc_fl.protocols.coordinator import GivenUp, Released
from smpc_fl.protocols.manifest import Rules, manifest_hash
from smpc_fl.protocols.messages import (
    Endorsement,
    Manifest,
    ManifestOffer,
    Receipt,
    Refusal,
    RoundOffer,
    SeedReport,
    Signed,
    VectorReport,
)
from smpc_fl.protocols.owner import State as OwnerState
from smpc_fl.protocols.party import Party
from smpc_fl.protocols.records import Accepted, Reporting
from smpc_fl.protocols.simulate import COORDINATOR, federation
from smpc_fl.protocols.work import weight_of
from smpc_fl.roster import Revocation, Roster

SECRET_TYPES = (SeedReport, VectorReport)


def asked(rig: Rig, manifest: Manifest, **more: Any) -> list[Command]:
    """What alice makes of an offer of this manifest, endorsed by all."""
    return rig.tell("alice", COORDINATOR, endorsed(rig, manifest), more.get("model", rig.plan.model))


def nothing_left(rig: Rig, owner: str = "alice") -> None:
    assert not [message for by, _, message in rig.said if by == owner and isinstance(message, SECRET_TYPES)]
    assert not [record for record in rig.written[owner] if isinstance(record, Reporting)]


# --- the manifest ---

OTHER = bytes([1]) * 32
MANIFESTS: dict[str, tuple[dict[str, Any], type[SmpcError], str]] = {
    "another protocol version": ({"version": 1}, VersionMismatch, "run the same release everywhere"),
    "another federation": ({"federation": OTHER}, ManifestRefused, "another federation"),
    "another coordinator": ({"coordinator": "mallory"}, ManifestRefused, "another federation or coordinator"),
    "another roster": ({"roster_hash": OTHER}, ManifestRefused, "bring both to the newest signed version"),
    "a cohort that is not sorted": ({"cohort": [*OWNERS[1:], OWNERS[0]]}, ManifestRefused, "must be sorted"),
    "an owner named twice": ({"cohort": ["alice", *OWNERS]}, ManifestRefused, "without doubles"),
    "a stranger in the cohort": ({"cohort": [*OWNERS, "eve"]}, UnknownMember, "add it"),
    "an aggregator in the cohort": ({"cohort": ["aggregator-0", *OWNERS]}, WrongRole, "not an owner"),
    "k_min below the floor": ({"k_min": 2}, CohortTooSmall, "add owners, or agree on a lower floor"),
    "a cohort below k_min": ({"k_min": 5}, CohortTooSmall, "add owners"),
    "a cohort without this owner": ({"cohort": list(OWNERS[1:])}, ManifestRefused, "not in the cohort"),
    "another run": ({"run": bytes(16)}, ManifestRefused, "belongs to another round"),
    "another round": ({"round": 9}, ManifestRefused, "belongs to another round"),
    "a deadline in the past": ({"deadline": 0.0}, ManifestRefused, "check the clocks"),
    "no deadline": ({"deadline": math.inf}, ManifestRefused, "check the clocks"),
    "a deadline that is no number": ({"deadline": math.nan}, ManifestRefused, "check the clocks"),
    "a ring that is none": ({"ring_bits": 7}, MalformedMessage, ""),
    "a ring too small for the sum": ({"ring_bits": 23}, CapacityExceeded, "use ring_bits=32, or use fewer"),
    "an infinite clip": ({"clip": math.inf}, ManifestRefused, "no sum of such updates has a bound"),
    "a scale too fine for the sum": ({"fractional_bits": 30}, CapacityExceeded, "use ring_bits=34, or use fewer"),
    "a clip too large for the sum": ({"clip": 1e6}, CapacityExceeded, "use ring_bits=51, or use fewer"),
    "an error smaller than the scale gives": ({"worst_error": 0.0}, ManifestRefused, "states a smaller decoding error"),
    "an error over the tolerance": ({"worst_error": 0.5}, PrecisionTooLow, "the job 0.001"),
    "an unapproved job": ({"job_digest": OTHER}, JobNotApproved, "smpc-fl requests list"),
    "another purpose": ({"purpose": "evaluate"}, ManifestRefused, "purpose is not that of the approved job"),
    "another length": ({"dimension": 5}, ManifestRefused, "dimension is not that of the approved job"),
    "another clip": ({"clip": 0.5}, ManifestRefused, "clip is not that of the approved job"),
    "another cap": ({"max_samples": 64}, ManifestRefused, "max_samples is not that of the approved job"),
    "another model": ({"model_digest": OTHER}, ModelMismatch, "not the one that the manifest names"),
    "a low-order key of the coordinator": ({"coordinator_key": LOW_ORDER}, MalformedMessage, "low order"),
    "a later attempt without aborts": ({"attempt": 1}, ManifestRefused, "belongs to another round or attempt"),
}  # fmt: skip


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_breaks_a_rule_is_refused_by_name(name: str) -> None:
    fields, kind, remedy = MANIFESTS[name]
    rig = Rig()
    manifest, _ = offered(rig)
    error = refusal(asked(rig, changed(manifest, **fields)))
    assert type(error) is kind
    assert remedy in error.message
    assert rig.owner().state is OwnerState.IDLE
    nothing_left(rig)


NEXT: dict[str, tuple[Any, str]] = {
    "no aborts": (lambda rig: [], "the abort of every aggregator"),
    "the abort of one is missing": (lambda rig: aborts(rig)[1:], "the abort of every aggregator"),
    "aborts in another order": (lambda rig: aborts(rig)[::-1], "the abort of every aggregator"),
    "aborts of another attempt": (lambda rig: aborts(rig, 1), "the abort of every aggregator"),
    "aborts of another round": (lambda rig: aborts(rig, round=7), "an abort is of another round"),
    "aborts of another run": (lambda rig: aborts(rig, run=bytes(16)), "an abort is of another round"),
}


@pytest.mark.parametrize("name", NEXT)
def test_a_next_attempt_needs_every_abort(name: str) -> None:
    make, reason = NEXT[name]
    rig = owner_at(OwnerState.DONE)
    error = refusal(rig.tell("alice", COORDINATOR, next_offer(rig, aborts=make(rig)).message))
    assert isinstance(error, ManifestRefused)
    assert reason in error.message


def test_no_attempt_can_be_skipped() -> None:
    """An aggregator signs the abort of an attempt that never began; that must not lead past one that was released."""
    rig = Rig()
    outcome = rig.run()
    assert isinstance(outcome, Released)
    manifest = rig.owner().manifest
    assert manifest is not None
    for carried in (aborts(rig, 1), [*aborts(rig, 1), *aborts(rig, 1)]):
        third = changed(manifest, attempt=2, aggregators=prekeys(rig, attempt=2), aborts=carried)
        error = refusal(rig.tell("alice", COORDINATOR, endorsed(rig, third)))
        assert "for each attempt before it" in error.message


def test_the_number_of_an_attempt_costs_nothing() -> None:
    rig = owner_at(OwnerState.DONE)
    far = 1 << 40
    message = next_offer(rig, attempt=far, aggregators=prekeys(rig, attempt=far), aborts=[]).message
    assert "for each attempt before it" in refusal(rig.tell("alice", COORDINATOR, message)).message


def test_a_first_attempt_carries_no_aborts() -> None:
    rig = Rig()
    manifest, _ = offered(rig)
    assert "the abort of every" in refusal(asked(rig, changed(manifest, aborts=aborts(rig)))).message


CHANGES_OF_A_ROUND: dict[str, dict[str, Any]] = {
    "scale": {"fractional_bits": 20, "worst_error": 1e-3},
    "ring": {"ring_bits": 64},
    "model": {"model_digest": OTHER},
}


@pytest.mark.parametrize("name", CHANGES_OF_A_ROUND)
@pytest.mark.parametrize("state", [OwnerState.COMPUTING, OwnerState.DONE])
def test_a_next_attempt_keeps_the_rounds_numbers(name: str, state: OwnerState) -> None:
    rig = owner_at(state, seed=3)
    error = refusal(rig.tell("alice", COORDINATOR, next_offer(rig, **CHANGES_OF_A_ROUND[name]).message))
    assert isinstance(error, ManifestRefused | ModelMismatch)
    assert rig.owner().state is state


def test_a_next_attempt_keeps_the_aggregators() -> None:
    rig = owner_at(OwnerState.DONE)
    rig.owner().rules = Rules(3)  # the operator has unpinned them meanwhile
    rig.plan = replace(rig.plan, aggregators=rig.plan.aggregators[:2])
    error = refusal(rig.tell("alice", COORDINATOR, next_offer(rig).message))
    assert "changes the round's numbers, model or aggregators: begin another round" in error.message


def test_two_manifests_for_one_attempt_are_equivocation() -> None:
    for state in (OwnerState.COMPUTING, OwnerState.DONE):
        rig = owner_at(state)
        manifest = rig.owner().manifest
        assert manifest is not None
        other = changed(manifest, deadline=manifest.deadline + 1)
        error = refusal(asked(rig, other))
        assert isinstance(error, Equivocation)
        assert "another manifest for a (run, round, attempt) that has one" in error.message


def test_a_closed_round_stays_closed() -> None:
    rig = owner_at(OwnerState.CLOSED)
    error = refusal(rig.tell("alice", COORDINATOR, next_offer(rig).message))
    assert isinstance(error, ManifestRefused)
    assert "begin another" in error.message


def test_the_cohort_is_the_one_that_was_asked_for() -> None:
    rig = Rig()
    manifest, _ = offered(rig)
    expected = rig.owner().expected
    assert expected is not None
    for cohort, purpose in ((OWNERS[:3], "train"), ((*OWNERS, "eve"), "aggregate")):
        rig.owner().expected = replace(expected, cohort=cohort, purpose=purpose)
        error = refusal(asked(rig, changed(manifest, purpose=purpose)))
        assert type(error) is ManifestRefused
        assert "not the one that the researcher asked for" in error.message
    nothing_left(rig)


def test_unpinned_aggregators_get_nothing() -> None:
    rig = Rig()
    _, event = offered(rig)
    for pinned in ({"aggregator-0", "aggregator-1"}, {"aggregator-0", "aggregator-1", "aggregator-2", "aggregator-3"}):
        rig.owner().rules = Rules(3, frozenset(pinned))
        error = refusal(rig.owner().receive(event, rig.now))
        assert type(error) is AggregatorsNotPinned
        assert "change the pinned set in the configuration if you trust the new one" in error.message
    nothing_left(rig)


def test_an_owner_without_an_approved_job_gives_nothing() -> None:
    rig = Rig()
    _, event = offered(rig)
    rig.owner().expected = None
    assert type(refusal(rig.owner().receive(event, rig.now))) is JobNotApproved
    nothing_left(rig)


def test_revoked_keys_are_refused() -> None:
    """The key of an owner, an aggregator or the coordinator that the newest roster revokes."""
    for gone in ("bob", "aggregator-1", COORDINATOR):
        rig = Rig()
        manifest, _ = offered(rig)
        party = rig.parties["alice"]
        roster = party.membership.roster
        members = [member for member in roster.members if member.id != gone]
        revoked = Revocation(gone, roster.member(gone).key, "laptop stolen")
        newer = with_membership(party, roster=Roster.of(roster.name, 2, members, [revoked]))
        rig.owner().party = newer
        manifest = changed(manifest, roster_hash=newer.membership.roster_hash)
        error = refusal(asked(rig, manifest))
        assert type(error) is RevokedKey, gone
        assert "laptop stolen" in error.message
        assert "make a new one and have it added to the roster" in error.message
        nothing_left(rig)


def test_a_member_that_is_not_approved_yet_is_refused() -> None:
    rig = Rig()
    manifest, _ = offered(rig)
    rig.owner().party = with_membership(rig.parties["alice"], pending=frozenset({"dave"}))
    error = refusal(asked(rig, manifest))
    assert type(error) is UnknownMember
    assert "smpc-fl roster accept" in error.message


# --- endorsements and prekeys ---


def test_nothing_leaves_without_every_endorsement() -> None:
    rig = Rig()
    manifest, event = offered(rig)
    offer = event.message
    assert isinstance(offer, RoundOffer)
    foreign = endorsed(rig, changed(manifest, deadline=manifest.deadline + 1)).endorsements
    stranger = federation(list(OWNERS), list(rig.plan.aggregators), Draws("another federation"))
    forged = stranger["aggregator-0"].sign(Endorsement(manifest_hash(offer.manifest)))
    cases: list[tuple[list[Signed], type[SmpcError]]] = [
        ([], BadSignature),
        (offer.endorsements[1:], BadSignature),
        ([offer.endorsements[0]] * 3, BadSignature),
        ([*offer.endorsements, offer.endorsements[0]], BadSignature),
        ([*offer.endorsements[1:], foreign[0]], ManifestRefused),
        ([*offer.endorsements[1:], forged], BadSignature),
        ([*offer.endorsements[1:], rig.parties["bob"].sign(Endorsement(manifest_hash(offer.manifest)))], WrongRole),
        ([*offer.endorsements[1:], rig.parties["aggregator-0"].sign(Receipt(OTHER, "bob", OTHER))], MalformedMessage),
    ]
    for endorsements, kind in cases:
        error = refusal(rig.tell("alice", COORDINATOR, RoundOffer(offer.manifest, endorsements), rig.plan.model))
        assert type(error) is kind, endorsements
    nothing_left(rig)


PREKEYS: dict[str, tuple[dict[str, Any], type[SmpcError]]] = {
    "of another run": ({"run": bytes(16)}, ManifestRefused),
    "of another round": ({"round": 5}, ManifestRefused),
    "of another attempt": ({"attempt": 1}, ManifestRefused),
    "of low order": ({"public": LOW_ORDER}, MalformedMessage),
}


@pytest.mark.parametrize("name", PREKEYS)
def test_prekeys_are_of_this_attempt_alone(name: str) -> None:
    fields, kind = PREKEYS[name]
    rig = Rig()
    manifest, _ = offered(rig)
    assert type(refusal(asked(rig, changed(manifest, aggregators=prekeys(rig, **fields))))) is kind
    nothing_left(rig)


def test_prekeys_are_signed_by_aggregators_of_this_federation() -> None:
    rig = Rig()
    manifest, _ = offered(rig)
    foreign = federation(list(OWNERS), list(rig.plan.aggregators), Draws("another federation"))
    made = codec.decode_message(manifest.aggregators[0].body)
    forged = [foreign["aggregator-0"].sign(made), *manifest.aggregators[1:]]
    assert type(refusal(asked(rig, changed(manifest, aggregators=forged)))) is BadSignature
    not_one = sorted([*manifest.aggregators[1:], rig.parties["bob"].sign(made)], key=lambda signed: signed.sender)
    rig.owner().rules = Rules(3)
    assert type(refusal(asked(rig, changed(manifest, aggregators=not_one)))) is WrongRole
    nothing_left(rig)


def test_the_coordinator_alone_makes_offers() -> None:
    rig = Rig()
    manifest, event = offered(rig)
    assert rig.tell("alice", "bob", event.message) == []
    by_bob = endorsed(rig, manifest, rig.parties["bob"])
    assert type(refusal(rig.tell("alice", COORDINATOR, by_bob))) is WrongRole
    impostor = Party(COORDINATOR, Identity.generate(Draws("impostor")), rig.parties["alice"].membership)
    assert type(refusal(rig.tell("alice", COORDINATOR, endorsed(rig, manifest, impostor)))) is BadSignature


# --- the update ---


def computed(rig: Rig, vector: Any) -> SmpcError:
    commands = rig.owner().receive(Computed(vector), rig.now)
    kept, *rest = commands
    assert type(getattr(kept, "record", None)).__name__ == "Done"
    nothing_left(rig)
    return refusal(rest)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_not_finite_is_not_shared(value: float) -> None:
    rig = owner_at(OwnerState.COMPUTING)
    error = computed(rig, np.array([0.5, value, 0.25, 0.125]))
    assert type(error) is NotFinite
    assert "find the step that diverged" in error.message
    assert not any(text in error.message for text in ("0.5", "0.25", "0.125"))


@pytest.mark.parametrize("value", [1.0000001, -1.5, 1e9])
def test_an_update_beyond_the_clip_is_not_shared(value: float) -> None:
    error = computed(owner_at(OwnerState.COMPUTING), np.array([0.0, value, 0.0, 0.0]))
    assert type(error) is CapacityExceeded
    assert str(value) not in error.message


def test_an_update_of_another_length_is_not_shared() -> None:
    error = computed(owner_at(OwnerState.COMPUTING), np.zeros(5))
    assert type(error) is BadInput


def test_a_failed_computation_is_told_by_its_own_error() -> None:
    rig = owner_at(OwnerState.COMPUTING)
    _, *rest = rig.owner().receive(ComputeFailed(WeightOutOfRange("raise the job's max_samples")), rig.now)
    assert type(refusal(rest)) is WeightOutOfRange
    assert rig.owner().receive(ComputeFailed(BadInput("late")), rig.now) == []
    assert rig.owner().receive(Computed(np.zeros(4)), rig.now) == []


@pytest.mark.parametrize("rows", [-1, 0, 1025])
def test_row_counts_out_of_range_are_refused_untold(rows: int) -> None:
    job = AggregateJob(expression=b"", reduce="mean", shape=[1], bound=1.0, max_samples=1024)
    with pytest.raises(WeightOutOfRange) as caught:
        weight_of(job, "aggregate", "alice", OWNERS, rows)
    assert "raise the job's max_samples" in caught.value.message
    assert str(rows) not in caught.value.message.replace("1..1024", "")


def test_too_many_refusals_end_the_run_with_their_own_error() -> None:
    vectors = powers()
    for owner in ("alice", "bob"):
        vectors[owner] = np.full(4, math.nan)
    rig = Rig(vectors)
    outcome = rig.run()
    assert isinstance(outcome, GivenUp)
    assert type(outcome.error) is NotFinite
    assert "alice: " in str(outcome.error)
    assert "bob: " in str(outcome.error)
    nothing_left(rig, "alice")


# --- the aggregator's own policy ---

FOR_AGGREGATORS = [
    "another protocol version", "another federation", "another roster", "an owner named twice", "a stranger in the cohort",
    "k_min below the floor", "a cohort below k_min", "another round", "a deadline in the past", "a ring that is none",
    "a scale too fine for the sum", "an error smaller than the scale gives", "a low-order key of the coordinator",
]  # fmt: skip


@pytest.mark.parametrize("name", FOR_AGGREGATORS)
def test_an_aggregator_refuses_by_the_same_rules(name: str) -> None:
    fields, kind, remedy = MANIFESTS[name]
    rig = Rig()
    rig.begin()
    to, event = rig.until(ManifestOffer, "aggregator-0")
    offer = event.message
    assert isinstance(offer, ManifestOffer)
    manifest = changed(codec.decode(offer.manifest.body, Manifest), **fields)
    error = refusal(rig.tell(to, COORDINATOR, ManifestOffer(rig.parties[COORDINATOR].sign(manifest))))
    assert type(error) is kind
    assert remedy in error.message


def test_an_aggregator_wants_its_own_prekey_in_the_manifest() -> None:
    rig = Rig()
    rig.begin()
    to, event = rig.until(ManifestOffer, "aggregator-0")
    offer = event.message
    assert isinstance(offer, ManifestOffer)
    manifest = codec.decode(offer.manifest.body, Manifest)
    stolen = prekeys(rig, public=KEY)[0]  # under its name and signature, but not the key that it made for this attempt
    for aggregators in ([stolen, *manifest.aggregators[1:]], manifest.aggregators[1:]):
        signed = rig.parties[COORDINATOR].sign(changed(manifest, aggregators=aggregators))
        error = refusal(rig.tell(to, COORDINATOR, ManifestOffer(signed)))
        assert "does not carry this aggregator's prekey" in error.message
    assert not [record for record in rig.written[to] if isinstance(record, Accepted)]


def test_refusals_tell_no_value() -> None:
    """The text of everything refused in a run whose numbers are canaries."""
    vectors = powers()
    vectors["alice"] = np.array([0.123456789, 0.987654321, math.nan, 0.5])
    vectors["bob"] = np.array([0.123456789, 0.987654321, 7.7777777, 0.5])
    rig = Rig(vectors)
    rig.run()
    texts = [m.text for _, _, m in rig.said if isinstance(m, Refusal)]
    assert len(texts) >= 2
    assert not [text for text in texts if "123456789" in text or "987654321" in text or "7.7" in text]


def test_an_aggregators_refusal_keeps_its_class_and_fits_a_message() -> None:
    rig = owner_at(OwnerState.SEEDING)
    about = rig.owner().manifest_hash
    long = Refusal("ReportTooLate", "x" * 4096, "report", about)
    assert rig.tell("alice", "bob", long) == []
    assert rig.tell("alice", "aggregator-1", msgspec.structs.replace(long, about=OTHER)) == []
    error = refusal(rig.tell("alice", "aggregator-1", long)[1:])
    assert type(error) is ReportTooLate
    assert error.message.startswith("aggregator-1 refused the report: xxx")
    assert len(error.message) == 4096
