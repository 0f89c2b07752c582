"""Attachments that stall, links that end and senders and receivers that are cancelled, in every phase."""

from __future__ import annotations

import asyncio

import pytest
from rooms import (
    ALICE,
    ATTACHMENT,
    GO,
    LONG,
    Room,
    Slowly,
    Time,
    announcement,
    open_room,
    small,
    until_waiting,
    wait_for_go,
)
from wires import QUICK, Relay, note, raw_pair, reading, settle

from smpc_fl.errors import Unavailable
from smpc_fl.nodes.net.attachment import Accept, Sink
from smpc_fl.nodes.net.framing import INLINE, PIECE
from smpc_fl.nodes.net.limits import Limits
from smpc_fl.nodes.net.link import Link
from smpc_fl.protocols.messages import Signed


def hold_writes(link: Link, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """As if the write buffer stayed full after each message. The event: there was one."""
    written, send = asyncio.Event(), link._socket.send

    async def hold(message: bytes) -> None:
        await send(message)
        written.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(link._socket, "send", hold)
    return written


async def heard(link: Link, payload: int, receiving: asyncio.Task[object]) -> None:
    """Until the next fragment, of so many bytes, has been read."""
    before = link.bytes_received
    while link.bytes_received < before + payload:
        await until_waiting(receiving)


PATIENT = Limits(handshake=5.0, close=0.5, stall=30.0)


@pytest.mark.parametrize("how", ["nothing", "messages", "the kind", "bits", "half"])
async def test_an_upload_that_does_not_go_on_loses_its_room(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    room = open_room()
    async with raw_pair(PATIENT) as (near, far):
        time = Time(monkeypatch)
        await near._socket.send(announcement())
        receiving = asyncio.create_task(far.receive(room.accept))
        await wait_for_go(near)
        await until_waiting(receiving)
        upload = None if how in ("nothing", "messages") else Slowly(near._socket)
        for number in range(2):
            time.pass_(10.0)
            if how == "messages":
                await near._socket.send(small("I am still here"))
                assert await receiving == (note(ALICE, "I am still here"), None)
                receiving = asyncio.create_task(far.receive(room.accept))
            elif upload is not None and number == 0:
                upload.say(ATTACHMENT)
                await heard(far, 1, receiving)
                if how == "half":
                    upload.say(bytes(LONG // 2))
                    await heard(far, LONG // 2, receiving)
            if how == "bits":
                assert upload is not None
                upload.say(b"x")
                await heard(far, 1, receiving)
            await until_waiting(receiving)
        # The last that counts was heard ten seconds ago, or, if nothing did, the go was said twenty seconds ago.
        time.pass_(9.0 if how in ("nothing", "messages") else 19.0)
        await until_waiting(receiving)
        assert not receiving.done()
        time.pass_(1.5)
        with pytest.raises(Unavailable, match="did not go on for 30 s"):
            await receiving
        assert (room.abandonments, far.is_open, far.ended) == (1, False, True)
        await near._socket.wait_closed()
        assert (near._socket.close_code, near._socket.close_reason) == (1008, "attachment stalled")
        if upload is not None:
            await upload.end()
        with pytest.raises(Unavailable):
            await far.receive()
    assert room.abandonments == 1


async def test_a_go_that_is_slow_to_be_written_takes_no_patience_away(monkeypatch: pytest.MonkeyPatch) -> None:
    room = open_room()
    async with raw_pair(PATIENT) as (near, far):
        time = Time(monkeypatch)
        hold_writes(far, monkeypatch)
        await near._socket.send(announcement())
        receiving = asyncio.create_task(far.receive(room.accept))
        await wait_for_go(near)
        upload = Slowly(near._socket)
        upload.say(ATTACHMENT)
        await heard(far, 1, receiving)
        await until_waiting(receiving)
        time.pass_(31.0)
        with pytest.raises(Unavailable, match="did not go on"):
            await receiving
        await upload.end()


async def test_progress_gives_new_time(monkeypatch: pytest.MonkeyPatch) -> None:
    room = open_room()
    async with raw_pair(PATIENT) as (near, far):
        time = Time(monkeypatch)
        await near._socket.send(announcement())
        receiving = asyncio.create_task(far.receive(room.accept))
        await wait_for_go(near)
        upload = Slowly(near._socket)
        upload.say(ATTACHMENT)
        for number in range(LONG // INLINE):
            await until_waiting(receiving)
            time.pass_(25.0)
            upload.say(bytes(INLINE))
            while len(room.pieces) <= number:
                await until_waiting(receiving)
        upload.say(None)
        assert await receiving == (note(ALICE), room)
        await upload.end()


async def test_time_in_which_nobody_reads_is_not_the_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    room = open_room()
    async with raw_pair(PATIENT) as (near, far):
        time = Time(monkeypatch)
        await near._socket.send(announcement())
        await near._socket.send(small("busy"))
        assert await far.receive(room.accept) == (note(ALICE, "busy"), None)
        await wait_for_go(near)
        time.pass_(1000.0)  # the node does something with the message
        receiving = asyncio.create_task(far.receive(room.accept))
        await until_waiting(receiving)
        time.pass_(20.0)
        await near._socket.send([ATTACHMENT, bytes(LONG)])
        assert await receiving == (note(ALICE), room)


# --- the end of the link ---


@pytest.mark.parametrize("phase", ["waiting", "let in", "under way"])
@pytest.mark.parametrize("end", ["cut", "sender closes", "sender aborts", "receiver closes", "receiver aborts"])
async def test_a_link_may_end_in_any_phase(phase: str, end: str) -> None:
    room = Room()
    size = 64 * PIECE
    async with Relay() as relay, raw_pair(port=relay.to) as (near, far), reading(near):
        if phase == "let in":
            # A sender that does not send, although it may.
            await near._socket.send(announcement(size))
            sending = asyncio.create_task(near._socket.wait_closed())
        else:
            sending = asyncio.create_task(near.send(note(ALICE), bytes(size)))  # type: ignore[arg-type]
        receiving = asyncio.create_task(far.receive(room.accept))
        await room.asked.wait()
        if phase != "waiting":
            room.opened.set()
        if phase == "let in":
            while near.bytes_received == 0 and not far.bytes_sent:
                await until_waiting(receiving)
        if phase == "under way":
            await room.begun.wait()
            relay.freeze()
            passed = -1
            while passed != len(room.pieces):
                passed = len(room.pieces)
                await until_waiting(receiving)
        match end:
            case "cut":
                relay.cut()
            case "sender closes":
                await near.close()
            case "sender aborts":
                near.abort()
            case "receiver closes":
                await far.close()
            case "receiver aborts":
                far.abort()
        relay.cut()
        outcomes = await settle(sending, receiving)
        assert isinstance(outcomes[0], Unavailable) or phase == "let in"
        assert isinstance(outcomes[1], Unavailable), outcomes
        await room.closed.wait()
        far.abort()
    assert (room.cancelled, room.abandonments) == ((1, 0) if phase == "waiting" else (0, 1))


async def test_room_that_comes_too_late_is_given_up() -> None:
    stubborn = Room()

    async def accept(signed: Signed, size: int) -> Sink:
        stubborn.asked.set()
        try:
            await stubborn.opened.wait()
        except asyncio.CancelledError:
            stubborn.cancelled += 1
        return stubborn

    async with raw_pair() as (near, far):
        await near._socket.send(announcement())
        receiving = asyncio.create_task(far.receive(accept))
        await stubborn.asked.wait()
        near.abort()
        assert isinstance((await settle(receiving))[0], Unavailable)
        await stubborn.closed.wait()
    assert (stubborn.cancelled, stubborn.abandonments) == (1, 1)


async def test_a_go_that_cannot_be_said_gives_the_room_up(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room()
    async with raw_pair() as (near, far):
        await near._socket.send(announcement())
        await near._socket.send(small("then"))
        assert await far.receive(room.accept) == (note(ALICE, "then"), None)

        async def broken(message: bytes) -> None:
            raise OSError("the socket is gone")

        monkeypatch.setattr(far._socket, "send", broken)
        await room.asked.wait()
        room.opened.set()
        await room.closed.wait()  # although nobody reads
    assert room.abandonments == 1


# --- cancelled senders and receivers ---


async def test_cancelled_while_it_waits_for_its_turn_nothing_is_sent() -> None:
    room = Room()
    async with raw_pair() as (near, far), reading(near):
        first = asyncio.create_task(near.send(note(ALICE, "first"), bytes(LONG)))
        receiving = asyncio.create_task(far.receive(room.accept))
        await room.asked.wait()
        sent = near.bytes_sent
        second = asyncio.create_task(near.send(note(ALICE, "second"), bytes(LONG)))
        await until_waiting(second)
        second.cancel()
        assert isinstance((await settle(second))[0], asyncio.CancelledError)
        assert near.bytes_sent == sent
        room.opened.set()
        assert await receiving == (note(ALICE, "first"), room)
        await first
        assert near.is_open


@pytest.mark.parametrize("phase", ["announced", "under way"])
async def test_a_cancelled_sender_drops_the_link(phase: str) -> None:
    room = Room()
    async with Relay() as relay, raw_pair(port=relay.to) as (near, far), reading(near):
        sending = asyncio.create_task(near.send(note(ALICE), bytes(64 * PIECE)))
        receiving = asyncio.create_task(far.receive(room.accept))
        await room.asked.wait()
        if phase == "under way":
            room.opened.set()
            await relay.has_passed(PIECE)
            relay.freeze()
        waiting = asyncio.create_task(near.send(note(ALICE)))
        await until_waiting(sending)
        sending.cancel()
        outcomes = await settle(sending, waiting)
        assert isinstance(outcomes[0], asyncio.CancelledError)
        assert isinstance(outcomes[1], Unavailable) or phase == "announced"
        await near.wait_closed()
        relay.cut()
        assert isinstance((await settle(receiving))[-1], Unavailable) or phase == "announced"
        far.abort()
        await room.closed.wait()


@pytest.mark.parametrize("size", [INLINE, LONG])
async def test_cancelled_while_its_first_words_are_being_written(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is out is a message; an announcement is a promise."""
    async with raw_pair() as (near, far):
        written = hold_writes(near, monkeypatch)
        sending = asyncio.create_task(near.send(note(ALICE), bytes(size)))
        await written.wait()
        sending.cancel()
        assert isinstance((await settle(sending))[0], asyncio.CancelledError)
        if size == INLINE:
            assert (await far.receive())[0] == note(ALICE)
            assert near.is_open
        else:
            await near.wait_closed()


async def test_a_small_message_that_waits_may_be_cancelled() -> None:
    async with Relay() as relay, raw_pair(port=relay.to) as (near, far), reading(near):
        long = asyncio.create_task(near.send(note(ALICE), bytes(64 * PIECE)))
        receiving = asyncio.create_task(far.receive())
        await relay.has_passed(PIECE)
        relay.freeze()
        waiting = [asyncio.create_task(near.send(note(ALICE), bytes(n))) for n in (0, LONG)]
        for task in waiting:
            await until_waiting(task)
            task.cancel()
            assert isinstance((await settle(task))[0], asyncio.CancelledError)
        assert near.is_open
        relay.passing.set()
        signed, attachment = await receiving
        assert (signed, len(attachment or b"")) == (note(ALICE), 64 * PIECE)
        await long


async def test_a_go_whose_sender_is_cancelled_while_it_waits_to_write() -> None:
    """The announcement is out, so the link cannot be kept."""
    async with Relay() as relay, raw_pair(port=relay.to) as (near, far), reading(near):
        sending = asyncio.create_task(near.send(note(ALICE), bytes(LONG)))
        assert await far._socket.recv() == announcement()
        await near._writer._turn.acquire()
        await far._socket.send(GO)
        while far.bytes_sent == near.bytes_received == 0:
            await until_waiting(sending)
        await until_waiting(sending)
        sending.cancel()
        assert isinstance((await settle(sending))[0], asyncio.CancelledError)
        await near.wait_closed()


async def test_cancelling_a_receiver_within_an_attachment_drops_the_link() -> None:
    room = open_room()
    async with Relay() as relay, raw_pair(port=relay.to) as (near, far), reading(near):
        sending = asyncio.create_task(near.send(note(ALICE), bytes(64 * PIECE)))
        receiving = asyncio.create_task(far.receive(room.accept))
        await room.begun.wait()
        relay.freeze()
        await until_waiting(receiving)
        receiving.cancel()
        assert isinstance((await settle(receiving))[0], asyncio.CancelledError)
        assert room.abandonments == 1
        relay.cut()
        assert isinstance((await settle(sending))[0], Unavailable)


async def test_cancelling_a_receiver_between_messages_keeps_what_was_let_in() -> None:
    room = Room()
    async with raw_pair() as (near, far), reading(near):
        sending = asyncio.create_task(near.send(note(ALICE), bytes(LONG)))
        receiving = asyncio.create_task(far.receive(room.accept))
        await room.asked.wait()
        receiving.cancel()
        await settle(receiving)
        room.opened.set()
        assert await far.receive(room.accept) == (note(ALICE), room)
        await sending


async def test_a_sink_needs_no_way_to_be_abandoned() -> None:
    def into(sink: Sink) -> Accept:
        async def accept(signed: Signed, size: int) -> Sink:
            return sink

        return accept

    begun = asyncio.Event()
    async with raw_pair(QUICK) as (near, far):
        await near._socket.send(announcement())
        receiving = asyncio.create_task(far.receive(into(lambda piece: begun.set())))
        await wait_for_go(near)
        upload = Slowly(near._socket)
        upload.say(ATTACHMENT, b"x")
        await begun.wait()
        near.abort()
        assert isinstance((await settle(receiving))[0], Unavailable)
        await upload.end()
