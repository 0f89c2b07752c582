"""One connection: any message in any size, nonsense, breaks, back-pressure, cancellation."""

from __future__ import annotations

import asyncio
import struct
import tracemalloc
from collections.abc import Sequence

import pytest
from websockets.exceptions import ConnectionClosed
from wires import QUICK, Relay, dial, note, people, raw_pair, reading, settle

from smpc_fl.errors import BadInput, InternalError, MalformedMessage, PermissionDenied, SmpcError, Unavailable
from smpc_fl.nodes.net.attachment import Accept, Sink
from smpc_fl.nodes.net.framing import INLINE, PIECE
from smpc_fl.nodes.net.limits import Limits
from smpc_fl.nodes.net.link import Link
from smpc_fl.protocols.codec import encode
from smpc_fl.protocols.messages import Signed

ALICE = people(alice="owner")["alice"]
LENGTHS = struct.Struct(">BIQ")
MESSAGE, ANNOUNCEMENT, GO, DROP, ATTACHMENT = range(5)
ENVELOPE = encode(note(ALICE))


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


async def received(link: Link) -> tuple[Signed, bytes | None]:
    signed, attachment = await link.receive()
    return signed, None if attachment is None else bytes(attachment)


def into(sink: Sink) -> Accept:
    async def accept(signed: Signed, size: int) -> Sink:
        return sink

    return accept


def limits(attachment: int) -> Limits:
    return Limits(attachment=attachment, handshake=5.0, close=0.5)


@pytest.mark.parametrize("size", [None, 0, 1, 125, INLINE, INLINE + 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5])
async def test_a_message_arrives_with_its_attachment(size: int | None) -> None:
    attachment = None if size is None else pattern(size)
    for way in (1, -1):
        async with raw_pair() as pair:
            sender, receiver = pair[::way]
            async with reading(sender):
                sending = asyncio.create_task(sender.send(note(ALICE), attachment))
                assert (await received(receiver) == (note(ALICE), attachment or None)) is True
                assert await sending == sender.bytes_sent == receiver.bytes_received


async def test_an_envelope_may_be_longer_than_a_fragment() -> None:
    long = Signed("alice", pattern(3 * PIECE), bytes(64))
    async with raw_pair() as (near, far):
        sending = asyncio.create_task(near.send(long, b"behind it"))
        assert (await received(far) == (long, b"behind it")) is True  # so that nobody prints megabytes
        await sending


async def test_bytes_are_counted_as_they_are_on_the_socket() -> None:
    async with Relay() as relay, raw_pair(port=relay.to) as (near, far), reading(near):
        before = relay.up
        sizes = []
        for attachment in (None, pattern(100), pattern(70_000), pattern(4_000_000)):
            sending = asyncio.create_task(near.send(note(ALICE), attachment))
            await far.receive()
            sizes.append(await sending)
            assert relay.up - before == near.bytes_sent == far.bytes_received == sum(sizes)
        assert sizes[-1] <= 1.01 * 4_000_000


async def test_senders_take_turns() -> None:
    async with raw_pair() as (near, far), reading(near):
        sent = [(note(ALICE, str(i)), pattern(i * 40_000) or None) for i in range(60)]
        sending = asyncio.gather(*(near.send(*message) for message in sent))
        arrived = [await received(far) for _ in sent]
        await sending
        assert (sorted(arrived, key=lambda m: m[0].body) == sorted(sent, key=lambda m: m[0].body)) is True


async def test_thousands_of_small_messages_arrive_in_order() -> None:
    async with raw_pair() as (near, far):

        async def send() -> None:
            for i in range(5000):
                await near.send(Signed("alice", i.to_bytes(4, "big"), bytes(64)))

        sending = asyncio.create_task(send())
        assert [int.from_bytes((await far.receive())[0].body, "big") for _ in range(5000)] == list(range(5000))
        await sending


async def test_a_hundred_megabytes_pass_through_a_sink_in_bounded_memory() -> None:
    big = bytearray(100_000_000)
    big[-1] = 7
    seen = 0
    last = b""

    def take(piece: memoryview) -> None:
        nonlocal seen, last
        seen += len(piece)
        last = bytes(piece[-1:])

    async with raw_pair() as (near, far), reading(near):
        tracemalloc.start()
        try:
            sending = asyncio.create_task(near.send(note(ALICE), big))
            signed, attachment = await far.receive(into(take))
            await sending
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (signed, attachment, seen, last) == (note(ALICE), take, len(big), b"\7")
    assert peak < 24 << 20  # of both ends


async def test_a_slow_consumer_holds_the_sender_back() -> None:
    async with Relay() as relay, raw_pair(port=relay.to) as (near, far), reading(near):
        sending = asyncio.create_task(near.send(note(ALICE), bytes(64 * PIECE)))
        # There is room, and a small message passes while nothing has come yet; then nobody reads.
        asked = asyncio.Event()

        async def accept(signed: Signed, size: int) -> None:
            asked.set()

        receiving = asyncio.create_task(far.receive(accept))
        await asked.wait()
        receiving.cancel()
        await settle(receiving)
        await relay.has_passed(PIECE)
        # Everything in between has finite room, so the sender comes to a stop.
        passed = -1
        while relay.up != passed:
            passed = relay.up
            for _ in range(200):
                await asyncio.wait({sending}, timeout=0)
        assert not sending.done()
        assert relay.up < 48 * PIECE
        signed, attachment = await far.receive()
        assert (signed, len(attachment or b"")) == (note(ALICE), 64 * PIECE)
        await sending


@pytest.mark.parametrize("when", ["accept", "sink"])
async def test_a_refused_attachment_is_dropped_and_the_link_goes_on(when: str) -> None:
    pieces = abandoned = 0

    class Picky:
        def __call__(self, piece: memoryview) -> None:
            nonlocal pieces
            pieces += 1
            raise PermissionDenied("not this")

        def abandoned(self) -> None:
            nonlocal abandoned
            abandoned += 1

    async def accept(signed: Signed, size: int) -> Sink:
        if when == "accept":
            raise PermissionDenied("not this")
        return Picky()

    async with raw_pair() as (near, far), reading(near):
        sending = asyncio.create_task(near.send(note(ALICE), bytes(5 * PIECE)))
        with pytest.raises(PermissionDenied, match="not this"):
            await far.receive(accept)
        assert far.is_open
        assert far.refused == note(ALICE)
        written = await sending
        assert (written > 5 * PIECE) is (when == "sink")
        assert written == near.bytes_sent == far.bytes_received
        await near.send(note(ALICE, "next"), b"small")
        assert await received(far) == (note(ALICE, "next"), b"small")
    assert pieces == abandoned == (when == "sink")


@pytest.mark.parametrize("when", ["accept", "sink"])
async def test_a_bug_in_a_sink_drops_the_link(when: str) -> None:
    def take(piece: memoryview) -> None:
        raise RuntimeError("oops")

    async def accept(signed: Signed, size: int) -> Sink:
        if when == "accept":
            raise RuntimeError("oops")
        return take

    async with raw_pair() as (near, far), reading(near):
        sending = asyncio.create_task(near.send(note(ALICE), bytes(20 * PIECE)))
        with pytest.raises(RuntimeError, match="oops"):
            await far.receive(accept)
        await far.wait_closed()
        with pytest.raises(Unavailable):
            await sending
        with pytest.raises(Unavailable, match="dropped in the midst"):
            await far.receive()


def lengths(kind: int, envelope: int, attachment: int) -> bytes:
    return LENGTHS.pack(kind, envelope, attachment)


MALFORMED: dict[str, Sequence[bytes]] = {
    "nothing": [b""],
    "of no kind": [b"\5" + lengths(MESSAGE, len(ENVELOPE), 0)[1:] + ENVELOPE],
    "a kind from elsewhere": [b"GET / HTTP/1.1"],
    "no lengths": [lengths(MESSAGE, len(ENVELOPE), 0)[:12]],
    "envelope too long": [lengths(MESSAGE, 1 << 26, 0)],
    "attachment too long": [lengths(MESSAGE, len(ENVELOPE), 1 << 40) + ENVELOPE],
    "announced attachment too long": [lengths(ANNOUNCEMENT, len(ENVELOPE), 1 << 40) + ENVELOPE],
    "inline attachment too long": [lengths(MESSAGE, len(ENVELOPE), INLINE + 1) + ENVELOPE],
    "announced attachment too short": [lengths(ANNOUNCEMENT, len(ENVELOPE), INLINE) + ENVELOPE],
    "announced, and sent at once": [lengths(ANNOUNCEMENT, len(ENVELOPE), INLINE + 1) + ENVELOPE + b"x"],
    "envelope is no envelope": [lengths(MESSAGE, 8, 0) + b"\xc1garbage"],
    "left over bytes": [lengths(MESSAGE, len(ENVELOPE), 0) + ENVELOPE + b"x"],
    "a fragment too many": [lengths(MESSAGE, len(ENVELOPE), 1) + ENVELOPE, b"x", b"x"],
    "ends in the envelope": [lengths(MESSAGE, len(ENVELOPE), 0) + ENVELOPE[:-1]],
    "ends in the attachment": [lengths(MESSAGE, len(ENVELOPE), 9) + ENVELOPE, b"x"],
    "empty fragments": [lengths(MESSAGE, len(ENVELOPE), 9) + ENVELOPE, b"", b"", b"123456789"],
    "go to nothing": [bytes([GO])],
    "drop of nothing": [bytes([DROP])],
    "go and more": [bytes([GO]) + b"x"],
    "drop and more": [bytes([DROP]), b"x"],
    "attachment to nothing": [bytes([ATTACHMENT]), b"x"],
    "attachment without a fragment of its own": [bytes([ATTACHMENT]) + b"x"],
}


@pytest.mark.parametrize("fragments", MALFORMED.values(), ids=MALFORMED)
async def test_bytes_that_break_the_format_close_the_link(fragments: Sequence[bytes]) -> None:
    async with raw_pair(limits(1 << 20)) as (near, far):
        hostile = near._socket

        async def attack() -> None:
            await hostile.send(iter(fragments) if len(fragments) > 1 else fragments[0])
            await hostile.wait_closed()

        attacking = asyncio.create_task(attack())
        with pytest.raises(MalformedMessage):
            await far.receive()
        assert not far.is_open
        await settle(attacking)
        assert hostile.close_code == 1002
        with pytest.raises(Unavailable):
            await far.receive()


async def test_a_fragment_that_is_too_long_closes_the_link() -> None:
    async with raw_pair() as (near, far):
        hostile = near._socket
        attacking = asyncio.create_task(hostile.send(bytes(PIECE + 1)))
        with pytest.raises(MalformedMessage, match="PayloadTooBig"):
            await far.receive()
        await settle(attacking)
        await hostile.wait_closed()
        assert hostile.close_code == 1009


async def test_the_sender_of_what_is_too_long_learns_that_the_connection_is_gone() -> None:
    async with raw_pair(limits(1 << 20)) as (near, far), reading(near):
        near.limits = QUICK
        sending = asyncio.create_task(near.send(note(ALICE), bytes(64 * PIECE)))
        with pytest.raises(MalformedMessage, match="over the limits"):
            await far.receive()
        with pytest.raises(Unavailable, match="1002"):
            await sending
        await near.close()
        with pytest.raises(Unavailable):
            await near.send(note(ALICE))


async def test_a_piece_that_is_too_long_in_a_large_send_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """websockets 17.4 raised AttributeError on leaving such a connection."""
    async with raw_pair() as (near, far), reading(near):
        monkeypatch.setattr("smpc_fl.nodes.net.framing.PIECE", 8 * PIECE)
        sending = asyncio.create_task(near.send(note(ALICE), bytes(64 * PIECE), piece=8 * PIECE))
        with pytest.raises(MalformedMessage):
            await far.receive()
        with pytest.raises(Unavailable):
            await sending
        await near.close()
        await near.wait_closed()
        assert not near.is_open


async def test_what_is_over_the_limits_is_not_sent() -> None:
    async with raw_pair(limits(10)) as (near, far):
        for signed, attachment in ((note(ALICE), bytes(11)), (Signed("alice", bytes(1 << 25), bytes(64)), None)):
            with pytest.raises(BadInput, match="over the limits"):
                await near.send(signed, attachment)
        assert near.bytes_sent == 0
        await near.send(note(ALICE), bytes(10))
        assert await received(far) == (note(ALICE), bytes(10))


async def test_a_peer_that_dies_in_the_midst_of_a_message() -> None:
    async with Relay() as relay, raw_pair(port=relay.to) as (near, far), reading(near):
        sending = asyncio.create_task(near.send(note(ALICE), bytes(64 * PIECE)))
        receiving = asyncio.create_task(far.receive())
        await relay.has_passed(3 * PIECE)
        relay.cut()
        for error in await settle(sending, receiving):
            assert isinstance(error, Unavailable)
        assert not near.is_open
        assert not far.is_open


async def test_a_half_open_connection_is_found_out() -> None:
    alert = Limits(handshake=5.0, ping_interval=0.05, ping_timeout=0.05, close=0.05)
    async with Relay() as relay, raw_pair(alert, port=relay.to) as (near, far):
        relay.freeze()
        for error in await settle(near.receive(), far.receive()):
            assert isinstance(error, Unavailable)
        with pytest.raises(Unavailable):
            await near.send(note(ALICE))


async def test_receiving_can_be_cancelled_between_messages() -> None:
    async with raw_pair() as (near, far):
        receiving = asyncio.create_task(far.receive())
        await asyncio.wait({receiving}, timeout=0)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        await near.send(note(ALICE))
        assert await far.receive() == (note(ALICE), None)


async def test_a_message_sent_before_the_goodbye_is_received() -> None:
    async with raw_pair() as (near, far):
        await near.send(note(ALICE), b"last words")
        closing = asyncio.create_task(near.close("that is all"))
        assert await received(far) == (note(ALICE), b"last words")
        with pytest.raises(Unavailable, match="that is all"):
            await far.receive()
        await closing
        await near.close("again")
        for link in (near, far):
            with pytest.raises(Unavailable):
                await link.send(note(ALICE))


async def test_a_long_reason_is_cut_at_a_character() -> None:
    async with raw_pair() as (near, far):
        closing = asyncio.create_task(near.close("é" * 200))
        with pytest.raises(Unavailable, match="é"):
            await far.receive()
        await closing


async def test_closing_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_pair() as (near, far):

        async def broken(code: int, reason: str) -> None:
            raise AttributeError("'NoneType' object has no attribute 'write'")

        monkeypatch.setattr(near._socket, "close", broken)
        await near.close()
        with pytest.raises(Unavailable):
            await far.receive()


async def test_the_look_of_a_link() -> None:
    async with raw_pair() as (near, far):
        assert repr(near) == "<Link unauthenticated  open>"
        near.peer, near.role = "alice", "owner"
        assert repr(near) == "<Link alice owner open>"
        assert far.remote_address.startswith("127.0.0.1:")
        near.abort()
        await near.wait_closed()
        assert repr(near) == "<Link alice owner closed>"


async def test_errors_name_the_peer() -> None:
    async with raw_pair() as (near, far):
        far.peer = "bob"
        await near._socket.send(b"")
        with pytest.raises(SmpcError) as caught:
            await far.receive()
        assert caught.value.peer == "bob"
    assert InternalError not in type(caught.value).__mro__


async def test_connecting_to_a_link_by_a_plain_websocket_client() -> None:
    """The wire format, spelled out by hand."""
    async with raw_pair() as (near, far):
        assert isinstance(near, Link)
        await near._socket.send(iter([lengths(MESSAGE, len(ENVELOPE), 3) + ENVELOPE, b"ab", b"c"]))
        assert await received(far) == (note(ALICE), b"abc")
    with pytest.raises((ConnectionClosed, OSError)):
        await (await dial(1)).recv()
