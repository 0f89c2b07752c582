"""The researcher's part in one run, or in the sharing of one tensor.

ASKING   Start                          ASKING   -> ComputingKeyRequest to all
         the last ComputingKey          READY    (the work may come before or after)
READY    Share                          SHARING  -> TensorShare to each party
         Run                            RUNNING  -> ComputationOffer to all
SHARING  the last TensorHeld            ENDED    -> Finished (nothing more to know)
RUNNING  the last ComputationDone       ENDED    -> Finished (the words of the outputs that were revealed)
any      ComputationFailed, Refusal     ENDED    -> Finished (the error), ComputationFailed to the others
         PeerGone, PeerUp of a member   ENDED    the same, naming it
         Tick after the deadline        ENDED    the same, naming who is silent
ENDED    anything                       ENDED    nothing
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from smpc_fl.entropy import Entropy
from smpc_fl.errors import MalformedMessage, SmpcError, from_code
from smpc_fl.hashing import Buffer
from smpc_fl.protocols import commands
from smpc_fl.protocols.commands import Finished, PeerGone, PeerUp, Received, Send, Start, Tick, WakeAt
from smpc_fl.protocols.computing import PHASE, key_in, statement_hash
from smpc_fl.protocols.computing_member import error_in, failure, late, lost
from smpc_fl.protocols.computing_party import carrier, tensor_hash
from smpc_fl.protocols.computing_program import Checked
from smpc_fl.protocols.computing_seals import OUTPUTS, TENSOR, Seals, received
from smpc_fl.protocols.messages import (
    PROTOCOL_VERSION,
    Computation,
    ComputationDone,
    ComputationFailed,
    ComputationOffer,
    ComputingKey,
    ComputingKeyRequest,
    Refusal,
    Signed,
    TensorHeld,
    TensorRef,
    TensorShare,
)
from smpc_fl.protocols.party import Party
from smpc_fl.ring import ring
from smpc_fl.sealing import KeyPair
from smpc_fl.shares import Context, split

if TYPE_CHECKING:
    from smpc_fl.shared_tensors.words import Words

GRACE = 2.0
"""Seconds after a run's deadline until the researcher waits no more: the parties say by then at whom it failed."""


@dataclass(frozen=True)
class Share:
    """int64[shape] `words`, by `deadline` (seconds since 1970)."""

    words: Words = field(repr=False)
    deadline: float


@dataclass(frozen=True)
class Run:
    """`publics`: the words of public steps; `inputs`, `revealed` as in `Computation`."""

    checked: Checked
    publics: Buffer = field(repr=False)
    inputs: Sequence[TensorRef]
    revealed: Sequence[int]
    deadline: float


Event = commands.Event | Share | Run


class State(Enum):
    ASKING = auto()
    READY = auto()
    SHARING = auto()
    RUNNING = auto()
    ENDED = auto()


class ComputingClient:
    """`parties`: sorted ids of aggregators."""

    def __init__(self, party: Party, run: bytes, parties: Sequence[str], provider: str, entropy: Entropy) -> None:
        self.state = State.ASKING
        self.run = run
        self.parties, self.provider = tuple(parties), provider
        self._party, self._entropy = party, entropy
        self._own: KeyPair | None = KeyPair.generate(entropy)
        self._signed: dict[str, Signed] = {}
        self._keys: dict[str, bytes] = {}
        self._work: Share | Run | None = None
        self._until = float("inf")
        self._shares: dict[str, list[Words]] = {}
        self._held: set[str] = set()

    def receive(self, event: Event, now: float) -> list[commands.Command]:
        """Raises what a message of somebody else is to be refused with."""
        if self.state is State.ENDED:
            return []
        if isinstance(event, Received) and event.sender not in self._members:
            raise MalformedMessage("nobody who takes part in this run", peer=event.sender, phase=PHASE)
        try:
            match event:
                case Start():
                    request = self._party.sign(ComputingKeyRequest(self.run))
                    return [Send(member, request) for member in self._members]
                case Share(deadline=deadline) | Run(deadline=deadline):
                    self._work, self._until = event, deadline + GRACE
                    return [WakeAt(self._until), *self._begin()]
                case Received():
                    return self._received(event)
                case PeerGone(peer=peer) | PeerUp(peer=peer) if peer in self._members:
                    return self._fail(lost(peer))
                case Tick() if now >= self._until:
                    return self._fail(late([member for member in self._members if not self._has_answered(member)]))
                case _:
                    return []
        except SmpcError as error:
            return self._fail(error)

    @property
    def _members(self) -> tuple[str, ...]:
        return (*self.parties, self.provider)

    def _has_answered(self, member: str) -> bool:
        if self.state is State.ASKING:
            return member in self._keys
        return member == self.provider or member in self._held

    def _received(self, event: Received) -> list[commands.Command]:
        sender = event.sender
        match event.message:
            case ComputingKey() if self.state is State.ASKING and sender not in self._keys:
                role = "provider" if sender == self.provider else "aggregator"
                self._keys[sender] = key_in(event.signed, self._party, self.run, role)  # type: ignore[arg-type]
                self._signed[sender] = event.signed
                if len(self._keys) < len(self._members):
                    return []
                self.state = State.READY
                return self._begin()
            case TensorHeld() if self.state is State.SHARING and sender in self.parties:
                self._held.add(sender)
                return self._end(None) if len(self._held) == len(self.parties) else []
            case ComputationDone() as done if self.state is State.RUNNING and sender in self.parties:
                return self._done(sender, received(done, event.attachment))
            case ComputationFailed() as failed:
                return self._fail(error_in(failed))
            case Refusal() as refusal:
                return self._fail(from_code(refusal.code, refusal.text, peer=sender, phase=refusal.phase or PHASE))
            case other:
                raise MalformedMessage(f"a {type(other).__name__} that is not expected", peer=sender, phase=PHASE)

    def _begin(self) -> list[commands.Command]:
        if self.state is not State.READY or self._work is None:
            return []
        assert self._own is not None
        return (
            self._share(self._work, self._own) if isinstance(self._work, Share) else self._offer(self._work, self._own)
        )

    def _share(self, work: Share, own: KeyPair) -> list[commands.Command]:
        from smpc_fl.shared_tensors.words import to_bytes, unsigned

        me, shape = self._party.id, list(work.words.shape)
        message = TensorShare(self.run, list(self.parties), shape, own.public)
        about = tensor_hash(me, message)
        shares = split(
            unsigned(work.words), ring(64), Context(about, me, "tensor"), self.parties, carrier(message), self._entropy
        )
        seals, signed = Seals(self._party, own, about, self._keys), self._party.sign(message)
        self.state = State.SHARING
        return [
            Send(party, signed, seals.seal(party, TENSOR, 0, shares.seeds.get(party) or to_bytes(shares.vector)))
            for party in self.parties
        ]

    def _offer(self, work: Run, own: KeyPair) -> list[commands.Command]:
        membership = self._party.membership
        statement = Computation(
            version=PROTOCOL_VERSION,
            federation=self._party.federation,
            roster_hash=membership.roster_hash,
            run=self.run,
            program=work.checked.digest,
            parties=[self._signed[party] for party in self.parties],
            provider=self._signed[self.provider],
            key=own.public,
            inputs=list(work.inputs),
            revealed=list(work.revealed),
            deadline=work.deadline,
        )
        signed = self._party.sign(statement)
        self._checked, self._revealed = work.checked, tuple(work.revealed)
        self._seals = Seals(self._party, own, statement_hash(signed), self._keys)
        self.state = State.RUNNING
        offer = self._party.sign(ComputationOffer(signed, work.checked.data))
        publics = work.publics if len(work.publics) else None
        return [
            Send(self.provider, offer),
            *(Send(party, offer, publics) for party in self.parties),
        ]

    def _done(self, sender: str, sealed: Buffer) -> list[commands.Command]:
        from smpc_fl.shared_tensors.sharing import join
        from smpc_fl.shared_tensors.words import from_bytes

        types = [self._checked.program.steps[self._checked.program.outputs[number]].type for number in self._revealed]
        mine: list[Words] = []
        if self._revealed:
            plain, at = self._seals.open(sender, OUTPUTS, 0, sealed, 8 * sum(type.size for type in types)), 0
            for type in types:
                mine.append(from_bytes(plain[at : at + 8 * type.size], type.shape))
                at += 8 * type.size
        self._shares[sender] = mine
        self._held.add(sender)
        if len(self._held) < len(self.parties):
            return []
        return self._end([join(shares) for shares in zip(*self._shares.values(), strict=True)])

    def _end(self, outcome: Any) -> list[commands.Command]:
        """`outcome`: the revealed words, None where there are none, or the error."""
        self.state = State.ENDED
        self._own, self._shares = None, {}
        return [Finished(outcome)]

    def _fail(self, error: SmpcError) -> list[commands.Command]:
        failed = self._party.sign(failure(self.run, error))
        return [*(Send(member, failed) for member in self._members), *self._end(error)]
