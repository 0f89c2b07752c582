"""Keeps one connection to one member alive: dials, converses, and dials again, whatever went wrong.

Waits between tries grow from 50 ms to 5 s, each drawn at random from the upper half of its interval, so that a
federation does not knock on a restarted node's door all at once. They start small again only after a connection has
lasted longer than the longest wait: a peer that accepts and drops us, or two processes with one identity that throw
each other out, are not tried faster than that.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl as tls
from ssl import SSLContext

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus

from smpc_fl.errors import SmpcError, Unavailable
from smpc_fl.hashing import Buffer
from smpc_fl.nodes.net.addresses import parse_address
from smpc_fl.nodes.net.guard import Dialled
from smpc_fl.nodes.net.handshake import LocalMember, authenticate
from smpc_fl.nodes.net.limits import Limits
from smpc_fl.nodes.net.link import Link
from smpc_fl.nodes.net.pump import report_bug
from smpc_fl.nodes.net.server import Handler, OnRefused
from smpc_fl.protocols.messages import Signed

BACKOFF = (0.05, 5.0)
"""Seconds: the first wait and the longest."""


class Backoff:
    """How long to wait before the next try, in seconds."""

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest = shortest
        self._longest = longest
        self._wait = shortest

    def after(self, lasted: float) -> float:
        """The wait after a try that, connection included, lasted so many seconds."""
        if lasted > self._longest:
            self._wait = self._shortest
        wait = self._wait * (0.5 + secrets.randbelow(1 << 20) / (1 << 21))
        self._wait = min(2 * self._wait, self._longest)
        return wait


class _Connect(connect):
    """websockets' `connect`, going only where it was told."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


class Dialer:
    """A connection to member `peer` at `address` ("ws://host:port" or "wss://host:port").

    `handler(link)`: the whole conversation; it is run once for each connection, which is closed when it returns.
    `connected` is set while there is one. `error`: why the last try failed, None while it has not. `on_failed(error)`
    is told of each failed try. `start` it, `stop` it; an async context manager does both."""

    def __init__(
        self,
        address: str,
        peer: str,
        me: LocalMember,
        handler: Handler,
        *,
        ssl: SSLContext | None = None,
        limits: Limits | None = None,
        backoff: tuple[float, float] = BACKOFF,
        on_failed: OnRefused = lambda error: None,
    ) -> None:
        """Raises `ConfigInvalid` for what is no address."""
        self.address = parse_address(address)
        self.peer = peer
        self.connected = asyncio.Event()
        self.error: SmpcError | None = None
        self._me = me
        self._handler = handler
        self._ssl = ssl
        self._limits = limits or Limits()
        self._backoff = backoff
        self._on_failed = on_failed
        self._link: Link | None = None
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Dialer:
        self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    @property
    def link(self) -> Link | None:
        return self._link

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Say goodbye, and dial no more. Idempotent."""
        self._stopping.set()
        if self._task is None:
            return
        if self._link is not None:
            await self._link.close("the node is stopping")
            # The handler sees the end of its link, unless it waits for something else.
            await asyncio.wait([self._task], timeout=1.0)
        self._task.cancel()
        await asyncio.wait([self._task])

    async def send(self, signed: Signed, attachment: Buffer | None = None, *, piece: int = 0) -> int:
        """As `Link.send`; raises `Unavailable` when there is no connection now."""
        if self._link is None:
            why = f": {self.error.message}" if self.error is not None else ""
            raise Unavailable(f"{self.peer} at {self.address.url} is not connected{why}", peer=self.peer)
        return await self._link.send(signed, attachment, piece=piece)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(*self._backoff)
        while not self._stopping.is_set():
            began = loop.time()
            await self._once()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff.after(loop.time() - began)):
                    await self._stopping.wait()

    async def _once(self) -> None:
        """One connection, from dialling to its end, if it comes to one."""
        try:
            link = await self._dial()
        except SmpcError as error:
            self.error = error
            self._tell(error)
            return
        self.error, self._link = None, link
        self.connected.set()
        try:
            await self._handler(link)
        except Exception as error:
            report_bug(error, "in a connection's handler")
        finally:
            self._link = None
            self.connected.clear()
            # Cancelled or not: nothing of the connection may be left.
            await asyncio.shield(link.close())

    def _tell(self, error: SmpcError) -> None:
        try:
            self._on_failed(error)
        except Exception as bug:
            report_bug(bug, "while told of a failed connection")

    async def _dial(self) -> Link:
        link = Link(await self._open(), dialled=True, limits=self._limits)
        await authenticate(link, self._me, expected=self.peer)
        return link

    async def _open(self) -> ClientConnection:
        try:
            return await _Connect(
                self.address.url,
                ssl=self._ssl if self.address.secure else None,
                proxy=None,
                user_agent_header=None,
                create_connection=Dialled,
                **self._limits.websocket(),
            )
        except Exception as error:
            # Anything: refused, unreachable, not a websocket, a bad certificate, a bug of a library. All of it may
            # pass, so all of it is tried again.
            raise Unavailable(
                f"{self.peer} at {self.address.url} cannot be reached: {_why(error)}", peer=self.peer
            ) from None


def _why(error: Exception) -> str:
    """In a few words, without bytes that the other side chose."""
    match error:
        case tls.SSLCertVerificationError():
            return f"its certificate is not accepted ({error.verify_message})"
        case InvalidStatus():
            return f"it answered HTTP {error.response.status_code}"
        case InvalidHandshake() | TimeoutError():
            return "no websocket handshake came back"
        case OSError():
            return error.strerror or type(error).__name__
        case _:
            return type(error).__name__
