"""One connection: any message in any size, nonsense, breaks, back-pressure, cancellation."""

from __future__ import annotations

import asyncio
import struct
import tracemalloc
from collections.abc import Sequence

import pytest
from websockets.exceptions import ConnectionClosed
from wires import QUICK, Relay, dial, note, people, raw_pair, settle

from smpc_fl.errors import BadInput, InternalError, MalformedMessage, PermissionDenied, SmpcError, Unavailable
from smpc_fl.nodes.net.framing import PIECE, Sink
from smpc_fl.nodes.net.link import Limits, Link
from smpc_fl.protocols.codec import encode
from smpc_fl.protocols.messages import Signed

ALICE = people(alice="owner")["alice"]
HEADER = struct.Struct(">IQ")
ENVELOPE = encode(note(ALICE))


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


async def received(link: Link) -> tuple[Signed, bytes | None]:
    signed, attachment = await link.receive()
    return signed, None if attachment is None else bytes(attachment)


def limits(attachment: int) -> Limits:
    return Limits(attachment=attachment, handshake=5.0, close=0.5)


@pytest.mark.parametrize("size", [None, 0, 1, 125, 65_536, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5])
async def test_a_message_arrives_with_its_attachment(size: int | None) -> None:
    attachment = None if size is None else pattern(size)
    async with raw_pair() as (near, far):
        for sender, receiver in ((near, far), (far, near)):
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
    async with Relay() as relay, raw_pair(port=relay.to) as (near, far):
        before = relay.up
        sizes = []
        for attachment in (None, pattern(100), pattern(70_000), pattern(4_000_000)):
            sending = asyncio.create_task(near.send(note(ALICE), attachment))
            await far.receive()
            sizes.append(await sending)
            assert relay.up - before == near.bytes_sent == far.bytes_received == sum(sizes)
        assert sizes[-1] <= 1.01 * 4_000_000


async def test_senders_take_turns() -> None:
    async with raw_pair() as (near, far):
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

    async def take(piece: bytes) -> None:
        nonlocal seen, last
        seen += len(piece)
        last = piece

    async with raw_pair() as (near, far):
        tracemalloc.start()
        try:
            sending = asyncio.create_task(near.send(note(ALICE), big))
            signed, attachment = await far.receive(lambda signed, size: take)
            await sending
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (signed, attachment, seen, last[-1]) == (note(ALICE), None, len(big), 7)
    assert peak < 24 << 20  # of both ends


async def test_a_slow_consumer_holds_the_sender_back() -> None:
    go = asyncio.Event()
    begun = asyncio.Event()

    async def take(piece: bytes) -> None:
        begun.set()
        await go.wait()

    async with Relay() as relay, raw_pair(port=relay.to) as (near, far):
        sending = asyncio.create_task(near.send(note(ALICE), bytes(64 * PIECE)))
        receiving = asyncio.create_task(far.receive(lambda signed, size: take))
        await begun.wait()
        # The consumer holds one piece; everything in between has finite room, so the sender comes to a stop.
        passed = -1
        while relay.up != passed:
            passed = relay.up
            for _ in range(200):
                await asyncio.wait({sending}, timeout=0)
        assert not sending.done()
        assert relay.up < 48 * PIECE
        go.set()
        await asyncio.gather(sending, receiving)


@pytest.mark.parametrize("when", ["accept", "sink"])
async def test_a_refused_attachment_is_dropped_and_the_link_goes_on(when: str) -> None:
    pieces = 0

    async def take(piece: bytes) -> None:
        nonlocal pieces
        pieces += 1
        raise PermissionDenied("not this")

    def accept(signed: Signed, size: int) -> Sink:
        if when == "accept":
            raise PermissionDenied("not this")
        return take

    async with raw_pair() as (near, far):
        sending = asyncio.gather(near.send(note(ALICE), bytes(5 * PIECE)), near.send(note(ALICE, "next"), b"small"))
        with pytest.raises(PermissionDenied, match="not this"):
            await far.receive(accept)
        assert far.is_open
        assert await received(far) == (note(ALICE, "next"), b"small")
        await sending
    assert pieces == (when == "sink")


async def test_a_bug_in_a_sink_drops_the_link() -> None:
    async def take(piece: bytes) -> None:
        raise RuntimeError("oops")

    async with raw_pair() as (near, far):
        sending = asyncio.create_task(near.send(note(ALICE), bytes(20 * PIECE)))
        with pytest.raises(RuntimeError, match="oops"):
            await far.receive(lambda signed, size: take)
        await far.wait_closed()
        with pytest.raises(Unavailable):
            await sending


MALFORMED: dict[str, Sequence[bytes]] = {
    "nothing": [b""],
    "no lengths": [b"GET / HTTP/1.1"[:11]],
    "envelope too long": [HEADER.pack(1 << 26, 0)],
    "attachment too long": [HEADER.pack(len(ENVELOPE), 1 << 40) + ENVELOPE],
    "envelope is no envelope": [HEADER.pack(8, 0) + b"\xc1garbage"],
    "left over bytes": [HEADER.pack(len(ENVELOPE), 0) + ENVELOPE + b"x"],
    "a fragment too many": [HEADER.pack(len(ENVELOPE), 1) + ENVELOPE, b"x", b"x"],
    "ends in the envelope": [HEADER.pack(len(ENVELOPE), 0) + ENVELOPE[:-1]],
    "ends in the attachment": [HEADER.pack(len(ENVELOPE), 9) + ENVELOPE, b"x"],
    "empty fragments": [HEADER.pack(len(ENVELOPE), 9) + ENVELOPE, b"", b"", b"123456789"],
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
    async with raw_pair(limits(1 << 20)) as (near, far):
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
    async with raw_pair() as (near, far):
        monkeypatch.setattr("smpc_fl.nodes.net.framing.PIECE", 8 * PIECE)
        sending = asyncio.create_task(near.send(note(ALICE), bytes(64 * PIECE)))
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
    async with Relay() as relay, raw_pair(port=relay.to) as (near, far):
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


async def test_cancelling_within_a_message_drops_the_link() -> None:
    begun = asyncio.Event()

    async def take(piece: bytes) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with raw_pair() as (near, far):
        sending = asyncio.create_task(near.send(note(ALICE), bytes(64 * PIECE)))
        receiving = asyncio.create_task(far.receive(lambda signed, size: take))
        await begun.wait()
        receiving.cancel()
        results = await settle(receiving, sending)
        assert isinstance(results[0], asyncio.CancelledError)
        assert isinstance(results[1], Unavailable)


async def test_a_long_message_whose_sender_is_cancelled_drops_the_link_and_one_that_waits_does_not() -> None:
    begun = asyncio.Event()

    async def take(piece: bytes) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with raw_pair() as (near, far):
        long = asyncio.create_task(near.send(note(ALICE), bytes(64 * PIECE)))
        receiving = asyncio.create_task(far.receive(lambda signed, size: take))
        await begun.wait()
        waiting = asyncio.create_task(near.send(note(ALICE)))
        await asyncio.wait({waiting}, timeout=0)
        waiting.cancel()
        assert isinstance((await settle(waiting))[0], asyncio.CancelledError)
        assert near.is_open
        long.cancel()
        assert isinstance((await settle(long))[0], asyncio.CancelledError)
        await near.wait_closed()
        receiving.cancel()
        await settle(receiving)


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
        await near._socket.send(iter([HEADER.pack(len(ENVELOPE), 3) + ENVELOPE, b"ab", b"c"]))
        assert await received(far) == (note(ALICE), b"abc")
    with pytest.raises((ConnectionClosed, OSError)):
        await (await dial(1)).recv()
