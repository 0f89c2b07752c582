"""The listener: members, strangers, pages, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator

import pytest
from websockets.exceptions import InvalidHandshake, InvalidStatus
from wires import QUICK, dial, note, people, settle

from smpc_fl.errors import MalformedMessage, SmpcError, Unavailable, UnknownMember, WrongRole
from smpc_fl.nodes.net.handshake import LocalMember, authenticate
from smpc_fl.nodes.net.limits import Limits
from smpc_fl.nodes.net.link import Link
from smpc_fl.nodes.net.peers import Peers
from smpc_fl.nodes.net.server import HttpAnswer, Listener, listening_socket, serve

ALL = people(anna="aggregator", alice="owner", bob="owner", rita="researcher")
ANNA, ALICE, BOB = ALL["anna"], ALL["alice"], ALL["bob"]


def local(fd: int | None = None) -> socket.socket:
    return listening_socket("127.0.0.1", 0, fd=fd)


async def call(listener: Listener, member: LocalMember, limits: Limits = QUICK) -> Link:
    """A member's authenticated link to the listener."""
    link = Link(await dial(listener.address[1], limits), dialled=True, limits=limits)
    await authenticate(link, member, expected="anna")
    return link


async def until_closed(link: Link) -> None:
    await link.wait_closed()


async def talk(listener: Listener, request: bytes) -> bytes:
    """What comes back for raw bytes, until the listener closes."""
    reader, writer = await asyncio.open_connection(*listener.address)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return answer


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode()


async def test_members_talk_to_the_handler() -> None:
    async def echo(link: Link) -> None:
        signed, attachment = await link.receive()
        await link.send(signed, attachment)

    async with await serve(echo, ANNA, local(), limits=QUICK) as listener:
        for member in (ALICE, BOB):
            link = await call(listener, member)
            await link.send(note(member), b"hello")
            assert (await link.receive())[0] == note(member)
            with pytest.raises(Unavailable):  # the handler returned, so the link is closed
                await link.receive()


async def test_whoever_is_refused_is_reported_and_never_handled() -> None:
    refused: asyncio.Queue[SmpcError] = asyncio.Queue()
    handled: list[Link] = []

    async def handler(link: Link) -> None:
        handled.append(link)

    listener = await serve(handler, ANNA, local(), roles={"owner"}, on_refused=refused.put_nowait, limits=QUICK)
    async with listener:
        with pytest.raises(WrongRole):
            await call(listener, ALL["rita"])
        assert isinstance(await refused.get(), WrongRole)
        with pytest.raises(UnknownMember):
            await call(listener, people(mallory="owner", anna="aggregator")["mallory"])
        assert isinstance(await refused.get(), SmpcError)
    assert handled == []


async def test_two_connections_of_one_identity_at_once() -> None:
    peers = Peers()

    async def handler(link: Link) -> None:
        peers.add(link)
        await link.wait_closed()
        peers.remove(link)

    async with await serve(handler, ANNA, local(), limits=QUICK) as listener:
        first = await call(listener, ALICE)
        await peers.wait_for("alice")
        second = await call(listener, ALICE)
        with pytest.raises(Unavailable, match="replaced by a newer connection"):
            await first.receive()
        assert "alice" in peers
        sending = asyncio.create_task(peers.send("alice", note(ANNA)))
        assert (await second.receive())[0] == note(ANNA)
        await sending
        await second.close()
        await peers.wait_without("alice")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\x03\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd",
        b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 100_000 + b"\r\n\r\n",
        b"x" * 100_000,
    ],
)
async def test_garbage_before_the_handshake(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with await serve(until_closed, ANNA, local(), limits=QUICK) as listener:
        with contextlib.suppress(OSError):
            answer = await talk(listener, garbage)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
        link = await call(listener, ALICE)
        assert link.is_open
        await link.close()
    assert caplog.records == []


async def test_garbage_instead_of_the_first_words() -> None:
    refused: asyncio.Queue[SmpcError] = asyncio.Queue()
    async with await serve(until_closed, ANNA, local(), on_refused=refused.put_nowait, limits=QUICK) as listener:
        client = await dial(listener.address[1])
        await client.send(b"garbage")
        assert isinstance(await refused.get(), MalformedMessage)
        await client.wait_closed()


async def test_whoever_says_nothing_is_dropped() -> None:
    refused: asyncio.Queue[SmpcError] = asyncio.Queue()
    brief = Limits(handshake=0.3, close=0.1)
    async with await serve(until_closed, ANNA, local(), on_refused=refused.put_nowait, limits=brief) as listener:
        assert await talk(listener, b"GET / HT") == b""
        client = await dial(listener.address[1])
        assert isinstance(await refused.get(), Unavailable)
        await client.wait_closed()


async def test_strangers_are_few_and_members_do_not_count() -> None:
    arrived: asyncio.Queue[Link] = asyncio.Queue()

    async def handler(link: Link) -> None:
        arrived.put_nowait(link)
        await link.wait_closed()

    async with await serve(handler, ANNA, local(), limits=Limits(pending=2, close=0.2)) as listener:
        members = [await call(listener, member) for member in (ALICE, BOB, ALICE)]
        for _ in members:
            await arrived.get()
        strangers = [await dial(listener.address[1]) for _ in range(2)]
        with pytest.raises((OSError, InvalidHandshake)):
            await dial(listener.address[1])
        await strangers[0].close()
        await strangers[0].wait_closed()
        assert all(member.is_open for member in members)
        for link in members:
            link.abort()
        strangers[1].transport.abort()


async def test_pages() -> None:
    def pages(path: str) -> HttpAnswer | None:
        if path == "/broken":
            raise RuntimeError("a secret")
        return HttpAnswer(b'{"ok": true}\n', "application/json") if path == "/healthz" else None

    async with await serve(until_closed, ANNA, local(), pages=pages, limits=QUICK) as listener:
        answer = await talk(listener, get("/healthz?verbose=1"))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Type: application/json\r\n" in answer
        assert answer.endswith(b'\r\n\r\n{"ok": true}\n')
        head = await talk(listener, get("/healthz", "HEAD"))
        assert b"Content-Length: 13\r\n" in head
        assert head.endswith(b"\r\n\r\n")
        assert (await talk(listener, get("/nothing"))).startswith(b"HTTP/1.1 404 ")
        assert (await talk(listener, get("/healthz", "DELETE"))).startswith(b"HTTP/1.1 405 ")
        broken = await talk(listener, get("/broken"))
        assert broken.startswith(b"HTTP/1.1 500 ")
        assert b"secret" not in broken
        assert b"websockets" not in broken.lower()


async def test_without_pages_there_are_none() -> None:
    async with await serve(until_closed, ANNA, local(), limits=QUICK) as listener:
        assert (await talk(listener, get("/healthz"))).startswith(b"HTTP/1.1 404 ")


async def test_a_browser_of_another_origin_cannot_connect() -> None:
    from websockets.asyncio.client import connect

    async with await serve(until_closed, ANNA, local(), limits=QUICK) as listener:
        url = f"ws://127.0.0.1:{listener.address[1]}"
        with pytest.raises(InvalidStatus):
            await connect(url, origin="https://example.org", proxy=None)  # type: ignore[arg-type]


async def test_a_bug_in_the_handler_is_logged_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(link: Link) -> None:
        raise RuntimeError("4711 is private")

    async with await serve(handler, ANNA, local(), limits=QUICK) as listener:
        link = await call(listener, ALICE)
        with pytest.raises(Unavailable):
            await link.receive()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "RuntimeError in a connection's handler at" in caplog.text
    assert "4711" not in caplog.text


@contextlib.asynccontextmanager
async def silent_stranger(listener: Listener) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_connection(*listener.address)
    writer.write(b"GET / HT")
    await writer.drain()
    try:
        yield reader
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_closing_says_goodbye_and_frees_the_port_at_once() -> None:
    arrived = asyncio.Event()

    async def handler(link: Link) -> None:
        arrived.set()
        with contextlib.suppress(Unavailable):
            await link.receive()

    slow = Limits(handshake=60, close=0.5)
    listener = await serve(handler, ANNA, local(), limits=slow)
    link = await call(listener, ALICE)
    await arrived.wait()
    stranger = await dial(listener.address[1])
    async with silent_stranger(listener) as reader:
        async with asyncio.timeout(20):
            closing = asyncio.create_task(listener.close())
            with pytest.raises(Unavailable, match="1001"):
                await link.receive()
            await closing
        with contextlib.suppress(OSError):
            assert await reader.read() == b""
    await stranger.wait_closed()
    again = await serve(handler, ANNA, listening_socket(*listener.address), limits=slow)
    assert again.address == listener.address
    await again.close()
    await again.close()


async def test_a_handler_that_does_not_end_is_cancelled() -> None:
    cancelled = asyncio.Event()
    begun = asyncio.Event()

    async def handler(link: Link) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    listener = await serve(handler, ANNA, local(), limits=QUICK)
    link = await call(listener, ALICE)
    await begun.wait()
    receiving = asyncio.create_task(link.receive())
    await listener.close(grace=0.05)
    assert cancelled.is_set()
    assert isinstance((await settle(receiving))[0], Unavailable)


async def test_a_socket_may_be_handed_down_as_a_descriptor() -> None:
    made = socket.create_server(("127.0.0.1", 0))
    port = made.getsockname()[1]
    async with await serve(until_closed, ANNA, local(fd=made.detach()), limits=QUICK) as listener:
        assert listener.address == ("127.0.0.1", port)
        link = await call(listener, ALICE)
        link.abort()


async def test_an_address_in_use_is_named() -> None:
    async with await serve(until_closed, ANNA, local(), limits=QUICK) as listener:
        with pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{listener.address[1]}.*another process"):
            listening_socket(*listener.address)


def test_a_descriptor_that_is_no_socket_is_named() -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(Unavailable, match=f"descriptor {read}"):
            listening_socket("", 0, fd=read)
    finally:
        os.close(write)
        os.close(read)


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
async def test_ipv6() -> None:
    try:
        sock = listening_socket("::1", 0)
    except Unavailable:
        pytest.skip("no IPv6 loopback here")
    async with await serve(until_closed, ANNA, sock, limits=QUICK) as listener:
        assert listener.address[0] == "::1"
