"""One connection between two members, over a websocket: envelopes, each with at most one attachment behind it.

Fragments (`framing.py`) are written as the socket takes them, so a message of any length needs about `WRITE_LIMIT`
bytes at the sender and `QUEUE` fragments at the receiver, plus what the receiver's `Sink` keeps. Control frames go
between fragments, so keep-alive pings pass a long message; but they wait behind a reader that has stopped reading:
whoever does not call `receive` for longer than the ping timeouts is taken for dead.

Nothing here checks a signature: `handshake.py` does for the connection, the node above for every message.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed, PayloadTooBig, ProtocolError
from websockets.protocol import State

from smpc_fl.errors import BadInput, MalformedMessage, SmpcError, Unavailable
from smpc_fl.hashing import Buffer
from smpc_fl.identity import PublicIdentity
from smpc_fl.nodes.net.framing import MAX_ENVELOPE, PIECE, Accept, Incoming, frame_size, outgoing
from smpc_fl.protocols.codec import encode
from smpc_fl.protocols.messages import Signed

QUEUE = 4
"""Fragments that are read ahead of the consumer; beyond them the socket is not read."""
WRITE_LIMIT = 1 << 20
"""Bytes that may wait in the write buffer before `send` waits for the peer."""
NORMAL, PROTOCOL_BROKEN, POLICY, OUR_BUG = 1000, 1002, 1008, 1011
"""Close codes of RFC 6455, section 7.4.1."""

# websockets reports connections with peers' bytes in them at level DEBUG, and peers' nonsense with tracebacks at ERROR:
# the former must never be written anywhere, the latter we report ourselves as an error of our own tree.
quiet = logging.getLogger("smpc_fl.websockets")
quiet.addHandler(logging.NullHandler())
quiet.setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Limits:
    """What a connection bears. Seconds, bytes, connections."""

    attachment: int = 1 << 30
    """Bytes of the longest attachment that is taken or sent."""
    handshake: float = 10.0
    """Seconds until both sides have proved who they are (TCP, TLS and HTTP have as many of their own)."""
    ping_interval: float = 20.0
    ping_timeout: float = 20.0
    """Seconds without an answer to a ping after which the peer is taken for dead."""
    close: float = 5.0
    """Seconds that a peer has to say goodbye."""
    pending: int = 128
    """Connections that have not proved who they are, at most, at a listener."""

    def websocket(self) -> dict[str, Any]:
        """The keyword arguments that websockets' `connect` and `serve` have in common."""
        return {
            "compression": None,  # shares are incompressible, and compressed lengths tell about contents
            "max_size": (None, PIECE),
            "max_queue": QUEUE,
            "write_limit": WRITE_LIMIT,
            "open_timeout": self.handshake,
            "ping_interval": self.ping_interval,
            "ping_timeout": self.ping_timeout,
            "close_timeout": self.close,
            "logger": quiet,
        }


class Link:
    """A connection to `peer`, member of role `role` with identity `key` (all set by `handshake.authenticate`).

    `bytes_sent` and `bytes_received` count data frames as they are on the socket: payload, our lengths, frame headers
    (RFC 6455, section 5.2). Pings, the HTTP upgrade and TLS's own records (about 22 bytes in 16 KiB) are not in them.
    """

    def __init__(self, socket: Connection, *, dialled: bool, limits: Limits | None = None) -> None:
        self.peer = ""
        self.role = ""
        self.key: PublicIdentity | None = None
        self.roster_version = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.limits = limits or Limits()
        self._socket = socket
        # A client's frames carry a 4-byte mask (RFC 6455, section 5.3), a server's do not.
        self._mask_sent, self._mask_received = (4, 0) if dialled else (0, 4)
        self._sending = asyncio.Lock()
        self._end: Exception | None = None

    def __repr__(self) -> str:
        return f"<Link {self.peer or 'unauthenticated'} {self.role} {'open' if self.is_open else 'closed'}>"

    @property
    def is_open(self) -> bool:
        return self._socket.state is State.OPEN

    @property
    def ended(self) -> bool:
        """Whether `receive` has come to the connection's end. What arrived before a goodbye is still received after it,
        when `is_open` is False already."""
        return self._end is not None

    @property
    def remote_address(self) -> str:
        """Host and port of the other side, as the system tells them; empty when it does not."""
        address = self._socket.remote_address
        return f"{address[0]}:{address[1]}" if address else ""

    async def wait_closed(self) -> None:
        await self._socket.wait_closed()

    async def send(self, signed: Signed, attachment: Buffer | None = None) -> int:
        """Send one message; returns the bytes that it took on the socket, once the write buffer has room again.

        Concurrent senders take turns. `attachment`: a contiguous buffer, not copied as a whole, not to be changed until
        this returns. Raises `Unavailable` when the connection is or gets closed (the peer may or may not have the
        message), `BadInput` for what is over the limits. Cancelled in the midst of a long message, it drops the
        connection, which could not be used any more."""
        envelope = encode(signed)
        body = memoryview(attachment if attachment is not None else b"")
        if len(envelope) > MAX_ENVELOPE or body.nbytes > self.limits.attachment:
            raise BadInput(
                f"a message of {len(envelope)} bytes with an attachment of {body.nbytes} bytes is over the limits of "
                f"{MAX_ENVELOPE} and {self.limits.attachment}",
                peer=self.peer,
            )
        pieces = outgoing(envelope, body)
        async with self._sending:
            before = self.bytes_sent
            try:
                await self._socket.send(pieces[0] if len(pieces) == 1 else self._counted(pieces))
            except asyncio.CancelledError:
                if len(pieces) > 1:
                    self.abort()
                raise
            except Exception as error:
                # Whatever it is (`ConnectionClosed`, an OSError, an AttributeError of a transport that is gone), half a
                # message may be out: the connection is over.
                self.abort()
                raise self._gone(error) from None
            if len(pieces) == 1:
                self.bytes_sent += frame_size(len(pieces[0]), self._mask_sent)
            return self.bytes_sent - before

    def _counted(self, pieces: list[memoryview]) -> Iterator[memoryview]:
        for piece in pieces:
            self.bytes_sent += frame_size(len(piece), self._mask_sent)
            yield piece
        # websockets ends a fragmented message by an empty frame.
        self.bytes_sent += frame_size(0, self._mask_sent)

    async def receive(
        self, accept: Accept | None = None, *, max_envelope: int = MAX_ENVELOPE, max_attachment: int | None = None
    ) -> tuple[Signed, bytearray | None]:
        """The next message and its attachment, which is None when there is none or when a sink took it.

        Raises `Unavailable` once the connection is closed, `MalformedMessage` for bytes that break the format (the
        connection is then closed), and what `accept` or its sink raise of `SmpcError`: then the rest of that message
        was read and dropped, and the next call goes on to the next one (`ended` is False). Cancelling is safe between
        messages; within one it drops the connection."""
        most = self.limits.attachment if max_attachment is None else max_attachment
        if self._end is not None:
            raise self._gone(self._end)
        frames = self._fragments()
        first = await anext(frames)
        message = Incoming(first, frames, accept, max_envelope, most)
        try:
            signed, attachment = await message.read()
        except MalformedMessage as error:
            error.peer = error.peer or self.peer or None
            if self._end is None:  # otherwise it is websockets that found fault, and has closed
                self._end = error
                await asyncio.gather(self.close("malformed message", code=PROTOCOL_BROKEN), self._drain(frames))
            raise
        except BaseException as error:
            if not isinstance(error, Unavailable):
                self._end = Unavailable("dropped in the midst of a message")
                self.abort()
            await frames.aclose()
            raise
        if message.refused is not None:
            raise message.refused
        return signed, attachment

    async def _fragments(self) -> AsyncGenerator[bytes, None]:
        """The next message, fragment by fragment."""
        try:
            async for piece in self._socket.recv_streaming(decode=False):
                self.bytes_received += frame_size(len(piece), self._mask_received)
                yield piece
        except ConnectionClosed as error:
            self._end = error
            if isinstance(error.__cause__, PayloadTooBig | ProtocolError):
                raise MalformedMessage(
                    f"the connection was closed: {type(error.__cause__).__name__} on the wire", peer=self.peer or None
                ) from None
            raise self._gone(error) from None

    async def _drain(self, frames: AsyncGenerator[bytes, None]) -> None:
        """Read and drop until the connection is closed: the peer's goodbye comes behind what it has already sent."""
        with contextlib.suppress(SmpcError):
            while True:
                async for _ in frames:
                    pass
                frames = self._fragments()

    def _gone(self, error: Exception) -> Unavailable:
        """What a closed connection is called. The reason is the peer's text: shortened, and shown as data."""
        text = type(error).__name__
        if isinstance(error, ConnectionClosed):
            close = error.rcvd or error.sent
            text = f"code {close.code}, {close.reason[:100]!r}" if close else "it broke off"
        return Unavailable(f"the connection to {self.peer or 'a peer'} is closed ({text})", peer=self.peer or None)

    async def close(self, reason: str = "", *, code: int = NORMAL) -> None:
        """Say goodbye and close; waits at most `Limits.close` seconds for the peer's goodbye. Never raises."""
        try:
            await self._socket.close(code, reason.encode()[:120].decode(errors="ignore"))
        except Exception:
            # websockets 17.4: a close that follows a failed large send may raise AttributeError. Closed is closed.
            self.abort()

    def abort(self) -> None:
        """Drop the connection at once, without a goodbye."""
        self._socket.transport.abort()
