"""The door: how many strangers, from where, how fast, how long; each limit broken, and what both sides see of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from rooms import Time
from websockets.exceptions import InvalidMessage, InvalidStatus
from wires import dial, note, people

from smpc_fl.errors import LimitExceeded, SmpcError
from smpc_fl.nodes.net.budget import Budget
from smpc_fl.nodes.net.door import GRACE, SIP, Door, allow_files, place_of
from smpc_fl.nodes.net.guard import UNKNOWN
from smpc_fl.nodes.net.handshake import authenticate
from smpc_fl.nodes.net.limits import Limits
from smpc_fl.nodes.net.link import Link
from smpc_fl.nodes.net.server import Listener, listening_socket, serve

ALL = people(anna="aggregator", alice="owner", bob="owner")
ANNA, ALICE, BOB = ALL["anna"], ALL["alice"], ALL["bob"]


class Turned:
    """What the listener says of those whom it did not let in."""

    def __init__(self) -> None:
        self.all: asyncio.Queue[SmpcError] = asyncio.Queue()

    async def away(self, text: str) -> None:
        while True:
            error = await self.all.get()
            if isinstance(error, LimitExceeded):
                assert text in error.message
                return


@contextlib.asynccontextmanager
async def listening(limits: Limits) -> AsyncIterator[tuple[Listener, Turned]]:
    turned = Turned()

    async def handler(link: Link) -> None:
        with contextlib.suppress(SmpcError):
            while True:
                await link.send((await link.receive())[0])

    async with await serve(
        handler, ANNA, listening_socket("127.0.0.1", 0), limits=limits, on_refused=turned.all.put_nowait
    ) as listener:
        yield listener, turned


async def knock(listener: Listener, source: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(*listener.address, local_addr=(source, 0))


async def shut(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def member(listener: Listener, limits: Limits) -> Link:
    link = Link(await dial(listener.address[1], limits), dialled=True, limits=limits)
    await authenticate(link, ALICE, expected="anna")
    await link.send(note(ALICE))
    assert (await link.receive())[0] == note(ALICE)
    return link


async def test_too_many_strangers_of_one_address_and_room_for_another() -> None:
    limits = Limits(pending=8, pending_address=3, close=0.2)
    async with listening(limits) as (listener, turned):
        held = [await knock(listener) for _ in range(3)]
        reader, writer = await knock(listener)
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        await turned.away("from one address that have not said whose they are")
        with pytest.raises((InvalidStatus, InvalidMessage)):
            await dial(listener.address[1], limits)
        other = await knock(listener, "127.0.0.2")
        other[1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await other[0].read()).startswith(b"HTTP/1.1 404 ")
        await shut(writer, other[1], *(w for _, w in held))


async def test_the_oldest_stranger_makes_room_once_it_has_stood_there_long_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = Limits(pending=2, pending_address=2, close=0.2, handshake=60.0)
    async with listening(limits) as (listener, turned):
        time = Time(monkeypatch)
        first, second = await knock(listener), await knock(listener)
        while listener.door.strangers < 2:
            await asyncio.sleep(0)
        time.pass_(GRACE)
        link = await member(listener, limits)
        await turned.away("made room for a newer connection")
        assert await first[0].read() == b""
        assert listener.door.strangers == 1
        link.abort()
        await shut(first[1], second[1])


async def test_strangers_together_and_connections_together() -> None:
    limits = Limits(pending=2, pending_address=2, connections=4, close=0.2)
    async with listening(limits) as (listener, turned):
        one, two = await knock(listener, "127.0.0.2"), await knock(listener, "127.0.0.3")
        third = await knock(listener)
        assert b"503" in await third[0].read()
        await turned.away("too many connections that have not said whose they are")
        await shut(one[1], two[1])
        while listener.door.strangers:
            await asyncio.sleep(0)
        links = [await member(listener, limits) for _ in range(4)]
        assert (len(listener.door), listener.door.strangers, bool(listener.door)) == (4, 0, True)
        fifth = await knock(listener)
        assert b"503" in await fifth[0].read()
        await turned.away("too many connections")
        for link in links:
            await link.send(note(ALICE))
            assert (await link.receive())[0] == note(ALICE)
            link.abort()
        await shut(third[1], fifth[1])


async def test_those_who_come_too_often_are_turned_away_and_others_are_not() -> None:
    limits = Limits(arrivals=0.001, arrivals_burst=3, close=0.2)
    async with listening(limits) as (listener, turned):
        for _ in range(3):
            _, writer = await knock(listener)
            await shut(writer)
        reader, writer = await knock(listener)
        assert b"503" in await reader.read()
        await turned.away("too many new connections from one address")
        reader, other = await knock(listener, "127.0.0.2")
        other.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 404 ")
        await shut(writer, other)


async def test_a_stranger_that_never_gets_through_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it does meanwhile: one byte after another, in TLS, in HTTP or in the handshake."""
    limits = Limits(handshake=60.0)
    async with listening(limits) as (listener, turned):
        time = Time(monkeypatch)
        reader, writer = await knock(listener)
        writer.write(b"GET / HTTP/1.1\r\nHost: ")
        while not listener.door.strangers:
            await asyncio.sleep(0)
        time.pass_(limits.door)
        assert await reader.read() == b""
        await turned.away("it did not say within 180 s whose it is")
        await shut(writer)


async def test_long_headers_are_not_read_to_their_end() -> None:
    async with listening(Limits(close=0.2)) as (listener, _):
        reader, writer = await knock(listener)
        for number in range(100):
            writer.write(b"X-%d: " % number + b"y" * 1000 + b"\r\n")
        with contextlib.suppress(OSError):
            assert await reader.read() == b""
        await shut(writer)
        while listener.door.strangers:
            await asyncio.sleep(0)


async def test_what_comes_behind_a_strangers_first_words_waits() -> None:
    """Not parsed before its sender is known, and not lost."""
    limits = Limits(close=0.2)
    async with listening(limits) as (listener, _):
        client = await dial(listener.address[1], limits)
        link = Link(client, dialled=True, limits=limits)
        arrived = asyncio.create_task(authenticate(link, ALICE, expected="anna"))
        await arrived
        texts = [note(ALICE, str(number) * 4000) for number in range(9)] * 5  # 180 KB before anna has looked up
        sending = asyncio.gather(*(link.send(each) for each in texts))
        assert [(await link.receive())[0] for _ in texts] == texts
        await sending
        link.abort()


async def test_a_stranger_who_floods_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(close=0.2, handshake=60.0)
    async with listening(limits) as (listener, turned):
        time = Time(monkeypatch)
        client = await dial(listener.address[1], limits)
        (guest,) = [guest for here in listener.door._strangers.values() for guest in here]
        read = 0

        def recv(size: int) -> bytes:
            nonlocal read
            data = guest._sip(size)
            read += len(data)
            return data

        guest.__dict__["recv"] = recv
        for _ in range(8):
            client.protocol.send_binary(bytes(1 << 17))
            client.send_data()
        while read < UNKNOWN:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert read <= UNKNOWN + SIP
        time.pass_(limits.door)
        await client.wait_closed()
        await turned.away("whose it is")


@pytest.mark.parametrize("kind", ["ping", "pong"])
async def test_endless_pings_and_pongs_end_the_connection(kind: str) -> None:
    limits = Limits(close=0.2)
    async with listening(limits) as (listener, _):
        link, other = await member(listener, limits), await member(listener, limits)
        for _ in range(200):
            getattr(link._socket.protocol, f"send_{kind}")(b"x" * 125)
            link._socket.send_data()
        with pytest.raises(SmpcError, match="too many pings and pongs"):
            await link.receive()
        await other.send(note(ALICE))
        assert (await other.receive())[0] == note(ALICE)
        other.abort()


def test_places() -> None:
    assert place_of(("10.1.2.3", 80)) == "10.1.2.3"
    assert place_of(("::ffff:10.1.2.3", 80, 0, 0)) == "10.1.2.3"
    assert place_of(("2001:db8::1:2:3:4", 80, 0, 0)) == place_of(("2001:db8::9", 1, 0, 0)) == "2001:db8::/64"
    assert place_of(("fe80::1%eth0", 80, 0, 2)) == "fe80::/64"
    assert place_of("") == ""


def test_files_are_allowed_as_far_as_they_can_be() -> None:
    assert allow_files(64) >= 64


async def test_so_many_places_share_one_budget() -> None:
    with socket.socket() as sock:
        door = Door(sock, Limits(arrivals=1.0, arrivals_burst=2), says_why=False)
        for number in range(2000):
            assert door._rate(f"10.0.{number >> 8}.{number & 255}", 0.0).ask(1.0, 0.0) == (number < 1026)
        assert len(door._rates) <= 1025
        assert door._rate("new", 100.0).ask(2.0, 100.0)
        assert len(door._rates) == 1
        door.close()


def test_a_budget_comes_back() -> None:
    budget = Budget(10.0, 20.0, 0.0)
    assert budget.full(0.0)
    assert budget.take(20.0, 0.0) == 0.0
    assert budget.take(5.0, 0.0) == 0.5
    assert not budget.ask(1.0, 0.5)
    assert budget.ask(1.0, 0.7)
    assert not budget.full(2.0)
    assert budget.full(60.0)
    assert budget.take(21.0, 60.0) == pytest.approx(0.1)


async def test_the_closed_are_told_by_websockets() -> None:
    """The frame that ends a connection for its pings carries code 1008."""
    limits = Limits(close=0.2)
    async with listening(limits) as (listener, _):
        client = await dial(listener.address[1], limits)
        for _ in range(200):
            client.protocol.send_ping(b"")
            client.send_data()
        await client.wait_closed()
        assert (client.close_code, client.close_reason) == (1008, "too many pings and pongs")
