"""The coordinator's part after the release, where vectors are encrypted: it has the sum of ciphertexts, and one owner of S
after the other is asked to decrypt it, until one does.

    state    event                             next     what is said, after what is durable
    ───────  ────────────────────────────────  ───────  ─────────────────────────────────────────
    ASKING   DecryptedSum of an owner of S     DONE     SumDecrypted, with the total -> (outcome)
    ASKING   Refusal of the one asked, time    ASKING   DecryptRequest to the next
    ASKING   the same of the last one          FAILED   (outcome: given up, no further attempt)

The aggregator is not needed any more: its release is durable here, with its signature. An owner that is asked again
answers again, so a coordinator that comes back from a crash asks from the first one on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

from smpc_fl.encryption import RESIDUES, sum_digest
from smpc_fl.errors import SmpcError, Unavailable, from_code
from smpc_fl.hashing import Buffer
from smpc_fl.protocols import key_holder, vectors
from smpc_fl.protocols.commands import Command, Event, Finished, PeerUp, Persist, Received, Send, Start, Tick, WakeAt
from smpc_fl.protocols.coordinator import CoordinatorRound, GivenUp, Released
from smpc_fl.protocols.messages import DecryptedSum, DecryptRequest, Refusal
from smpc_fl.protocols.records import Record, SumDecrypted
from smpc_fl.ring import RingArray, ring


class State(Enum):
    ASKING = "asking"
    DONE = "done"
    FAILED = "failed"


class Decryption:
    """Of one attempt's sum. `round`: the machine that has finished with `released`; `owners`: S, whom to ask first at the
    head; `patience`: seconds that one has before the next is asked."""

    def __init__(self, round: CoordinatorRound, released: Released, owners: Sequence[str], patience: float) -> None:
        assert round.manifest is not None
        assert released.signed is not None
        self.party, self.manifest, self.manifest_hash = round.party, round.manifest, round.manifest_hash
        self.state = State.ASKING
        self._key = round.key
        self._released, self._proof = released, released.signed
        self._owners, self._patience, self._until = list(owners), patience, 0.0
        self._at = 0
        self._why: SmpcError = Unavailable("no owner of this round's sum answered when it was asked to decrypt it")
        self._packed: Buffer | None = None

    @classmethod
    def restore(
        cls, round: CoordinatorRound, released: Released, owners: Sequence[str], patience: float,
        records: Sequence[Record], bulk: bytearray | None = None,
    ) -> Decryption:  # fmt: skip
        """The machine as it was when the last of `records` became durable, with its `bulk`; one that lost it asks again."""
        machine = cls(round, released, owners, patience)
        for record in records:
            if isinstance(record, SumDecrypted) and bulk is not None:
                of = ring(machine.manifest.ring_bits)
                machine._take(record, of.from_bytes(bulk, machine.manifest.dimension))
        return machine

    def receive(self, event: Event, now: float) -> list[Command]:
        match event:
            case Start():
                self._until = now + self._patience
                if self.state is State.DONE:
                    return [Finished(self._released)]
                return [self._ask(), WakeAt(self._until)]
            case PeerUp(peer=peer):
                return [self._ask()] if self.state is State.ASKING and peer == self._owners[self._at] else []
            case Tick():
                if self.state is not State.ASKING:
                    return []
                return self._next(now) if now >= self._until else [WakeAt(self._until)]
            case Received(sender=sender, message=message, attachment=attachment) if self.state is State.ASKING:
                match message:
                    case DecryptedSum() if sender in self._owners:
                        return self._answered(sender, message, attachment, now)
                    case Refusal(about=about) if about == self.manifest_hash and sender == self._owners[self._at]:
                        self._why = from_code(message.code, message.text, peer=sender, phase=key_holder.PHASE)
                        return self._next(now)
        return []

    def _ask(self) -> Send:
        total = self._released.total
        if self._packed is None:
            self._packed = vectors.pack(RESIDUES, total)
        request = DecryptRequest(self.manifest_hash, self._proof)
        return Send(self._owners[self._at], self.party.sign(request), self._packed)

    def _next(self, now: float) -> list[Command]:
        self._at += 1
        if self._at == len(self._owners):
            self.state, self._packed = State.FAILED, None
            return [Finished(GivenUp(self._why, ()))]
        self._until = now + self._patience
        return [self._ask(), WakeAt(self._until)]

    def _answered(self, owner: str, message: DecryptedSum, attachment: object, now: float) -> list[Command]:
        this = (self.manifest_hash, sum_digest(self._released.total))
        if (message.manifest_hash, message.digest) != this or not isinstance(
            attachment, bytes | bytearray | memoryview
        ):
            return []
        size = memoryview(attachment).nbytes
        try:
            total = key_holder.open_(message, attachment, owner, self.manifest, self.party, self._key)
        except SmpcError as error:
            if owner != self._owners[self._at]:
                return []
            self._why = error
            return self._next(now)
        record = SumDecrypted(owner, size)
        self._take(record, total)
        of = ring(self.manifest.ring_bits)
        return [Persist(record, lambda: of.as_buffer(total)), Finished(self._released)]

    def _take(self, record: SumDecrypted, total: RingArray) -> None:
        uploaded = dict(self._released.uploaded)
        uploaded[record.owner] = uploaded.get(record.owner, 0) + record.uploaded
        self._released = replace(self._released, total=total, uploaded=uploaded)
        self.state, self._packed = State.DONE, None
