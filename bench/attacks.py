"""What somebody who can reach a listener may do to it without being a member, and as one. Each attack lasts until
it is cancelled. CI's tests and `scripts/hostile` share them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
from websockets.asyncio.client import connect as websockets_connect

from smpc_fl.errors import SmpcError
from smpc_fl.nodes.net.handshake import LocalMember, authenticate
from smpc_fl.nodes.net.limits import Limits
from smpc_fl.nodes.net.link import Link
from smpc_fl.protocols.codec import encode
from smpc_fl.protocols.messages import Refusal, Signed

Address = tuple[str, int]
Attack = Callable[[Address], Awaitable[None]]

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


def resident(pid: int) -> int:
    """Bytes of memory that a process has now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmRSS")


def many_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


def frame(payload: bytes, *, first: int = 0x82, announced: int | None = None) -> bytes:
    """A client's frame (RFC 6455, section 5.2), masked with zeros; `announced`: the length that it claims."""
    size = len(payload) if announced is None else announced
    head = bytes([first, 0x80 | size]) if size < 126 else bytes([first, 0xFF]) + struct.pack(">Q", size)
    return head + bytes(4) + payload


@contextlib.asynccontextmanager
async def connected(
    address: Address, source: str = "127.0.0.9"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*address, local_addr=(source, 0))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def upgraded(address: Address, extra: bytes = b"") -> AsyncIterator[asyncio.StreamWriter]:
    async with connected(address) as (reader, writer):
        writer.write(UPGRADE + extra + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        yield writer


async def flood(writer: asyncio.StreamWriter, data: bytes) -> None:
    while True:
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(0)


_squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
BOMB = (_squeezer.compress(bytes(64 << 20)) + _squeezer.flush(zlib.Z_SYNC_FLUSH))[:-4]
"""64 MiB of zeros in 64 KB (RFC 7692)."""


def over_and_over(work: Attack) -> Attack:
    """Connect anew whenever one is thrown out."""

    async def attack(address: Address) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await work(address)
            await asyncio.sleep(0.01)

    return attack


async def idle_sockets(address: Address, count: int = 2000) -> None:
    """2,000 connections that say nothing, from a hundred addresses, each opened again when it is closed."""
    many_files(count + 512)

    async def one(number: int) -> None:
        while True:
            with contextlib.suppress(OSError):
                async with connected(address, f"127.0.{1 + number % 100}.1") as (reader, _):
                    await reader.read()
            await asyncio.sleep(0.5)

    await asyncio.gather(*(one(number) for number in range(count)))


async def _gigabyte(address: Address) -> None:
    """A frame that says it has 1 GB, and all of it that is taken."""
    async with upgraded(address) as writer:
        writer.write(frame(b"", announced=1 << 30))
        await flood(writer, bytes(1 << 18))


async def _bomb(address: Address) -> None:
    """permessage-deflate offered, and a compressed frame of zeros sent whatever the answer was."""
    async with upgraded(address, b"Sec-WebSocket-Extensions: permessage-deflate\r\n") as writer:
        await flood(writer, frame(BOMB, first=0xC2))


async def _headers(address: Address) -> None:
    """Header after header."""
    async with connected(address) as (_, writer):
        writer.write(UPGRADE)
        await flood(writer, b"X-Filler: " + b"y" * 8000 + b"\r\n")


async def _crumbs(address: Address) -> None:
    """Fragments of one byte, and empty ones, without an end."""
    async with upgraded(address) as writer:
        writer.write(frame(b"\0", first=0x02))
        await flood(writer, frame(b"x", first=0) * 1000 + frame(b"", first=0) * 1000)


async def _pings(address: Address) -> None:
    async with upgraded(address) as writer:
        await flood(writer, frame(b"x" * 125, first=0x89) * 500)


def slowly(first: bytes) -> Attack:
    async def attack(address: Address) -> None:
        async with connected(address) as (reader, writer):
            for byte in first:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.2)
            await reader.read()

    return attack


STRANGERS: dict[str, Attack] = {
    "2,000 idle sockets": idle_sockets,
    "a frame of 1 GB": over_and_over(_gigabyte),
    "a deflate bomb": over_and_over(_bomb),
    "headers without end": over_and_over(_headers),
    "crumbs": over_and_over(_crumbs),
    "pings": over_and_over(_pings),
    "slow bytes": over_and_over(slowly(UPGRADE * 10)),
}


HUGE = Signed("carol", b"\x81\xa4type\xadFreezeRequest" + bytes(1 << 23), bytes(64))


class Member:
    """Attacks of a member, with its real key."""

    def __init__(self, me: LocalMember, peer: str) -> None:
        self.me, self.peer = me, peer

    async def link(self, address: Address) -> Link:
        limits = Limits(close=0.2)
        socket = await websockets_connect("ws://{}:{}".format(*address), proxy=None, **limits.websocket())
        link = Link(socket, dialled=True, limits=limits)
        await authenticate(link, self.me, expected=self.peer)
        return link

    def again(self, work: Callable[[Link], Awaitable[None]]) -> Attack:
        async def attack(address: Address) -> None:
            while True:
                with contextlib.suppress(OSError, SmpcError, Exception):
                    link = await self.link(address)
                    reading = asyncio.create_task(_drop(link))
                    try:
                        await work(link)
                    finally:
                        link.abort()
                        reading.cancel()
                await asyncio.sleep(0.01)

        return attack

    async def _nonsense(self, link: Link) -> None:
        """Envelopes that do not verify, as fast as they are taken."""
        body = b"\x81\xa4type\xaaSeedReport" + os.urandom(64)
        while True:
            await link.send(Signed(self.me.id, body, bytes(64)))
            await asyncio.sleep(0)

    async def _huge(self, link: Link) -> None:
        """8 MB under the name of a small message, fragment by fragment."""
        await link.send(HUGE)

    async def _unfinished(self, link: Link) -> None:
        """A message that stops in its midst."""
        envelope = encode(Signed(self.me.id, bytes(100_000), bytes(64)))

        async def slow() -> object:
            yield envelope[:50_000]
            await asyncio.Event().wait()

        await link._socket.send(slow())  # type: ignore[arg-type]

    async def _reconnects(self, link: Link) -> None:
        """Shakes hands, and is gone."""

    async def _attached(self, link: Link) -> None:
        """Announces 1 GB that nobody asked for."""
        body = np.empty(1 << 30, np.uint8).data
        while True:
            await asyncio.create_task(link.send(self.me.sign(Refusal("Unavailable", "")), body))
            await asyncio.sleep(0)

    @property
    def attacks(self) -> dict[str, Attack]:
        works = (self._nonsense, self._huge, self._unfinished, self._reconnects, self._attached)
        return {f"member: {work.__name__[1:]}": self.again(work) for work in works}


async def _drop(link: Link) -> None:
    with contextlib.suppress(SmpcError):
        while True:
            with contextlib.suppress(SmpcError):
                await link.receive()
            if link.ended:
                return


@contextlib.asynccontextmanager
async def under(*attacks: Awaitable[None]) -> AsyncIterator[Sequence[asyncio.Future[None]]]:
    """While these go on."""
    tasks = [asyncio.ensure_future(attack) for attack in attacks]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
