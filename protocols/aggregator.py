"""An aggregator's part in one attempt at one round, without I/O.

    state      event                     next       what is said, after what is durable
    ─────────  ────────────────────────  ─────────  ──────────────────────────────────────────────
    EMPTY      PrekeyRequest             PREPARED   Prepared -> Prekey
    PREPARED   ManifestOffer             OPEN       Accepted -> Endorsement
    OPEN       SeedReport                OPEN       SeedTaken -> Receipt
    OPEN       VectorReport              OPEN       VectorAdded, with the sum -> Receipt
    OPEN       all in, FreezeRequest,    FROZEN     Frozen -> FrozenList
               deadline
    FROZEN     FrozenLists               VOTED      Voted -> Vote (for S, or an abort)
    VOTED      Votes, all for S          RELEASED   Released -> PartialSum
    OPEN…      Votes with an abort       ABORTED    Aborted -> AttemptAborted
    VOTED
    EMPTY…     AbortRequest              ABORTED    Aborted -> AttemptAborted (not after a vote for S)
    FROZEN
    OPEN,      Start, the sum is lost    ABORTED    Aborted -> AttemptAborted (the node came back from a backup)
    FROZEN
    RELEASED   ReleaseReceipt            CLOSED     Closed, secrets erased

Everything is idempotent: a message that comes again gets the same answer again; in a later state a `ManifestOffer` gets
everything that was said since. `TRANSITIONS` is this table as data; the documentation's diagram is drawn from it.

Memory and disk do not grow with the number of owners: a vector carries the receipts of all seed holders, so it is added to
the one sum as soon as it is whole, and forgotten; seeds become streams only at the release, chunk by chunk. A vector in
the sum cannot be taken out again: an agreed set that lacks its owner is voted down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

import numpy as np

from smpc_fl.entropy import Entropy
from smpc_fl.errors import (
    DecryptionFailed,
    Equivocation,
    MalformedMessage,
    ManifestRefused,
    ReportTooLate,
    RoundAborted,
    SmpcError,
    Unavailable,
    UnknownMember,
    WrongRole,
)
from smpc_fl.hashing import Buffer
from smpc_fl.protocols import agreement, vectors
from smpc_fl.protocols import manifest as manifests
from smpc_fl.protocols.commands import (
    Command,
    EraseSecrets,
    Event,
    Finished,
    PeerUp,
    Persist,
    Received,
    Send,
    Start,
    Tick,
    WakeAt,
)
from smpc_fl.protocols.envelopes import Channel
from smpc_fl.protocols.manifest import Rules
from smpc_fl.protocols.messages import (
    AbortRequest,
    AttemptAborted,
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
    Receipt,
    ReleaseReceipt,
    SeedReport,
    Signed,
    VectorReport,
    Vote,
    Votes,
)
from smpc_fl.protocols.party import Party
from smpc_fl.protocols.records import (
    Aborted,
    Accepted,
    Closed,
    Frozen,
    Prepared,
    Record,
    Released,
    SeedTaken,
    VectorAdded,
    Voted,
)
from smpc_fl.protocols.vectors import Parallel, VectorOpener
from smpc_fl.ring import RingArray, ring
from smpc_fl.sealing import KeyPair
from smpc_fl.secret import Secret
from smpc_fl.shares import Context, carrier, commitment, report_id, stream


class State(Enum):
    EMPTY = "empty"
    PREPARED = "prepared"
    OPEN = "open"
    FROZEN = "frozen"
    VOTED = "voted"
    RELEASED = "released"
    ABORTED = "aborted"
    CLOSED = "closed"


TRANSITIONS: dict[tuple[State, str], State] = {
    (State.EMPTY, "PrekeyRequest"): State.PREPARED,
    (State.PREPARED, "ManifestOffer"): State.OPEN,
    (State.OPEN, "SeedReport: all are in"): State.FROZEN,
    (State.OPEN, "VectorReport: all are in"): State.FROZEN,
    (State.OPEN, "FreezeRequest"): State.FROZEN,
    (State.OPEN, "Tick: the deadline"): State.FROZEN,
    (State.FROZEN, "FrozenLists"): State.VOTED,
    (State.VOTED, "Votes: all for S"): State.RELEASED,
    (State.RELEASED, "ReleaseReceipt"): State.CLOSED,
    (State.OPEN, "Votes: an abort"): State.ABORTED,
    (State.FROZEN, "Votes: an abort"): State.ABORTED,
    (State.VOTED, "Votes: an abort, or two sets"): State.ABORTED,
    (State.EMPTY, "AbortRequest"): State.ABORTED,
    (State.PREPARED, "AbortRequest"): State.ABORTED,
    (State.OPEN, "AbortRequest"): State.ABORTED,
    (State.FROZEN, "AbortRequest"): State.ABORTED,
    (State.VOTED, "AbortRequest: the vote was to abort"): State.ABORTED,
    (State.OPEN, "Start: the sum is lost"): State.ABORTED,
    (State.FROZEN, "Start: the sum is lost"): State.ABORTED,
}
"""Every change of state: (state, event, after a colon its circumstances) -> state. Any other event leaves it as it is."""

_ENDED = (State.ABORTED, State.CLOSED)
Words = Callable[[int, np.dtype[np.unsignedinteger]], RingArray]
_LOST = "this aggregator has lost the sum of the vectors that it had acknowledged: begin the round again"

_SPOKEN_BY_COORDINATOR = (
    PrekeyRequest, ManifestOffer, FreezeRequest, FrozenLists, Votes, AbortRequest, ReleaseReceipt
)  # fmt: skip


class AggregatorRound:
    """One (run, round, attempt) at one aggregator."""

    def __init__(
        self,
        party: Party,
        rules: Rules,
        key: tuple[bytes, int, int],
        *,
        coordinator: str,
        entropy: Entropy,
        parallel: Parallel = vectors.serial,
    ) -> None:
        self.party, self.rules, self.key, self.coordinator = party, rules, key, coordinator
        self.state = State.EMPTY
        self.manifest: Manifest | None = None
        self.manifest_hash = b""
        self._entropy, self._parallel = entropy, parallel
        self._prekey: KeyPair | None = None
        self._reports: dict[str, bytes] = {}
        self._seeds: dict[str, bytes] = {}
        self._sum: RingArray | None = None  # of the vectors that this aggregator carries
        self._copy: RingArray | None = None
        self._lost = False  # the sum is not where the journal says that it is (the node came back from a backup)
        self._partial: Send | None = None
        self._entries: list[Entry] = []
        self._vote: Voted | None = None
        self._abort_reason = ""

    # --- durable state: everything below `apply` follows from the records alone ---

    @classmethod
    def restore(
        cls,
        party: Party,
        rules: Rules,
        key: tuple[bytes, int, int],
        records: Sequence[Record],
        bulk: bytearray | None = None,
        *,
        coordinator: str,
        entropy: Entropy,
        parallel: Parallel = vectors.serial,
    ) -> AggregatorRound:
        """The machine as it was when the last of `records` became durable, and `bulk` with the last that had one."""
        machine = cls(party, rules, key, coordinator=coordinator, entropy=entropy, parallel=parallel)
        for record in records:
            machine._apply(record)
        if machine.state in _ENDED or machine.manifest is None:
            return machine
        if bulk:
            machine._sum = ring(machine.manifest.ring_bits).from_bytes(bulk, machine.manifest.dimension)
        elif any(isinstance(record, VectorAdded) for record in records):
            machine._lost = True
        return machine

    def _apply(self, record: Record) -> None:
        match record:
            case Prepared(private=private):
                self.state, self._prekey = State.PREPARED, KeyPair.from_private(Secret(private))
            case Accepted(manifest=signed):
                self.state, self.manifest_hash = State.OPEN, manifests.manifest_hash(signed)
                self.manifest = manifests.read(signed)
            case SeedTaken(owner=owner, report_id=id_, seed=seed):
                self._reports[owner], self._seeds[owner] = id_, seed
            case VectorAdded(owner=owner, report_id=id_):
                self._reports[owner] = id_
            case Frozen(entries=entries):
                self.state, self._entries = State.FROZEN, entries
                self._reports = {entry.owner: entry.report_id for entry in entries}
            case Voted():
                self.state, self._vote = State.VOTED, record
            case Released():
                self.state = State.RELEASED
            case Aborted(reason=reason):
                self.state, self._abort_reason = State.ABORTED, reason
                self._forget()
            case _:
                assert isinstance(record, Closed)
                self.state = State.CLOSED
                self._forget()

    def _forget(self) -> None:
        self._prekey, self._seeds = None, {}
        self._sum = self._copy = self._partial = None

    def _keep(self, record: Record, bulk: Callable[[], Buffer] | None = None) -> Persist:
        self._apply(record)
        return Persist(record, bulk)

    # --- events ---

    def receive(self, event: Event, now: float) -> list[Command]:
        """What to do about one event. Refusals of a peer's message are answered to the peer; our own bugs raise."""
        match event:
            case Start():
                return self._wake()
            case Tick():
                return self._tick(now)
            case PeerUp():
                return []
            case Received(sender=sender, message=message, attachment=attachment):
                try:
                    return self._message(sender, message, attachment, now)
                except SmpcError as error:
                    phase, about = error.phase or self.state.value, manifests.subject_of(message)
                    return [Send(sender, self.party.refuse(error, phase, about))]
            case _:
                raise TypeError(f"an aggregator gets no {type(event).__name__}")

    def _wake(self) -> list[Command]:
        if self.state in _ENDED:
            return [EraseSecrets()]  # a crash may have come between the record and the erasure
        if self._lost and self.state in (State.OPEN, State.FROZEN):
            return self._abort(_LOST)
        return [WakeAt(self.manifest.deadline)] if self.manifest and self.state is State.OPEN else []

    def _tick(self, now: float) -> list[Command]:
        if self.state is State.OPEN and self.manifest and now >= self.manifest.deadline:
            return self._freeze()
        return self._wake()

    def _message(self, sender: str, message: Message, attachment: object, now: float) -> list[Command]:
        if isinstance(message, _SPOKEN_BY_COORDINATOR) and sender != self.coordinator:
            raise WrongRole("only the coordinator says this", peer=sender, phase=self.state.value)
        match message:
            case (
                PrekeyRequest(run=run, round=round_, attempt=attempt)
                | AbortRequest(run=run, round=round_, attempt=attempt)
            ) if (run, round_, attempt) != self.key:
                raise ManifestRefused("this is about another round or attempt", peer=sender, phase=self.state.value)
            case PrekeyRequest():
                return self._prekey_request()
            case ManifestOffer(manifest=signed):
                return self._offer(signed, now)
            case SeedReport() | VectorReport():
                return self._report(sender, message, attachment)
            case FreezeRequest():
                self._bound(message.manifest_hash)
                return self._freeze() if self.state is State.OPEN else self._since_freeze()
            case FrozenLists():
                self._bound(message.manifest_hash)
                return self._lists(message)
            case Votes():
                self._bound(message.manifest_hash)
                return self._votes(message)
            case AbortRequest():
                return self._abort_request()
            case ReleaseReceipt():
                self._bound(message.manifest_hash)
                return self._receipt()
            case _:
                raise MalformedMessage(
                    f"an aggregator takes no {type(message).__name__}", peer=sender, phase=self.state.value
                )

    def _bound(self, hash_: bytes) -> None:
        if self.manifest is None or hash_ != self.manifest_hash:
            raise ManifestRefused("this is about a manifest that this aggregator has not accepted")

    def _say(self, message: Message) -> Send:
        return Send(self.coordinator, self.party.sign(message))

    # --- manifest ---

    def _prekey_request(self) -> list[Command]:
        if self.state is State.ABORTED:
            return [self._aborted()]
        commands: list[Command] = []
        if self.state is State.EMPTY:
            commands.append(self._keep(Prepared(KeyPair.generate(self._entropy).private.reveal())))
        if self._prekey is None:
            raise ManifestRefused("this attempt is closed")
        return [*commands, self._say(Prekey(*self.key, self._prekey.public))]

    def _offer(self, signed: Signed, now: float) -> list[Command]:
        if self.state is State.ABORTED:
            return [self._aborted()]
        if self.manifest is not None:
            if manifests.manifest_hash(signed) != self.manifest_hash:
                raise Equivocation(
                    "another manifest for a (run, round, attempt) that has one",
                    peer=signed.sender,
                    phase=manifests.PHASE,
                )
            return [self._say(Endorsement(self.manifest_hash)), *self._since_freeze()]
        manifest = manifests.check(signed, self.party, self.rules, now=now)
        if (manifest.run, manifest.round, manifest.attempt) != self.key:
            raise ManifestRefused("the manifest is of another round or attempt", peer=signed.sender)
        own = manifests.prekeys(manifest, self.party).get(self.party.id)
        if self._prekey is None or own != self._prekey.public:
            raise ManifestRefused("the manifest does not carry this aggregator's prekey", peer=signed.sender)
        return [
            self._keep(Accepted(signed)),
            self._say(Endorsement(self.manifest_hash)),
            WakeAt(manifest.deadline),
        ]

    # --- reports ---

    def _report(self, owner: str, message: SeedReport | VectorReport, attachment: object) -> list[Command]:
        id_ = self._admit(owner, message)
        receipt = Send(owner, self.party.sign(Receipt(self.manifest_hash, owner, id_)))
        if owner in self._reports:
            return [receipt]
        channel = self._channel(owner, message, id_)
        if isinstance(message, SeedReport):
            seed, blinder = channel.open_seed(message.sealed)
            self._check_commitment(owner, message, commitment(blinder, seed))
            kept = self._keep(SeedTaken(owner, id_, seed))
        else:
            opener = self._opened(owner, message, attachment)
            self._check_commitment(owner, message, commitment(channel.open_blinder(message.sealed), opener.finish()))
            self._add(opener.words)
            kept = self._keep(VectorAdded(owner, id_), self._snapshot)
        commands: list[Command] = [kept, receipt]
        assert self.manifest is not None
        if len(self._reports) == len(self.manifest.cohort):
            commands += self._freeze()
        return commands

    def expect(self, owner: str, message: VectorReport, size: int, words: Words = np.empty) -> VectorOpener | None:
        """Where the sealed vector of `size` bytes that comes with this report goes, fragment by fragment; then it is
        `Received` with this opener as its attachment. None when the report was taken before. `words(d, dtype)` gives the
        place, ring[d], to open it in.

        Raises what is wrong with the report, before a byte of the vector is read."""
        id_ = self._admit(owner, message)
        if owner in self._reports:
            return None
        assert self.manifest is not None
        of, n = ring(self.manifest.ring_bits), self.manifest.dimension
        sealed = vectors.stream(self._channel(owner, message, id_).vector_key(), self.manifest_hash, of, n)
        if size != sealed.sealed_length:
            raise MalformedMessage(f"a sealed vector of {n} slots is not {size} bytes long", peer=owner, phase="report")
        return VectorOpener(sealed, of, words(n, of.dtype))

    def _admit(self, owner: str, message: SeedReport | VectorReport) -> bytes:
        """The report's id, if it may come from this owner now (or came before). Raises what is wrong with it."""
        self._bound(message.manifest_hash)
        manifest = self.manifest
        assert manifest is not None
        aggregators = manifests.aggregator_ids(manifest)
        if owner not in manifest.cohort:
            raise UnknownMember("not in this round's cohort", peer=owner, phase="report")
        if len(message.commitments) != len(aggregators):
            raise MalformedMessage("a report needs one commitment for each aggregator", peer=owner, phase="report")
        id_ = report_id(message.commitments)
        if owner in self._reports:
            if self._reports[owner] != id_:
                raise Equivocation("another report where one was taken: the first counts", peer=owner, phase="report")
            return id_
        if self.state is not State.OPEN:
            raise ReportTooLate("the list of this round's reports is frozen", peer=owner, phase="report")
        carries = carrier(owner, manifest.cohort, manifest.round, aggregators) == self.party.id
        if carries != isinstance(message, VectorReport):
            raise MalformedMessage(
                "this owner's vector goes to its carrier, and only there", peer=owner, phase="report"
            )
        if isinstance(message, VectorReport):
            self._check_receipts(owner, message, id_)
        return id_

    def _channel(self, owner: str, message: SeedReport | VectorReport, id_: bytes) -> Channel:
        assert self._prekey is not None
        return Channel(
            own=self._prekey,
            peer_public=message.ephemeral,
            sender=self.party.key_of(owner, "owner"),
            receiver=self.party.identity.public,
            manifest_hash=self.manifest_hash,
            about=id_,
        )

    def _opened(self, owner: str, message: VectorReport, attachment: object) -> VectorOpener:
        """The vector, opened as it came, or now if it came whole."""
        if isinstance(attachment, VectorOpener):
            return attachment
        if not isinstance(attachment, bytes | bytearray | memoryview):
            raise MalformedMessage("a vector report comes with the share attached", peer=owner, phase="report")
        opener = self.expect(owner, message, memoryview(attachment).nbytes)
        assert opener is not None
        opener(attachment)
        return opener

    def _check_commitment(self, owner: str, message: SeedReport | VectorReport, found: bytes) -> None:
        assert self.manifest is not None
        own = manifests.aggregator_ids(self.manifest).index(self.party.id)
        if message.commitments[own] != found:
            raise DecryptionFailed("a share does not match its commitment", peer=owner, phase="report")

    def _add(self, words: RingArray) -> None:
        assert self.manifest is not None
        of = ring(self.manifest.ring_bits)
        if self._sum is None:
            self._sum = of.zeros(self.manifest.dimension)
        of.add_into(self._sum, words)

    def _snapshot(self) -> memoryview:
        """The sum as it stands, in a copy that is good until the next one: it goes on growing while this is written."""
        if self._sum is None:
            return memoryview(b"")  # aborted since
        if self._copy is None:
            self._copy = np.empty_like(self._sum)
        np.copyto(self._copy, self._sum)
        assert self.manifest is not None
        return ring(self.manifest.ring_bits).as_buffer(self._copy)

    def _check_receipts(self, owner: str, message: VectorReport, id_: bytes) -> None:
        """What the carrier acknowledges is complete everywhere: it wants every seed holder's receipt."""
        assert self.manifest is not None
        for signed in message.receipts:
            receipt = self.party.open(signed, Receipt, "aggregator", phase="report")
            if (receipt.manifest_hash, receipt.owner, receipt.report_id) != (self.manifest_hash, owner, id_):
                raise MalformedMessage("a receipt is of another report", peer=owner, phase="report")
        others = [a for a in manifests.aggregator_ids(self.manifest) if a != self.party.id]
        if sorted(signed.sender for signed in message.receipts) != others:
            raise MalformedMessage("the vector needs the receipt of every seed holder", peer=owner, phase="report")

    # --- agreement ---

    def _freeze(self) -> list[Command]:
        entries = sorted(Entry(owner, id_) for owner, id_ in self._reports.items())
        return [self._keep(Frozen(entries)), *self._since_freeze()]

    def _since_freeze(self) -> list[Command]:
        """All that was said from the freeze on, said again."""
        commands: list[Command] = []
        if self.state in (State.FROZEN, State.VOTED, State.RELEASED):
            commands.append(self._say(FrozenList(self.manifest_hash, self._entries)))
        if self.state in (State.VOTED, State.RELEASED) and self._vote:
            commands.append(self._say(Vote(self.manifest_hash, self._vote.choice, self._vote.reason)))
        if self.state is State.RELEASED:
            commands.append(self._release())
        return commands

    def _lists(self, message: FrozenLists) -> list[Command]:
        manifest = self.manifest
        assert manifest is not None
        if self.state is not State.FROZEN:
            if self.state is State.OPEN:
                raise ManifestRefused("this aggregator has not frozen its own list yet")
            return self._since_freeze()
        agreed = agreement.complete(message, self.party, manifest, self.manifest_hash, self._entries)
        if len(agreed) < manifest.k_min:
            reason = f"{len(agreed)} complete reports, k_min is {manifest.k_min}"
            return [self._keep(Voted(b"", [], reason)), *self._since_freeze()]
        lost = self._reports.keys() - self._seeds.keys() - {entry.owner for entry in agreed}
        if lost:
            # Every seed holder had receipted them: one of them lost what it had acknowledged, or lies.
            reason = f"reports that were complete everywhere are not in the agreed set: {', '.join(sorted(lost))}"
            return [self._keep(Voted(b"", [], reason)), *self._since_freeze()]
        choice = manifests.set_hash(self.manifest_hash, agreed)
        return [self._keep(Voted(choice, agreed, "")), *self._since_freeze()]

    def _votes(self, message: Votes) -> list[Command]:
        manifest = self.manifest
        assert manifest is not None
        if self.state is State.ABORTED:
            return [self._aborted()]
        if self.state in (State.RELEASED, State.CLOSED):
            return self._since_freeze()
        own = self._vote.choice if self._vote else None
        choices = agreement.choices(message, self.party, manifest, self.manifest_hash, own)
        if b"" in choices.values():
            return self._abort("an aggregator voted to abort")
        if self._vote is None:
            raise ManifestRefused("this aggregator has not voted yet", phase="vote")
        if len(set(choices.values())) > 1:
            # Two sets were voted for, so neither can ever have all votes: nothing is released, and that is final.
            named = ", ".join(sorted(name for name in choices if choices[name] != self._vote.choice))
            return self._abort(f"the aggregators voted for different sets: {named} against {self.party.id}")
        if sorted(choices) != manifests.aggregator_ids(manifest):
            raise MalformedMessage("a release needs the vote of every aggregator", phase="vote")
        self._release()  # what cannot be said is not decided
        return [self._keep(Released(self._vote.choice)), *self._since_freeze()]

    def _release(self) -> Send:
        """The partial sum over S, sealed to the coordinator's key of this attempt under a fresh ephemeral key."""
        if self._lost:
            raise Unavailable(_LOST, phase=self.state.value)
        if self._partial is None:
            self._partial = self._seal_partial()
            self._sum = self._copy = None  # nothing is added any more; the disk has the sum
        return self._partial

    def _seal_partial(self) -> Send:
        manifest, vote = self.manifest, self._vote
        assert manifest is not None
        assert vote is not None
        of, n = ring(manifest.ring_bits), manifest.dimension
        ephemeral = KeyPair.generate(self._entropy)
        channel = Channel(
            own=ephemeral,
            peer_public=manifest.coordinator_key,
            sender=self.party.identity.public,
            receiver=self.party.key_of(self.coordinator, "coordinator"),
            manifest_hash=self.manifest_hash,
            about=vote.choice,
        )
        streams = [
            stream(self._seeds[entry.owner], Context(self.manifest_hash, entry.owner), self.party.id)
            for entry in vote.agreed
            if entry.owner in self._seeds
        ]
        sealed = vectors.seal_sum(
            vectors.stream(channel.partial_key(), self.manifest_hash, of, n), of,
            self._sum if self._sum is not None else of.zeros(n), streams, self._parallel,
        )  # fmt: skip
        message = PartialSum(self.manifest_hash, vote.choice, ephemeral.public)
        return Send(self.coordinator, self.party.sign(message), sealed, vectors.fragment_size(of))

    # --- ends ---

    def _abort_request(self) -> list[Command]:
        if self.state is State.ABORTED:
            return [self._aborted()]
        if self.state is State.VOTED and self._vote and self._vote.choice == b"":
            return self._abort(self._vote.reason)
        if self.state in (State.VOTED, State.RELEASED, State.CLOSED):
            # One that voted for S is bound to it; one that has released cannot abort: it says again what it said.
            return self._since_freeze()
        return self._abort("the coordinator gave the attempt up")

    def _abort(self, reason: str) -> list[Command]:
        return [self._keep(Aborted(reason)), EraseSecrets(), self._aborted(), Finished(RoundAborted(reason))]

    def _aborted(self) -> Send:
        return self._say(AttemptAborted(*self.key, self._abort_reason))

    def _receipt(self) -> list[Command]:
        if self.state is not State.RELEASED:
            return []
        return [self._keep(Closed()), EraseSecrets(), Finished(None)]
