"""The table of live links, and the pump that reads one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest
from wires import Relay, note, people, raw_pair, reading, settle

from smpc_fl.errors import BadSignature, InternalError, MalformedMessage, PermissionDenied, SmpcError, Unavailable
from smpc_fl.nodes.net.attachment import Sink
from smpc_fl.nodes.net.framing import INLINE, PIECE
from smpc_fl.nodes.net.link import Link
from smpc_fl.nodes.net.peers import SESSIONS, Peers
from smpc_fl.nodes.net.pump import pump, report_bug
from smpc_fl.protocols.messages import Signed

ALICE = people(alice="owner")["alice"]


@contextlib.asynccontextmanager
async def pairs(*names: str) -> AsyncIterator[list[tuple[Link, Link]]]:
    """(theirs, ours) for each name; ours is what a node's table holds."""
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for name in names:
            theirs, ours = await stack.enter_async_context(raw_pair())
            ours.peer, ours.role = name, "aggregator" if name.startswith("a") else "owner"
            made.append((theirs, ours))
        yield made


class Diary:
    def __init__(self) -> None:
        self.entries: list[tuple[str, Link]] = []
        self.peers = Peers(
            on_up=lambda link: self.entries.append(("up", link)),
            on_down=lambda link: self.entries.append(("down", link)),
        )


async def test_members_come_and_go() -> None:
    diary = Diary()
    peers = diary.peers
    async with pairs("bob", "anna", "alice") as links:
        (_, bob), (_, anna), (_, alice) = links
        waiting = asyncio.create_task(peers.wait_for("bob", "anna"))
        for link in (bob, anna, alice, alice):
            peers.add(link)
        await waiting
        assert list(peers) == ["alice", "anna", "bob"]
        assert len(peers) == 3
        assert peers.of_role("aggregator") == ["alice", "anna"]
        assert peers.get("bob") is bob
        leaving = asyncio.create_task(peers.wait_without("bob"))
        peers.remove(bob)
        peers.remove(bob)
        await leaving
        assert "bob" not in peers
        assert peers.get("bob") is None
        assert diary.entries == [("up", bob), ("up", anna), ("up", alice), ("down", bob)]


async def test_a_researcher_may_have_several_sessions() -> None:
    diary = Diary()
    peers = diary.peers
    async with pairs(*["rita"] * (SESSIONS + 1)) as links:
        for _, link in links:
            link.role = "researcher"
            peers.add(link)
        (oldest_end, oldest), *rest = links
        with pytest.raises(Unavailable, match="replaced by a newer connection"):
            await oldest_end.receive()
        sending = asyncio.create_task(peers.send("rita", note(ALICE)))
        for end, _ in rest:
            assert (await end.receive())[0] == note(ALICE)
        assert await sending == sum(link.bytes_sent for _, link in rest)
        *others, newest = (link for _, link in rest)
        assert peers.get("rita") is newest
        assert (len(peers), peers.of_role("researcher")) == (1, ["rita"])
        await newest.close()
        assert await peers.send("rita", note(ALICE)) > 0
        for link in others:
            await link.close()
        with pytest.raises(Unavailable):
            await peers.send("rita", note(ALICE))
        for link in (oldest, newest, *others[1:]):
            peers.remove(link)
        assert not [entry for entry in diary.entries if entry[0] == "down"]
        peers.drop("rita", "RevokedKey")
        assert diary.entries[-1] == ("down", others[0])
        await peers.close()


async def test_a_newer_link_replaces_an_older_one_cleanly() -> None:
    diary = Diary()
    async with pairs("bob", "bob") as [(older_end, older), (newer_end, newer)]:
        diary.peers.add(older)
        diary.peers.add(newer)
        with pytest.raises(Unavailable, match="code 1000, 'replaced by a newer connection'"):
            await older_end.receive()
        diary.peers.remove(older)  # its pump ends
        assert diary.entries == [("up", older), ("up", newer)]
        sending = asyncio.create_task(diary.peers.send("bob", note(ALICE), b"data"))
        signed, attachment = await newer_end.receive()
        assert (signed, bytes(attachment or b"")) == (note(ALICE), b"data")
        assert await sending == newer.bytes_sent
        diary.peers.remove(newer)
        assert diary.entries[2:] == [("down", newer)]


async def test_a_dead_older_link_does_not_hold_up_the_newer_one() -> None:
    peers = Peers()
    async with Relay() as relay, raw_pair(port=relay.to) as (_, older), pairs("bob") as [(newer_end, newer)]:
        older.peer = "bob"
        peers.add(older)
        relay.freeze()
        peers.add(newer)
        await peers.send("bob", note(ALICE))
        assert await newer_end.receive() == (note(ALICE), None)
        await peers.close()  # waits for the older one's end as well
        assert not older.is_open


async def test_there_is_no_queue() -> None:
    peers = Peers()
    with pytest.raises(Unavailable, match="bob is not connected") as caught:
        await peers.send("bob", note(ALICE))
    assert caught.value.peer == "bob"
    async with pairs("bob") as [(theirs, ours)]:
        peers.add(ours)
        theirs.abort()
        await ours.wait_closed()
        with pytest.raises(Unavailable):
            await peers.send("bob", note(ALICE))


async def test_a_dropped_member_is_told_why() -> None:
    diary = Diary()
    async with pairs("bob") as [(theirs, ours)]:
        diary.peers.add(ours)
        diary.peers.drop("bob", "RevokedKey: lost on a train")
        assert "bob" not in diary.peers
        with pytest.raises(Unavailable, match="code 1008, 'RevokedKey: lost on a train'"):
            await theirs.receive()
        diary.peers.drop("bob", "again")
        assert diary.entries == [("up", ours), ("down", ours)]
        await diary.peers.close()


async def test_closing_closes_everything() -> None:
    diary = Diary()
    async with pairs("bob", "anna") as links:
        for _, ours in links:
            diary.peers.add(ours)
        receiving = [asyncio.create_task(theirs.receive()) for theirs, _ in links]
        await diary.peers.close()
        for error in await settle(*receiving):
            assert "the node is stopping" in str(error)
        assert len(diary.peers) == 0
        assert [what for what, _ in diary.entries] == ["up", "up", "down", "down"]
    await diary.peers.close()


# --- pump ---


class Node:
    """Callbacks that do what a test tells them to."""

    def __init__(self) -> None:
        self.taken: list[tuple[Signed, bytes | Sink | None]] = []
        self.refused: list[SmpcError] = []
        self.about: list[Signed | None] = []
        self.raises: Exception | None = None
        self.sunk = 0
        self.called = asyncio.Event()

    async def on_message(self, link: Link, signed: Signed, attachment: memoryview | Sink | None) -> None:
        self.taken.append((signed, bytes(attachment) if isinstance(attachment, memoryview) else attachment))
        self.called.set()
        if self.raises is not None:
            raise self.raises

    async def on_refused(self, link: Link, error: SmpcError, signed: Signed | None) -> None:
        self.refused.append(error)
        self.about.append(signed)
        self.raises = None

    async def open_sink(self, link: Link, signed: Signed, size: int) -> Sink | None:
        if size < 2 * INLINE:
            raise PermissionDenied("too small to be interesting")
        return self.sink if size > 4 * INLINE else None

    def sink(self, piece: memoryview) -> None:
        self.sunk += len(piece)


async def test_the_pump_hands_on_until_the_end() -> None:
    node = Node()
    async with pairs("bob") as [(theirs, ours)]:
        pumping = asyncio.create_task(pump(ours, node.on_message, open_sink=node.open_sink, on_refused=node.on_refused))
        async with reading(theirs):
            await theirs.send(note(ALICE), None)
            await theirs.send(note(ALICE), bytes(10))
            await theirs.send(note(ALICE), bytes(2 * INLINE))
            await theirs.send(note(ALICE), bytes(2 * PIECE))
            await theirs.send(note(ALICE, "uninteresting"), bytes(2 * INLINE - 1))
            await theirs.send(note(ALICE, "last"))
        await theirs.close("done")
        assert isinstance(await pumping, Unavailable)
    assert node.taken == [
        (note(ALICE), None),
        (note(ALICE), bytes(10)),
        (note(ALICE), bytes(2 * INLINE)),
        (note(ALICE), node.sink),
        (note(ALICE, "last"), None),
    ]
    assert node.sunk == 2 * PIECE
    assert [error.code for error in node.refused] == ["PermissionDenied"]
    assert node.about == [note(ALICE, "uninteresting")]


async def test_without_sinks_attachments_are_collected() -> None:
    node = Node()
    async with pairs("bob") as [(theirs, ours)]:
        pumping = asyncio.create_task(pump(ours, node.on_message))
        async with reading(theirs):
            await theirs.send(note(ALICE), bytes(2 * INLINE))
        await theirs.close()
        await pumping
    assert node.taken == [(note(ALICE), bytes(2 * INLINE))]


async def test_a_refused_message_is_answered_and_the_link_goes_on() -> None:
    node = Node()
    node.raises = BadSignature("no")
    async with pairs("bob") as [(theirs, ours)]:
        pumping = asyncio.create_task(pump(ours, node.on_message, on_refused=node.on_refused))
        await theirs.send(note(ALICE, "first"))
        await theirs.send(note(ALICE, "second"))
        await theirs.close()
        await pumping
    assert [error.code for error in node.refused] == ["BadSignature"]
    assert node.about == [note(ALICE, "first")]
    assert len(node.taken) == 2


async def test_a_refused_message_without_an_answer_closes_the_link() -> None:
    node = Node()
    node.raises = BadSignature("no")
    async with pairs("bob") as [(theirs, ours)]:
        pumping = asyncio.create_task(pump(ours, node.on_message))
        await theirs.send(note(ALICE))
        with pytest.raises(Unavailable, match="code 1008, 'BadSignature'"):
            await theirs.receive()
        assert await pumping is node.raises


async def test_misbehaviour_is_the_reason_of_the_end() -> None:
    node = Node()
    async with pairs("bob") as [(theirs, ours)]:
        pumping = asyncio.create_task(pump(ours, node.on_message, on_refused=node.on_refused))
        await theirs._socket.send(b"garbage")
        error = await pumping
        assert isinstance(error, MalformedMessage)
        assert error.peer == "bob"
    assert node.refused == []


async def test_a_bug_closes_the_link_and_is_logged_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    node = Node()
    node.raises = ValueError("4711 is private")
    async with pairs("bob") as [(theirs, ours)]:
        pumping = asyncio.create_task(pump(ours, node.on_message, on_refused=node.on_refused))
        await theirs.send(note(ALICE))
        with pytest.raises(Unavailable, match="code 1011, 'internal error'"):
            await theirs.receive()
        assert isinstance(await pumping, InternalError)
    assert "ValueError while handling a message at" in caplog.text
    assert "4711" not in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_cancelled_pump_drops_the_link() -> None:
    node = Node()
    async with pairs("bob") as [(theirs, ours)]:
        pumping = asyncio.create_task(pump(ours, node.on_message))
        await theirs.send(note(ALICE))
        await node.called.wait()
        pumping.cancel()
        assert isinstance((await settle(pumping))[0], asyncio.CancelledError)
        await theirs.wait_closed()


def test_a_bug_that_was_never_raised_has_no_place(caplog: pytest.LogCaptureFixture) -> None:
    report_bug(ValueError("4711"), "in a test")
    assert "ValueError in a test at an unknown place" in caplog.text
