"""A message's bytes on a websocket: an envelope, and at most one attachment behind it.

A message is one websocket message. Its bytes, in fragments of at most 1 MiB:

    4 bytes   length of the envelope, big-endian      8 bytes   length of the attachment, big-endian
    the encoded `Signed` envelope                     the attachment

Lengths come first, so that what is too long is refused before it arrives. An attachment of 0 bytes is no attachment.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from smpc_fl.errors import MalformedMessage, SmpcError
from smpc_fl.hashing import Buffer
from smpc_fl.protocols.codec import MAX_BODY, decode_signed
from smpc_fl.protocols.messages import Signed

PIECE = 1 << 20
"""Bytes of a fragment, at most."""
MAX_ENVELOPE = MAX_BODY
"""Bytes of an encoded envelope, at most: the codec's limit."""

_HEADER = struct.Struct(">IQ")

Sink = Callable[[bytes], Awaitable[None]]
"""Takes an attachment piece by piece, in order, at most 1 MiB at a time. Raising an `SmpcError` refuses the message."""

Accept = Callable[[Signed, int], Sink | None]
"""Told of an envelope whose attachment (so many bytes) is about to arrive: gives a sink, or None to have it collected
in memory, or refuses by raising an `SmpcError`. The envelope's signature has not been checked yet."""


def outgoing(envelope: bytes, attachment: memoryview) -> list[memoryview]:
    """A message's fragments; the attachment's are views, not copies."""
    pieces = list(_cut(_HEADER.pack(len(envelope), attachment.nbytes) + envelope))
    if attachment.nbytes:
        pieces += _cut(attachment.cast("B"))
    return pieces


def _cut(data: Buffer) -> Iterator[memoryview]:
    view = memoryview(data)
    for start in range(0, len(view), PIECE):
        yield view[start : start + PIECE]


def frame_size(payload: int, mask: int) -> int:
    """Bytes of a frame on the socket (RFC 6455, section 5.2); `mask`: 4 from a client, 0 from a server."""
    return payload + mask + (2 if payload < 126 else 4 if payload < 1 << 16 else 10)


class Incoming:
    """One message on its way in: its first fragment, and `frames` for the others.

    `refused` holds what `accept` or its sink raised; the message was then read to its end and dropped."""

    def __init__(
        self, first: bytes, frames: AsyncIterator[bytes], accept: Accept | None, max_envelope: int, max_attachment: int
    ) -> None:
        self.refused: SmpcError | None = None
        self._piece = memoryview(first)
        self._frames = frames
        self._accept = accept
        self._max_envelope = max_envelope
        self._max_attachment = max_attachment
        self._empty = 0

    async def read(self) -> tuple[Signed, bytearray | None]:
        if len(self._piece) < _HEADER.size:
            raise MalformedMessage("a message is too short for its two lengths")
        envelope_size, size = _HEADER.unpack_from(self._piece)
        self._piece = self._piece[_HEADER.size :]
        if envelope_size > self._max_envelope or size > self._max_attachment:
            raise MalformedMessage(
                f"a message of {envelope_size} bytes with an attachment of {size} bytes is over the limits of "
                f"{self._max_envelope} and {self._max_attachment}"
            )
        envelope = bytearray()
        while True:
            envelope += self._take(envelope_size - len(envelope))
            if len(envelope) == envelope_size:
                break
            if not await self._next():
                raise MalformedMessage("a message ends within its envelope")
        signed = decode_signed(bytes(envelope))
        collected = bytearray()

        async def collect(piece: bytes) -> None:
            collected.extend(piece)

        sink: Sink = collect
        if size and self._accept is not None:
            try:
                sink = self._accept(signed, size) or collect
            except SmpcError as error:
                self.refused = error
        await self._stream(size, sink)
        return signed, collected if size and sink is collect else None

    async def _stream(self, size: int, sink: Sink) -> None:
        left = size
        while True:
            piece = self._take(left)
            left -= len(piece)
            if self._piece:
                raise MalformedMessage("a message is longer than it said")
            if piece and self.refused is None:
                try:
                    await sink(bytes(piece))
                except SmpcError as error:
                    self.refused = error
            if not await self._next():
                break
        if left:
            raise MalformedMessage("a message is shorter than it said")

    def _take(self, most: int) -> memoryview:
        taken, self._piece = self._piece[:most], self._piece[most:]
        return taken

    async def _next(self) -> bool:
        """Whether there was one more fragment."""
        piece = await anext(self._frames, None)
        if piece is None:
            return False
        # One empty fragment ends a message; more of them are only there to keep us busy.
        self._empty += not piece
        if self._empty > 1:
            raise MalformedMessage("a message has empty fragments")
        self._piece = memoryview(piece)
        return True
