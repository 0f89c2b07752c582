"""What members may say: by role and type, how long, how much, in what order; and whose room is taken from them."""

from __future__ import annotations

import asyncio

import pytest
from rooms import Slowly, Time
from wires import note, people, raw_pair, reading, settle

from smpc_fl.errors import LimitExceeded, MalformedMessage, Unavailable
from smpc_fl.nodes.net import sizes
from smpc_fl.nodes.net.framing import INLINE, LEAF
from smpc_fl.nodes.net.handshake import authenticate
from smpc_fl.nodes.net.limits import Limits
from smpc_fl.nodes.net.link import Link
from smpc_fl.nodes.net.pace import REFUSED, Paces, cost_of
from smpc_fl.nodes.net.room import TOO_SLOW, Room
from smpc_fl.nodes.net.session import Session
from smpc_fl.nodes.uploads import Uploads
from smpc_fl.protocols.codec import encode, sign
from smpc_fl.protocols.messages import (
    MESSAGES,
    Entry,
    FreezeRequest,
    FrozenList,
    FrozenLists,
    Message,
    Receipt,
    Refusal,
    RosterOffer,
    Signed,
    StatusRequest,
    VectorReport,
)

ALL = people(anna="aggregator", alice="owner")
ANNA, ALICE = ALL["anna"], ALL["alice"]


async def shake_hands(near: Link, far: Link) -> None:
    for outcome in await settle(authenticate(near, ALICE, expected="anna"), authenticate(far, ANNA)):
        assert outcome is None


# --- sizes ---


def test_every_message_is_said_by_somebody_or_travels_inside_another() -> None:
    said = {kind for kinds in sizes.SAYS.values() for kind in kinds} | set(sizes.ANYBODY)
    inside = {kind for kinds in sizes._INSIDE.values() for kind in kinds}
    names = {kind.__name__ for kind in said | inside} | {"Hello", "Proof"}
    assert names == {kind.__name__ for kind in MESSAGES.__args__}
    assert {kind.__name__ for kind in said} >= sizes.ATTACHED


def test_the_longest_of_a_kind_is_as_long_as_its_caps_allow() -> None:
    ids = [f"{'o' * 58}-{number:05d}" for number in range(2000)]
    frozen = FrozenList.__struct_fields__
    filled = {"manifest_hash": bytes(32), "entries": [Entry(id_, bytes(32)) for id_ in ids]}
    whole = FrozenList(**filled, **{name: 1 << 40 for name in frozen if name not in filled})  # type: ignore[arg-type]
    lists = FrozenLists(bytes(32), [ANNA.sign(whole)] * 3)
    receipts = [ANNA.sign(Receipt(bytes(32), ids[0], bytes(32)))] * 63
    report = VectorReport(bytes(32), [bytes(32)] * 64, bytes(32), bytes(1 << 16), receipts)
    refusal = Refusal("N" * 256, "\U0001f512" * 4096, "p" * 64, bytes(1 << 16))
    for message, members, aggregators in ((lists, 2000, 3), (report, 100, 64), (refusal, 0, 0)):
        size = len(encode(ANNA.sign(message)))
        most = sizes.longest(type(message), members=members, aggregators=aggregators)
        assert size <= most
        assert most < 2.6 * size
    assert sizes.longest(FreezeRequest, members=30_000, aggregators=64) < 400


def test_a_type_is_seen_without_decoding() -> None:
    for message in (StatusRequest(), FreezeRequest(bytes(32)), RosterOffer(bytes(70_000)), Refusal("X", "y")):
        signed = ALICE.sign(message)
        assert sizes.type_of(signed.body) == type(message).__name__
        assert sizes.type_in(encode(signed)[: sizes.HEAD]) == type(message).__name__
    for garbage in (b"", b"\x81\xa4type", b"\x81\xa4typ\xa1x", b"\xc1" * 100):
        assert sizes.type_of(garbage) == sizes.type_in(garbage) == ""


KINDS: dict[str, type[Message]] = {"RosterOffer": RosterOffer}


class Huge(Message, frozen=True, tag="FreezeRequest"):
    padding: bytes


@pytest.mark.parametrize(
    ("message", "text"),
    [(Huge(bytes(5_000_000)), "a FreezeRequest of 5000133"), (RosterOffer(bytes(5_000_000)), "a RosterOffer of 5000")],
)
async def test_a_long_envelope_of_a_small_type_is_refused_before_it_is_there(message: Message, text: str) -> None:
    async with raw_pair() as (near, far):
        await shake_hands(near, far)
        far.sizes = lambda kind: sizes.longest(KINDS.get(kind, FreezeRequest), members=9, aggregators=2)
        frame = wire(near, sign(message, identity=ALICE.identity, sender="alice", federation=bytes(32)))
        rest = Slowly(near._socket)
        rest.say(frame[:1000])
        with pytest.raises(MalformedMessage, match=text):
            await far.receive()
        with pytest.raises(Unavailable, match=text):
            await near.receive()
        await rest.end()


# --- the session ---


def wire(link: Link, signed: Signed) -> bytes:
    from smpc_fl.nodes.net import framing

    return framing.message(encode(signed), memoryview(b""), link._session)


async def test_a_message_that_comes_again_or_is_left_out_ends_the_connection() -> None:
    for order in ((0, 0), (1,), (0, 2), (0, 1, 0)):  # the last one is wrong
        async with raw_pair() as (near, far):
            await shake_hands(near, far)
            frames = [wire(near, note(ALICE, str(number))) for number in range(3)]
            for number in order:
                await near._socket.send(frames[number])
            for _ in order[:-1]:
                await far.receive()
            with pytest.raises(MalformedMessage, match="added, left out, repeated or changed"):
                await far.receive()
            with pytest.raises(Unavailable, match="1002"):
                await near.receive()


async def test_what_was_said_on_another_connection_or_in_the_other_direction_is_not_believed() -> None:
    async with raw_pair() as (near, far), raw_pair() as (near_2, far_2):
        await shake_hands(near, far)
        await shake_hands(near_2, far_2)
        await near._socket.send(wire(near_2, note(ALICE)))
        with pytest.raises(MalformedMessage):
            await far.receive()
        await near_2._socket.send(wire(far_2, note(ANNA)))
        with pytest.raises(MalformedMessage):
            await far_2.receive()


def test_a_session_keeps_its_keys_to_itself() -> None:
    session = Session(b"k" * 32, b"q" * 32)
    session.seal(b"lengths", bytes(64))
    assert repr(session) == "<Session, 1 said, 0 heard>"


async def test_the_same_words_seal_differently_each_time() -> None:
    session = Session(b"k" * 32, b"q" * 32)
    assert len({session.seal(b"lengths", bytes(64)) for _ in range(3)}) == 3


# --- how fast, and in what pieces ---


async def test_crumbs_end_the_connection() -> None:
    async with raw_pair() as (near, far):
        await shake_hands(near, far)
        frame = wire(near, Signed("alice", bytes(4000), bytes(64)))
        sending = asyncio.create_task(
            near._socket.send(iter([frame[:40], *(frame[i : i + 1] for i in range(40, 200))]))
        )
        with pytest.raises(MalformedMessage, match="crumbs"):
            await far.receive()
        await settle(sending)
        with pytest.raises(Unavailable, match="crumbs"):
            await near.receive()


async def test_an_envelope_that_does_not_go_on_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_pair() as (near, far):
        await shake_hands(near, far)
        frame = wire(near, Signed("alice", bytes(4000), bytes(64)))
        begun, held = asyncio.Event(), asyncio.Event()

        async def slowly() -> object:
            yield frame[:100]
            begun.set()
            await held.wait()

        time = Time(monkeypatch)
        sending = asyncio.create_task(near._socket.send(slowly()))  # type: ignore[arg-type]
        receiving = asyncio.create_task(far.receive())
        await begun.wait()
        while far.bytes_received < 100:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        time.pass_(far.limits.stall)
        with pytest.raises(Unavailable, match="a message did not go on for 30 s"):
            await receiving
        with pytest.raises(Unavailable, match="message stalled"):
            await near.receive()
        sending.cancel()
        await settle(sending)


async def test_fragments_that_nobody_asked_for_are_short() -> None:
    async with raw_pair() as (near, far):
        await shake_hands(near, far)
        await near.send(note(ALICE))
        assert (await far.receive())[0] == note(ALICE)
        sending = asyncio.create_task(near._socket.send(bytes(LEAF + 100)))
        with pytest.raises(MalformedMessage, match="PayloadTooBig"):
            await far.receive()
        await settle(sending)


async def test_attachments_of_any_length_pass_after_the_handshake() -> None:
    async with raw_pair() as (near, far), reading():
        await shake_hands(near, far)
        for size in (0, 1, INLINE, INLINE + 1, 3 << 20, 7, 5 << 20):
            async with reading(near):
                sending = asyncio.create_task(near.send(note(ALICE), bytes(size), piece=1 << 20))
                signed, attachment = await far.receive()
                await sending
            assert (signed, len(attachment or b"")) == (note(ALICE), size)


# --- room ---


async def test_a_long_envelope_waits_for_memory_and_others_pass() -> None:
    room = Room(1)
    async with raw_pair() as (near, far), raw_pair() as (near_2, far_2):
        far.room = far_2.room = room
        held = [await room.begin(1), await room.begin(1)]
        long = Signed("alice", bytes(2 << 20), bytes(64))
        sending = asyncio.create_task(near.send(long))
        receiving = asyncio.create_task(far.receive())
        while not room.waiting:
            await asyncio.sleep(0)
        await near_2.send(note(ALICE))
        assert (await far_2.receive())[0] == note(ALICE)
        held[0].end()
        assert ((await receiving)[0] == long) is True
        await sending
        assert len(room) > 2 << 20
        again = asyncio.create_task(far.receive())
        while len(room) > 1:
            await asyncio.sleep(0)
        again.cancel()
        await settle(again)
        held[1].end()


async def test_who_is_slow_while_others_wait_is_cut_off_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(stall=10.0, slowest=1000, close=0.5)
    async with raw_pair(limits) as (near, far):
        time = Time(monkeypatch)
        uploads = Uploads(1, limits)
        slow, other = await uploads.begin(5000, far.cut), await uploads.begin(10**9)
        time.pass_(20.0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert far.is_open  # nobody waits
        third = asyncio.create_task(uploads.begin(5000))
        with pytest.raises(LimitExceeded, match=TOO_SLOW):
            await far.receive()
        with pytest.raises(Unavailable, match=TOO_SLOW):
            await near.receive()
        slow.abandoned()
        (await third).close()
        other.close()


# --- how much ---


async def test_a_member_that_says_too_much_owes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time(monkeypatch)
    paces = Paces(Limits(messages=10.0, messages_burst=100.0))
    pace = paces.of("alice")
    for _ in range(100):
        pace.spend(1.0)
    assert pace.owed <= 0.0
    assert cost_of(Signed("alice", bytes(1 << 20), bytes(64)), memoryview(bytes(1 << 14))) == 66.0
    pace.spend(REFUSED)
    assert 4.9 < pace.owed <= 5.0
    assert [pace.tell(), pace.tell()] == [True, False]
    assert paces.of("alice") is pace
    assert paces.of("bob").owed <= 0.0
    time.pass_(60.0)
    assert pace.owed <= 0.0
    assert pace.tell()
