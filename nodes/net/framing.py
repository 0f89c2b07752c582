"""A link's bytes on a websocket: envelopes, each with at most one attachment behind it.

Every websocket message begins with a byte that says its kind:

    0 MESSAGE        lengths, tag, the encoded `Signed` envelope, its attachment of at most 64 KiB, or none
    1 ANNOUNCEMENT   lengths, tag, an envelope whose attachment is longer: it waits until the receiver has room for it
    2 GO             the receiver has room for what was announced
    3 DROP           the receiver does not want it (it says why in a message of its own): it is not sent
    4 ATTACHMENT     what was announced: this byte is a fragment of its own, the others are the attachment

`lengths` are 4 bytes for the envelope, 8 for the attachment, big-endian. They come first, so that what is too long is
refused before it arrives. `tag`: 16 bytes (`session.py`), from the end of the handshake on. A fragment has at most 128 KiB,
of an attachment 1 MiB; that is cut at multiples of what the sender chose.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Iterator
from enum import IntEnum
from typing import NamedTuple

from smpc_fl.errors import BadInput, MalformedMessage
from smpc_fl.hashing import Buffer
from smpc_fl.nodes.net.session import TAG, Session
from smpc_fl.nodes.net.sizes import HEAD, SMALL, Sizes, type_in
from smpc_fl.protocols.codec import MAX_BODY, decode_signed
from smpc_fl.protocols.messages import Signed

PIECE = 1 << 20
"""Bytes of an attachment's fragment, at most."""
LEAF = 1 << 17
"""Bytes of any other fragment, at most: nobody has asked for it."""
DEFAULT_PIECE = 1 << 18
"""Bytes of an attachment's fragments, unless its sender chooses otherwise."""
INLINE = 1 << 16
"""Bytes of the longest attachment that travels with its envelope, without being asked for."""
MAX_ENVELOPE = MAX_BODY
"""Bytes of an encoded envelope, at most: the codec's limit."""

_LENGTHS = struct.Struct(">BIQ")

Rest = Callable[[int], Awaitable[None]]
"""Told of a message of so many bytes that is not all in its first fragment; waits until there is memory for it."""
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


def message(envelope: bytes, attachment: memoryview, session: Session | None = None) -> bytes:
    """A MESSAGE. `attachment` is empty or at most INLINE bytes."""
    head = _LENGTHS.pack(Kind.MESSAGE, len(envelope), len(attachment))
    return b"".join((head, _tag(head, envelope, session), envelope, attachment))


def announcement(envelope: bytes, size: int, session: Session | None = None) -> bytes:
    """An ANNOUNCEMENT of an attachment of `size` bytes, more than INLINE."""
    head = _LENGTHS.pack(Kind.ANNOUNCEMENT, len(envelope), size)
    return b"".join((head, _tag(head, envelope, session), envelope))


def _tag(head: bytes, envelope: bytes, session: Session | None) -> bytes:
    # An envelope ends with its signature (`Signed`'s last field).
    return b"" if session is None else session.seal(head, envelope[-64:])


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


async def read_message(
    first: bytes,
    more: More,
    max_envelope: int,
    max_attachment: int,
    sizes: Sizes | None = None,
    session: Session | None = None,
    rest: Rest | None = None,
) -> Incoming:
    """The MESSAGE or ANNOUNCEMENT that begins with the fragment `first`. Raises `MalformedMessage`."""
    begin = _LENGTHS.size + (0 if session is None else TAG)
    if len(first) < begin:
        raise MalformedMessage("a message is too short for its two lengths")
    kind, envelope_size, size = _LENGTHS.unpack_from(first)
    if envelope_size > max_envelope or size > max_attachment:
        raise MalformedMessage(
            f"a message of {envelope_size} bytes with an attachment of {size} bytes is over the limits of "
            f"{max_envelope} and {max_attachment}"
        )
    if (size > INLINE) != (kind == Kind.ANNOUNCEMENT):
        raise MalformedMessage(f"attachments are announced if they are over {INLINE} bytes, and no others")
    if envelope_size > SMALL and sizes is not None:
        _check_size(first[begin : begin + HEAD], envelope_size, sizes)
    end = begin + envelope_size
    whole = end if size > INLINE else end + size
    if whole > len(first) and rest is not None:
        await rest(whole)
    data = memoryview(await _whole(first, more, whole))
    signed = decode_signed(data[begin:end])
    if session is not None:
        session.check(data[: _LENGTHS.size], signed.signature, data[_LENGTHS.size : begin])
    return Incoming(signed, size, data[end:] if 0 < size <= INLINE else None)


def _check_size(head: bytes, size: int, sizes: Sizes) -> None:
    """Before the envelope has arrived, let alone been decoded."""
    kind = type_in(head)
    most = sizes(kind)
    if size > most:
        what = f"a {kind}" if most else "a message of that type"
        raise MalformedMessage(f"{what} of {size} bytes is over the limit of {max(most, SMALL)}")


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
