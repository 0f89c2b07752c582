"""The sending half of a link: messages take turns at the socket, and long attachments at the peer's room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from websockets.asyncio.connection import Connection

from smpc_fl.errors import MalformedMessage, Unavailable
from smpc_fl.hashing import Buffer
from smpc_fl.nodes.net import framing
from smpc_fl.nodes.net.framing import INLINE, LEAF, Kind, frame_size
from smpc_fl.nodes.net.session import Session


def _leaves(message: bytes) -> Sequence[Buffer]:
    return [message] if len(message) <= LEAF else list(framing.cut(message, LEAF))


class Writer:
    """`mask`: bytes of a frame's mask (RFC 6455, section 5.3). `abort` drops the connection, `gone` names its end."""

    def __init__(
        self, socket: Connection, mask: int, abort: Callable[[], None], gone: Callable[[Exception], Unavailable]
    ) -> None:
        self.bytes_sent = 0
        self.session: Session | None = None
        self._socket = socket
        self._mask = mask
        self._abort = abort
        self._gone = gone
        self._turn = asyncio.Lock()
        self._announcing = asyncio.Lock()
        self._answer: asyncio.Future[Kind | None] | None = None
        self._watch: asyncio.Task[None] | None = None

    async def send(self, envelope: bytes, attachment: memoryview, piece: int) -> int:
        """As `Link.send`."""
        if attachment.nbytes <= INLINE:
            return await self._write(lambda: _leaves(framing.message(envelope, attachment, self.session)))
        async with self._announcing:
            answer = self._answer = asyncio.get_running_loop().create_future()
            try:
                written = await self._write(
                    lambda: _leaves(framing.announcement(envelope, attachment.nbytes, self.session)), binding=True
                )
                return written + await self._deliver(answer, attachment, piece)
            finally:
                self._answer = None

    async def say(self, kind: Kind) -> None:
        """GO or DROP."""
        await self._write(lambda: [bytes([kind])])

    def heard(self, kind: Kind) -> None:
        """The peer's answer to what is announced. Raises `MalformedMessage`."""
        if self._answer is None or self._answer.done():
            raise MalformedMessage(f"{kind.name} to nothing that was announced")
        self._answer.set_result(kind)

    async def _deliver(self, answer: asyncio.Future[Kind | None], attachment: memoryview, piece: int) -> int:
        """What was announced, if the peer wants it; the bytes that it took."""
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._until_closed())
        try:
            said = await answer
            if said is None:
                raise self._gone(self._socket.protocol.close_exc)
            if said is Kind.DROP:
                return 0
            return await self._write(lambda: [bytes([Kind.ATTACHMENT]), *framing.cut(attachment.cast("B"), piece)])
        except asyncio.CancelledError:
            self._abort()  # the peer has our word that it comes
            raise

    async def _until_closed(self) -> None:
        """Tells who waits for the peer's answer that none comes, whether or not somebody reads."""
        await self._socket.wait_closed()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)

    async def _write(self, make: Callable[[], Sequence[Buffer]], *, binding: bool = False) -> int:
        """One websocket message, its fragments made when it is its turn (they are numbered); the bytes that it took.
        `binding`: the connection is of no use to who does not go on."""
        async with self._turn:
            before, fragments = self.bytes_sent, make()
            try:
                await self._socket.send(fragments[0] if len(fragments) == 1 else self._counted(fragments))
            except asyncio.CancelledError:
                # Its number is taken: without it no other message would be believed.
                if binding or self.session is not None or len(fragments) > 1:
                    self._abort()
                raise
            except Exception as error:
                # Whatever it is (`ConnectionClosed`, an OSError, an AttributeError of a transport that is gone), half a
                # message may be out: the connection is over.
                self._abort()
                raise self._gone(error) from None
            if len(fragments) == 1:
                self.bytes_sent += frame_size(len(fragments[0]), self._mask)
            return self.bytes_sent - before

    def _counted(self, fragments: Sequence[Buffer]) -> Iterator[Buffer]:
        for fragment in fragments:
            self.bytes_sent += frame_size(len(fragment), self._mask)
            yield fragment
        # websockets ends a fragmented message by an empty frame.
        self.bytes_sent += frame_size(0, self._mask)
