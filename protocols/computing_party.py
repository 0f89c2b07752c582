"""A party's part in one run on shared tensors, or in the sharing of one tensor: sans I/O, like the rounds.

    ASKED    Start                          KEYED    -> Persist (this run id is used up), ComputingKey
    KEYED    TensorShare                    ENDED    -> TensorHeld, Finished (the share is among the tensors)
             ComputationOffer               RUNNING  -> Openings (as soon as nothing is lacking)
             Openings, Dealt                KEYED    they wait for the offer, which may come later
             Tick after KEY_LIFE, PeerGone of the researcher
                                            ENDED    -> Finished: nobody went on
    RUNNING  Openings, Dealt                RUNNING  -> Openings of the next round
             the last Openings              ENDED    -> ComputationDone, Finished (outputs are among the tensors)
             Tick after the deadline        ENDED    -> ComputationFailed naming who was waited for
             PeerGone, PeerUp of a member   ENDED    -> ComputationFailed naming it: what was on its way is lost
    any      ComputationFailed of a member  ENDED
             what may not be said           ENDED    -> ComputationFailed naming who said it
    ENDED    anything                       ENDED    nothing: a run is not taken up again

What is nobody's business in this run is refused (raised) and changes nothing. Secrets are in memory alone.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from smpc_fl.entropy import Entropy
from smpc_fl.errors import (
    BadInput,
    ComputationRefused,
    Equivocation,
    LimitExceeded,
    MalformedMessage,
    PeerMisbehaviour,
    SmpcError,
    WrongRole,
)
from smpc_fl.hashing import digest
from smpc_fl.prg import SEED_SIZE
from smpc_fl.protocols.codec import encode
from smpc_fl.protocols.commands import Finished, PeerGone, PeerUp, Received, Send, Start, Tick, WakeAt
from smpc_fl.protocols.computing import PHASE, Command, ComputingRules, Event, Terms
from smpc_fl.protocols.computing_member import Member, late, lost
from smpc_fl.protocols.computing_seals import DEALT, OPENINGS, OUTPUTS, TENSOR, Seals, posted, received
from smpc_fl.protocols.computing_tensors import Held, Tensors
from smpc_fl.protocols.envelopes import check_key
from smpc_fl.protocols.messages import (
    ComputationDone,
    ComputationFailed,
    ComputationOffer,
    Dealt,
    Openings,
    TensorHeld,
    TensorShare,
)
from smpc_fl.protocols.party import Party
from smpc_fl.ring import ring
from smpc_fl.sealing import TAG
from smpc_fl.shares import Context, stream

if TYPE_CHECKING:
    from smpc_fl.shared_tensors.party import Correction, PartyRun
    from smpc_fl.shared_tensors.party import Openings as Opened
    from smpc_fl.shared_tensors.words import Words

EARLY = 66
"""Messages that wait for the offer, at most: one of each party, and two of the provider. Those with a long attachment are
not let in before it (`expects`)."""


class State(Enum):
    ASKED = auto()
    KEYED = auto()
    RUNNING = auto()
    ENDED = auto()


class ComputingParty(Member):
    """`run` was asked for by `researcher`. `tensors`: what this party holds, for all runs."""

    def __init__(
        self, party: Party, rules: ComputingRules, run: bytes, researcher: str, tensors: Tensors, entropy: Entropy
    ) -> None:
        super().__init__(party, rules, run, researcher, entropy)
        self.state = State.ASKED
        self._tensors = tensors
        self._early: list[Received] = []
        self._engine: PartyRun | None = None
        self._given: dict[int, Words] = {}
        self._later: list[Correction | Opened] = []  # what was opened before the seed was there
        self._got: set[int] = set()

    def receive(self, event: Event, now: float) -> list[Command]:
        """Raises what a message is to be refused with that has nothing to do with this run."""
        if self.state is State.ENDED:
            return []
        match event:
            case Start():
                self.state = State.KEYED
                return self._give_key(now)
            case Received():
                return self._received(event, now)
            case PeerGone(peer=peer) if peer == self.researcher and self._terms is None:
                return self._end(None)
            case PeerGone(peer=peer) | PeerUp(peer=peer):
                return self._gone(peer)
            case Tick() if now >= self._until:
                return self._late()
            case _:
                return []

    def expects(self, sender: str, message: Openings | Dealt, size: int) -> None:
        """Whether a long attachment may come: of a member of the accepted run, and no longer than the program makes it."""
        terms = self._terms
        if self.state is not State.RUNNING or terms is None:
            raise ComputationRefused("nothing is expected for this run now", peer=sender, phase=PHASE)
        self._check_sender(terms, sender, message)
        if size > self._most + TAG:
            raise MalformedMessage(f"{size} bytes at once are more than the program has", peer=sender, phase=PHASE)

    @property
    def accepted(self) -> bool:
        """Whether it is known by now who takes part."""
        return self.state not in (State.ASKED, State.KEYED)

    @property
    def size(self) -> int:
        """Bytes that this run is about: what the shell goes by when it chooses a thread."""
        return self._most if self.state is State.RUNNING else 0

    # --- messages ---

    def _received(self, event: Received, now: float) -> list[Command]:
        sender = event.sender
        match event.message:
            case ComputationFailed() as failed:
                return self._told(sender, failed)
            case TensorShare() | ComputationOffer() as message:
                if sender != self.researcher:
                    raise WrongRole("another researcher has asked for this run", peer=sender, phase=PHASE)
                if self.state is not State.KEYED:
                    raise ComputationRefused("this run has begun: it has one statement, for good", phase=PHASE)
                try:
                    if isinstance(message, TensorShare):
                        return self._hold(message, event.attachment)
                    return self._begin(message, event.attachment, now)
                except SmpcError as error:
                    return self._fail(error)
            case Openings() | Dealt() as said:
                if self._terms is None:
                    if len(self._early) >= EARLY:
                        raise LimitExceeded("too much was said before the run began", peer=sender, phase=PHASE)
                    self._early.append(event)
                    return []
                self._check_sender(self._terms, sender, said)
                return self._go_on(self._terms, event)
            case other:
                raise MalformedMessage(f"no {type(other).__name__} belongs to a run", peer=sender, phase=PHASE)

    def _speakers(self, terms: Terms, message: Any) -> tuple[str, ...]:
        if isinstance(message, Dealt):
            return (terms.provider,)
        return tuple(peer for peer in terms.parties if peer != self._party.id)

    def _check_sender(self, terms: Terms, sender: str, message: Openings | Dealt) -> None:
        if sender not in self._speakers(terms, message):
            raise WrongRole(f"a {type(message).__name__} of nobody who says it in this run", peer=sender, phase=PHASE)

    def _go_on(self, terms: Terms, event: Received) -> list[Command]:
        if self.state is State.ENDED:
            return []
        try:
            if isinstance(event.message, Dealt):
                return self._dealt(terms, event.message, event.attachment)
            assert isinstance(event.message, Openings)
            return self._opened(terms, event.sender, event.message, event.attachment)
        except SmpcError as error:
            if not isinstance(error, Equivocation):  # of which nobody can tell whose it is
                error.peer = error.peer or event.sender
            return self._fail(error)

    # --- sharing ---

    def _hold(self, message: TensorShare, attachment: Any) -> list[Command]:
        from smpc_fl.shared_tensors.words import from_bytes, signed

        me, parties, shape = self._party.id, message.parties, tuple(message.shape)
        if parties != sorted(set(parties)) or me not in parties:
            raise ComputationRefused("the parties of a tensor are sorted, and this is one of them", phase=PHASE)
        check_key(message.ephemeral, self.researcher)
        n = 1
        for length in shape:
            n *= length
        self._tensors.check_room(8 * n)
        about = tensor_hash(self.researcher, message)
        assert self._own is not None
        seals = Seals(self._party, self._own, about, {self.researcher: message.ephemeral})
        carries = carrier(message) == me
        plain = seals.open(self.researcher, TENSOR, 0, attachment or b"", 8 * n if carries else SEED_SIZE)
        if carries:
            words = from_bytes(plain, shape)
        else:
            seeded = stream(bytes(plain), Context(about, self.researcher, "tensor"), me)
            words = signed(seeded.expand(ring(64), n), shape)
        self._tensors.put(self.run, 0, Held(words, self.researcher, tuple(parties)))
        return [Send(self.researcher, self._party.sign(TensorHeld(self.run))), *self._end(None)]

    # --- the run ---

    def _begin(self, offer: ComputationOffer, publics: Any, now: float) -> list[Command]:
        terms = self._agreed(offer, now)
        statement, me = terms.statement, self._party.id
        assert self._own is not None
        if terms.keys.get(me) != self._own.public or me not in terms.parties:
            raise ComputationRefused("the statement has another key of this party than it gave", phase=PHASE)
        if terms.provider not in self._rules.providers:
            raise ComputationRefused(
                f"{me} does not trust {terms.provider} to deal: its operator lists crypto providers in its configuration",
                phase=PHASE,
            )
        checked = self._program(offer, terms, "party")
        if any(output >= len(checked.program.outputs) for output in statement.revealed):
            raise ComputationRefused("an output to be revealed is none of the program's", phase=PHASE)
        if len(statement.inputs) != len(checked.inputs):
            raise ComputationRefused(f"the program has {len(checked.inputs)} inputs", phase=PHASE)
        given = checked.public_words(b"" if publics is None else publics)
        for number, ref in zip(checked.inputs, statement.inputs, strict=True):
            held, shape = self._tensors.get(ref, terms.owner, terms.parties), checked.program.steps[number].type.shape
            if tuple(held.words.shape) != shape:
                raise BadInput(f"step {number} reads a tensor of shape {tuple(held.words.shape)}, not {shape}")
            given[number] = held.words
        self._tensors.check_room(sum(8 * checked.program.steps[output].type.size for output in checked.program.outputs))

        self._terms, self._checked, self._given, self._until = terms, checked, given, statement.deadline
        self._index = terms.parties.index(me)
        self._parts = checked.parts(self._index, len(terms.parties))
        self._most = checked.size
        self._seals = Seals(self._party, self._own, terms.hash, terms.keys)
        self._heard = {peer: -1 for peer in terms.parties if peer != me}
        self.state = State.RUNNING
        early, self._early = self._early, []
        commands: list[Command] = [WakeAt(self._until)]
        for event in early:
            # Of others than the members it is dropped: they cannot be refused any more.
            if event.sender in self._speakers(terms, event.message):
                commands += self._go_on(terms, event)
        return commands

    def _dealt(self, terms: Terms, message: Dealt, attachment: Any) -> list[Command]:
        number = message.number
        if number > len(self._parts) or number in self._got:
            raise PeerMisbehaviour(f"part {number} of what is dealt comes twice, or is none", phase=PHASE)
        self._got.add(number)
        steps = self._parts[number - 1] if number else ()
        sizes = [self._checked.corrections[step] for step in steps]
        plain = self._seals.open(
            terms.provider, DEALT, number, received(message, attachment), sum(sizes) if number else SEED_SIZE
        )
        if not number:
            return self._seeded(terms, bytes(plain))
        commands: list[Command] = []
        at = 0
        for step, size in zip(steps, sizes, strict=True):
            commands += self._feed(terms, engine().Correction(step, plain[at : at + size]))
            at += size
        return commands

    def _opened(self, terms: Terms, sender: str, message: Openings, attachment: Any) -> list[Command]:
        plain = self._seals.open(sender, OPENINGS, message.round, received(message, attachment))
        self._heard[sender] = max(self._heard[sender], message.round)
        return self._feed(terms, engine().Openings(terms.parties.index(sender), message.round, plain))

    def _seeded(self, terms: Terms, seed: bytes) -> list[Command]:
        self._engine = engine().PartyRun(
            self._checked.program, self._index, terms.parties, terms.hash, seed, self._given
        )
        self._given = {}
        commands = self._said(terms, self._engine.start())
        later, self._later = self._later, []
        for event in later:
            commands += self._feed(terms, event)
        return commands

    def _feed(self, terms: Terms, event: Correction | Opened) -> list[Command]:
        if self._engine is None:
            self._later.append(event)
            return []
        return self._said(terms, self._engine.receive(event))

    def _said(self, terms: Terms, commands: list[Any]) -> list[Command]:
        made: list[Command] = []
        for command in commands:
            if isinstance(command, engine().Broadcast):
                for peer in terms.parties:
                    if peer != self._party.id:
                        sealed = self._seals.seal(peer, OPENINGS, command.round, command.data)
                        made.append(posted(self._party, peer, Openings(self.run, command.round), sealed))
            else:
                made += self._done(terms, command.outputs)
        return made

    def _done(self, terms: Terms, outputs: dict[int, Words]) -> list[Command]:
        from smpc_fl.shared_tensors.words import to_bytes

        program = self._checked.program
        for number, output in enumerate(program.outputs):
            held = Held(outputs[output], terms.owner, terms.parties)
            self._tensors.put(self.run, number, held)
        sealed = memoryview(b"")
        if terms.statement.revealed:
            plain = b"".join(to_bytes(outputs[program.outputs[number]]) for number in terms.statement.revealed)
            sealed = self._seals.seal(terms.owner, OUTPUTS, 0, plain)
        return [posted(self._party, terms.owner, ComputationDone(self.run), sealed), *self._end(None)]

    # --- the end ---

    def _end(self, error: SmpcError | None) -> list[Command]:
        self.state = State.ENDED
        self._own, self._engine, self._given, self._early, self._later = None, None, {}, [], []
        return [Finished(error)]

    def _gone(self, peer: str) -> list[Command]:
        """A connection that was lost, or made anew: what was on its way is lost with it."""
        if self._terms is None or peer not in self._terms.members - {self.researcher}:
            return []
        return self._fail(lost(peer))

    def _late(self) -> list[Command]:
        if self._terms is None:
            return self._end(None)
        return self._fail(late(self._awaited(self._terms)))

    def _awaited(self, terms: Terms) -> list[str]:
        """Whose message is lacking."""
        if self._engine is None or self._engine.state.name == "WAITING":
            return [terms.provider]
        return [peer for peer, heard in self._heard.items() if heard < self._engine.round]


def engine() -> Any:
    """The pure engine, which loads torch: not before there is something to compute."""
    from smpc_fl.shared_tensors import party

    return party


def carrier(message: TensorShare) -> str:
    """The party that gets the words of a shared tensor; ids are drawn at random, so the load is even."""
    return message.parties[int.from_bytes(message.run, "little") % len(message.parties)]


def tensor_hash(owner: str, message: TensorShare) -> bytes:
    """What the shares of a tensor are bound to."""
    return digest("smpc-fl/1 tensor", owner.encode(), encode(message))
