"""The coordinator's part in one attempt at one round, without I/O.

    state       event                        next        what is said, after what is durable
    ──────────  ───────────────────────────  ──────────  ────────────────────────────────────────────────
    PREPARING   Prekey of every aggregator   ENDORSING   Opened, Made -> ManifestOffer to every aggregator
    ENDORSING   Endorsement of every one     COLLECTING  RoundOffer to every owner, the model attached
    COLLECTING  every owner has settled      COLLECTING  FreezeRequest to every aggregator
    COLLECTING  FrozenList of every one      AGREEING    FrozenLists to every aggregator
    AGREEING    Vote of every one, all S     RELEASING   Agreed -> Votes to every aggregator
    RELEASING   PartialSum of every one      DONE        Summed, with the total -> ReleaseReceipt to every aggregator
    before      a refusal, too few owners,   ABORTING    AbortRequest to every aggregator, with it each abort that
    RELEASING   an abort, two statements                 came: it frees those that are bound by a vote for S
                where one may be, no answer
    ABORTING    AttemptAborted of every one  GIVEN_UP    (the next attempt's manifest carries the aborts)
    ABORTING    Vote of every one, all S     RELEASING   votes for S oblige each to release: no abort any more
    ABORTING,   no answer                    GIVEN_UP    (no further attempt)
    RELEASING

The coordinator only carries the aggregators' signed statements; it cannot make one, and what it holds back costs time,
never secrecy. After a restart it offers its manifest again, and gets everything that was said since.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from smpc_fl.entropy import Entropy
from smpc_fl.errors import (
    CohortTooSmall,
    Equivocation,
    MalformedMessage,
    RolledBack,
    RoundAborted,
    SmpcError,
    Unavailable,
    from_code,
)
from smpc_fl.hashing import Buffer
from smpc_fl.protocols import manifest as manifests
from smpc_fl.protocols import partial
from smpc_fl.protocols.codec import decode
from smpc_fl.protocols.commands import (
    Command,
    Event,
    Finished,
    PeerGone,
    PeerUp,
    Persist,
    Received,
    Send,
    Start,
    Tick,
    WakeAt,
)
from smpc_fl.protocols.manifest import Numbers
from smpc_fl.protocols.messages import (
    PROTOCOL_VERSION,
    AbortRequest,
    AttemptAborted,
    EncryptedSum,
    Endorsement,
    Entry,
    FreezeRequest,
    FrozenList,
    FrozenLists,
    Manifest,
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
    Signed,
    Vote,
    Votes,
)
from smpc_fl.protocols.party import Party
from smpc_fl.protocols.records import Agreed, Made, Opened, Record, Summed
from smpc_fl.ring import RingArray
from smpc_fl.sealing import KeyPair
from smpc_fl.secret import Secret


class State(Enum):
    PREPARING = "preparing"
    ENDORSING = "endorsing"
    COLLECTING = "collecting"
    AGREEING = "agreeing"
    RELEASING = "releasing"
    DONE = "done"
    ABORTING = "aborting"
    GIVEN_UP = "given up"


TRANSITIONS: dict[tuple[State, str], State] = {
    (State.PREPARING, "Prekey of all"): State.ENDORSING,
    (State.ENDORSING, "Endorsement of all"): State.COLLECTING,
    (State.COLLECTING, "FrozenList of all"): State.AGREEING,
    (State.AGREEING, "Vote of all, for S"): State.RELEASING,
    (State.RELEASING, "PartialSum of all"): State.DONE,
    (State.PREPARING, "Refusal, abort or time"): State.ABORTING,
    (State.ENDORSING, "Refusal, abort or time"): State.ABORTING,
    (State.COLLECTING, "Too few owners, abort or time"): State.ABORTING,
    (State.AGREEING, "Abort, two sets or time"): State.ABORTING,
    (State.ABORTING, "Vote of all, for S"): State.RELEASING,
    (State.ABORTING, "AttemptAborted of all, or time"): State.GIVEN_UP,
    (State.RELEASING, "Time"): State.GIVEN_UP,
}
"""Every change of state: (state, what is complete) -> state."""

MOST_SENTENCES = 20
"""Owners' refusals that an error quotes."""

_BEFORE_AGREEMENT = (State.PREPARING, State.ENDORSING, State.COLLECTING, State.AGREEING)


@dataclass(frozen=True)
class RoundPlan:
    """What the run wants of this attempt. `seconds`: until the deadline; `patience`: seconds that an aggregator may be
    away in any phase before the attempt is given up. `model`: float32 bytes for the owners. `encryption`: as
    in the manifest."""

    run: bytes
    round: int
    attempt: int
    purpose: str
    cohort: tuple[str, ...]
    aggregators: tuple[str, ...]
    dimension: int
    numbers: Numbers
    clip: float
    max_samples: int
    k_min: int
    seconds: float
    patience: float
    job_digest: bytes
    subject: bytes
    model: Buffer = field(repr=False)
    aborts: tuple[Signed, ...] = ()
    encryption: bytes = b""


@dataclass(frozen=True)
class Released:
    """The sum over S in the ring, and the books of the round. `refusals`: what an owner's refusal said, by owner. `signed`:
    the aggregator's release, where the sum is one of ciphertexts that an owner is to decrypt (`decryption.py`)."""

    total: Any = field(repr=False)
    agreed: tuple[Entry, ...]
    refusals: Mapping[str, SmpcError]
    uploaded: Mapping[str, int]
    signed: Signed | None = None


@dataclass(frozen=True)
class GivenUp:
    """No release of this attempt. `aborts`: every aggregator's of every attempt so far, for the manifest of the next; empty
    when one is missing, so that none may follow."""

    error: SmpcError
    aborts: tuple[Signed, ...]


class CoordinatorRound:
    """One (run, round, attempt) at the coordinator."""

    def __init__(self, party: Party, plan: RoundPlan, *, entropy: Entropy) -> None:
        self.party, self.plan = party, plan
        self.state = State.PREPARING
        self.manifest: Manifest | None = None
        self.manifest_hash = b""
        self.reported: dict[str, int] = {}
        self.refusals: dict[str, SmpcError] = {}
        self._entropy = entropy
        self._key: KeyPair | None = None
        self._signed: Signed | None = None
        self._said: dict[type[Message], dict[str, Signed]] = {
            kind: {} for kind in (Prekey, Endorsement, FrozenList, Vote, AttemptAborted)
        }
        self._partials: set[str] = set()  # whose partial sum is in the total
        self._total: RingArray | None = None
        self._released: Signed | None = None  # the sum of ciphertexts, as its aggregator has signed it
        self._round_offer: Signed | None = None
        self._agreed: list[Entry] = []
        self._asked_freeze = self._relayed_votes = False
        self._why: SmpcError | None = None
        self._until = 0.0

    # --- durable state ---

    @classmethod
    def restore(
        cls,
        party: Party,
        plan: RoundPlan,
        records: Sequence[Record],
        bulk: bytearray | None = None,
        *,
        entropy: Entropy,
    ) -> CoordinatorRound:
        """The machine as it was when the last of `records` became durable, and `bulk` with the last that had one; signed
        statements and partial sums are asked for again."""
        machine = cls(party, plan, entropy=entropy)
        for record in records:
            machine._apply(record)
        if machine.state is State.DONE:
            if bulk is not None:
                assert machine.manifest is not None
                of, n = manifests.carried(machine.manifest)
                machine._total = of.from_bytes(bulk, n)
            else:
                machine.state = State.RELEASING  # lost: aggregators that have no receipt yet can give theirs again
        return machine

    def _apply(self, record: Record) -> None:
        match record:
            case Opened(private=private):
                self._key = KeyPair.from_private(Secret(private))
            case Made(manifest=signed):
                self.state, self._signed = State.ENDORSING, signed
                self.manifest, self.manifest_hash = manifests.read(signed), manifests.manifest_hash(signed)
            case Agreed(entries=entries):
                self.state, self._agreed = State.RELEASING, entries
            case _:
                assert isinstance(record, Summed)
                self.state, self._released = State.DONE, record.released

    def _keep(self, record: Record, bulk: Callable[[], Buffer] | None = None) -> Persist:
        self._apply(record)
        return Persist(record, bulk)

    # --- events ---

    def receive(self, event: Event, now: float) -> list[Command]:
        """What to do about one event. A peer's false statement is dropped; the phase's patience deals with silence."""
        match event:
            case Start():
                self._until = max(now, self.manifest.deadline if self.manifest else now) + self.plan.patience
                if self.state is State.DONE:
                    return self._done()
                commands: list[Command] = []
                if self._key is None:
                    commands.append(self._keep(Opened(KeyPair.generate(self._entropy).private.reveal())))
                return [*commands, *self._say_again(self.plan.aggregators), WakeAt(self._until)]
            case PeerUp(peer=peer):
                return self._say_again([peer])
            case PeerGone(peer=peer, error=error):
                if peer in self.plan.cohort and not self._settled(peer):
                    self.refusals[peer] = error
                return self._advance(now)
            case Tick():
                return self._tick(now)
            case Received():
                try:
                    commands = self._message(event)
                except Equivocation as error:
                    return self._abort(error, now)
                except SmpcError:
                    return []  # relayed to nobody; the sender's own refusals tell people, silence is dealt with in time
                return [*commands, *self._advance(now)]
            case _:
                raise TypeError(f"a coordinator gets no {type(event).__name__}")

    def _to_all(self, message: Message) -> list[Command]:
        signed = self.party.sign(message)
        return [Send(aggregator, signed) for aggregator in self.plan.aggregators]

    def _say_again(self, peers: Sequence[str]) -> list[Command]:
        """What these peers may have missed, in this state."""
        commands: list[Command] = []
        for peer in peers:
            if peer in self.plan.aggregators:
                commands += [Send(peer, self.party.sign(message)) for message in self._to_aggregator()]
            elif self.state is State.COLLECTING and peer in self.plan.cohort and not self._settled(peer):
                commands.append(self._offer(peer))
            elif self.state is State.DONE and peer in self.plan.cohort:
                commands.append(Send(peer, self.party.sign(self.closed(peer))))
        return commands

    def closed(self, owner: str) -> RoundClosed:
        """What an owner is told when the round is over."""
        released = self.state is State.DONE
        return RoundClosed(
            self.manifest_hash or bytes(32), released, released and any(entry.owner == owner for entry in self._agreed)
        )

    def _to_aggregator(self) -> list[Message]:
        plan = self.plan
        match self.state:
            case State.PREPARING:
                return [PrekeyRequest(plan.run, plan.round, plan.attempt)]
            case State.DONE:
                return [ReleaseReceipt(self.manifest_hash)]
            case State.ABORTING:
                return [AbortRequest(plan.run, plan.round, plan.attempt)]
            case State.GIVEN_UP:
                return []
            case _:
                assert self._signed is not None
                offer: list[Message] = [ManifestOffer(self._signed)]
                if self.state in (State.AGREEING, State.RELEASING) and self._all(FrozenList):
                    offer.append(FrozenLists(self.manifest_hash, self._all(FrozenList)))
                if self.state is State.RELEASING and self._all(Vote):
                    offer.append(Votes(self.manifest_hash, self._all(Vote)))
                return offer

    def _all(self, kind: type[Message]) -> list[Signed]:
        """Every aggregator's statement of this kind, sorted by id; empty while one is missing."""
        said = self._said[kind]
        return [said[a] for a in self.plan.aggregators] if len(said) == len(self.plan.aggregators) else []

    def _settled(self, owner: str) -> bool:
        return owner in self.reported or owner in self.refusals

    def _tick(self, now: float) -> list[Command]:
        if now < self._until or self.state in (State.DONE, State.GIVEN_UP):
            return [] if self.state in (State.DONE, State.GIVEN_UP) else [WakeAt(self._until)]
        missing = self._missing()
        error = Unavailable(
            f"no answer from {', '.join(missing)} for {self.plan.patience:.0f} s: see its log, start it again",
            phase=self.state.value,
        )
        if self.state in (State.ABORTING, State.RELEASING):
            # A vote for S binds, and an abort needs every aggregator: one that stays away ends the run, not the rule.
            self.state = State.GIVEN_UP
            return [Finished(GivenUp(self._why or error, ()))]
        return self._abort(error, now)

    def _missing(self) -> list[str]:
        kinds: dict[State, type[Message]] = {
            State.PREPARING: Prekey, State.ENDORSING: Endorsement, State.COLLECTING: FrozenList,
            State.AGREEING: Vote, State.ABORTING: AttemptAborted,
        }  # fmt: skip
        kind = kinds.get(self.state)
        have = self._said[kind] if kind else self._partials
        return [a for a in self.plan.aggregators if a not in have]

    # --- messages ---

    def _message(self, event: Received) -> list[Command]:
        sender, message = event.sender, event.message
        if sender in self.plan.cohort:
            match message:
                case Reported(manifest_hash=hash_, uploaded=uploaded) if hash_ == self.manifest_hash:
                    self.reported[sender] = uploaded
                case Refusal(about=hash_) if self.manifest is not None and self._is_news(sender, hash_):
                    self.refusals[sender] = from_code(message.code, message.text, peer=sender, phase=message.phase)
            return []
        if sender not in self.plan.aggregators:
            raise MalformedMessage("not of this round", peer=sender)
        match message:
            case Prekey() if self.state is State.PREPARING and self._is_this(message):
                self._said[Prekey][sender] = event.signed
            case AttemptAborted() if self._is_this(message):
                return self._aborted(sender, event.signed)
            case Endorsement() | FrozenList() | Vote() if message.manifest_hash == self.manifest_hash:
                before = self._said[type(message)].setdefault(sender, event.signed)
                if before != event.signed:
                    raise Equivocation("two different statements of one kind", peer=sender)
            case PartialSum() | EncryptedSum() if message.manifest_hash == self.manifest_hash:
                return self._partial(sender, message, event.signed, event.attachment)
            case Refusal(about=about, code=code) if about == self._subject or (
                about == self.manifest_hash and code == RolledBack.__name__ and self.state is not State.ENDORSING
            ):
                self._why = from_code(message.code, message.text, peer=sender, phase=message.phase)
        return []

    def _aborted(self, sender: str, signed: Signed) -> list[Command]:
        """Keep an aggregator's abort, and show it to the others: a vote for S binds until a peer has aborted."""
        known = self._said[AttemptAborted]
        if sender in known or self.state not in (*_BEFORE_AGREEMENT, State.ABORTING):
            return []
        known[sender] = signed
        return self._to_all(Votes(self.manifest_hash, [signed])) if self.manifest else []

    def _is_news(self, owner: str, about: bytes) -> bool:
        """Whether a refusal counts: an owner that has reported may be refused when it reports again after a crash."""
        return about == self.manifest_hash and owner not in self.reported

    def _is_this(self, message: Prekey | AttemptAborted) -> bool:
        plan = self.plan
        return (message.run, message.round, message.attempt) == (plan.run, plan.round, plan.attempt)

    @property
    def _subject(self) -> bytes:
        """What a refusal must be about to end this attempt: later refusals of repeated messages do not."""
        return {State.PREPARING: self.plan.run, State.ENDORSING: self.manifest_hash}.get(self.state, b"-")

    def _partial(
        self, sender: str, message: PartialSum | EncryptedSum, signed: Signed, attachment: object
    ) -> list[Command]:
        manifest = self.manifest
        if self.state is not State.RELEASING or sender in self._partials or manifest is None or self._key is None:
            return []
        choice = manifests.set_hash(self.manifest_hash, self._agreed)
        fits = isinstance(message, EncryptedSum) == bool(manifest.encryption) and partial.set_hash(message) == choice
        if not fits or not isinstance(attachment, bytes | bytearray | memoryview):
            raise MalformedMessage("a partial sum over another set, or none at all", peer=sender, phase="release")
        of = manifests.carried(manifest)[0]
        words = partial.open_(message, attachment, sender, manifest, self.party, self._key)
        self._partials.add(sender)
        if self._total is None:
            self._total = words
        else:
            of.add_into(self._total, words)
        if len(self._partials) < len(self.plan.aggregators):
            return []
        summed = Summed(signed if manifest.encryption else None)
        return [self._keep(summed, lambda: of.as_buffer(self._result)), *self._done()]

    @property
    def key(self) -> KeyPair:
        """What is said to the coordinator in this attempt is sealed to this key."""
        assert self._key is not None
        return self._key

    @property
    def _result(self) -> RingArray:
        assert self._total is not None
        return self._total

    # --- progress ---

    def _advance(self, now: float) -> list[Command]:
        commands: list[Command] = []
        while step := self._step(now):
            commands += step
        return commands

    def _step(self, now: float) -> list[Command]:
        """One transition of the table, if its condition holds."""
        match self.state:
            case state if state in _BEFORE_AGREEMENT and self._why is not None:
                return self._abort(self._why, now)
            case State.PREPARING | State.ENDORSING | State.COLLECTING if self._said[AttemptAborted]:
                return self._abort(RoundAborted("an aggregator aborted the attempt"), now)
            case State.PREPARING if self._all(Prekey):
                return [*self._make(now), WakeAt(self._until)]
            case State.ENDORSING if self._all(Endorsement):
                self.state = State.COLLECTING
                return [self._offer(owner) for owner in self.plan.cohort if not self._settled(owner)]
            case State.COLLECTING:
                return self._collecting(now)
            case State.AGREEING | State.ABORTING if step := self._voting(now):
                return step
            case State.AGREEING if self._said[AttemptAborted]:
                return self._abort(RoundAborted("an aggregator aborted the attempt"), now)
            case State.ABORTING if self._all(AttemptAborted):
                assert self._why is not None
                self.state = State.GIVEN_UP
                return [Finished(GivenUp(self._why, (*self.plan.aborts, *self._all(AttemptAborted))))]
            case State.RELEASING if self._all(Vote) and not self._relayed_votes:
                self._relayed_votes = True
                return self._to_all(Votes(self.manifest_hash, self._all(Vote)))
            case _:
                return []

    def _make(self, now: float) -> list[Command]:
        plan, numbers = self.plan, self.plan.numbers
        assert self._key is not None
        manifest = Manifest(
            version=PROTOCOL_VERSION,
            federation=self.party.federation,
            roster_hash=self.party.membership.roster_hash,
            run=plan.run,
            round=plan.round,
            attempt=plan.attempt,
            purpose=plan.purpose,
            coordinator=self.party.id,
            coordinator_key=self._key.public,
            cohort=list(plan.cohort),
            aggregators=self._all(Prekey),
            dimension=plan.dimension,
            ring_bits=numbers.ring_bits,
            fractional_bits=numbers.fractional_bits,
            clip=plan.clip,
            max_samples=plan.max_samples,
            k_min=plan.k_min,
            deadline=now + plan.seconds,
            job_digest=plan.job_digest,
            subject=plan.subject,
            model_digest=manifests.model_digest(plan.model),
            privacy=numbers.noise,
            worst_error=numbers.worst_error,
            aborts=list(plan.aborts),
            encryption=plan.encryption,
        )
        self._until = manifest.deadline + plan.patience
        made = self._keep(Made(self.party.sign(manifest)))
        assert self._signed is not None
        return [made, *self._to_all(ManifestOffer(self._signed))]

    def _offer(self, owner: str) -> Send:
        """The same signed words for every owner: signed once for all that are offered together."""
        if self._round_offer is None:
            assert self._signed is not None
            self._round_offer = self.party.sign(RoundOffer(self._signed, self._all(Endorsement)))
        return Send(owner, self._round_offer, self.plan.model)

    def _collecting(self, now: float) -> list[Command]:
        if self._all(FrozenList):
            self.state = State.AGREEING
            return self._to_all(FrozenLists(self.manifest_hash, self._all(FrozenList)))
        if len(self.plan.cohort) - len(self.refusals) < self.plan.k_min:
            return self._abort(self._too_few(), now)
        heard = len(self.reported) + len(self.refusals) >= len(self.plan.cohort)
        if not self._asked_freeze and heard and all(self._settled(owner) for owner in self.plan.cohort):
            self._asked_freeze = True
            return self._to_all(FreezeRequest(self.manifest_hash))
        return []

    def _sentences(self) -> str:
        """What owners refused with."""
        refusals = sorted(self.refusals.items())
        said = "; ".join(f"{owner}: {error.message}" for owner, error in refusals[:MOST_SENTENCES])
        return said + (f"; and {len(refusals) - MOST_SENTENCES:,} more" if len(refusals) > MOST_SENTENCES else "")

    def _too_few(self) -> SmpcError:
        """One error for all refusals: their own class when they agree, with the owners' sentences."""
        kinds = {type(error) for error in self.refusals.values()}
        kind = kinds.pop() if len(kinds) == 1 else CohortTooSmall
        return kind(
            f"fewer than k_min = {self.plan.k_min} owners can take part: {self._sentences()}", phase="collecting"
        )

    def _voting(self, now: float) -> list[Command]:
        """All for one S: release. An abort, or two sets: relay what was said, so that nobody waits, and give up."""
        said = [self._said[Vote][a] for a in self.plan.aggregators if a in self._said[Vote]]
        votes = [decode(signed.body, Vote) for signed in said]
        against = next((self._reason(vote) for vote in votes if vote.choice == b""), None)
        if against is None and len({vote.choice for vote in votes}) > 1:
            against = RoundAborted("no release: the aggregators voted for different sets", phase="vote")
        if against is not None:
            self._said[Vote] = {}
            return [*self._to_all(Votes(self.manifest_hash, said)), *self._abort(against, now)]
        if len(said) < len(self.plan.aggregators) or not self._all(FrozenList):
            return []
        lists = [set(decode(signed.body, FrozenList).entries) for signed in self._all(FrozenList)]
        agreed = sorted(set.intersection(*lists))
        if manifests.set_hash(self.manifest_hash, agreed) != votes[0].choice:
            return []  # a list that came is not the one that was voted on; patience, then the aborts, end it
        self._until = now + self.plan.patience
        return [self._keep(Agreed(agreed)), WakeAt(self._until)]

    def _reason(self, vote: Vote) -> SmpcError:
        """Of a vote against a release: where owners were missing, what they said is the reason."""
        if vote.code == CohortTooSmall.__name__ and self.refusals:
            return self._too_few()
        refused = f" ({self._sentences()})" if self.refusals else ""
        return from_code(vote.code or RoundAborted.__name__, f"no release: {vote.reason}{refused}", phase="vote")

    def _abort(self, why: SmpcError, now: float) -> list[Command]:
        """Ask every aggregator for its signed abort; `why` is what the run reports. Not any more once S is agreed."""
        if self.state not in _BEFORE_AGREEMENT:
            return []
        self.state, self._why, self._until = State.ABORTING, why, now + self.plan.patience
        plan = self.plan
        return [*self._to_all(AbortRequest(plan.run, plan.round, plan.attempt)), WakeAt(self._until)]

    def _done(self) -> list[Command]:
        """The outcome, once the total is durable."""
        outcome = Released(self._result, tuple(self._agreed), dict(self.refusals), dict(self.reported), self._released)
        return [*self._to_all(ReleaseReceipt(self.manifest_hash)), Finished(outcome)]
