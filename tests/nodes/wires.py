"""What the transport's tests stand on: members, connected links, and a relay that can freeze and cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from smpc_fl.errors import RevokedKey, SmpcError, UnknownMember
from smpc_fl.identity import Identity, PublicIdentity
from smpc_fl.nodes.net.handshake import LocalMember
from smpc_fl.nodes.net.limits import Limits
from smpc_fl.nodes.net.link import Link
from smpc_fl.protocols.messages import Message, Refusal, Signed

FEDERATION = bytes(range(32))
QUICK = Limits(handshake=5.0, close=0.5)


@dataclass
class Book:
    """A roster, as little of it as a handshake needs."""

    members: dict[str, tuple[PublicIdentity, str]] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    federation: bytes = FEDERATION
    roster_version: int = 3

    def lookup(self, id: str, /) -> tuple[PublicIdentity, str]:
        if id in self.revoked:
            raise RevokedKey(f"the key of {id} was revoked", peer=id)
        if id not in self.members:
            raise UnknownMember(f"{id} is not in the roster", peer=id)
        return self.members[id]


def people(**roles: str) -> dict[str, LocalMember]:
    """Members that know each other; each has a book of its own, with the same entries."""
    keys = {name: Identity.from_seed(name.encode().ljust(32, b".")) for name in roles}
    entries = {name: (keys[name].public, role) for name, role in roles.items()}
    return {name: LocalMember(name, role, keys[name], Book(dict(entries))) for name, role in roles.items()}


def note(sender: LocalMember, text: str = "hello") -> Signed:
    """Any message, signed."""
    return sender.sign(Refusal("Unavailable", text))


def body(message: Message, size: int) -> Signed:
    """An envelope of a given size that nobody verifies."""
    del message
    return Signed("alice", bytes(size), bytes(64))


@contextlib.asynccontextmanager
async def raw_pair(
    limits: Limits = QUICK, port: Callable[[int], int] | None = None
) -> AsyncIterator[tuple[Link, Link]]:
    """(dialling, listening) links that have not shaken hands; `port` may put a relay in between."""
    arrived: asyncio.Queue[Link] = asyncio.Queue()

    async def handler(connection: ServerConnection) -> None:
        arrived.put_nowait(Link(connection, dialled=False, limits=limits))
        await connection.wait_closed()

    async with serve(handler, "127.0.0.1", 0, **limits.websocket()) as server:
        target = server.sockets[0].getsockname()[1]
        client = await dial(port(target) if port else target, limits)
        link = Link(client, dialled=True, limits=limits)
        other = await arrived.get()
        try:
            yield link, other
        finally:
            link.abort()
            other.abort()


@contextlib.asynccontextmanager
async def reading(*links: Link) -> AsyncIterator[None]:
    """While somebody reads these links, and so hears of the room that there is for what they send. Nothing is to come."""

    async def read(link: Link) -> None:
        with contextlib.suppress(SmpcError):
            await link.receive()
            raise AssertionError("something came")

    tasks = [asyncio.create_task(read(link)) for link in links]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for outcome in await settle(*tasks):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome


async def dial(port: int, limits: Limits = QUICK) -> ClientConnection:
    return await connect(f"ws://127.0.0.1:{port}", proxy=None, **limits.websocket())


class Relay:
    """A TCP relay in the middle: counts what goes up, freezes, cuts, and may watch what passes."""

    def __init__(self, target: int = 0) -> None:
        self.target = target
        self.up = 0
        self.connections = 0
        self.passing = asyncio.Event()
        self.passing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._watchers: list[tuple[int, asyncio.Event]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._server: asyncio.Server | None = None

    def to(self, target: int) -> int:
        self.target = target
        return self.port

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._connected, sock=self._socket)
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection off, as a killed peer or a lost cable does."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def freeze(self) -> None:
        """Pass nothing on any more, and close nothing."""
        self.passing.clear()

    async def has_passed(self, count: int) -> None:
        """Until so many bytes have gone up."""
        if self.up < count:
            event = asyncio.Event()
            self._watchers.append((count, event))
            await event.wait()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.connections += 1
        try:
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(other_writer)
        for source, sink, counts in ((reader, other_writer, True), (other_reader, writer, False)):
            task = asyncio.get_running_loop().create_task(self._pass(source, sink, counts))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, counts: bool) -> None:
        try:
            while data := await source.read(1 << 16):
                await self.passing.wait()
                if counts:
                    self.up += len(data)
                    for count, event in self._watchers:
                        if self.up >= count:
                            event.set()
                sink.write(data)
                await sink.drain()
            sink.write_eof()
        except OSError:
            sink.transport.abort()


async def settle(*tasks: Awaitable[object]) -> list[object]:
    """Results or exceptions of all."""
    return list(await asyncio.gather(*tasks, return_exceptions=True))
