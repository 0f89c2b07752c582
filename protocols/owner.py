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
    any        RoundClosed                 CLOSED     secrets erased

A RoundOffer that breaks a rule changes nothing: its refusal names the rule, and leaves before anything secret does. The
encoded update, seeds, blinders and the ephemeral key are one durable record before the first byte leaves: an owner that
comes back from a crash sends the very same report.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np
from numpy.typing import NDArray

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
from smpc_fl.protocols import manifest as manifests
from smpc_fl.protocols.codec import decode
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
)
from smpc_fl.protocols.envelopes import BLINDER_BYTES, Channel
from smpc_fl.protocols.manifest import Expected, Rules
from smpc_fl.protocols.messages import (
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
from smpc_fl.protocols.records import Accepted, Closed, Done, Record, Reporting
from smpc_fl.ring import ring
from smpc_fl.sealing import KeyPair
from smpc_fl.secret import Secret
from smpc_fl.shares import Context, carrier, commitment, expand_seed, report_id, split


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
    (State.REFUSED, "RoundOffer: next attempt"): State.SEEDING,
    (State.REFUSED, "RoundOffer: next attempt, nothing computed"): State.COMPUTING,
    (State.COMPUTING, "RoundClosed"): State.CLOSED,
    (State.SEEDING, "RoundClosed"): State.CLOSED,
    (State.CARRYING, "RoundClosed"): State.CLOSED,
    (State.DONE, "RoundClosed"): State.CLOSED,
    (State.REFUSED, "RoundClosed"): State.CLOSED,
}
"""Every change of state: (state, event, after a colon its circumstances) -> state. Any other event leaves it as it is."""


class OwnerRound:
    """One (run, round) at one owner. `expected`: what the approved job wants of this round, or None if the owner has
    approved no such job. `uploaded`: bytes of this round on the owner's sockets, which the shell counts."""

    def __init__(
        self,
        party: Party,
        rules: Rules,
        key: tuple[bytes, int],
        expected: Expected | None,
        *,
        coordinator: str,
        entropy: Entropy,
    ) -> None:
        self.party, self.rules, self.key, self.expected = party, rules, key, expected
        self.coordinator = coordinator
        self.state = State.IDLE
        self.manifest: Manifest | None = None
        self.manifest_hash = b""
        self.uploaded = 0
        self._entropy = entropy
        self._encoded: NDArray[np.unsignedinteger] | None = None
        self._report: Reporting | None = None
        self._commitments: list[bytes] = []
        self._vector = b""
        self._receipts: dict[str, Signed] = {}
        self._end: Done | None = None
        self._computing = False

    # --- durable state ---

    @classmethod
    def restore(
        cls,
        party: Party,
        rules: Rules,
        key: tuple[bytes, int],
        expected: Expected | None,
        records: Sequence[Record],
        *,
        coordinator: str,
        entropy: Entropy,
    ) -> OwnerRound:
        """The machine as it was when the last of `records` became durable."""
        machine = cls(party, rules, key, expected, coordinator=coordinator, entropy=entropy)
        for record in records:
            machine._apply(record)
        return machine

    def _apply(self, record: Record) -> None:
        match record:
            case Accepted(manifest=signed):
                self.manifest, self.manifest_hash = decode(signed.body, Manifest), manifests.manifest_hash(signed)
                self.state, self._report, self._end, self._receipts = State.COMPUTING, None, None, {}
            case Reporting():
                self._load(record)
            case Done(code=code):
                self.state, self._end = (State.REFUSED if code else State.DONE), record
            case _:
                assert isinstance(record, Closed)
                self.state, self._report, self._encoded, self._vector = State.CLOSED, None, None, b""

    def _load(self, report: Reporting) -> None:
        """The report in full from its durable record: vector = encoded - ΣPRG(seed)."""
        manifest = self._manifest
        of = ring(manifest.ring_bits)
        context = Context(self.manifest_hash, self.party.id)
        encoded = of.from_bytes(report.encoded, manifest.dimension)
        vector = encoded.copy()
        for aggregator, seed in report.seeds.items():
            of.subtract_from(vector, expand_seed(seed, of, manifest.dimension, context, aggregator))
        self._install(report, encoded, of.to_bytes(vector))

    def _install(self, report: Reporting, encoded: NDArray[np.unsignedinteger], vector: bytes) -> None:
        self.state, self._report, self._encoded, self._vector = State.SEEDING, report, encoded, vector
        self._commitments = [
            commitment(blinder, report.seeds.get(aggregator, vector))
            for aggregator, blinder in zip(self._aggregators, report.blinders, strict=True)
        ]

    def _keep(self, record: Record) -> Persist:
        self._apply(record)
        return Persist(record)

    @property
    def _manifest(self) -> Manifest:
        assert self.manifest is not None
        return self.manifest

    @property
    def _aggregators(self) -> list[str]:
        return manifests.aggregator_ids(self._manifest)

    @property
    def _carrier(self) -> str:
        return carrier(self.party.id, self._manifest.cohort, self._manifest.round, self._aggregators)

    @property
    def report_id(self) -> bytes:
        return report_id(self._commitments)

    # --- events ---

    def receive(self, event: Event, now: float) -> list[Command]:
        """What to do about one event. A broken rule is refused to the coordinator, with the rule's own error."""
        match event:
            case Start():
                return self._resume()
            case Tick():
                return []
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
                    return self._offer(message, bytes(event.attachment or b""), now)
                except SmpcError as error:
                    about = manifests.manifest_hash(message.manifest)
                    return [Send(self.coordinator, self.party.refuse(error, "offer", about))]
            case Receipt() if self._is_receipt(sender, message):
                return self._receipt(sender, event.signed)
            case RoundClosed() if sender == self.coordinator:
                return self._close(message)
            case Refusal() if self._is_refusal(sender, message):
                return self._refuse(from_code(message.code, f"{sender} refused the report: {message.text}"))
        return []

    def _offer(self, offer: RoundOffer, model: bytes, now: float) -> list[Command]:
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
        if self.manifest is not None:
            self._check_same_round(manifest)
        accepted = self._keep(Accepted(offer.manifest))
        if self._encoded is not None:
            return [accepted, *self._share(self._encoded)]
        return [accepted, *self._compute(model)]

    def _compute(self, model: bytes) -> list[Command]:
        """Once for a round, until it fails or is forgotten in a crash: attempts and offers that come again wait for it."""
        if self._computing:
            return []
        self._computing = True
        return [Compute(model)]

    def _check_model(self, model: bytes, manifest: Manifest) -> None:
        if manifests.model_digest(model) != manifest.model_digest:
            raise ModelMismatch("the model that came is not the one that the manifest names", peer=self.coordinator)

    def _check_same_round(self, manifest: Manifest) -> None:
        """A new attempt shares the same integers: scale, model and length must be those of the first, and the aggregators
        those whose aborts it carries."""

        def numbers(of: Manifest) -> tuple[object, ...]:
            return (
                of.ring_bits, of.fractional_bits, of.dimension, of.clip, of.max_samples, of.model_digest, of.purpose,
                manifests.aggregator_ids(of),
            )  # fmt: skip

        if numbers(manifest) != numbers(self._manifest):
            raise ManifestRefused(
                "a new attempt changes the round's numbers, model or aggregators: begin another round",
                peer=self.coordinator,
                phase="offer",
            )

    # --- report ---

    def _computed(self, vector: NDArray[np.float64]) -> list[Command]:
        self._computing = False
        if self.state is not State.COMPUTING:
            return []
        manifest = self._manifest
        try:
            if vector.shape != (manifest.dimension,):
                raise BadInput("the computed vector does not have the manifest's dimension")
            encoded = FixedPoint(ring(manifest.ring_bits), manifest.fractional_bits).encode(vector)
            if np.max(np.abs(vector), initial=0.0) > max(manifest.clip, 1.0):
                raise CapacityExceeded(
                    "a slot of the vector is beyond the manifest's clip: the sum could leave the ring"
                )
        except SmpcError as error:
            return self._refuse(error)
        return self._share(encoded)

    def _failed(self, error: SmpcError) -> list[Command]:
        self._computing = False
        return self._refuse(error) if self.state is State.COMPUTING else []

    def _share(self, encoded: NDArray[np.unsignedinteger]) -> list[Command]:
        """Draw this attempt's seeds, blinders and ephemeral key; keep them with the integers; then send the seeds."""
        manifest = self._manifest
        of = ring(manifest.ring_bits)
        context = Context(self.manifest_hash, self.party.id)
        shares = split(encoded, of, context, self._aggregators, self._carrier, self._entropy)
        blinders = [self._entropy(BLINDER_BYTES) for _ in self._aggregators]
        ephemeral = KeyPair.generate(self._entropy).private.reveal()
        record = Reporting(of.to_bytes(encoded), dict(shares.seeds), blinders, ephemeral)
        self._install(record, encoded, of.to_bytes(shares.vector))
        return [Persist(record), *self._outstanding()]

    def _channel(self, aggregator: str) -> Channel:
        assert self._report is not None
        return Channel(
            own_private=Secret(self._report.ephemeral),
            peer_public=manifests.prekeys(self._manifest, self.party)[aggregator],
            sender=self.party.identity.public,
            receiver=self.party.key_of(aggregator, "aggregator"),
            manifest_hash=self.manifest_hash,
            about=self.report_id,
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
        assert self._report is not None
        blinder = self._report.blinders[self._aggregators.index(aggregator)]
        sealed = self._channel(aggregator).seal_seed(self._report.seeds[aggregator], blinder)
        ephemeral = KeyPair.from_private(Secret(self._report.ephemeral)).public
        message = SeedReport(self.manifest_hash, self._commitments, ephemeral, sealed)
        return Send(aggregator, self.party.sign(message))

    def _vector_report(self) -> Send:
        assert self._report is not None
        to = self._carrier
        blinder = self._report.blinders[self._aggregators.index(to)]
        sealed, attachment = self._channel(to).seal_vector(self._vector, blinder)
        ephemeral = KeyPair.from_private(Secret(self._report.ephemeral)).public
        receipts = [self._receipts[a] for a in sorted(self._receipts)]
        message = VectorReport(self.manifest_hash, self._commitments, ephemeral, sealed, receipts)
        return Send(to, self.party.sign(message), attachment)

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

    # --- ends ---

    def _refuse(self, error: SmpcError) -> list[Command]:
        return [self._keep(Done(b"", error.code, error.message)), *self._outstanding()]

    def _close(self, message: RoundClosed) -> list[Command]:
        if self.state is State.CLOSED or self.manifest is None or message.manifest_hash != self.manifest_hash:
            return []
        return [self._keep(Closed()), EraseSecrets(), Finished(message.released)]
