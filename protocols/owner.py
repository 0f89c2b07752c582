"""A data owner's part in one round, through all its attempts, without I/O.

    state      event                       next       what is said, after what is durable
    ─────────  ──────────────────────────  ─────────  ─────────────────────────────────────────────────────
    IDLE       RoundOffer, all rules hold  COMPUTING  Accepted -> (the shell computes)
    COMPUTING  Computed                    SEEDING    Reporting -> SeedReport to each seed holder
    SEEDING    Receipts of all holders     CARRYING   VectorReport to the carrier
    CARRYING   the carrier's Receipt       DONE       Done -> Reported
    COMPUTING  ComputeFailed               REFUSED    Done -> Refusal to the coordinator
    SEEDING,   Refusal of an aggregator    REFUSED    Done -> Refusal to the coordinator
    CARRYING
    any        RoundOffer, next attempt    SEEDING    the same integers are shared with fresh randomness
    any        RoundClosed, or long after  CLOSED     secrets erased
               the deadline

Where vectors are encrypted (`encryption.py`) nobody holds a seed: SEEDING is skipped, the vector is one of ciphertexts, and
the owner may be asked to decrypt their sum (`key_holder.py`): Decrypting -> DecryptedSum.

A RoundOffer that breaks a rule changes nothing: its refusal names the rule, and leaves before anything secret does. The
encoded update, seeds, blinders and the ephemeral key are one durable record before the first byte leaves: an owner that
comes back from a crash sends the very same report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from smpc_fl.encryption import Cipher
from smpc_fl.entropy import Entropy
from smpc_fl.errors import (
    BadInput,
    CapacityExceeded,
    Equivocation,
    JobNotApproved,
    ManifestRefused,
    ModelMismatch,
    SmpcError,
    from_code,
)
from smpc_fl.fixed_point import FixedPoint
from smpc_fl.hashing import Buffer
from smpc_fl.prg import add_streams
from smpc_fl.privacy.mechanism import check_norm
from smpc_fl.protocols import key_holder, vectors
from smpc_fl.protocols import manifest as manifests
from smpc_fl.protocols.commands import (
    Command,
    Compute,
    Computed,
    ComputeFailed,
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
from smpc_fl.protocols.manifest import Expected, Rules
from smpc_fl.protocols.messages import (
    DecryptRequest,
    Entry,
    Manifest,
    Receipt,
    Refusal,
    Reported,
    RoundClosed,
    RoundOffer,
    SeedReport,
    Signed,
    VectorReport,
)
from smpc_fl.protocols.party import Party
from smpc_fl.protocols.records import Accepted, Closed, Decrypting, Done, Record, Reporting
from smpc_fl.ring import RingArray, ring
from smpc_fl.sealing import KeyPair
from smpc_fl.secret import Secret
from smpc_fl.shares import BLINDER_SIZE, Context, commitment, report_id, split, stream

if TYPE_CHECKING:
    from smpc_fl.learning.update import SecureVector


class State(Enum):
    IDLE = "idle"
    COMPUTING = "computing"
    SEEDING = "seeding"
    CARRYING = "carrying"
    DONE = "done"
    REFUSED = "refused"
    CLOSED = "closed"


TRANSITIONS: dict[tuple[State, str], State] = {
    (State.IDLE, "RoundOffer"): State.COMPUTING,
    (State.COMPUTING, "Computed"): State.SEEDING,
    (State.COMPUTING, "Computed: not encodable"): State.REFUSED,
    (State.COMPUTING, "ComputeFailed"): State.REFUSED,
    (State.COMPUTING, "RoundOffer: integers kept"): State.SEEDING,
    (State.SEEDING, "Receipt: of every seed holder"): State.CARRYING,
    (State.SEEDING, "Refusal: an aggregator's"): State.REFUSED,
    (State.CARRYING, "Receipt: the carrier's"): State.DONE,
    (State.CARRYING, "Refusal: an aggregator's"): State.REFUSED,
    (State.CARRYING, "RoundOffer: next attempt"): State.SEEDING,
    (State.DONE, "RoundOffer: next attempt"): State.SEEDING,
    (State.DONE, "RoundOffer: next attempt, report lost"): State.COMPUTING,
    (State.REFUSED, "RoundOffer: next attempt"): State.SEEDING,
    (State.REFUSED, "RoundOffer: next attempt, nothing computed"): State.COMPUTING,
    (State.COMPUTING, "RoundClosed"): State.CLOSED,
    (State.SEEDING, "RoundClosed"): State.CLOSED,
    (State.CARRYING, "RoundClosed"): State.CLOSED,
    (State.DONE, "RoundClosed"): State.CLOSED,
    (State.REFUSED, "RoundClosed"): State.CLOSED,
    (State.COMPUTING, "Tick: long after the deadline"): State.CLOSED,
    (State.COMPUTING, "Start: long after the deadline"): State.CLOSED,
    (State.SEEDING, "Tick: long after the deadline"): State.CLOSED,
    (State.SEEDING, "Start: long after the deadline"): State.CLOSED,
    (State.CARRYING, "Tick: long after the deadline"): State.CLOSED,
    (State.CARRYING, "Start: long after the deadline"): State.CLOSED,
    (State.DONE, "Tick: long after the deadline"): State.CLOSED,
    (State.DONE, "Start: long after the deadline"): State.CLOSED,
    (State.REFUSED, "Tick: long after the deadline"): State.CLOSED,
    (State.REFUSED, "Start: long after the deadline"): State.CLOSED,
}
"""Every change of state: (state, event, after a colon its circumstances) -> state. Any other event leaves it as it is."""

ENCRYPTED: dict[tuple[State, str], State] = {
    (before, event): State.CARRYING if after is State.SEEDING else after
    for (before, event), after in TRANSITIONS.items()
    if before is not State.SEEDING
}
"""The same where vectors are encrypted."""


class OwnerRound:
    """One (run, round) at one owner. `expected`: what the approved job wants of this round, or None if the owner has
    approved no such job. `uploaded`: bytes of this round on the owner's sockets, which the shell counts. `cipher`: the owners'
    CKKS key, where they have one."""

    def __init__(
        self,
        party: Party,
        rules: Rules,
        key: tuple[bytes, int],
        expected: Expected | None,
        *,
        coordinator: str,
        entropy: Entropy,
        cipher: Cipher | None = None,
    ) -> None:
        self.party, self.rules, self.key, self.expected = party, rules, key, expected
        self.cipher = cipher
        self.coordinator = coordinator
        self.state = State.IDLE
        self.manifest: Manifest | None = None
        self.manifest_hash = b""
        self.uploaded = 0
        self._entropy = entropy
        self._prekeys: dict[str, bytes] = {}
        self._report: Reporting | None = None
        self._sealed: Buffer | None = None  # the vector, as it travels to the carrier
        self._encoded: RingArray | None = None  # between two attempts only: a sealed report stands for it otherwise
        self._receipts: dict[str, Signed] = {}
        self._end: Done | None = None
        self._computing = False
        self._decrypted = b""  # digest of the sum that was decrypted in this attempt

    # --- durable state ---

    @classmethod
    def restore(
        cls,
        party: Party,
        rules: Rules,
        key: tuple[bytes, int],
        expected: Expected | None,
        records: Sequence[Record],
        bulk: Buffer | None = None,
        *,
        coordinator: str,
        entropy: Entropy,
        cipher: Cipher | None = None,
    ) -> OwnerRound:
        """The machine as it was when the last of `records` became durable, and `bulk` with the last that had one."""
        machine = cls(party, rules, key, expected, coordinator=coordinator, entropy=entropy, cipher=cipher)
        last = max((i for i, record in enumerate(records) if isinstance(record, Reporting)), default=-1)
        for i, record in enumerate(records):
            if isinstance(record, Reporting):
                machine._sealed = bulk if i == last else None  # the newest took the place of those before it
            machine._apply(record)
        if machine.state in (State.SEEDING, State.CARRYING) and machine._sealed is None:
            machine._apply(Done(b"", "Unavailable", "the owner lost its durable report: it sits this attempt out"))
        return machine

    def _apply(self, record: Record) -> None:
        match record:
            case Accepted(manifest=signed):
                self._unseal()
                self.manifest, self.manifest_hash = manifests.read(signed), manifests.manifest_hash(signed)
                self.state, self._report, self._end, self._receipts = State.COMPUTING, None, None, {}
                self._prekeys, self._decrypted = {}, b""
            case Reporting():
                self.state = State.CARRYING if self._manifest.encryption else State.SEEDING
                self._report, self._encoded = record, None
            case Decrypting(digest=digest):
                self._decrypted = digest
            case Done(code=code):
                self.state, self._end = (State.REFUSED if code else State.DONE), record
            case _:
                assert isinstance(record, Closed)
                self.state, self._report, self._encoded, self._sealed = State.CLOSED, None, None, None

    def _unseal(self) -> None:
        """The integers that the last attempt shared: its vector, opened, plus the seeds' streams."""
        if self._report is None or self._sealed is None:
            return
        of, n = manifests.carried(self._manifest)
        context = Context(self.manifest_hash, self.party.id)
        words = vectors.open_vector(
            vectors.stream(self._report.vector_key, self.manifest_hash, of, n), of, n, self._sealed
        )
        for _ in add_streams(of, words, [stream(seed, context, a) for a, seed in self._report.seeds.items()]):
            pass
        self._encoded, self._sealed = words, None

    def _keep(self, record: Record, bulk: Callable[[], Buffer] | None = None) -> Persist:
        self._apply(record)
        return Persist(record, bulk)

    @property
    def _manifest(self) -> Manifest:
        assert self.manifest is not None
        return self.manifest

    @property
    def _aggregators(self) -> list[str]:
        return manifests.aggregator_ids(self._manifest)

    @property
    def _carrier(self) -> str:
        return manifests.carrier_of(self._manifest, self.party.id)

    @property
    def report_id(self) -> bytes:
        return report_id(self._report.commitments) if self._report else b""

    # --- events ---

    def receive(self, event: Event, now: float) -> list[Command]:
        """What to do about one event. A broken rule is refused to the coordinator, with the rule's own error."""
        match event:
            case Start():
                return [*self._resume(), *self._retire(now)]
            case Tick():
                return self._retire(now)
            case PeerUp(peer=peer):
                return [send for send in self._outstanding() if send.to == peer]
            case Computed(vector=vector):
                return self._computed(vector)
            case ComputeFailed(error=error):
                return self._failed(error)
            case _:
                assert isinstance(event, Received)
                return self._message(event, now)

    def _resume(self) -> list[Command]:
        if self.state is State.CLOSED:
            return [EraseSecrets()]
        return list(self._outstanding())

    def _message(self, event: Received, now: float) -> list[Command]:
        sender, message = event.sender, event.message
        match message:
            case RoundOffer() if sender == self.coordinator:
                try:
                    return self._offer(message, event.attachment or b"", now)
                except SmpcError as error:
                    about = manifests.manifest_hash(message.manifest)
                    return [Send(self.coordinator, self.party.refuse(error, "offer", about))]
            case Receipt() if self._is_receipt(sender, message):
                return self._receipt(sender, event.signed)
            case RoundClosed() if sender == self.coordinator:
                return self._close(message)
            case DecryptRequest() if sender == self.coordinator:
                try:
                    self._check_asked(message)
                    return self._decrypt(message, event.attachment)
                except SmpcError as error:
                    about = message.manifest_hash
                    return [Send(self.coordinator, self.party.refuse(error, key_holder.PHASE, about))]
            case Refusal() if self._is_refusal(sender, message):
                return self._refuse(from_code(message.code, f"{sender} refused the report: {message.text}"))
        return []

    def _offer(self, offer: RoundOffer, model: Buffer, now: float) -> list[Command]:
        hash_ = manifests.manifest_hash(offer.manifest)
        if self.manifest is not None and hash_ == self.manifest_hash:
            # The coordinator did not hear of us, or we crashed before we had computed: nothing has left in that case.
            if self.state is not State.COMPUTING:
                return list(self._outstanding())
            if self._encoded is not None:
                return self._share(self._encoded)
            self._check_model(model, self._manifest)
            return self._compute(model)
        if self.state is State.CLOSED:
            raise ManifestRefused("this owner has closed the round: begin another", peer=self.coordinator)
        manifest = manifests.check(offer.manifest, self.party, self.rules, now=now)
        if (manifest.run, manifest.round) != self.key:
            raise ManifestRefused("the manifest is of another round", peer=self.coordinator, phase="offer")
        if self.manifest is not None and manifest.attempt <= self._manifest.attempt:
            raise Equivocation("another manifest for a (run, round, attempt) that has one", peer=self.coordinator)
        if self.party.id not in manifest.cohort:
            raise ManifestRefused("this owner is not in the cohort", peer=self.coordinator, phase="offer")
        if self.expected is None or self.expected.job_digest != manifest.job_digest:
            raise JobNotApproved(
                "this owner has not approved the job with this digest: see `smpc-fl requests list`", phase="offer"
            )
        manifests.check_against_job(manifest, self.expected)
        manifests.check_endorsements(offer.endorsements, manifest, hash_, self.party)
        self._check_model(model, manifest)
        self._check_key(manifest)
        if self.manifest is not None:
            self._check_same_round(manifest)
        accepted = [self._keep(Accepted(offer.manifest)), *self._retire(now)]
        if self._encoded is not None:
            return [*accepted, *self._share(self._encoded)]
        return [*accepted, *self._compute(model)]

    def _compute(self, model: Buffer) -> list[Command]:
        """Once for a round, until it fails or is forgotten in a crash: attempts and offers that come again wait for it."""
        if self._computing:
            return []
        self._computing = True
        return [Compute(model)]

    def _check_model(self, model: Buffer, manifest: Manifest) -> None:
        whole = isinstance(model, bytes | bytearray | memoryview)  # and no sink that took it elsewhere
        if not whole or manifests.model_digest(model) != manifest.model_digest:
            raise ModelMismatch("the model that came is not the one that the manifest names", peer=self.coordinator)

    def _check_key(self, manifest: Manifest) -> None:
        if manifest.encryption and (self.cipher is None or self.cipher.id != manifest.encryption):
            raise ManifestRefused(
                "the manifest names another CKKS key than this owner's: `ckks_key` in every owner's config must be the same "
                "file, and the coordinator's policy must name its id",
                peer=self.coordinator,
                phase="offer",
            )

    def _check_same_round(self, manifest: Manifest) -> None:
        """A new attempt shares the same integers: scale, model and length must be those of the first, and the aggregators
        those whose aborts it carries."""

        def numbers(of: Manifest) -> tuple[object, ...]:
            return (
                of.ring_bits, of.fractional_bits, of.dimension, of.clip, of.max_samples, of.model_digest, of.purpose,
                manifests.aggregator_ids(of), of.encryption,
            )  # fmt: skip

        if numbers(manifest) != numbers(self._manifest):
            raise ManifestRefused(
                "a new attempt changes the round's numbers, model or aggregators: begin another round",
                peer=self.coordinator,
                phase="offer",
            )

    # --- report ---

    def _computed(self, vector: SecureVector | NDArray[np.float64]) -> list[Command]:
        self._computing = False
        if self.state is not State.COMPUTING:
            return []
        try:
            encoded = self._encode(vector)
            if (noise := self._manifest.privacy) is not None:
                check_norm(encoded, ring(self._manifest.ring_bits), noise)
            if self._manifest.encryption:
                assert self.cipher is not None
                encoded = manifests.layout(self._manifest).encrypt(encoded, self.cipher)
        except SmpcError as error:
            return self._refuse(error)
        return self._share(encoded)

    def _encode(self, vector: SecureVector | NDArray[np.float64]) -> RingArray:
        manifest = self._manifest
        fixed = FixedPoint(ring(manifest.ring_bits), manifest.fractional_bits)
        if not isinstance(vector, np.ndarray):
            if vector.length != manifest.dimension or vector.clip > manifest.clip:
                raise BadInput("the computed vector does not have the manifest's dimension and clip")
            return vector.encode(fixed)
        if vector.shape != (manifest.dimension,):
            raise BadInput("the computed vector does not have the manifest's dimension")
        encoded = fixed.encode(vector)
        if np.max(np.abs(vector), initial=0.0) > max(manifest.clip, 1.0):
            raise CapacityExceeded("a slot of the vector is beyond the manifest's clip: the sum could leave the ring")
        return encoded

    def _failed(self, error: SmpcError) -> list[Command]:
        self._computing = False
        return self._refuse(error) if self.state is State.COMPUTING else []

    def _share(self, encoded: RingArray) -> list[Command]:
        """Draw this attempt's seeds, blinders and ephemeral key; keep them with the sealed vector; then send the seeds."""
        to = self._carrier
        of, n = manifests.carried(self._manifest)
        ephemeral = KeyPair.generate(self._entropy)
        key = self._channel(to, ephemeral, b"").vector_key()
        sealer = vectors.VectorSealer(vectors.stream(key, self.manifest_hash, of, n), of)
        seeds: Mapping[str, bytes] = {}
        # The integers are not kept: the sealed vector and the seeds are them.
        if self._manifest.encryption:
            vectors.absorb(encoded, of, sealer)
        else:
            context = Context(self.manifest_hash, self.party.id)
            seeds = split(
                encoded, of, context, self._aggregators, to, self._entropy, in_place=True, absorb=sealer
            ).seeds
        blinders = [self._entropy(BLINDER_SIZE) for _ in self._aggregators]
        commitments = [
            commitment(blinder, sealer.tags if a == to else seeds[a])
            for a, blinder in zip(self._aggregators, blinders, strict=True)
        ]
        record = Reporting(dict(seeds), blinders, commitments, ephemeral.private.reveal(), key)
        self._sealed = sealer.sealed
        return [self._keep(record, lambda: sealer.sealed), *self._outstanding()]

    def _channel(self, aggregator: str, ephemeral: KeyPair, about: bytes) -> Channel:
        if not self._prekeys:
            self._prekeys = manifests.prekeys(self._manifest, self.party)
        return Channel(
            own=ephemeral,
            peer_public=self._prekeys[aggregator],
            sender=self.party.identity.public,
            receiver=self.party.key_of(aggregator, "aggregator"),
            manifest_hash=self.manifest_hash,
            about=about,
        )

    def _outstanding(self) -> list[Send]:
        """What has been said and not yet been answered, by state."""
        match self.state:
            case State.SEEDING:
                return [
                    self._seed_report(a) for a in self._aggregators if a != self._carrier and a not in self._receipts
                ]
            case State.CARRYING:
                return [self._vector_report()]
            case State.DONE:
                assert self._end is not None
                reported = Reported(self.manifest_hash, self._end.report_id, self.uploaded)
                return [Send(self.coordinator, self.party.sign(reported))]
            case State.REFUSED:
                assert self._end is not None
                error = from_code(self._end.code, self._end.text)
                return [Send(self.coordinator, self.party.refuse(error, "report", self.manifest_hash))]
            case _:
                return []

    def _seed_report(self, aggregator: str) -> Send:
        report, ephemeral, blinder = self._to(aggregator)
        sealed = self._channel(aggregator, ephemeral, self.report_id).seal_seed(report.seeds[aggregator], blinder)
        message = SeedReport(self.manifest_hash, report.commitments, ephemeral.public, sealed)
        return Send(aggregator, self.party.sign(message))

    def _vector_report(self) -> Send:
        to = self._carrier
        report, ephemeral, blinder = self._to(to)
        sealed = self._channel(to, ephemeral, self.report_id).seal_blinder(blinder)
        receipts = [self._receipts[a] for a in sorted(self._receipts)]
        message = VectorReport(self.manifest_hash, report.commitments, ephemeral.public, sealed, receipts)
        piece = vectors.fragment_size(manifests.carried(self._manifest)[0])
        return Send(to, self.party.sign(message), self._sealed, piece)

    def _to(self, aggregator: str) -> tuple[Reporting, KeyPair, bytes]:
        """The report, its ephemeral key, and the blinder of this aggregator's share."""
        assert self._report is not None
        blinder = self._report.blinders[self._aggregators.index(aggregator)]
        return self._report, KeyPair.from_private(Secret(self._report.ephemeral)), blinder

    def _is_receipt(self, sender: str, receipt: Receipt) -> bool:
        return (
            self.state in (State.SEEDING, State.CARRYING)
            and sender in self._aggregators
            and (receipt.manifest_hash, receipt.owner, receipt.report_id)
            == (self.manifest_hash, self.party.id, self.report_id)
        )

    def _is_refusal(self, sender: str, refusal: Refusal) -> bool:
        return (
            self.state in (State.SEEDING, State.CARRYING)
            and sender in self._aggregators
            and refusal.about == self.manifest_hash
        )

    def _receipt(self, sender: str, signed: Signed) -> list[Command]:
        if sender == self._carrier:
            if self.state is not State.CARRYING:
                return []  # nothing was sent there yet: a lie, but a harmless one
            return [self._keep(Done(self.report_id, "", "")), *self._outstanding()]
        if self.state is State.CARRYING:
            return []
        self._receipts[sender] = signed
        if len(self._receipts) < len(self._aggregators) - 1:
            return []
        self.state = State.CARRYING
        return list(self._outstanding())

    def _check_asked(self, request: DecryptRequest) -> None:
        reported = self.state in (State.CARRYING, State.DONE) and self._manifest.encryption
        if not reported or request.manifest_hash != self.manifest_hash:
            raise ManifestRefused("this owner has no encrypted report in such a round", peer=self.coordinator)

    def _decrypt(self, request: DecryptRequest, attachment: object) -> list[Command]:
        """The sum that this owner's report is in, for the coordinator: one in an attempt, also if it turns out to be none."""
        manifest, hash_ = self._manifest, self.manifest_hash
        assert self.cipher is not None
        own = Entry(self.party.id, self.report_id)
        digest, words = key_holder.check(request, attachment, manifest, hash_, own, self.party, self._decrypted)
        kept = [] if self._decrypted else [self._keep(Decrypting(digest))]
        try:
            answer = key_holder.answer(digest, words, manifest, hash_, self.party, self.cipher, self._entropy)
        except SmpcError as error:
            answer = Send(self.coordinator, self.party.refuse(error, key_holder.PHASE, hash_))
        return [*kept, answer]

    # --- ends ---

    def _refuse(self, error: SmpcError) -> list[Command]:
        return [self._keep(Done(b"", error.code, error.message)), *self._outstanding()]

    def _close(self, message: RoundClosed) -> list[Command]:
        if self.state is State.CLOSED or self.manifest is None or message.manifest_hash != self.manifest_hash:
            return []
        return self._closed(message.released)

    def _closed(self, released: bool) -> list[Command]:
        return [self._keep(Closed()), EraseSecrets(), Finished(released)]

    def _retire(self, now: float) -> list[Command]:
        """A coordinator that never comes back leaves no secret on this disk for good."""
        if self.manifest is None or self.state is State.CLOSED:
            return []
        end = self.manifest.deadline + self.rules.retention
        return [WakeAt(end)] if now < end else self._closed(released=False)
