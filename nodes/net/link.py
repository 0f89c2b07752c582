"""One connection between two members, over a websocket: envelopes, each with at most one attachment behind it.

A message with up to 64 KiB attached is sent at once, and such messages arrive in the order in which they were sent. A
longer attachment waits until the receiver has room for it: its envelope goes first, small messages of both directions
pass meanwhile, so what is sent later may arrive before it. One long attachment at a time is under way in a direction;
others wait behind it, and keep their order. So a message of any length needs about `WRITE_LIMIT` bytes at the sender
and `QUEUE` fragments at the receiver, plus what the receiver's sink keeps.

That the receiver has room is heard by whoever calls `receive`: a link that nobody reads sends nothing long. Control
frames go between fragments, so keep-alive pings pass a long message; but they wait behind a reader that has stopped
reading: whoever does not call `receive` for longer than the ping timeouts is taken for dead.

Nothing here checks a signature: `handshake.py` does for the connection, the node above for every message. What comes on
an authenticated link was sent on it, once, in this order (`session.py`), is not longer than its type can be (`sizes.py`),
and goes on once it has begun; who passes a limit is told which, and cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import overload

from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed, PayloadTooBig, ProtocolError
from websockets.protocol import State

from smpc_fl.errors import BadInput, InternalError, LimitExceeded, MalformedMessage, SmpcError, Unavailable
from smpc_fl.hashing import Buffer
from smpc_fl.identity import PublicIdentity
from smpc_fl.nodes.net import framing
from smpc_fl.nodes.net.attachment import Accept, Attachment, Sink
from smpc_fl.nodes.net.framing import INLINE, LEAF, MAX_ENVELOPE, PIECE, Incoming, Kind, frame_size
from smpc_fl.nodes.net.limits import Limits
from smpc_fl.nodes.net.room import LARGE, Place, Room
from smpc_fl.nodes.net.session import TAG, Session
from smpc_fl.nodes.net.sizes import Sizes
from smpc_fl.nodes.net.writer import Writer
from smpc_fl.protocols.codec import encode
from smpc_fl.protocols.messages import Signed

NORMAL, PROTOCOL_BROKEN, POLICY, OUR_BUG = 1000, 1002, 1008, 1011
"""Close codes of RFC 6455, section 7.4.1."""
CRUMB, CRUMBS = 1 << 10, 64
"""Bytes that a fragment has on the average, at least, and how many fragments do not count: each has its price."""


class Link:
    """A connection to `peer`, member of role `role` with identity `key` (all set by `handshake.authenticate`).

    `bytes_sent` and `bytes_received` count data frames as they are on the socket: payload, our lengths, frame headers
    (RFC 6455, section 5.2). Pings, the HTTP upgrade and TLS's own records (about 22 bytes in 16 KiB) are not in them.
    `refused`: the envelope of the message that `receive` has refused last. `sizes`: what the peer may say, and how long;
    `room`: where its long envelopes wait for memory; both None: anything, at once.
    """

    def __init__(self, socket: Connection, *, dialled: bool, limits: Limits | None = None) -> None:
        self.peer = ""
        self.role = ""
        self.key: PublicIdentity | None = None
        self.roster_version = 0
        self.bytes_received = 0
        self.refused: Signed | None = None
        self.sizes: Sizes | None = None
        self.room: Room | None = None
        self.limits = limits or Limits()
        self._socket = socket
        # A client's frames carry a 4-byte mask (RFC 6455, section 5.3), a server's do not.
        mask_sent, self._mask_received = (4, 0) if dialled else (0, 4)
        self._writer = Writer(socket, mask_sent, self.abort, self._gone)
        self._reader: asyncio.Task[object] | None = None
        # What the peer has announced; what was refused of it, for `receive` to say so; the clock that wakes `receive`
        # for that while it waits for a message.
        self._attachment: Attachment | None = None
        self._refusal: Attachment | None = None
        self._clock: asyncio.Timeout | None = None
        self._end: Exception | None = None
        self._session: Session | None = None
        self._cut_off = ""
        self._cutting: asyncio.Task[None] | None = None
        self._place: Place | None = None  # of the long envelope that was handed on last

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
    def bytes_sent(self) -> int:
        return self._writer.bytes_sent

    @property
    def remote_address(self) -> str:
        """Host and port of the other side, as the system tells them; empty when it does not."""
        address = self._socket.remote_address
        return f"{address[0]}:{address[1]}" if address else ""

    async def wait_closed(self) -> None:
        await self._socket.wait_closed()

    def begin(self, session: Session) -> None:
        """The handshake is done: from now on, messages of both directions carry the session's tags."""
        self._session = self._writer.session = session
        self._longest_fragment(LEAF)

    def _longest_fragment(self, size: int) -> None:
        # Counts from the frame after the next: a peer that is told GO first says ATTACHMENT, in a frame of its own.
        self._socket.protocol.max_fragment_size = size + TAG

    # --- sending ---

    async def send(self, signed: Signed, attachment: Buffer | None = None, *, piece: int = 0) -> int:
        """Send one message; returns the bytes that it took on the socket, once the write buffer has room again.

        Concurrent senders take turns. `attachment`: a contiguous buffer, not copied as a whole, not to be changed until
        this returns; a long one is cut in fragments of `piece` bytes (0: 256 KiB). An attachment that the peer does not
        want is not sent, and that is no error here: the peer says why in a message of its own.

        Raises `Unavailable` when the connection is or gets closed (the peer may or may not have the message),
        `BadInput` for what is over the limits. Cancelled in the midst of a long message, it drops the connection, which
        could not be used any more."""
        envelope = encode(signed)
        body = memoryview(attachment if attachment is not None else b"")
        if len(envelope) > MAX_ENVELOPE or body.nbytes > self.limits.attachment:
            raise BadInput(
                f"a message of {len(envelope)} bytes with an attachment of {body.nbytes} bytes is over the limits of "
                f"{MAX_ENVELOPE} and {self.limits.attachment}",
                peer=self.peer,
            )
        if body.nbytes > INLINE and asyncio.current_task() is self._reader:
            raise InternalError("whoever reads a link cannot wait until its peer has room", peer=self.peer)
        return await self._writer.send(envelope, body, framing.piece_size(piece))

    # --- receiving ---

    @overload
    async def receive(
        self, accept: None = None, *, max_envelope: int = MAX_ENVELOPE, max_attachment: int | None = None
    ) -> tuple[Signed, memoryview | None]: ...

    @overload
    async def receive(
        self, accept: Accept | None, *, max_envelope: int = MAX_ENVELOPE, max_attachment: int | None = None
    ) -> tuple[Signed, memoryview | Sink | None]: ...

    async def receive(
        self, accept: Accept | None = None, *, max_envelope: int = MAX_ENVELOPE, max_attachment: int | None = None
    ) -> tuple[Signed, memoryview | Sink | None]:
        """The next message and its attachment, or the sink that took it; None when there is none.

        A message with a long attachment comes when that is complete. `accept` is asked in a task of its own whether
        there is room for it, while messages go on coming.

        Raises `Unavailable` once the connection is closed (an attachment that does not come although there is room for
        it closes it, too), `MalformedMessage` for bytes that break the format (the connection is then closed), and what
        `accept` or its sink raise of `SmpcError`: then that message (`refused`) was dropped, and the next call goes on to
        the next one (`ended` is False). Cancelling is safe between messages; within one it drops the connection."""
        most = self.limits.attachment if max_attachment is None else max_attachment
        self._reader = asyncio.current_task()
        self._leave_room()
        while True:
            if self._refusal is not None:
                raise self._refuse(self._refusal)
            if self._end is not None:
                raise self._gone(self._end)
            received = await self._message(accept, max_envelope, most)
            if received is not None:
                return received

    async def _message(
        self, accept: Accept | None, max_envelope: int, max_attachment: int
    ) -> tuple[Signed, memoryview | Sink | None] | None:
        """One websocket message; None if there is nothing to hand on."""
        frames, first, attachment = self._fragments(), None, self._attachment
        clock = asyncio.timeout(None if attachment is None else attachment.patience)
        try:
            async with clock:
                self._clock = clock
                first = await anext(frames)
                self._clock = None
                if self._refusal is not None:
                    clock.reschedule(None)  # it can wait until this message is whole
                return await self._read(first, frames, clock, accept, max_envelope, max_attachment)
        except MalformedMessage as error:
            error.peer = error.peer or self.peer or None
            if self._end is None:  # otherwise it is websockets that found fault, and has closed
                self._end = error
                await asyncio.gather(self.close(error.message, code=PROTOCOL_BROKEN), self._drain(frames))
            raise
        except BaseException as error:
            if clock.expired():
                await self._woken(begun=first is not None)
                return None
            if first is not None and not isinstance(error, Unavailable):
                self._end = Unavailable("dropped in the midst of a message")
                self.abort()
            await frames.aclose()
            raise
        finally:
            self._clock = None
            if attachment is not None:
                # What is done with messages between two calls is not the peer's time.
                attachment.patience = _left(clock)

    async def _woken(self, begun: bool) -> None:
        """The clock has rung: a message was refused, or one that has `begun`, or an attachment, does not go on. Raises
        `Unavailable`."""
        if begun or self._refusal is None:
            what = "message" if begun and self._attachment is None else "attachment"
            self._end = Unavailable(f"a {what} did not go on for {self.limits.stall:g} s")
            await self.close(f"{what} stalled", code=POLICY)
            raise self._gone(self._end) from None

    async def _read(
        self, first: bytes, frames: AsyncGenerator[bytes, None], clock: asyncio.Timeout, accept: Accept | None,
        max_envelope: int, max_attachment: int,
    ) -> tuple[Signed, memoryview | Sink | None] | None:  # fmt: skip
        came, empty, pieces, marked = len(first), 0, 1, 0
        stall, time = self.limits.stall, asyncio.get_running_loop().time

        async def more() -> bytes | None:
            nonlocal came, empty, pieces, marked
            while (piece := await anext(frames, None)) == b"":
                # One empty fragment ends a message; more of them are only there to keep us busy.
                empty += 1
                if empty > 1:
                    raise MalformedMessage("a message has empty fragments")
            if piece is None:
                return None
            came, pieces = came + len(piece), pieces + 1
            if pieces > CRUMBS + came // CRUMB:
                raise MalformedMessage("a message comes in crumbs")
            if came - marked >= INLINE:
                # It goes on: a byte now and then does not count. And not at every fragment: it has its price.
                marked, left = came, _left(clock)
                if left is not None and left < 0.9 * stall:
                    clock.reschedule(time() + stall)
            return piece

        async def rest(size: int) -> None:
            if size > LARGE and self.room is not None:
                clock.reschedule(None)  # it is for us that it waits
                self._place = await self.room.begin(size, self.cut)
            clock.reschedule(time() + stall)

        kind = framing.kind_of(first)
        if kind is Kind.ATTACHMENT:
            clock.reschedule(time() + stall)
            return await self._collect(more)
        if kind is Kind.GO or kind is Kind.DROP:
            await framing.nothing_more(more)
            self._writer.heard(kind)
            return None
        patience = clock.when()
        incoming = await framing.read_message(
            first, more, max_envelope, max_attachment, self.sizes, self._session, rest
        )
        if clock.when() != patience:
            clock.reschedule(patience)
        if kind is Kind.MESSAGE:
            return incoming.signed, incoming.inline
        self._announced(incoming, accept)
        return None

    def _leave_room(self) -> None:
        """The long envelope that came last has been dealt with."""
        place, self._place = self._place, None
        if place is not None:
            place.end()

    def _announced(self, incoming: Incoming, accept: Accept | None) -> None:
        """Wait for room, in a task of its own."""
        if self._attachment is not None:
            raise MalformedMessage("another attachment is announced while one is outstanding")
        attachment = self._attachment = Attachment(incoming.signed, incoming.size)
        attachment.admission = asyncio.get_running_loop().create_task(self._admit(attachment, accept))

    async def _admit(self, attachment: Attachment, accept: Accept | None) -> None:
        try:
            attachment.open(None if accept is None else await accept(attachment.signed, attachment.size))
        except Exception as error:
            attachment.refuse(error)
            self._attachment, self._refusal = None, attachment
            self._wake_after(0.0)
            if not isinstance(error, SmpcError):
                return
        with contextlib.suppress(Unavailable):
            if attachment.let_in:
                self._longest_fragment(PIECE)
            await self._writer.say(Kind.GO if attachment.let_in else Kind.DROP)
            if attachment.let_in:
                attachment.patience = self.limits.stall
                self._wake_after(self.limits.stall)

    def _wake_after(self, seconds: float) -> None:
        """If `receive` waits for a message, and no attachment goes on until then."""
        if self._clock is not None:
            self._clock.reschedule(asyncio.get_running_loop().time() + seconds)

    async def _collect(self, more: framing.More) -> tuple[Signed, memoryview | Sink] | None:
        attachment = self._attachment
        if attachment is None or not attachment.let_in:
            raise MalformedMessage("an attachment comes unasked")
        while (piece := await more()) is not None:
            attachment.take(piece)
        received = attachment.finish()
        self._attachment = None
        if self._session is not None:
            self._longest_fragment(LEAF)
        if received is None:
            self._refusal = attachment
            return None
        return attachment.signed, received

    def _refuse(self, attachment: Attachment) -> Exception:
        """What an attachment was refused with, to be raised."""
        assert attachment.refused is not None
        self.refused, self._refusal = attachment.signed, None
        if not isinstance(attachment.refused, SmpcError):  # a bug of `accept`
            self._end = Unavailable("dropped in the midst of a message")
            self.abort()
        return attachment.refused

    async def _fragments(self) -> AsyncGenerator[bytes, None]:
        """The next websocket message, fragment by fragment."""
        try:
            async for piece in self._socket.recv_streaming(decode=False):
                self.bytes_received += frame_size(len(piece), self._mask_received)
                yield piece
        except ConnectionClosed as error:
            self._end = error
            self._release()
            if why := self._cut_off or getattr(self._socket, "cut_off", ""):
                raise LimitExceeded(f"cut off: {why}", peer=self.peer or None) from None
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

    # --- the end ---

    def _gone(self, error: Exception) -> Unavailable:
        """What a closed connection is called. The reason is the peer's text: shortened, and shown as data."""
        text = error.message if isinstance(error, SmpcError) else type(error).__name__
        if isinstance(error, ConnectionClosed):
            close = error.rcvd or error.sent
            text = f"code {close.code}, {close.reason[:100]!r}" if close else "it broke off"
        return Unavailable(f"the connection to {self.peer or 'a peer'} is closed ({text})", peer=self.peer or None)

    def _release(self) -> None:
        """Nothing more comes: what was announced is not waited for."""
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.abandon()
        self._leave_room()

    def cut(self, why: str) -> None:
        """Close, in the background, because the peer has passed a limit: it hears `why`, and so does `receive`."""
        if not self._cut_off:
            self._cut_off = why
            self._cutting = asyncio.get_running_loop().create_task(self.close(why, code=POLICY))

    async def close(self, reason: str = "", *, code: int = NORMAL) -> None:
        """Say goodbye and close; waits at most `Limits.close` seconds for the peer's goodbye. Never raises."""
        try:
            await self._socket.close(code, reason.encode()[:120].decode(errors="ignore"))
        except Exception:
            # websockets 17.4: a close that follows a failed large send may raise AttributeError. Closed is closed.
            self.abort()
        self._release()

    def abort(self) -> None:
        """Drop the connection at once, without a goodbye."""
        self._socket.transport.abort()
        self._release()


def _left(clock: asyncio.Timeout) -> float | None:
    """Seconds until it rings."""
    when = clock.when()
    return None if when is None else when - asyncio.get_running_loop().time()
