"""What is sealed in a round, and under which key: one key for each (sender, receiver, manifest, report, kind of message).

An owner's share travels under a key agreed between the owner's ephemeral key of this report and the aggregator's prekey
of this attempt; a partial sum under one between the aggregator's ephemeral key and the coordinator's key of this attempt.
All of these keys are erased at close, which is what makes the traffic unreadable afterwards (forward secrecy).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from smpc_fl.errors import DecryptionFailed, MalformedMessage
from smpc_fl.identity import PublicIdentity
from smpc_fl.prg import SEED_SIZE
from smpc_fl.sealing import Agreement, KeyPair, is_low_order, open_small, seal_small
from smpc_fl.shares import BLINDER_SIZE


def check_key(public: bytes, of: str) -> None:
    """Raises `MalformedMessage` for a member's X25519 key that nothing may be sealed to (low order).

    Checked with the manifest that carries it: found out only when something is to be sealed, it would come too late."""
    if is_low_order(public):
        raise MalformedMessage(f"the X25519 key of {of} is of low order: nothing may be sealed to it", peer=of)


@dataclass(frozen=True)
class Channel:
    """The keys between two members for one report id (or set hash) `about` of one manifest. `own` and `peer_public` are
    X25519 keys, `sender` and `receiver` the Ed25519 identities that they were signed by."""

    own: KeyPair
    peer_public: bytes
    sender: PublicIdentity
    receiver: PublicIdentity
    manifest_hash: bytes
    about: bytes

    @cached_property
    def _agreement(self) -> Agreement:
        return Agreement(self.own, self.peer_public)

    def _key(self, kind: str, about: bytes | None = None) -> bytes:
        return self._agreement.key(
            sender=self.sender,
            receiver=self.receiver,
            manifest_hash=self.manifest_hash,
            about=self.about if about is None else about,
            kind=kind,
        )

    def seal_seed(self, seed: bytes, blinder: bytes) -> bytes:
        return seal_small(self._key("owner>aggregator seed"), seed + blinder)

    def open_seed(self, sealed: bytes) -> tuple[bytes, bytes]:
        """(seed, blinder), 32 bytes each."""
        opened = open_small(self._key("owner>aggregator seed"), sealed)
        if len(opened) != SEED_SIZE + BLINDER_SIZE:
            raise DecryptionFailed("a sealed seed has the wrong length", phase="report")
        return opened[:SEED_SIZE], opened[SEED_SIZE:]

    def seal_blinder(self, blinder: bytes) -> bytes:
        return seal_small(self._key("owner>aggregator blinder"), blinder)

    def open_blinder(self, sealed: bytes) -> bytes:
        """The 32 bytes that blind a vector's commitment."""
        blinder = open_small(self._key("owner>aggregator blinder"), sealed)
        if len(blinder) != BLINDER_SIZE:
            raise DecryptionFailed("a sealed blinder has the wrong length", phase="report")
        return blinder

    def vector_key(self) -> bytes:
        """The key of the stream that the owner's vector travels in (`vectors.stream`).

        Not about the report's id, which names the vector's tags and so comes later: the ephemeral key is the report's own."""
        return self._key("owner>aggregator vector", b"")

    def decrypted_key(self) -> bytes:
        """The key of the stream that a decrypted sum travels in."""
        return self._key("owner>coordinator decrypted")

    def partial_key(self) -> bytes:
        """The key of the stream that a partial sum travels in."""
        return self._key("aggregator>coordinator partial")
