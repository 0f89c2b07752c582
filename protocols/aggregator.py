"""An aggregator's part in one attempt at one round, without I/O. `aggregator_states.py` has its states and their changes.

Everything is idempotent: a message that comes again gets the same answer again; in a later state a `ManifestOffer` gets
everything that was said since.

Memory and disk do not grow with the number of owners: a vector carries the receipts of all seed holders, so it is added to
the one sum as soon as it is whole, and forgotten; seeds become streams only at the release, chunk by chunk. A vector in
the sum cannot be taken out again: an agreed set that lacks its owner is voted down. So is one whose sum could be subtracted
from another (`releases.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from smpc_fl.entropy import Entropy
from smpc_fl.errors import (
    Equivocation,
    MalformedMessage,
    ManifestRefused,
    ReportTooLate,
    RolledBack,
    RoundAborted,
    SmpcError,
    Unavailable,
    WrongRole,
)
from smpc_fl.hashing import Buffer
from smpc_fl.protocols import agreement, partial, reports, vectors
from smpc_fl.protocols import manifest as manifests
from smpc_fl.protocols.aggregator_states import ENDED
from smpc_fl.protocols.aggregator_states import TRANSITIONS as TRANSITIONS
from smpc_fl.protocols.aggregator_states import State as State
from smpc_fl.protocols.agreement import Agreed
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
    LONGEST_TEXT,
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
    Claim,
    Closed,
    Frozen,
    Outdated,
    Prepared,
    Record,
    Released,
    SeedTaken,
    VectorAdded,
    Voted,
    Withdrawn,
)
from smpc_fl.protocols.releases import Releases, computation_of
from smpc_fl.protocols.vectors import Parallel, VectorOpener
from smpc_fl.ring import Ring, RingArray
from smpc_fl.sealing import KeyPair
from smpc_fl.secret import Secret
from smpc_fl.shares import Context, commitment, stream

Words = Callable[[int, np.dtype[np.unsignedinteger]], RingArray]
_UNHEARD: dict[str, int] = {}
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
        releases: Releases | None = None,
    ) -> None:
        self.party, self.rules, self.key, self.coordinator = party, rules, key, coordinator
        self.releases = releases or Releases()
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
        self._number = 0  # of this aggregator's releases, when it froze its list
        self._vote: Voted | None = None
        self._abort_reason = ""
        self._witness = ""
        self._heard = _UNHEARD  # what the peers had said of their releases before this attempt could have any

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
        releases: Releases | None = None,
    ) -> AggregatorRound:
        """The machine as it was when the last of `records` became durable, and `bulk` with the last that had one."""
        machine = cls(party, rules, key, coordinator=coordinator, entropy=entropy, parallel=parallel, releases=releases)
        machine.releases.withdraw(key)  # what was claimed since, the disk knows nothing of
        for record in records:
            machine._apply(record)
        if machine.state in ENDED or machine.manifest is None:
            return machine
        if bulk:
            machine._sum = machine._ring.from_bytes(bulk, machine._length)
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
            case Frozen(entries=entries, releases=number):
                self.state, self._entries, self._number = State.FROZEN, entries, number
                self._reports = {entry.owner: entry.report_id for entry in entries}
            case Voted(choice=choice, agreed=agreed):
                self.state, self._vote = State.VOTED, record
                if choice:
                    self.releases.claim(self.key, self._computation, [entry.owner for entry in agreed])
            case Released():
                self.state = State.RELEASED
                self.releases.learn(record)
            case Aborted(reason=reason):
                self.state, self._abort_reason = State.ABORTED, reason
                self.releases.withdraw(self.key)
                self._forget()
            case Outdated(witness=witness):
                self.state, self._witness = State.OUTDATED, witness
                self._forget()
            case _:
                assert isinstance(record, Closed)
                self.state = State.CLOSED
                self._forget()

    def _forget(self) -> None:
        self._prekey, self._seeds = None, {}
        self._sum = self._copy = self._partial = None

    def _keep(self, record: Record, bulk: Callable[[], Buffer] | None = None, ledger: Record | None = None) -> Persist:
        self._apply(record)
        return Persist(record, bulk, None if ledger is None else (self._computation, ledger))

    @property
    def _manifest(self) -> Manifest:
        assert self.manifest is not None
        return self.manifest

    @property
    def _ring(self) -> Ring:
        """Over which the vectors that come are added; `_length`: their elements."""
        return manifests.carried(self._manifest)[0]

    @property
    def _length(self) -> int:
        return manifests.carried(self._manifest)[1]

    @property
    def _computation(self) -> bytes:
        return computation_of(self._manifest)

    # --- events ---

    def receive(self, event: Event, now: float) -> list[Command]:
        """What to do about one event. Refusals of a peer's message are answered to the peer; our own bugs raise."""
        match event:
            case Start():
                return self._wake(now)
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

    def _wake(self, now: float) -> list[Command]:
        if self.state in ENDED:
            return [EraseSecrets()]  # a crash may have come between the record and the erasure
        if self._lost and self.state in (State.OPEN, State.FROZEN):
            return self._abort(_LOST)
        if self.manifest is None:
            return []
        deadline, end = self.manifest.deadline, self.manifest.deadline + self.rules.retention
        if now < end:
            return [WakeAt(deadline if self.state is State.OPEN and now < deadline else end)]
        if self.state in (State.OPEN, State.FROZEN):
            return self._abort("nobody went on with the attempt")
        # Bound by its vote, it may not abort; but nobody has come for the sum, and secrets are not kept for ever.
        return self._close(Unavailable("nobody came for the sum that the aggregators had agreed on"))

    def _tick(self, now: float) -> list[Command]:
        manifest = self.manifest
        if (
            self.state is State.OPEN
            and manifest
            and manifest.deadline <= now < manifest.deadline + self.rules.retention
        ):
            return [*self._freeze(), *self._wake(now)]
        return self._wake(now)

    def _message(self, sender: str, message: Message, attachment: object, now: float) -> list[Command]:
        if isinstance(message, _SPOKEN_BY_COORDINATOR) and sender != self.coordinator:
            raise WrongRole("only the coordinator says this", peer=sender, phase=self.state.value)
        if self.state is State.OUTDATED:
            raise self._rolled_back()
        if self.state in ENDED and self.manifest is None and hasattr(message, "manifest_hash"):
            # The manifest went with the secrets: whoever asks is told how the attempt has ended.
            if sender != self.coordinator:
                raise ReportTooLate("the attempt has ended", peer=sender, phase="report")
            return [self._aborted()] if self.state is State.ABORTED else []
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
                return self._unless_outdated(sender, lambda: self._lists(message))
            case Votes():
                self._bound(message.manifest_hash)
                return self._unless_outdated(sender, lambda: self._votes(message))
            case AbortRequest():
                return self._abort_request()
            case ReleaseReceipt():
                self._bound(message.manifest_hash)
                return self._receipt(sender)
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
        if self.state is State.CLOSED:
            raise ManifestRefused("this attempt is closed", peer=signed.sender, phase=manifests.PHASE)
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
        self._heard = dict(self.releases.heard)
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
        manifest, channel = self._manifest, self._channel(owner, message)
        if isinstance(message, SeedReport):
            seed, blinder = channel.open_seed(message.sealed)
            reports.check_commitment(owner, message, manifest, self.party, commitment(blinder, seed))
            kept = self._keep(SeedTaken(owner, id_, seed))
        else:
            opener = self._opened(owner, message, attachment)
            found = commitment(channel.open_blinder(message.sealed), opener.finish())
            reports.check_commitment(owner, message, manifest, self.party, found)
            self._add(opener.words)
            kept = self._keep(VectorAdded(owner, id_), self._snapshot)
        commands: list[Command] = [kept, receipt]
        if len(self._reports) == len(manifest.cohort):
            commands += self._freeze()
        return commands

    def expect(self, owner: str, message: VectorReport, size: int, words: Words = np.empty) -> VectorOpener | None:
        """Where the sealed vector of `size` bytes that comes with this report goes, fragment by fragment; then it is
        `Received` with this opener as its attachment. None when the report was taken before. `words(d, dtype)` gives the
        place, ring[d], to open it in.

        Raises what is wrong with the report, before a byte of the vector is read."""
        self._admit(owner, message)
        if owner in self._reports:
            return None
        of, n = self._ring, self._length
        sealed = vectors.stream(self._channel(owner, message).vector_key(), self.manifest_hash, of, n)
        if size != sealed.sealed_length:
            raise MalformedMessage(f"a sealed vector of {n} slots is not {size} bytes long", peer=owner, phase="report")
        return VectorOpener(sealed, of, words(n, of.dtype))

    def _admit(self, owner: str, message: SeedReport | VectorReport) -> bytes:
        """The report's id, if it may come from this owner now (or came before). Raises what is wrong with it."""
        self._bound(message.manifest_hash)
        id_ = reports.identify(owner, message, self._manifest)
        if owner in self._reports:
            if self._reports[owner] != id_:
                raise Equivocation("another report where one was taken: the first counts", peer=owner, phase="report")
            return id_
        if self.state is not State.OPEN:
            raise ReportTooLate("the list of this round's reports is frozen", peer=owner, phase="report")
        reports.check(owner, message, self._manifest, self.manifest_hash, self.party)
        return id_

    def _channel(self, owner: str, message: SeedReport | VectorReport) -> Channel:
        assert self._prekey is not None
        return reports.channel(owner, message, self.manifest_hash, self.party, self._prekey)

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

    def _add(self, words: RingArray) -> None:
        if self._sum is None:
            self._sum = self._ring.zeros(self._length)
        self._ring.add_into(self._sum, words)

    def _snapshot(self) -> memoryview:
        """The sum as it stands, in a copy that is good until the next one: it goes on growing while this is written."""
        if self._sum is None:
            return memoryview(b"")  # aborted since
        if self._copy is None:
            self._copy = np.empty_like(self._sum)
        np.copyto(self._copy, self._sum)
        return self._ring.as_buffer(self._copy)

    # --- agreement ---

    def _freeze(self) -> list[Command]:
        entries = sorted(Entry(owner, id_) for owner, id_ in self._reports.items())
        return [self._keep(Frozen(entries, self.releases.number)), *self._since_freeze()]

    def _since_freeze(self) -> list[Command]:
        """All that was said from the freeze on, said again."""
        commands: list[Command] = []
        if self.state in (State.FROZEN, State.VOTED, State.RELEASED):
            commands.append(self._say(FrozenList(self.manifest_hash, self._entries, self._number)))
        if self.state in (State.VOTED, State.RELEASED) and self._vote:
            vote = self._vote
            commands.append(self._say(Vote(self.manifest_hash, vote.choice, vote.reason, vote.code)))
        if self.state is State.RELEASED:
            commands.append(self._release())
        return commands

    def _lists(self, message: FrozenLists) -> list[Command]:
        if self.state not in (State.OPEN, State.FROZEN):
            return self._since_freeze()
        own = self._entries if self.state is State.FROZEN else None
        agreed = agreement.complete(message, self.party, self._manifest, self.manifest_hash, own)
        objection = self._objection(agreed)
        if objection is not None:
            return [self._keep(Voted(b"", [], objection.message, objection.code)), *self._since_freeze()]
        said = {self._key_of(peer): number for peer, number in agreed.releases.items()}
        vote = Voted(manifests.set_hash(self.manifest_hash, agreed.entries), agreed.entries, "", "", said)
        claim = Claim(*self.key, [entry.owner for entry in agreed.entries], self.releases.number + 1)
        self.releases.learn(claim)
        return [self._keep(vote, ledger=claim), *self._since_freeze()]

    def _objection(self, agreed: Agreed) -> SmpcError | None:
        """Why this aggregator will not release the sum over S."""
        return (
            agreement.too_few(agreed, self._manifest)
            or agreement.dropped(agreed, self._reports.keys() - self._seeds.keys())
            or agreement.forgotten(agreed, {peer: self._heard.get(self._key_of(peer), 0) for peer in agreed.releases})
            or agreement.subtractable(agreed, self.releases.others(self.key, self._computation), self._manifest)
        )

    def _key_of(self, aggregator: str) -> str:
        return self.party.key_of(aggregator, "aggregator").key.hex()

    def _votes(self, message: Votes) -> list[Command]:
        manifest = self._manifest
        if self.state is State.ABORTED:
            return [self._aborted()]
        if self.state in (State.RELEASED, State.CLOSED):
            return self._since_freeze()
        own = self._vote.choice if self._vote else None
        choices = agreement.choices(message, self.party, manifest, self.manifest_hash, own)
        if b"" in choices.values():
            return self._abort(agreement.against(message, self.party))
        if self._vote is None:
            raise ManifestRefused("this aggregator has not voted yet", phase="vote")
        if len(set(choices.values())) > 1:
            # Two sets were voted for, so neither can ever have all votes: nothing is released, and that is final.
            named = ", ".join(sorted(name for name in choices if choices[name] != self._vote.choice))
            return self._abort(f"the aggregators voted for different sets: {named} against {self.party.id}")
        if sorted(choices) != manifests.aggregator_ids(manifest):
            raise MalformedMessage("a release needs the vote of every aggregator", phase="vote")
        self._release()  # what cannot be said is not decided
        # All have voted for this sum, so each has one more than it had said before.
        released = Released(self._vote.choice, {peer: number + 1 for peer, number in self._vote.heard.items()})
        return [self._keep(released), *self._since_freeze()]

    def _release(self) -> Send:
        """The partial sum over S, sealed to the coordinator's key of this attempt under a fresh ephemeral key."""
        if self._lost:
            raise Unavailable(_LOST, phase=self.state.value)
        if self._partial is None:
            self._partial = self._seal_partial()
            self._sum = self._copy = None  # nothing is added any more; the disk has the sum
        return self._partial

    def _seal_partial(self) -> Send:
        assert self._vote is not None
        assert self._prekey is not None
        streams = [
            stream(self._seeds[entry.owner], Context(self.manifest_hash, entry.owner), self.party.id)
            for entry in self._vote.agreed
            if entry.owner in self._seeds
        ]
        return partial.seal(
            self._sum, streams, self._vote.choice, self._vote.agreed, self._manifest, self.manifest_hash, self.party,
            secret=self._prekey.private.reveal(), entropy=self._entropy, parallel=self._parallel,
        )  # fmt: skip

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
        claimed = self._vote is not None and self._vote.choice != b""
        kept = self._keep(Aborted(reason), ledger=Withdrawn(*self.key) if claimed else None)
        return [kept, EraseSecrets(), self._aborted(), Finished(RoundAborted(reason))]

    def _aborted(self) -> Send:
        return self._say(AttemptAborted(*self.key, self._abort_reason[:LONGEST_TEXT]))

    def _receipt(self, sender: str) -> list[Command]:
        if self.state in ENDED:
            return []
        if self.state is not State.RELEASED:
            return self._outdated(sender)
        return self._close(None)

    def _close(self, outcome: SmpcError | None) -> list[Command]:
        return [self._keep(Closed()), EraseSecrets(), Finished(outcome)]

    # --- a journal that is older than what was said ---

    def _unless_outdated(self, witness: str, decide: Callable[[], list[Command]]) -> list[Command]:
        try:
            return decide()
        except RolledBack:
            return self._outdated(witness)

    def _outdated(self, witness: str) -> list[Command]:
        kept, error = self._keep(Outdated(witness)), self._rolled_back()
        refusal = Send(self.coordinator, self.party.refuse(error, self.state.value, self.manifest_hash))
        return [kept, EraseSecrets(), refusal, Finished(error)]

    def _rolled_back(self) -> RolledBack:
        return RolledBack(
            f"{self.party.id} was restored from an older copy of its disk: {self._witness} has shown it what it said itself in "
            f"this attempt and does not know any more. It takes no further part in the attempt: begin another run"
        )
