"""Somebody in the middle of every connection, who reads and changes all of it (no TLS, or the TLS ends there): nothing that
the other side has not said here and now has an effect. Messages are changed, repeated, swapped, left out, made up."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as websockets_serve
from websockets.exceptions import ConnectionClosed
from wires import QUICK, note, people

from smpc_fl.errors import BadSignature, SmpcError, Unavailable
from smpc_fl.identity import Identity
from smpc_fl.nodes.net.certificates import open_authority, write_certificate
from smpc_fl.nodes.net.dialer import Dialer
from smpc_fl.nodes.net.framing import Kind, message
from smpc_fl.nodes.net.handshake import LocalMember
from smpc_fl.nodes.net.link import Link
from smpc_fl.nodes.net.server import Listener, listening_socket, serve
from smpc_fl.nodes.net.tls import client_context, server_context
from smpc_fl.protocols.codec import decode_message, decode_signed, encode, verify
from smpc_fl.protocols.messages import Hello, Message, Proof, Signed

ALL = people(anna="aggregator", adam="aggregator", alice="owner", bob="owner")
ANNA, ADAM, ALICE, BOB = (ALL[name] for name in ("anna", "adam", "alice", "bob"))
MALLORY = Identity.from_seed(b"mallory".ljust(32, b"."))
SAID = [note(ALICE, f"number {number}") for number in range(4)]

Change = Callable[[int, bytes], list[bytes]]
"""Told the number of a message of one direction, and its bytes: what goes on in its place."""


def pass_on(number: int, data: bytes) -> list[bytes]:
    return [data]


@dataclass
class Middle:
    """Between who dials `port` and the listener at `target`."""

    target: int
    up: Change = pass_on
    down: Change = pass_on
    seen: list[bytes] = field(default_factory=list)
    port: int = 0

    async def carry(self, near: Connection, far: Connection, change: Change) -> None:
        with contextlib.suppress(ConnectionClosed):
            number = 0
            async for data in near:
                assert isinstance(data, bytes)
                self.seen.append(data)
                for each in change(number, data):
                    await far.send(each)
                number += 1
        await far.close()

    async def __call__(self, near: ServerConnection) -> None:
        async with connect(f"ws://127.0.0.1:{self.target}", proxy=None, compression=None, max_size=None) as far:
            await asyncio.gather(self.carry(near, far, self.up), self.carry(far, near, self.down))


@dataclass
class Scene:
    """alice dials anna, and bob does, each through a middle; what anna believes is in `heard`."""

    anna: Listener
    heard: list[Signed]
    refused: asyncio.Queue[SmpcError]
    ended: asyncio.Event


@contextlib.asynccontextmanager
async def listening(who: LocalMember = ANNA) -> AsyncIterator[Scene]:
    heard: list[Signed] = []
    refused: asyncio.Queue[SmpcError] = asyncio.Queue()
    ended = asyncio.Event()

    async def handler(link: Link) -> None:
        try:
            while True:
                signed, _ = await link.receive()
                assert link.key is not None
                verify(signed, link.key, federation=who.membership.federation)  # as every node does
                heard.append(signed)
                await link.send(who.sign(Proof(bytes(32), bytes(32), "an answer")))
        except SmpcError as error:
            refused.put_nowait(error)
        ended.set()

    sock = listening_socket("127.0.0.1", 0)
    async with await serve(handler, who, sock, limits=QUICK, on_refused=refused.put_nowait) as anna:
        yield Scene(anna, heard, refused, ended)


@contextlib.asynccontextmanager
async def between(middle: Middle) -> AsyncIterator[Middle]:
    async with websockets_serve(middle, "127.0.0.1", 0, compression=None, max_size=None) as server:
        middle.port = server.sockets[0].getsockname()[1]
        yield middle


async def talk(link: Link) -> None:
    """alice's side: four messages, an answer to each."""
    for each in SAID:
        await link.send(each)
        await link.receive()


async def dial_through(middle: Middle, me: LocalMember = ALICE, peer: str = "anna") -> tuple[bool, SmpcError | None]:
    """Whether the handshake succeeded, and how it all ended."""
    over: asyncio.Future[tuple[bool, SmpcError | None]] = asyncio.get_running_loop().create_future()

    def end(shook: bool, error: SmpcError | None) -> None:
        if not over.done():
            over.set_result((shook, error))

    async def handler(link: Link) -> None:
        try:
            await talk(link)
        except SmpcError as error:
            end(True, error)
        end(True, None)

    url = f"ws://127.0.0.1:{middle.port}"
    async with Dialer(url, peer, me, handler, limits=QUICK, on_failed=lambda error: end(False, error)):
        return await over


def envelope_of(data: bytes, tag: int = 0) -> Signed:
    size = int.from_bytes(data[1:5], "big")
    return decode_signed(data[13 + tag : 13 + tag + size])


def with_body(data: bytes, change: Callable[[Message], Message], key: Identity = MALLORY) -> bytes:
    """A handshake's message with another body, signed by Mallory's key in the sender's name."""
    signed = envelope_of(data)
    body = encode(change(decode_message(signed.body)))
    forged = Signed(signed.sender, body, key.sign(b"smpc-fl/1 signed" + body))
    return message(encode(forged), memoryview(b""))


def only(at: int, change: Callable[[bytes], list[bytes]]) -> Change:
    return lambda number, data: change(data) if number == at else [data]


def swap_nonce(said: Message) -> Message:
    assert isinstance(said, Hello)
    return msgspec.structs.replace(said, nonce=bytes(range(32)))


def swap_version(said: Message) -> Message:
    assert isinstance(said, Hello)
    return msgspec.structs.replace(said, version=said.version - 1)


def swap_role(said: Message) -> Message:
    assert isinstance(said, Hello)
    return msgspec.structs.replace(said, role="coordinator")


HANDSHAKES: dict[str, Change] = {
    "another key": only(0, lambda data: [with_body(data, lambda said: said)]),
    "another nonce": only(0, lambda data: [with_body(data, swap_nonce)]),
    "an older version": only(0, lambda data: [with_body(data, swap_version)]),
    "another role": only(0, lambda data: [with_body(data, swap_role)]),
    "another's proof": only(1, lambda data: [with_body(data, lambda said: Proof(bytes(32), bytes(32), "anna"))]),
    "another sender": only(
        0, lambda data: [message(encode(msgspec.structs.replace(envelope_of(data), sender="bob")), memoryview(b""))]
    ),
    "the hello twice": only(0, lambda data: [data, data]),
    "no proof": only(1, lambda data: []),
    "half a hello": only(0, lambda data: [data[:40]]),
}


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("name", [name for name in HANDSHAKES if name != "no proof"])
async def test_a_changed_handshake_is_none(name: str, way: str) -> None:
    async with listening() as scene, between(Middle(scene.anna.address[1])) as middle:
        setattr(middle, way, HANDSHAKES[name])
        shook, error = await dial_through(middle)
        assert isinstance(error, SmpcError)
        assert not scene.heard
        assert not shook or way == "up"  # alice may have believed anna, who did not believe alice


async def test_whoever_answers_at_an_address_must_be_the_one_that_was_dialled() -> None:
    """alice is led to another aggregator of her federation than the one that she dials."""
    async with listening(ADAM) as scene, between(Middle(scene.anna.address[1])) as middle:
        shook, error = await dial_through(middle)
        assert not shook
        assert "anna was expected at this address, adam answered" in str(error)
        assert not scene.heard


async def test_the_words_of_another_connection_are_not_believed() -> None:
    """A whole conversation, handshake included, said again; and what anna said, said back to her."""
    async with listening() as scene, between(Middle(scene.anna.address[1])) as middle:
        assert await dial_through(middle) == (True, None)
        assert scene.heard == SAID
        scene.heard.clear()
        mine = [data for data in middle.seen if len(data) > 13]
        for words in (mine, list(reversed(mine))):
            async with connect(f"ws://127.0.0.1:{scene.anna.address[1]}", compression=None, proxy=None) as hostile:
                with contextlib.suppress(ConnectionClosed):
                    for each in words:
                        await hostile.send(each)
                    while True:
                        await hostile.recv()
        async with connect(f"ws://127.0.0.1:{scene.anna.address[1]}", compression=None, proxy=None) as hostile:
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await hostile.send(await hostile.recv())
        assert not scene.heard


def again(data: bytes) -> list[bytes]:
    return [data, data]


LATER: dict[str, Change] = {
    "said twice": only(3, again),
    "left out": only(3, lambda data: []),
    "a bit turned in the body": only(3, lambda data: [data[:-80] + bytes([data[-80] ^ 1]) + data[-79:]]),
    "a bit turned in the tag": only(3, lambda data: [data[:14] + bytes([data[14] ^ 1]) + data[15:]]),
    "without its tag": only(3, lambda data: [data[:13] + data[29:]]),
    "cut short": only(3, lambda data: [data[:-1]]),
    "another of hers": only(3, lambda data: [data[:29] + encode(SAID[0])]),
    "another's": only(3, lambda data: [message(encode(note(BOB)), memoryview(b""))]),
    "go": only(3, lambda data: [bytes([Kind.GO]), data]),
}


@pytest.mark.parametrize("name", LATER)
async def test_what_is_changed_after_the_handshake_ends_the_connection(name: str) -> None:
    """Messages 0 and 1 are the handshake, 2 is the first: it is believed, and nothing from the changed one on."""
    async with listening() as scene, between(Middle(scene.anna.address[1], up=LATER[name])) as middle:
        ending = asyncio.create_task(dial_through(middle))
        if name == "left out":
            while len(scene.heard) < 1:
                await asyncio.sleep(0)
            ending.cancel()
        else:
            await ending
            await scene.ended.wait()
        assert scene.heard == SAID[: 2 if name == "said twice" else 1]
        await asyncio.gather(ending, return_exceptions=True)


async def test_what_was_left_out_shows_with_the_next_message() -> None:
    async with listening() as scene, between(Middle(scene.anna.address[1], up=LATER["left out"])) as middle:
        failed: asyncio.Queue[SmpcError] = asyncio.Queue()

        async def handler(link: Link) -> None:
            await link.send(SAID[0])
            await link.receive()
            await link.send(SAID[1])  # which is left out
            await link.send(SAID[2])
            try:
                await link.receive()
            except SmpcError as error:
                failed.put_nowait(error)

        async with Dialer(f"ws://127.0.0.1:{middle.port}", "anna", ALICE, handler, limits=QUICK):
            assert isinstance(await failed.get(), Unavailable)
        assert scene.heard == SAID[:1]


async def test_envelopes_swapped_between_two_members_links() -> None:
    """Each signed by its sender, each on the other's connection."""
    kept: dict[str, bytes] = {}

    def keep(name: str) -> Change:
        def change(number: int, data: bytes) -> list[bytes]:
            if number != 2:
                return [data]
            kept[name] = data
            other = kept.get("bob" if name == "alice" else "alice")
            return [other] if other is not None else []

        return change

    async with (
        listening() as scene,
        between(Middle(scene.anna.address[1], up=keep("alice"))) as one,
        between(Middle(scene.anna.address[1], up=keep("bob"))) as two,
    ):
        first = asyncio.create_task(dial_through(one))
        while "alice" not in kept:
            await asyncio.sleep(0)
        _, error = await dial_through(two, BOB)
        assert isinstance(error, SmpcError)
        assert not scene.heard
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


# --- TLS ---


@pytest.fixture
def authorities(tmp_path: Path) -> tuple[Path, Path]:
    """Two CAs, each with a certificate for this machine."""
    folders = tmp_path / "ours", tmp_path / "theirs"
    for folder in folders:
        folder.mkdir()
        write_certificate(folder, "node", ["localhost", "127.0.0.1"], open_authority(folder, folder.name))
    return folders


@pytest.mark.parametrize("trick", ["plaintext", "another CA", "an old version"])
async def test_tls_is_not_stripped(authorities: tuple[Path, Path], trick: str) -> None:
    """alice is told wss:// by her roster, and gets ws://, another's certificate, or TLS 1.2."""
    ours, theirs = authorities
    folder = theirs if trick == "another CA" else ours
    context = server_context(folder / "node.pem", folder / "node.key")
    if trick == "an old version":
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    called = asyncio.Event()

    async def hostile(connection: ServerConnection) -> None:
        called.set()
        await connection.wait_closed()

    failed: asyncio.Queue[SmpcError] = asyncio.Queue()

    async def never(link: Link) -> None:
        raise AssertionError

    async with websockets_serve(hostile, "127.0.0.1", 0, ssl=None if trick == "plaintext" else context) as server:
        url = f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        tls = client_context(ours / "ca.pem")
        async with Dialer(url, "anna", ALICE, never, ssl=tls, limits=QUICK, on_failed=failed.put_nowait):
            assert isinstance(await failed.get(), Unavailable)
    assert not called.is_set()


def test_the_forgeries_are_forged() -> None:
    """The control: under the right key the same words are believed (`test_handshake.py`), under Mallory's they are not."""
    data = message(encode(ALICE.sign(Proof(bytes(32), bytes(32), "anna"))), memoryview(b""))
    assert verify(envelope_of(data), ALICE.identity.public, federation=ALICE.membership.federation)
    with pytest.raises(BadSignature):
        verify(
            envelope_of(with_body(data, lambda said: said)),
            ALICE.identity.public,
            federation=ALICE.membership.federation,
        )
