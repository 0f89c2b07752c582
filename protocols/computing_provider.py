"""The crypto provider's part in one run: it deals randomness for a program, once, and sees nothing but the program.

    ASKED    Start                          KEYED    -> Persist (this run id is used up), ComputingKey
    KEYED    ComputationOffer               DEALING  -> Dealt number 0 (a seed) to each party, GoOn
             Tick after KEY_LIFE, PeerGone of the researcher
                                            ENDED    -> Finished: nobody went on
    DEALING  Continue                       DEALING  -> Dealt, the next part of a party's corrections, GoOn
             the last Continue              ENDED    -> Finished
             Tick after the deadline        ENDED    -> ComputationFailed
             PeerGone, PeerUp of a party    ENDED    -> ComputationFailed naming it
    any      ComputationFailed of a member  ENDED
    ENDED    anything                       ENDED    nothing

Seeds are drawn for this run alone, and are in memory alone. A provider that was restarted has no key for the run, gives no
other for its id, and so never deals for it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto

from smpc_fl.entropy import Entropy
from smpc_fl.errors import ComputationRefused, InternalError, MalformedMessage, SmpcError, WrongRole
from smpc_fl.prg import SEED_SIZE
from smpc_fl.protocols.commands import Finished, PeerGone, PeerUp, Received, Send, Start, Tick, WakeAt
from smpc_fl.protocols.computing import (
    PHASE,
    Command,
    ComputingRules,
    Continue,
    Event,
    GoOn,
    Terms,
)
from smpc_fl.protocols.computing_member import Member, late, lost
from smpc_fl.protocols.computing_program import Checked
from smpc_fl.protocols.computing_seals import DEALT, Seals, posted
from smpc_fl.protocols.messages import ComputationFailed, ComputationOffer, Dealt
from smpc_fl.protocols.party import Party

Part = tuple[str, int, bytes]
"""For whom, its number, and its bytes."""


class State(Enum):
    ASKED = auto()
    KEYED = auto()
    DEALING = auto()
    ENDED = auto()


class ComputingProvider(Member):
    """`run` was asked for by `researcher`."""

    def __init__(self, party: Party, rules: ComputingRules, run: bytes, researcher: str, entropy: Entropy) -> None:
        super().__init__(party, rules, run, researcher, entropy)
        self.state = State.ASKED
        self._entropy = entropy
        self._parts: Iterator[Part] = iter(())
        self.size = 0

    def receive(self, event: Event, now: float) -> list[Command]:
        """Raises what a message is to be refused with that has nothing to do with this run."""
        if self.state is State.ENDED:
            return []
        match event:
            case Start():
                self.state = State.KEYED
                return self._give_key(now)
            case Received(sender=sender, message=ComputationFailed() as failed):
                return self._told(sender, failed)
            case Received(sender=sender, message=ComputationOffer() as offer):
                if sender != self.researcher:
                    raise WrongRole("another researcher has asked for this run", peer=sender, phase=PHASE)
                if self.state is not State.KEYED:
                    raise ComputationRefused("this run has begun: it is dealt for once", phase=PHASE)
                try:
                    return self._begin(offer, now)
                except SmpcError as error:
                    return self._fail(error)
            case Received(sender=sender, message=other):
                raise MalformedMessage(f"a provider takes no {type(other).__name__}", peer=sender, phase=PHASE)
            case Continue():
                return self._deal()
            case PeerGone(peer=peer) if peer == self.researcher and self._terms is None:
                return self._end(None)
            case PeerGone(peer=peer) | PeerUp(peer=peer):
                return self._gone(peer)
            case Tick() if now >= self._until:
                return self._end(None) if self._terms is None else self._fail(late([self._party.id]))
            case _:
                return []

    @property
    def accepted(self) -> bool:
        return self.state not in (State.ASKED, State.KEYED)

    def _begin(self, offer: ComputationOffer, now: float) -> list[Command]:
        terms = self._agreed(offer, now)
        assert self._own is not None
        if terms.provider != self._party.id or terms.keys[self._party.id] != self._own.public:
            raise ComputationRefused("the statement has another provider's key, or one that was not given", phase=PHASE)
        checked = self._program(offer, terms, "provider")
        seeds = [self._entropy(SEED_SIZE) for _ in terms.parties]
        if len(set(seeds)) != len(seeds):
            raise InternalError("the source of entropy gave the same seed twice: it must not be used")
        self._terms, self._until, self.state, self.size = terms, terms.statement.deadline, State.DEALING, checked.size
        self._seals = Seals(self._party, self._own, terms.hash, terms.keys)
        self._parts = _parts(checked, terms, seeds)
        sent = [self._send(party, 0, seed) for party, seed in zip(terms.parties, seeds, strict=True)]
        return [WakeAt(self._until), *sent, GoOn()]

    def _deal(self) -> list[Command]:
        part = next(self._parts, None)
        return self._end(None) if part is None else [self._send(*part), GoOn()]

    def _send(self, to: str, number: int, data: bytes) -> Send:
        return posted(self._party, to, Dealt(self.run, number), self._seals.seal(to, DEALT, number, data))

    def _end(self, error: SmpcError | None) -> list[Command]:
        self.state = State.ENDED
        self._own, self._parts = None, iter(())
        return [Finished(error)]

    def _gone(self, peer: str) -> list[Command]:
        return [] if self._terms is None or peer not in self._terms.parties else self._fail(lost(peer))


def _parts(checked: Checked, terms: Terms, seeds: list[bytes]) -> Iterator[Part]:
    """Corrections in the order in which they are dealt, put together as `Checked.parts` says."""
    from smpc_fl.shared_tensors.dealing import deal

    count = len(seeds)
    left = [checked.parts(party, count) for party in range(count)]
    collected: list[list[bytes]] = [[] for _ in seeds]
    numbers = [0] * count
    for _, party, correction in deal(checked.program, terms.hash, seeds):
        collected[party].append(correction)
        if len(collected[party]) == len(left[party][numbers[party]]):
            numbers[party] += 1
            parts, collected[party] = collected[party], []
            yield terms.parties[party], numbers[party], parts[0] if len(parts) == 1 else b"".join(parts)
