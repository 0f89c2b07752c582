"""A link's bytes on a websocket: envelopes, each with at most one attachment behind it.

Every websocket message begins with a byte that says its kind:

    0 MESSAGE        lengths, the encoded `Signed` envelope, its attachment of at most 64 KiB, or none
    1 ANNOUNCEMENT   lengths, an envelope whose attachment is longer: it waits until the receiver has room for it
    2 GO             the receiver has room for what was announced
    3 DROP           the receiver does not want it (it says why in a message of its own): it is not sent
    4 ATTACHMENT     what was announced: this byte is a fragment of its own, the others are the attachment

`lengths` are 4 bytes for the envelope, 8 for the attachment, big-endian. They come first, so that what is too long is
refused before it arrives. A fragment has at most 1 MiB; an attachment is cut at multiples of what the sender chose.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Iterator
from enum import IntEnum
from typing import NamedTuple

from smpc_fl.errors import BadInput, MalformedMessage
from smpc_fl.hashing import Buffer
from smpc_fl.protocols.codec import MAX_BODY, decode_signed
from smpc_fl.protocols.messages import Signed

PIECE = 1 << 20
"""Bytes of a fragment, at most."""
DEFAULT_PIECE = 1 << 18
"""Bytes of an attachment's fragments, unless its sender chooses otherwise."""
INLINE = 1 << 16
"""Bytes of the longest attachment that travels with its envelope, without being asked for."""
MAX_ENVELOPE = MAX_BODY
"""Bytes of an encoded envelope, at most: the codec's limit."""

_LENGTHS = struct.Struct(">BIQ")

More = Callable[[], Awaitable[bytes | None]]
"""A message's next fragment; None when there is none."""


class Kind(IntEnum):
    MESSAGE = 0
    ANNOUNCEMENT = 1
    GO = 2
    DROP = 3
    ATTACHMENT = 4


class Incoming(NamedTuple):
    """A MESSAGE or an ANNOUNCEMENT. `size`: bytes of the attachment; `inline`: the attachment, if it is here."""

    signed: Signed
    size: int
    inline: memoryview | None


def message(envelope: bytes, attachment: memoryview) -> bytes:
    """A MESSAGE. `attachment` is empty or at most INLINE bytes."""
    return b"".join((_LENGTHS.pack(Kind.MESSAGE, len(envelope), len(attachment)), envelope, attachment))


def announcement(envelope: bytes, size: int) -> bytes:
    """An ANNOUNCEMENT of an attachment of `size` bytes, more than INLINE."""
    return _LENGTHS.pack(Kind.ANNOUNCEMENT, len(envelope), size) + envelope


def cut(data: Buffer, piece: int = PIECE) -> Iterator[memoryview]:
    """The data in views of `piece` bytes; the last one may be shorter."""
    view = memoryview(data)
    for start in range(0, len(view), piece):
        yield view[start : start + piece]


def piece_size(wanted: int) -> int:
    """Bytes of an attachment's fragments; `wanted` is 0 for the default. Raises `BadInput`."""
    if not 0 <= wanted <= PIECE:
        raise BadInput(f"a fragment has between 1 and {PIECE} bytes, not {wanted}")
    return wanted or DEFAULT_PIECE


def frame_size(payload: int, mask: int) -> int:
    """Bytes of a frame on the socket (RFC 6455, section 5.2); `mask`: 4 from a client, 0 from a server."""
    return payload + mask + (2 if payload < 126 else 4 if payload < 1 << 16 else 10)


def kind_of(first: bytes) -> Kind:
    """What a websocket message is, by its first fragment. Raises `MalformedMessage`."""
    if not first or first[0] > Kind.ATTACHMENT:
        raise MalformedMessage("a message is of no known kind")
    kind = Kind(first[0])
    if kind >= Kind.GO and len(first) > 1:
        raise MalformedMessage(f"{kind.name} is one byte")
    return kind


async def read_message(first: bytes, more: More, max_envelope: int, max_attachment: int) -> Incoming:
    """The MESSAGE or ANNOUNCEMENT that begins with the fragment `first`. Raises `MalformedMessage`."""
    if len(first) < _LENGTHS.size:
        raise MalformedMessage("a message is too short for its two lengths")
    kind, envelope_size, size = _LENGTHS.unpack_from(first)
    if envelope_size > max_envelope or size > max_attachment:
        raise MalformedMessage(
            f"a message of {envelope_size} bytes with an attachment of {size} bytes is over the limits of "
            f"{max_envelope} and {max_attachment}"
        )
    if (size > INLINE) != (kind == Kind.ANNOUNCEMENT):
        raise MalformedMessage(f"attachments are announced if they are over {INLINE} bytes, and no others")
    end = _LENGTHS.size + envelope_size
    data = memoryview(await _whole(first, more, end if size > INLINE else end + size))
    signed = decode_signed(data[_LENGTHS.size : end])
    return Incoming(signed, size, data[end:] if 0 < size <= INLINE else None)


async def _whole(first: bytes, more: More, size: int) -> bytes | bytearray:
    """All of a message that has said its size."""
    data = bytearray(first) if len(first) < size else first
    while (piece := await more()) is not None and len(data) + len(piece) <= size:
        data += piece
    if piece is not None or len(data) != size:
        raise MalformedMessage("a message is not as long as it said")
    return data


async def nothing_more(more: More) -> None:
    """For kinds that are one byte. Raises `MalformedMessage`."""
    if await more() is not None:
        raise MalformedMessage("a message is longer than its kind")
