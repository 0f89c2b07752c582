"""Replay and swap: every field of every message of a round changed on its way, and every message of another round, run, attempt,
federation, member or receiver. Nothing of it is taken, but for what is named here, with what becomes of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import scenes
from rig import OWNERS, Draws, Rig, label
from scenes import AGGREGATORS, Scene, mind, same_mind
from swaps import swaps

from smpc_fl.errors import BadSignature, SmpcError
from smpc_fl.identity import Identity
from smpc_fl.protocols import codec, messages
from smpc_fl.protocols.commands import Received, Send
from smpc_fl.protocols.coordinator import GivenUp, Released
from smpc_fl.protocols.coordinator import State as CoordinatorState
from smpc_fl.protocols.messages import AbortRequest, Message, Signed
from smpc_fl.protocols.simulate import COORDINATOR, federation

OWN_WORD = "a member's own word, which it may give as it likes, once"
SAME = "another order of the same statements, or one of them twice"
TAKEN = {
    # name of the swap: (who takes it, why, whether the round may still end with a release)
    "Prekey.public": (OWN_WORD, False),
    "Reported.report_id": ("for people: the aggregators' lists say what counts", True),
    "Reported.uploaded": ("a figure for people", True),
    "FrozenList.entries.list": (OWN_WORD, True),
    "FrozenList.entries.owner": (OWN_WORD, False),
    "FrozenList.entries.report_id": (OWN_WORD, False),
    "FrozenList.releases": (OWN_WORD, True),
    "FrozenLists.lists.list": (SAME, True),
    "FrozenLists.lists.entries.list": (OWN_WORD, True),
    "FrozenLists.lists.entries.report_id": (OWN_WORD, False),
    "FrozenLists.lists.releases": (OWN_WORD, True),
    "Vote.choice": (OWN_WORD, False),
    "Vote.reason": ("a sentence for people, in a vote that is no abort", True),
    "Vote.code": ("a word for people, in a vote that is no abort", True),
    "Votes.votes.list": (SAME, True),
    "Votes.votes.choice": (OWN_WORD, False),
    "Votes.votes.reason": ("a sentence for people, in a vote that is no abort", True),
    "Votes.votes.code": ("a word for people, in a vote that is no abort", True),
    "RoundOffer.endorsements.list": (SAME, True),
    "VectorReport.receipts.list": (SAME, True),
    **{
        f"ManifestOffer.manifest.{field}": ("the coordinator's own word: no owner reports, the others endorse another", False)
        for field in (
            "aggregators.list", "aggregators.public", "cohort.list", "coordinator_key", "deadline", "dimension", "job_digest",
            "k_min", "model_digest", "purpose", "ring_bits", "subject", "worst_error",
        )
    },
}  # fmt: skip
"""All that has an effect, before the true message came."""

TWICE = ("FrozenList.", "Vote.")
"""Two different statements of such a kind, by one aggregator, end the attempt: that is the effect."""

FOLLOWED = 1
"""Swaps of each name whose round is gone through to its end."""


@cache
def elsewhere() -> dict[str, list[Message]]:
    """Messages of another run, of another round, and of the next attempt, by type."""
    found: dict[str, list[Message]] = defaultdict(list)
    for rig in (scenes.rig("other run"), scenes.rig(round_number=1), later_attempt()):
        rig.run()
        kinds = Counter[str]()
        for _, _, message in rig.said:
            kinds[type(message).__name__] += 1
            if kinds[type(message).__name__] <= 2:
                found[type(message).__name__].append(message)
    return found


def arrivals(rig: Rig) -> Iterator[tuple[str, Received]]:
    """Each message of a round, just before it is delivered; the first two of a type at owners, aggregators, coordinator."""
    seen: Counter[tuple[str, str]] = Counter()
    rig.begin()
    while rig.outcome is None or rig.queue:
        if not rig.queue:
            rig.pass_time()
        to, event = rig.queue.popleft()
        if isinstance(event, Received):
            key = (label(event), "owner" if to in OWNERS else to.partition("-")[0])
            seen[key] += 1
            if seen[key] <= 2:
                yield to, event
        rig.deliver(to, event)


def test_every_field_swapped_is_refused_or_ends_in_no_wrong_sum() -> None:
    rig, tried, followed = scenes.rig(), Counter[str](), Counter[str]()
    for to, event in arrivals(rig):
        scene = Scene(to, rig.nodes[to].machine.state, rig)
        for swap in swaps(event.message, elsewhere()[label(event)], rig):
            tried[swap.name] += 1
            with pytest.raises(BadSignature):  # who cannot sign it again
                rig.parties[to].read(replace_body(event, swap.message))
            commands = scene.machine.receive(rig.from_(event.sender, swap.message, event.attachment), rig.now)
            follow = False
            if not same_mind(scene.before, mind(scene.machine)):
                assert swap.name in TAKEN, f"{to} takes {swap.name}"
                followed[swap.name] += 1
                follow = followed[swap.name] <= FOLLOWED
            if follow:
                scene.carry_out(commands)
                outcome = scene.finish()
                ends_well = TAKEN[swap.name][1]
                assert ends_well or isinstance(outcome, GivenUp), f"{swap.name} is released"
            scene.reset(whole=follow)
        _and_afterwards(scene, event)
    assert isinstance(rig.outcome, Released), "an honest round goes on after all of it"
    rig.settle()
    rig.check(rig.outcome)
    assert followed.keys() >= TAKEN.keys(), f"never taken, so not to be named: {TAKEN.keys() - followed.keys()}"
    unwalked = {f"{kind.__name__}.{field}" for kind in KINDS for field in kind.__struct_fields__} - covered(tried)
    assert not unwalked, f"never swapped: {unwalked}"


def _and_afterwards(scene: Scene, event: Received) -> None:
    """The same swaps once the true message has been taken: one statement of a kind counts, the first."""
    scene.machine.receive(event, scene.rig.now)
    then = Scene(scene.who, scene.machine.state, scene.rig)
    for swap in swaps(event.message, elsewhere()[label(event)], scene.rig):
        scene.machine.receive(scene.rig.from_(event.sender, swap.message, event.attachment), scene.rig.now)
        after = scene.machine.state
        if scene.who == COORDINATOR and swap.name.startswith(TWICE) and ".manifest_hash" not in swap.name:
            assert then.state not in BEFORE_AGREEMENT or after.name == "ABORTING", (
                f"{swap.name} did not end the attempt"
            )
        elif swap.name not in AFTERWARDS:
            assert same_mind(then.before, mind(scene.machine)), f"{scene.who} takes {swap.name} after the true one"
        then.reset(whole=False)
    scene.reset()


BEFORE_AGREEMENT = tuple(CoordinatorState[name] for name in ("PREPARING", "ENDORSING", "COLLECTING", "AGREEING"))
AFTERWARDS = {
    "Prekey.public": "until the manifest is made: an aggregator that lost its state has another",
    "Reported.report_id": "for people",
    "Reported.uploaded": "for people",
}
"""What has an effect after the true message."""


def replace_body(event: Received, message: Message) -> Signed:
    return Signed(event.signed.sender, codec.encode(message), event.signed.signature)


KINDS = (
    messages.Manifest, messages.SeedReport, messages.VectorReport, messages.Receipt,
    messages.Endorsement, messages.FrozenList, messages.Vote, messages.PartialSum,
    messages.ReleaseReceipt, messages.Prekey, messages.Reported,
)  # fmt: skip


def covered(tried: Counter[str]) -> set[str]:
    """The fields that were swapped, as "Kind.field"; a manifest's inside the offers of it."""
    names = {".".join(name.split(".")[:2]) for name in tried}
    return names | {"Manifest." + name.split(".")[2] for name in tried if ".manifest." in name}


# --- whole messages from elsewhere ---


def later_attempt() -> Rig:
    """The round's second attempt, after every aggregator has aborted the first."""
    rig = scenes.rig()
    for aggregator in AGGREGATORS:
        rig.deliver(aggregator, rig.from_(COORDINATOR, AbortRequest(*rig.aggregator().key)))
    outcome = rig.run()
    assert isinstance(outcome, GivenUp)
    assert outcome.aborts
    del rig.said[:]
    rig.next_attempt(outcome.aborts)
    return rig


FOREIGN: dict[str, tuple[Any, set[str]]] = {
    "run": (lambda: scenes.rig("other run"), set()),
    "round": (lambda: scenes.rig(round_number=1), set()),
    "attempt": (later_attempt, {"RoundOffer"}),  # with every aggregator's abort of this one: a true next attempt
    "clip": (lambda: scenes.rig("other clip", clip=2.0), set()),
}


@pytest.mark.parametrize("which", FOREIGN)
def test_messages_of_another_round_have_no_effect_in_any_state(which: str) -> None:
    make, allowed = FOREIGN[which]
    rig = make()
    rig.run()
    taken: set[str] = set()
    for scene in scenes.scenes():
        for said in {
            (by, codec.encode(message)): (by, send, message) for by, send, message in rig.said if send.to == scene.who
        }.values():
            by, send, message = said
            if _has_effect(scene, by, message, send.attachment):
                taken.add(type(message).__name__)
    assert taken == allowed


def test_messages_in_anothers_name_or_to_another_have_no_effect() -> None:
    rig = scenes.rig()
    rig.run()
    closed = messages.RoundClosed(rig.coordinator.manifest_hash, True)
    rig.said += [(COORDINATOR, Send(owner, rig.parties[COORDINATOR].sign(closed)), closed) for owner in OWNERS]
    for scene in scenes.scenes():
        same_role = {COORDINATOR: (COORDINATOR,), "alice": OWNERS}.get(scene.who, AGGREGATORS)
        mine = {codec.encode(message) for by, send, message in rig.said if send.to == scene.who}
        for by, send, message in rig.said:
            if send.to in same_role and codec.encode(message) not in mine:
                assert not _has_effect(scene, by, message, send.attachment), f"{scene}: {by}'s {type(message).__name__}"
            if send.to == scene.who:
                for thief in (COORDINATOR, "bob", "eve", AGGREGATORS[1], "aggregator-9", scene.who):
                    colleagues = {by, thief} <= {*AGGREGATORS} or {by, thief} <= {*OWNERS}
                    if thief != by and not (colleagues and isinstance(message, STATEMENTS)):
                        said = f"{scene}: {thief} says {by}'s {type(message).__name__}"
                        assert not _has_effect(scene, thief, message, send.attachment), said


STATEMENTS = (
    messages.Prekey, messages.Endorsement, messages.Receipt, messages.FrozenList, messages.Vote, messages.Reported
)  # fmt: skip
"""What another member of the same role says of itself in the very same words, as it may."""


def _has_effect(scene: Scene, by: str, message: Message, attachment: Any) -> bool:
    scene.machine.receive(Received(by, message, scenes.parties()[by].sign(message), attachment), scene.rig.now)
    effect = not same_mind(scene.before, mind(scene.machine))
    scene.reset(whole=False)
    return effect


def test_envelopes_of_another_federation_are_nobodys() -> None:
    """Of other members with the same names; and of the very same members, with the same keys, under another federation key."""
    rig = scenes.rig()
    rig.run()
    others = federation([*OWNERS, "eve"], [*AGGREGATORS, "aggregator-9"], Draws("others"))
    key = Identity.generate(Draws("another federation")).public
    same = {
        id_: replace(party, membership=replace(party.membership, federation_key=key))
        for id_, party in rig.parties.items()
    }
    for _, send, _ in rig.said:
        rig.parties[send.to].read(send.signed)
        for foreign in (others, same):
            with pytest.raises(SmpcError) as caught:
                foreign[send.to].read(send.signed)
            assert caught.type is BadSignature
