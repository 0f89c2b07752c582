"""The dialler: it connects, and connects again, whatever happened."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as websockets_serve
from websockets.http11 import Request, Response
from wires import QUICK, Relay, note, people, settle

from smpc_fl.errors import ConfigInvalid, RevokedKey, SmpcError, Unavailable, UnknownMember
from smpc_fl.nodes.net.certificates import open_authority, write_certificate
from smpc_fl.nodes.net.dialer import Backoff, Dialer
from smpc_fl.nodes.net.framing import PIECE
from smpc_fl.nodes.net.handshake import LocalMember
from smpc_fl.nodes.net.limits import Limits
from smpc_fl.nodes.net.link import Link
from smpc_fl.nodes.net.peers import Peers
from smpc_fl.nodes.net.pump import pump
from smpc_fl.nodes.net.server import Listener, listening_socket, serve
from smpc_fl.nodes.net.tls import client_context, server_context
from smpc_fl.protocols.messages import Signed

FAST = (0.001, 0.02)


class Side:
    """A node as far as the transport goes: its live links, and what they brought."""

    def __init__(self, me: LocalMember) -> None:
        self.me = me
        self.ups: list[Link] = []
        self.fresh: asyncio.Queue[Link] = asyncio.Queue()
        self.peers = Peers(on_up=self.on_up)
        self.inbox: asyncio.Queue[tuple[Signed, int]] = asyncio.Queue()

    def on_up(self, link: Link) -> None:
        self.ups.append(link)
        self.fresh.put_nowait(link)

    async def converse(self, link: Link) -> None:
        self.peers.add(link)
        try:
            await pump(link, self.take)
        finally:
            self.peers.remove(link)

    async def take(self, link: Link, signed: Signed, attachment: memoryview | None) -> None:
        self.inbox.put_nowait((signed, 0 if attachment is None else len(attachment)))


class Pair:
    """alice dials anna through a relay."""

    def __init__(self) -> None:
        both = people(alice="owner", anna="aggregator")
        self.alice = Side(both["alice"])
        self.anna = Side(both["anna"])
        self.failed: asyncio.Queue[SmpcError] = asyncio.Queue()
        self.listener: Listener
        self.dialer: Dialer
        self.relay = Relay()

    async def listen(self, port: int = 0, limits: Limits = QUICK) -> None:
        self.listener = await serve(
            self.anna.converse, self.anna.me, listening_socket("127.0.0.1", port), limits=limits
        )

    async def up(self) -> None:
        """Until both have a link that was not there at the last call."""
        await asyncio.gather(self.alice.fresh.get(), self.anna.fresh.get())

    async def greet(self) -> None:
        """A message each way."""
        for sender, receiver, name in ((self.alice, self.anna, "anna"), (self.anna, self.alice, "alice")):
            assert await sender.peers.send(name, note(sender.me)) > 0
            assert await receiver.inbox.get() == (note(sender.me), 0)


@contextlib.asynccontextmanager
async def pair(limits: Limits = QUICK) -> AsyncIterator[Pair]:
    p = Pair()
    await p.listen(limits=limits)
    async with p.relay:
        p.dialer = Dialer(
            f"ws://127.0.0.1:{p.relay.to(p.listener.address[1])}",
            "anna",
            p.alice.me,
            p.alice.converse,
            limits=limits,
            backoff=FAST,
            on_failed=p.failed.put_nowait,
        )
        async with p.dialer:
            await p.up()
            try:
                yield p
            finally:
                await p.listener.close(grace=1.0)


async def test_it_connects_and_says_goodbye() -> None:
    async with pair() as p:
        await p.dialer.connected.wait()
        assert p.dialer.link is p.alice.ups[0]
        assert p.dialer.error is None
        await p.greet()
        assert await p.dialer.send(note(p.alice.me), b"x") > 0
        assert await p.anna.inbox.get() == (note(p.alice.me), 1)
        p.dialer.start()  # once is enough
        await p.dialer.stop()
        await p.anna.peers.wait_without("alice")
        assert not p.dialer.connected.is_set()
        with pytest.raises(Unavailable, match=r"anna at ws://127\.0\.0\.1:"):
            await p.dialer.send(note(p.alice.me))
        await p.dialer.stop()


async def test_it_connects_again_after_a_break() -> None:
    async with pair() as p:
        for round_number in range(1, 6):
            await p.greet()
            p.relay.cut()
            await p.up()
            assert len(p.alice.ups) == len(p.anna.ups) == round_number + 1


async def test_it_connects_again_after_a_break_within_a_message() -> None:
    async with pair() as p:
        sending = asyncio.create_task(p.alice.peers.send("anna", note(p.alice.me), bytes(200 * PIECE)))
        await p.relay.has_passed(2 * PIECE)
        p.relay.cut()
        assert isinstance((await settle(sending))[0], Unavailable)
        await p.up()
        assert p.anna.inbox.empty()
        await p.greet()


async def test_it_connects_again_after_the_peer_found_a_message_too_long() -> None:
    async with pair(Limits(attachment=1 << 20, handshake=5.0, close=0.5)) as p:
        link = p.alice.ups[-1]
        link.limits = QUICK
        with pytest.raises(Unavailable):
            await link.send(note(p.alice.me), bytes(64 * PIECE))
        await p.up()
        await p.greet()


async def test_it_connects_again_after_a_fragment_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close code 1009 in the midst of a large send, after which websockets 17.4 raised AttributeError."""
    async with pair() as p:
        with monkeypatch.context() as patch:
            patch.setattr("smpc_fl.nodes.net.framing.PIECE", 8 * PIECE)
            with pytest.raises(Unavailable):
                await p.alice.peers.send("anna", note(p.alice.me), bytes(64 * PIECE), piece=8 * PIECE)
        await p.up()
        await p.greet()


async def test_it_finds_out_that_a_connection_is_half_open() -> None:
    alert = Limits(handshake=1.0, ping_interval=0.05, ping_timeout=0.05, close=0.05)
    async with pair(alert) as p:
        p.relay.freeze()
        await p.alice.peers.wait_without("anna")
        await p.anna.peers.wait_without("alice")
        p.relay.cut()
        p.relay.passing.set()
        await p.up()


async def test_it_survives_a_restart_of_the_listener() -> None:
    async with pair() as p:
        port = p.listener.address[1]
        await p.listener.close()
        await p.alice.peers.wait_without("anna")
        with pytest.raises(Unavailable):
            await p.alice.peers.send("anna", note(p.alice.me))
        assert isinstance(await p.failed.get(), Unavailable)
        await p.listen(port)
        await p.up()
        await p.greet()


async def test_a_refusal_is_told_and_ends_when_its_reason_does() -> None:
    async with pair() as p:
        revoked: set[str] = p.anna.me.membership.revoked  # type: ignore[attr-defined]
        revoked.add("alice")
        p.anna.peers.drop("alice", "RevokedKey")
        error = await p.failed.get()
        assert isinstance(error, RevokedKey)
        assert "anna refused alice" in str(error)
        with pytest.raises(Unavailable, match="anna refused alice"):
            await p.dialer.send(note(p.alice.me))
        revoked.clear()
        await p.up()
        await p.greet()
        assert p.dialer.error is None


async def test_somebody_else_at_the_address_is_not_believed() -> None:
    async with pair() as p:
        errors: asyncio.Queue[SmpcError] = asyncio.Queue()
        wrong = Dialer(
            f"ws://127.0.0.1:{p.listener.address[1]}", "adam", p.alice.me, p.alice.converse,
            limits=QUICK, backoff=FAST, on_failed=errors.put_nowait,
        )  # fmt: skip
        async with wrong:
            assert isinstance(await errors.get(), UnknownMember)


@contextlib.asynccontextmanager
async def failing(
    port: int, scheme: str = "ws", seconds: float = 5.0, **options: object
) -> AsyncIterator[asyncio.Queue[SmpcError]]:
    """The errors of a dialler that cannot connect."""
    errors: asyncio.Queue[SmpcError] = asyncio.Queue()
    alice = Side(people(alice="owner", anna="aggregator")["alice"])
    async with Dialer(
        f"{scheme}://127.0.0.1:{port}", "anna", alice.me, alice.converse,
        limits=Limits(handshake=seconds, close=0.2), backoff=FAST, on_failed=errors.put_nowait, **options,  # type: ignore[arg-type]
    ):  # fmt: skip
        yield errors
    assert alice.ups == []


async def test_nobody_there() -> None:
    with listening_socket("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
    async with failing(port) as errors:
        for _ in range(3):
            error = await errors.get()
            assert isinstance(error, Unavailable)
            assert "cannot be reached" in str(error)
            assert error.peer == "anna"


@pytest.mark.parametrize("answer", [b"garbage\r\n\r\n", b"", None, b"\x00" * 100_000])
async def test_something_else_there(answer: bytes | None) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is not None:
            with contextlib.suppress(OSError):
                writer.write(answer)
                await writer.drain()
            writer.close()
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    patience = 0.2 if answer is None else 5.0
    async with server, failing(server.sockets[0].getsockname()[1], seconds=patience) as errors:
        for _ in range(2):
            assert "no websocket handshake came back" in str(await errors.get()) or answer == b""


async def test_a_bug_of_a_library_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An AttributeError out of websockets, as after close code 1009."""

    async def broken(self: object) -> None:
        raise AttributeError("'NoneType' object has no attribute 'write'")

    monkeypatch.setattr("smpc_fl.nodes.net.dialer._Connect.connect", broken)
    async with failing(1) as errors:
        for _ in range(2):
            assert str(await errors.get()).startswith("anna at ws://127.0.0.1:1 cannot be reached: AttributeError")


async def test_one_that_was_never_started_can_be_stopped() -> None:
    alice = Side(people(alice="owner")["alice"])
    await Dialer("ws://127.0.0.1:1", "anna", alice.me, alice.converse).stop()


async def test_redirections_are_not_followed() -> None:
    visited = asyncio.Event()

    async def trap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visited.set()
        writer.close()

    def redirect(connection: ServerConnection, request: Request) -> Response:
        response = connection.respond(302, "there\n")
        response.headers["Location"] = f"ws://127.0.0.1:{elsewhere}"
        return response

    async def nothing(connection: ServerConnection) -> None:
        return

    server = await asyncio.start_server(trap, "127.0.0.1", 0)
    elsewhere = server.sockets[0].getsockname()[1]
    source = await websockets_serve(nothing, "127.0.0.1", 0, process_request=redirect)
    async with server, source, failing(source.sockets[0].getsockname()[1]) as errors:
        assert "it answered HTTP 302" in str(await errors.get())
    assert not visited.is_set()


async def test_stopping_while_dialling() -> None:
    reached = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    alice = Side(people(alice="owner", anna="aggregator")["alice"])
    async with server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with asyncio.timeout(30), Dialer(url, "anna", alice.me, alice.converse):
            await reached.wait()


async def test_stopping_while_the_handler_does_not_end() -> None:
    async with pair() as p:
        begun = asyncio.Event()

        async def handler(link: Link) -> None:
            begun.set()
            await asyncio.Event().wait()

        dialer = Dialer(f"ws://127.0.0.1:{p.listener.address[1]}", "anna", p.alice.me, handler, limits=QUICK)
        dialer.start()
        await begun.wait()
        link = dialer.link
        assert link is not None
        await dialer.stop()
        assert not link.is_open


async def test_bugs_of_callbacks_are_logged_and_the_dialler_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    tries: asyncio.Queue[None] = asyncio.Queue()

    async def handler(link: Link) -> None:
        tries.put_nowait(None)
        raise RuntimeError("4711 is private")

    def on_failed(error: SmpcError) -> None:
        tries.put_nowait(None)
        raise RuntimeError("4711 is private")

    async with pair() as p:
        url = f"ws://127.0.0.1:{p.listener.address[1]}"
        async with Dialer(url, "anna", p.alice.me, handler, limits=QUICK, backoff=FAST):
            for _ in range(2):
                await tries.get()
        async with Dialer(url, "adam", p.alice.me, handler, limits=QUICK, backoff=FAST, on_failed=on_failed):
            for _ in range(2):
                await tries.get()
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert "4711" not in caplog.text


@pytest.mark.parametrize("address", ["127.0.0.1:80", "http://127.0.0.1:80", "ws://127.0.0.1", "", "ws://host:0"])
async def test_what_is_no_address(address: str) -> None:
    alice = Side(people(alice="owner")["alice"])
    with pytest.raises(ConfigInvalid):
        Dialer(address, "anna", alice.me, alice.converse)


def test_waits_double_up_to_the_longest_and_start_again_after_a_connection_that_lasted() -> None:
    backoff = Backoff(0.05, 5.0)
    bases = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    for base in bases:
        assert base / 2 <= backoff.after(0.01) <= base
    assert 2.5 <= backoff.after(4.9) <= 5.0
    assert 0.025 <= backoff.after(5.1) <= 0.05
    assert len({backoff.after(0) for _ in range(20)}) > 10


# --- TLS ---


@contextlib.asynccontextmanager
async def tls_listener(folder: Path, host: str) -> AsyncIterator[tuple[Side, Listener]]:
    certificate, key = write_certificate(folder, "anna", [host], open_authority(folder, "test"))
    anna = Side(people(alice="owner", anna="aggregator")["anna"])
    sock = listening_socket("127.0.0.1", 0)
    listener = await serve(anna.converse, anna.me, sock, ssl=server_context(certificate, key), limits=QUICK)
    async with listener:
        yield anna, listener


async def test_tls_carries_long_messages_and_breaks(tmp_path: Path) -> None:
    alice = Side(people(alice="owner", anna="aggregator")["alice"])
    async with tls_listener(tmp_path, "127.0.0.1") as (anna, listener), Relay(listener.address[1]) as relay:
        context = client_context(tmp_path / "ca.pem")
        url = f"wss://127.0.0.1:{relay.port}"
        async with Dialer(url, "anna", alice.me, alice.converse, ssl=context, limits=QUICK, backoff=FAST):
            await alice.peers.wait_for("anna")
            sent = await alice.peers.send("anna", note(alice.me), bytes(20 * PIECE))
            assert await anna.inbox.get() == (note(alice.me), 20 * PIECE)
            assert 20 * PIECE < sent < 1.01 * 20 * PIECE
            relay.cut()
            for side in (alice, anna):
                assert await side.fresh.get() is not await side.fresh.get()


@pytest.mark.parametrize("wrong", ["authority", "host"])
async def test_a_certificate_that_does_not_hold_is_named(tmp_path: Path, wrong: str) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    open_authority(other, "other")
    async with tls_listener(tmp_path, "127.0.0.1" if wrong == "authority" else "example.org") as (anna, listener):
        ca = (other if wrong == "authority" else tmp_path) / "ca.pem"
        async with failing(listener.address[1], "wss", ssl=client_context(ca)) as errors:
            assert "its certificate is not accepted" in str(await errors.get())
        assert anna.ups == []


async def test_plaintext_to_a_tls_port_and_tls_to_a_plaintext_port(tmp_path: Path) -> None:
    async with tls_listener(tmp_path, "127.0.0.1") as (_, listener), failing(listener.address[1]) as errors:
        assert isinstance(await errors.get(), Unavailable)
    async with pair() as p:
        context = client_context(tmp_path / "ca.pem")
        async with failing(p.listener.address[1], "wss", ssl=context) as errors:
            assert isinstance(await errors.get(), Unavailable)
