"""A coordinator that lies, beside the honest one in its place: at odd moments it asks for aborts and freezes, shows some members
another manifest, or a part of what was said, offers a round before it is endorsed. And an owner in haste, who sends its
vector before its seeds are acknowledged. `tests/protocols/test_conspiracy` goes further with less around it.

What such a coordinator can cost is time: every invariant but the one about time holds all the same.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import msgspec

from smpc_fl.protocols import codec
from smpc_fl.protocols import manifest as manifests
from smpc_fl.protocols.commands import Command, Send
from smpc_fl.protocols.coordinator import CoordinatorRound
from smpc_fl.protocols.coordinator import State as Phase
from smpc_fl.protocols.manifest import manifest_hash
from smpc_fl.protocols.messages import (
    AbortRequest,
    AttemptAborted,
    Endorsement,
    FreezeRequest,
    FrozenList,
    FrozenLists,
    ManifestOffer,
    Message,
    Prekey,
    PrekeyRequest,
    RoundClosed,
    RoundOffer,
    Signed,
    Vote,
    Votes,
)
from smpc_fl.protocols.owner import OwnerRound, State

if TYPE_CHECKING:
    from driving import Coordinator


class Mischief:
    """What the coordinator has heard, and what it makes of it."""

    def __init__(self, member: Coordinator, seed: int) -> None:
        self.member, self.draw = member, Random(f"mischief {seed}")
        self.said: dict[type[Message], list[Signed]] = {}
        self.manifests: list[Signed] = []
        self.left = 40  # answers to lies make occasion for more

    def hears(self, message: Message, signed: Signed) -> None:
        self.said.setdefault(type(message), []).append(signed)
        scenario = self.member.scenario
        if self.left and self.draw.random() < scenario.mischief and self.member.world.now < scenario.quiet:
            self.left -= 1
            self.member.later(self.draw.choice([0.0, 0.02, 0.2, 5.0]) * self.draw.random(), self.once)

    def once(self) -> None:
        """One dishonest thing, if there is anything to do it with."""
        machines = [run.shell.machine for run in self.member.runs if run.shell is not None]
        if not (self.member.up and machines):
            return
        machine = self.draw.choice(machines)
        match machine.state:
            case Phase.PREPARING | Phase.ENDORSING:
                ways = [self._manifest, self._offer, self._offer, self._abort]
            case Phase.COLLECTING:
                ways = [self._manifest, self._offer, self._freeze, self._freeze, self._close, self._abort]
            case _:
                ways = [self._relay, self._relay, self._abort]
        self.draw.choice(ways)(machine)

    # --- what it may do ---

    def _abort(self, machine: CoordinatorRound) -> None:
        plan = machine.plan
        attempt = self.draw.choice([plan.attempt, plan.attempt, plan.attempt + 1])
        kind = self.draw.choice([AbortRequest, AbortRequest, PrekeyRequest])
        self._to_some(machine, kind(plan.run, plan.round, attempt))

    def _freeze(self, machine: CoordinatorRound) -> None:
        if machine.manifest is not None:
            self._to_some(machine, FreezeRequest(machine.manifest_hash))

    def _manifest(self, machine: CoordinatorRound) -> None:
        """Another manifest for the same attempt, for some; then the owners are offered it with whatever endorsements."""
        plan = machine.plan
        prekeys = {}
        for signed in self.said.get(Prekey, []):
            said = codec.decode(signed.body, Prekey)
            if (said.run, said.round, said.attempt) == (plan.run, plan.round, plan.attempt):
                prekeys[signed.sender] = signed
        if machine.manifest is None or len(prekeys) < len(plan.aggregators):
            return
        changed = msgspec.structs.replace(
            machine.manifest,
            deadline=machine.manifest.deadline + self.draw.choice([0.0, 1.0]),
            cohort=sorted(self.draw.sample(plan.cohort, max(plan.k_min, len(plan.cohort) - 1))),
        )
        signed = self.member.party.sign(changed)
        self.manifests.append(signed)
        self._to_some(machine, ManifestOffer(signed))

    def _relay(self, machine: CoordinatorRound) -> None:
        """Some of the lists or votes that it holds, to some of the aggregators."""
        kinds: tuple[type[Message], ...] = self.draw.choice([(FrozenList,), (Vote,), (Vote, AttemptAborted)])
        signed = [signed for kind in kinds for signed in self.said.get(kind, [])]
        if machine.manifest is None or not signed:
            return
        some = self.draw.sample(signed, min(len(signed), self.draw.randint(1, 6)))
        if self.draw.random() < 0.5:  # all of this attempt
            own = machine.manifest_hash
            some = [s for s in signed if manifests.subject_of(codec.decode_message(s.body)) == own] or some
        message = FrozenLists if FrozenList in kinds else Votes
        self._to_some(machine, message(machine.manifest_hash, some[:64]))

    def _offer(self, machine: CoordinatorRound) -> None:
        """A round offer before its time: with the endorsements that there are, or with those of another manifest."""
        manifest = self.draw.choice([*self.manifests, machine._signed])
        if manifest is None:
            return
        endorsements = {}
        for signed in self.said.get(Endorsement, []):
            matches = codec.decode(signed.body, Endorsement).manifest_hash == manifest_hash(manifest)
            if matches or self.draw.random() < 0.3:
                endorsements[signed.sender] = signed
        offer = RoundOffer(manifest, [endorsements[id_] for id_ in sorted(endorsements)])
        for owner in self.draw.sample(machine.plan.cohort, self.draw.randint(1, len(machine.plan.cohort))):
            model = bytes(machine.plan.model) + self.draw.choice([b"", b"", b"!"])
            self._say(owner, offer, model)

    def _close(self, machine: CoordinatorRound) -> None:
        """An end that is none. It never lies about what it has received: that costs itself the round."""
        if machine.manifest is not None and self.draw.random() < 0.3:
            self._say(self.draw.choice(machine.plan.cohort), RoundClosed(machine.manifest_hash, False))

    # --- saying it ---

    def _to_some(self, machine: CoordinatorRound, message: Message) -> None:
        aggregators = machine.plan.aggregators
        for aggregator in self.draw.sample(aggregators, self.draw.randint(1, len(aggregators))):
            self._say(aggregator, message)

    def _say(self, to: str, message: Message, attachment: bytes | None = None) -> None:
        member = self.member
        member.tell(f"! lies: {type(message).__name__} to {to}")
        member.books.lies(message)
        member.network.send(member.id, Send(to, member.party.sign(message), attachment))


class HastyOwner(OwnerRound):
    """Sends its vector as soon as it has one receipt."""

    def _receipt(self, sender: str, signed: Signed) -> list[Command]:
        commands = super()._receipt(sender, signed)
        hasty = self.state is State.SEEDING and self._receipts
        return [*commands, self._vector_report()] if hasty else commands
