"""What is sealed in a run: one key for each (sender, receiver, statement, kind of message, number), AES-256-GCM in one piece.

Neither the provider nor the coordinator can derive the key between two parties, so they see no opening. Sizes are public:
they follow from the program.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from smpc_fl.errors import DecryptionFailed, MalformedMessage, SmpcError
from smpc_fl.hashing import Buffer
from smpc_fl.protocols.commands import Send
from smpc_fl.protocols.messages import SEALED, ComputationDone, Dealt, Openings
from smpc_fl.protocols.party import Party
from smpc_fl.sealing import TAG, Agreement, KeyPair, Stream

PIECE = 1 << 20
"""Bytes of a fragment of what is attached: the largest that the transport has, for this is megabytes."""
OPENINGS, DEALT, OUTPUTS, TENSOR = "party>party openings", "provider>party dealt", "party>researcher outputs", "tensor"


class Seals:
    """One member's keys with all others (`keys`: X25519, by id), under the 32-byte hash of what they do."""

    def __init__(self, party: Party, own: KeyPair, about: bytes, keys: Mapping[str, bytes]) -> None:
        self._party, self._about = party, about
        self._agreements = {id: Agreement(own, key) for id, key in keys.items() if id != party.id}

    def seal(self, to: str, kind: str, number: int, plain: Buffer) -> memoryview:
        """`plain`, TAG bytes longer. Once for each (to, kind, number)."""
        view = memoryview(plain).cast("B")
        sealed = np.empty(view.nbytes + TAG, np.uint8).data
        self._stream(self._party.id, to, kind, number, view.nbytes).seal(0, view, sealed)
        return sealed

    def open(self, sender: str, kind: str, number: int, sealed: Buffer, size: int | None = None) -> memoryview:
        """The plaintext, of `size` bytes if that is said. Raises `MalformedMessage`, `DecryptionFailed`, naming the sender."""
        view = memoryview(sealed).cast("B")
        length = view.nbytes - TAG
        if length < 0 or size not in (None, length):
            raise MalformedMessage(f"{kind}: {max(length, 0)} sealed bytes, not {size}", peer=sender, phase=kind)
        plain = np.empty(length, np.uint8).data
        stream = self._stream(sender, self._party.id, kind, number, length)
        try:
            stream.open(0, view, plain)
        except DecryptionFailed as error:
            raise _named(error, sender, kind) from None
        return plain

    def _stream(self, sender: str, receiver: str, kind: str, number: int, length: int) -> Stream:
        agreement = self._agreements[receiver if sender == self._party.id else sender]
        key = agreement.key(
            sender=self._party.key_of(sender),
            receiver=self._party.key_of(receiver),
            manifest_hash=self._about,
            about=number.to_bytes(8, "little"),
            kind=kind,
        )
        return Stream(key, self._about, length, max(1, length))


def posted(party: Party, to: str, message: Openings | Dealt | ComputationDone, sealed: memoryview) -> Send:
    """A sealed text inside its message, or attached to it where it is long."""
    if sealed.nbytes > SEALED:
        return Send(to, party.sign(message), sealed, PIECE)
    return Send(to, party.sign(msgspec.structs.replace(message, sealed=bytes(sealed))))


def received(message: Openings | Dealt | ComputationDone, attachment: Buffer | None) -> Buffer:
    """The sealed text of such a message."""
    return message.sealed if attachment is None else attachment


def _named(error: SmpcError, peer: str, kind: str) -> SmpcError:
    return type(error)(f"what {peer} has sealed does not open: wrong key, altered or repeated", peer=peer, phase=kind)
