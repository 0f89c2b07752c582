"""A connection's own seal on every message: between these two members, on this connection, in this order.

Signatures say who made a message, for good; they do not say to whom, when, or after which other one. So whoever sits in
the middle of a connection without TLS, or ends the TLS of it, could repeat, reorder, leave out or exchange signed
messages, and say those that were meant for one peer to another. Both sides of a handshake agree on a key instead: the
nonces in their signed `Hello` are fresh X25519 keys, and each later message carries a tag under the agreed key over its
number, its lengths and its signature. Anything added, lost, repeated or moved closes the connection.

BLAKE2b in its keyed mode (RFC 7693), 128 bits. The body and what is attached are not hashed again: the signature stands
for the body, and what is attached is sealed, or named by its digest in the body.
"""

from __future__ import annotations

import hashlib
import hmac

from smpc_fl.errors import MalformedMessage
from smpc_fl.hashing import Buffer

TAG = 16
"""Bytes of a tag."""


class Session:
    """Two keys of 32 bytes, one a direction, and how many messages have passed in each."""

    __slots__ = ("_heard", "_receiving", "_said", "_sending")

    def __init__(self, sending: bytes, receiving: bytes) -> None:
        self._sending = hashlib.blake2b(key=sending, digest_size=TAG, person=b"smpc-fl/1 link")
        self._receiving = hashlib.blake2b(key=receiving, digest_size=TAG, person=b"smpc-fl/1 link")
        self._said = self._heard = 0

    def __repr__(self) -> str:
        return f"<Session, {self._said} said, {self._heard} heard>"

    def seal(self, lengths: bytes, signature: bytes) -> bytes:
        """The tag of the next message that is sent, by its kind and lengths and its envelope's signature."""
        hasher = self._sending.copy()
        hasher.update(self._said.to_bytes(8, "little") + lengths + signature)
        self._said += 1
        return hasher.digest()

    def check(self, lengths: Buffer, signature: bytes, tag: Buffer) -> None:
        """Raises `MalformedMessage` unless the next message that came has this tag."""
        hasher = self._receiving.copy()
        hasher.update(self._heard.to_bytes(8, "little") + lengths + signature)
        self._heard += 1
        if not hmac.compare_digest(hasher.digest(), tag):
            raise MalformedMessage("a message was added, left out, repeated or changed on its way")
