"""Attachments that wait for room: asking, letting in, refusing, and whoever breaks the order of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from rooms import (
    ALICE,
    ATTACHMENT,
    DROP,
    GO,
    LONG,
    Room,
    Slowly,
    announcement,
    open_room,
    small,
    until_waiting,
    wait_for_go,
)
from wires import Relay, note, raw_pair, reading, settle

from smpc_fl.errors import BadInput, InternalError, MalformedMessage, PermissionDenied
from smpc_fl.nodes.net.attachment import Sink
from smpc_fl.nodes.net.framing import DEFAULT_PIECE, INLINE, PIECE
from smpc_fl.nodes.net.limits import Limits
from smpc_fl.nodes.net.link import Link
from smpc_fl.protocols.messages import Signed


async def test_messages_and_pings_pass_while_an_attachment_waits() -> None:
    alert = Limits(handshake=5.0, close=0.5, ping_interval=0.02, ping_timeout=2.0)
    room = Room()
    async with Relay() as relay, raw_pair(alert, port=relay.to) as (near, far):
        sending = asyncio.create_task(near.send(note(ALICE, "long"), bytes(LONG)))
        for number in range(3):
            await near.send(note(ALICE, f"up {number}"))
            assert await far.receive(room.accept) == (note(ALICE, f"up {number}"), None)
            await far.send(note(ALICE, f"down {number}"))
            assert await near.receive() == (note(ALICE, f"down {number}"), None)
        assert room.asked.is_set()
        async with reading(near):
            receiving = asyncio.create_task(far.receive(room.accept))
            await relay.has_passed(relay.up + 100)  # pings, ten bytes each
            assert near.is_open
            assert not sending.done()
            assert relay.up < INLINE
            room.opened.set()
            assert await receiving == (note(ALICE, "long"), room)
            await sending
    assert b"".join(room.pieces) == bytes(LONG)
    assert room.abandonments == 0


async def test_inline_attachments_keep_the_order_and_long_ones_may_be_overtaken() -> None:
    sizes = [0, INLINE, LONG, 5, INLINE, LONG, 0]
    async with raw_pair() as (near, far), reading(near):
        sending = asyncio.gather(*(near.send(note(ALICE, str(i)), bytes(n)) for i, n in enumerate(sizes)))
        came = [(await far.receive())[0] for _ in sizes]
        await sending
    order = [i for signed in came for i in range(len(sizes)) if signed == note(ALICE, str(i))]
    assert [i for i in order if sizes[i] <= INLINE] == [0, 1, 3, 4, 6]
    assert [i for i in order if sizes[i] > INLINE] == [2, 5]


async def test_long_attachments_take_turns() -> None:
    room = Room()
    async with Relay() as relay, raw_pair(port=relay.to) as (near, far), reading(near):
        first = asyncio.create_task(near.send(note(ALICE, "first"), bytes(LONG)))
        second = asyncio.create_task(near.send(note(ALICE, "later"), bytes(LONG)))
        receiving = asyncio.create_task(far.receive(room.accept))
        await room.asked.wait()
        await until_waiting(second)
        assert near.bytes_sent == len(announcement()) + 8  # only one is announced
        room.opened.set()
        assert await receiving == (note(ALICE, "first"), room)
        next_room = open_room()
        assert await far.receive(next_room.accept) == (note(ALICE, "later"), next_room)
        assert await first == await second


@pytest.mark.parametrize("piece", [0, 1500, 262_160, PIECE])
async def test_fragments_are_cut_at_multiples_of_the_piece(piece: int) -> None:
    size, step = 2 * PIECE + 77, piece or DEFAULT_PIECE
    data = bytes(range(251)) * (size // 251 + 1)
    room = open_room()
    async with raw_pair() as (near, far), reading(near):
        sending = asyncio.create_task(near.send(note(ALICE), memoryview(data)[:size], piece=piece))
        assert await far.receive(room.accept) == (note(ALICE), room)
        await sending
    assert room.pieces == [data[:size][start : start + step] for start in range(0, size, step)]


@pytest.mark.parametrize("piece", [-1, PIECE + 1])
async def test_a_fragment_is_no_longer_than_the_peer_takes(piece: int) -> None:
    async with raw_pair() as (near, _):
        with pytest.raises(BadInput, match="a fragment"):
            await near.send(note(ALICE), bytes(LONG), piece=piece)
        assert near.bytes_sent == 0


async def test_every_byte_of_a_long_message_is_counted() -> None:
    for way, mask in ((1, 4), (-1, 0)):
        async with raw_pair() as pair:
            sender, receiver = pair[::way]
            async with reading(sender):
                sending = asyncio.create_task(sender.send(note(ALICE), bytes(3 * PIECE + 1), piece=PIECE))
                await receiver.receive()
                announced = len(announcement()) + mask + 4
                pieces = (mask + 2 + 1) + 3 * (mask + 10 + PIECE) + (mask + 2 + 1) + (mask + 2)
                assert await sending == announced + pieces == sender.bytes_sent == receiver.bytes_received
                assert receiver.bytes_sent == sender.bytes_received == 1 + 2 + (4 - mask)


async def test_long_attachments_pass_in_both_directions_at_once() -> None:
    async with raw_pair() as (near, far):
        sending = asyncio.gather(*(link.send(note(ALICE), bytes(20 * PIECE)) for link in (near, far)))
        for _, attachment in await asyncio.gather(near.receive(), far.receive()):
            assert len(attachment or b"") == 20 * PIECE
        await sending


async def test_whoever_reads_a_link_does_not_wait_for_its_peers_room() -> None:
    async with raw_pair() as (near, far):
        await far.send(note(ALICE))
        await near.receive()
        with pytest.raises(InternalError, match="whoever reads a link"):
            await near.send(note(ALICE), bytes(LONG))
        await near.send(note(ALICE), memoryview(bytes(INLINE)))
        signed, attachment = await far.receive()
        assert (signed, attachment) == (note(ALICE), memoryview(bytes(INLINE)))


# --- refusals ---


async def test_what_the_peer_drops_is_not_sent() -> None:
    async with raw_pair() as (near, far), reading(near):
        sending = asyncio.create_task(near.send(note(ALICE), bytes(LONG)))
        assert await far._socket.recv() == announcement()
        await far._socket.send(DROP)
        assert await sending == near.bytes_sent == len(announcement()) + 8
        await near.send(note(ALICE, "next"))
        assert await far.receive() == (note(ALICE, "next"), None)


async def test_a_refusal_is_told_when_somebody_reads() -> None:
    room = Room()
    room.refusal = PermissionDenied("no room for this")
    async with raw_pair() as (near, far), reading(near):
        sending = asyncio.create_task(near.send(note(ALICE), bytes(LONG)))
        receiving = asyncio.create_task(far.receive(room.accept))
        await room.asked.wait()
        await near.send(note(ALICE, "meanwhile"))
        assert await receiving == (note(ALICE, "meanwhile"), None)
        room.opened.set()
        await sending
        with pytest.raises(PermissionDenied, match="no room for this"):
            await far.receive(room.accept)
        assert (far.refused, far.ended) == (note(ALICE), False)
        again = asyncio.create_task(near.send(note(ALICE, "again"), memoryview(bytes(LONG))))
        assert await far.receive() == (note(ALICE, "again"), memoryview(bytes(LONG)))
        await again


async def test_a_refusal_does_not_tear_the_message_that_is_being_read() -> None:
    room = Room()
    room.refusal = PermissionDenied("no room for this")
    async with raw_pair() as (near, far):
        await near._socket.send(announcement())
        message = Slowly(near._socket)
        receiving = asyncio.create_task(far.receive(room.accept))
        await room.asked.wait()
        whole = small("in two fragments")
        message.say(whole[:50])
        while not far.bytes_received > len(announcement()) + 50:
            await until_waiting(receiving)
        room.opened.set()
        assert await near._socket.recv() == DROP
        message.say(whole[50:], None)
        assert await receiving == (note(ALICE, "in two fragments"), None)
        with pytest.raises(PermissionDenied):
            await far.receive()
        await message.end()


async def test_a_refusal_at_the_very_moment_in_which_a_message_begins() -> None:
    loop = asyncio.get_running_loop()
    refused, asked = loop.create_future(), asyncio.Event()

    async def accept(signed: Signed, size: int) -> Sink | None:
        asked.set()
        await refused
        raise PermissionDenied("no room for this")

    async with raw_pair() as (near, far):
        await near._socket.send(announcement())
        receiving = asyncio.create_task(far.receive(accept))
        await asked.wait()
        whole = small("in two fragments")
        near._socket.protocol.send_binary(whole[:50], fin=False)
        for data in near._socket.protocol.data_to_send():
            loop.call_soon(far._socket.data_received, data)
        refused.set_result(None)  # `receive` has the fragment in one turn of the loop, and is woken in the same
        await until_waiting(receiving)
        near._socket.protocol.send_continuation(whole[50:], fin=True)
        near._socket.send_data()
        assert await receiving == (note(ALICE, "in two fragments"), None)
        with pytest.raises(PermissionDenied):
            await far.receive()


# --- nonsense ---


async def nothing(near: Link) -> None:
    pass


UNASKED: dict[str, tuple[Callable[[Link], object], list[bytes | list[bytes]]]] = {
    "two announcements": (nothing, [announcement(), announcement()]),
    "an announcement after the go": (wait_for_go, [announcement(), announcement()]),
    "go from the announcer": (wait_for_go, [announcement(), GO]),
    "drop from the announcer": (wait_for_go, [announcement(), DROP]),
    "longer than announced": (wait_for_go, [announcement(), [ATTACHMENT, bytes(LONG), b"x"]]),
    "shorter than announced": (wait_for_go, [announcement(), [ATTACHMENT, bytes(LONG - 1)]]),
    "nothing at all": (wait_for_go, [announcement(), [ATTACHMENT]]),
    "empty fragments": (wait_for_go, [announcement(), [ATTACHMENT, b"", b"", bytes(LONG)]]),
    "bytes beside the kind": (wait_for_go, [announcement(), [ATTACHMENT + b"x", bytes(LONG - 1)]]),
    "twice": (wait_for_go, [announcement(), [ATTACHMENT, bytes(LONG)], [ATTACHMENT, bytes(LONG)]]),
}


@pytest.mark.parametrize(("wait", "messages"), UNASKED.values(), ids=UNASKED)
async def test_what_nobody_asked_for_closes_the_link(
    wait: Callable[[Link], object], messages: list[bytes | list[bytes]]
) -> None:
    room = open_room()
    async with raw_pair() as (near, far):

        async def attack() -> None:
            first, *others = messages
            await near._socket.send(first)
            if wait is wait_for_go:
                await wait_for_go(near)
            for message in others:
                await near._socket.send(message)
            await near._socket.wait_closed()

        attacking = asyncio.create_task(attack())
        taken = 0
        with pytest.raises(MalformedMessage):  # noqa: PT012
            while True:
                await far.receive(room.accept)
                taken += 1
        assert not far.is_open
        await settle(attacking)
        assert near._socket.close_code == 1002
        assert taken + room.abandonments + room.cancelled == 1


async def test_an_attachment_before_its_go_closes_the_link() -> None:
    room = Room()
    async with raw_pair() as (near, far):
        await near._socket.send(announcement())
        attacking = asyncio.create_task(near._socket.send([ATTACHMENT, bytes(LONG)]))
        with pytest.raises(MalformedMessage, match="unasked"):
            await far.receive(room.accept)
        await settle(attacking)
    assert room.cancelled == 1


@pytest.mark.parametrize("answers", [(GO, GO), (GO, DROP), (DROP, GO), (GO + b"x",)])
async def test_one_answer_to_an_announcement(answers: tuple[bytes, ...]) -> None:
    async with raw_pair() as (near, far):
        sending = asyncio.create_task(near.send(note(ALICE), bytes(LONG)))
        await far._socket.recv()
        for answer in answers:
            await far._socket.send(answer)
        with pytest.raises(MalformedMessage):
            await near.receive()
        await settle(sending)
