"""Messages to bytes and back, and the signed envelope around them.

Decoding is strict: known tags only, no unknown fields, typed and length-capped (`messages.py`), no left-over bytes, and
the bytes must be the ones that encoding gives again, so that each message has exactly one spelling.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from smpc_fl.errors import BadSignature, MalformedMessage
from smpc_fl.hashing import digest
from smpc_fl.identity import Identity, PublicIdentity
from smpc_fl.protocols.messages import MESSAGES, Message, Signed

MAX_BODY = 1 << 25
"""Bytes of an encoded message, the largest there may be (attachments are counted apart)."""

_encoder = msgspec.msgpack.Encoder(order="deterministic")
_message_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(MESSAGES)
_signed_decoder = msgspec.msgpack.Decoder(Signed)

T = TypeVar("T", bound=msgspec.Struct)
M = TypeVar("M", bound=Message)


def encode(value: msgspec.Struct) -> bytes:
    """The one byte string of a structure."""
    return _encoder.encode(value)


def decode(data: bytes | memoryview, kind: type[T], *, peer: str | None = None) -> T:
    """A structure of type `kind` (one without a tag of its own, or exactly this message type) from its bytes."""
    return _strict(msgspec.msgpack.Decoder(kind), data, peer)


def decode_message(data: bytes | memoryview, *, peer: str | None = None) -> Message:
    """Any message of the protocol from its bytes."""
    return _strict(_message_decoder, data, peer)


def decode_signed(data: bytes | memoryview, *, peer: str | None = None) -> Signed:
    """An envelope from its bytes; its signature is not looked at here (`open_signed`)."""
    return _strict(_signed_decoder, data, peer)


def _strict(decoder: msgspec.msgpack.Decoder[T], data: bytes | memoryview, peer: str | None) -> T:
    if len(data) > MAX_BODY:
        raise MalformedMessage(f"a message of {len(data)} bytes is over the limit of {MAX_BODY}", peer=peer)
    try:
        value = decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedMessage(f"a message does not decode: {_reason(error)}", peer=peer) from None
    if _encoder.encode(value) != bytes(data):
        raise MalformedMessage("a message is not in its one canonical spelling", peer=peer)
    return value


def _reason(error: Exception) -> str:
    """What msgspec says, without the offending value (it quotes none for typed fields, but enums may)."""
    return str(error).split(": ", 1)[0][:200] if isinstance(error, msgspec.DecodeError) else type(error).__name__


def signing_bytes(federation: bytes, sender: str, body: bytes) -> bytes:
    """What an envelope's signature covers; the body's tag separates the types of messages."""
    return digest("smpc-fl/1 signed", federation, sender.encode(), body)


def sign(message: Message, *, identity: Identity, sender: str, federation: bytes) -> Signed:
    """The envelope around `message`, from member `sender` of `federation` (the hash of the federation's public key)."""
    body = encode(message)
    return Signed(sender, body, identity.sign(signing_bytes(federation, sender, body)))


def check_signature(signed: Signed, key: PublicIdentity, *, federation: bytes) -> None:
    """Raises `BadSignature` unless the envelope's signature holds under `key`."""
    if not key.verify(signing_bytes(federation, signed.sender, signed.body), signed.signature):
        raise BadSignature("the signature of a message does not verify", peer=signed.sender)


def verify(signed: Signed, key: PublicIdentity, *, federation: bytes) -> Message:
    """The message of an envelope whose signature holds under `key`. Raises `BadSignature` or `MalformedMessage`."""
    check_signature(signed, key, federation=federation)
    return decode_message(signed.body, peer=signed.sender)


def expect(message: Message, kind: type[M], *, peer: str | None = None, phase: str | None = None) -> M:
    """`message`, if it is of type `kind`."""
    if not isinstance(message, kind):
        raise MalformedMessage(f"expected {kind.__name__}, got {type(message).__name__}", peer=peer, phase=phase)
    return message
