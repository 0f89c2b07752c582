"""The test bed of rounds in which one aggregator adds ciphertexts, with a cipher that hides nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from clear_cipher import ClearCipher
from rig import Rig

from smpc_fl.encryption import RESIDUES, Cipher, sum_digest
from smpc_fl.protocols import vectors
from smpc_fl.protocols.commands import Received
from smpc_fl.protocols.coordinator import Released
from smpc_fl.protocols.decryption import Decryption
from smpc_fl.protocols.messages import (
    DecryptRequest,
    EncryptedSum,
)
from smpc_fl.protocols.simulate import COORDINATOR
from smpc_fl.ring import RingArray

AGGREGATOR = "aggregator-0"


class EncryptedRig(Rig):
    def __init__(self, vectors: Any = None, *, cipher: Cipher | None = None, **more: Any) -> None:
        super().__init__(vectors, cipher=cipher or ClearCipher(), **more)

    @property
    def decryption(self) -> Decryption:
        machine = self.nodes[COORDINATOR].machine
        assert isinstance(machine, Decryption)
        return machine

    def exact(self, outcome: Any) -> None:
        """The sum over S, as shares would give it to the last bit."""
        assert isinstance(outcome, Released), outcome
        fixed = self.plan.numbers.fixed_point
        vectors = [fixed.encode(self.vectors[entry.owner]) for entry in outcome.agreed]
        assert outcome.total.tolist() == np.sum(vectors, axis=0, dtype=fixed.ring.dtype).tolist()


def asked(**more: Any) -> tuple[EncryptedRig, str, Received, DecryptRequest]:
    """A round in which the coordinator's request is about to reach the owner who is to decrypt."""
    rig = EncryptedRig(**more)
    rig.begin()
    who, event = rig.until(DecryptRequest)
    assert isinstance(event.message, DecryptRequest)
    return rig, who, event, event.message


def request(rig: EncryptedRig, words: RingArray | None = None, by: str = AGGREGATOR, **changes: Any) -> Received:
    """A request of the coordinator's, with what aggregator `by` signed: true but for the `changes`, over `words`."""
    (released,) = rig.sent_by(AGGREGATOR, EncryptedSum)
    total = rig.decryption._released.total if words is None else words
    named = msgspec.structs.replace(released, **{"digest": sum_digest(total), **changes})
    packed = bytes(vectors.pack(RESIDUES, total))
    return rig.from_(COORDINATOR, DecryptRequest(named.manifest_hash, rig.parties[by].sign(named)), packed)
