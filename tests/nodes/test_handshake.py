"""The handshake: who gets in, and what whoever does not get in is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from wires import FEDERATION, Book, people, raw_pair, settle

from smpc_fl.errors import (
    BadSignature,
    MalformedMessage,
    PeerMisbehaviour,
    RevokedKey,
    SmpcError,
    Unavailable,
    UnknownMember,
    VersionMismatch,
    WrongRole,
)
from smpc_fl.identity import Identity
from smpc_fl.nodes.net.framing import INLINE
from smpc_fl.nodes.net.handshake import LocalMember, authenticate
from smpc_fl.nodes.net.limits import Limits
from smpc_fl.nodes.net.link import Link
from smpc_fl.protocols.codec import decode_message, expect
from smpc_fl.protocols.messages import PROTOCOL_VERSION, Hello, Proof, Refusal, Signed, StatusRequest


def book(member: LocalMember) -> Book:
    assert isinstance(member.membership, Book)
    return member.membership


async def meet(
    near: Link,
    far: Link,
    alice: LocalMember,
    anna: LocalMember,
    *,
    roles: set[str] | None = None,
    expected: str = "anna",
) -> tuple[object, object]:
    """alice dials anna; what both sides got out of it."""
    ours, theirs = await settle(authenticate(near, alice, expected=expected), authenticate(far, anna, roles=roles))
    return ours, theirs


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[tuple[Link, Link, LocalMember, LocalMember]]:
    both = people(alice="owner", anna="aggregator")
    async with raw_pair() as (near, far):
        yield near, far, both["alice"], both["anna"]


async def test_members_recognise_each_other() -> None:
    async with pair() as (near, far, alice, anna):
        book(alice).roster_version = 7
        assert await meet(near, far, alice, anna, roles={"owner"}) == (None, None)
        assert (near.peer, near.role, near.key, near.roster_version) == ("anna", "aggregator", anna.identity.public, 3)
        assert (far.peer, far.role, far.key, far.roster_version) == ("alice", "owner", alice.identity.public, 7)
        await near.send(alice.sign(StatusRequest()))
        signed, _ = await far.receive()
        assert decode_message(signed.body) == StatusRequest()


Change = Callable[[LocalMember, LocalMember], None]


def forget_alice(alice: LocalMember, anna: LocalMember) -> None:
    del book(anna).members["alice"]


def revoke_alice(alice: LocalMember, anna: LocalMember) -> None:
    book(anna).revoked.add("alice")


def forget_anna(alice: LocalMember, anna: LocalMember) -> None:
    del book(alice).members["anna"]


def claim_a_role(alice: LocalMember, anna: LocalMember) -> None:
    alice.role = "coordinator"


def rename(alice: LocalMember, anna: LocalMember) -> None:
    alice.id = "anna"


def move_away(alice: LocalMember, anna: LocalMember) -> None:
    book(alice).federation = bytes(32)


def borrow_a_name(alice: LocalMember, anna: LocalMember) -> None:
    alice.identity = Identity.from_seed(b"x" * 32)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (forget_alice, UnknownMember, "alice is not in the roster"),
        (revoke_alice, RevokedKey, "the key of alice was revoked"),
        (claim_a_role, WrongRole, "claims to be coordinator"),
        (borrow_a_name, BadSignature, "does not verify"),
    ],
)
async def test_the_listener_says_why_it_refuses(change: Change, error: type[SmpcError], text: str) -> None:
    async with pair() as (near, far, alice, anna):
        change(alice, anna)
        ours, theirs = await meet(near, far, alice, anna)
        assert isinstance(theirs, error)
        assert isinstance(ours, error)
        assert text in str(theirs)
        assert f"anna refused {alice.id}" in str(ours)
        assert text in str(ours)
        assert (ours.peer, ours.phase) == ("anna", "handshake")
        assert (theirs.peer, theirs.phase) == (alice.id, "handshake")
        assert not near.is_open
        assert not far.is_open
        assert near.peer == far.peer == ""


async def test_the_dialler_refuses_too() -> None:
    async with pair() as (near, far, alice, anna):
        forget_anna(alice, anna)
        ours, theirs = await meet(near, far, alice, anna)
        assert isinstance(ours, UnknownMember)
        assert isinstance(theirs, UnknownMember)
        assert "alice refused anna" in str(theirs)


async def test_only_listed_roles_may_connect() -> None:
    async with pair() as (near, far, alice, anna):
        ours, theirs = await meet(near, far, alice, anna, roles={"coordinator", "researcher"})
        for error in (ours, theirs):
            assert isinstance(error, WrongRole)
            assert "alice is owner; here connect only: coordinator, researcher" in str(error)


async def test_a_node_does_not_talk_to_itself() -> None:
    async with pair() as (near, far, alice, anna):
        rename(alice, anna)
        ours, theirs = await meet(near, far, alice, anna)
        assert type(theirs) is PeerMisbehaviour
        assert isinstance(ours, PeerMisbehaviour)


async def test_members_of_two_federations_do_not_meet() -> None:
    async with pair() as (near, far, alice, anna):
        move_away(alice, anna)
        ours, theirs = await meet(near, far, alice, anna)
        assert isinstance(ours, SmpcError)
        assert isinstance(theirs, UnknownMember)
        assert "another federation" in str(theirs)


async def test_somebody_else_answers() -> None:
    async with pair() as (near, far, alice, anna):
        ours, theirs = await meet(near, far, alice, anna, expected="adam")
        assert isinstance(ours, UnknownMember)
        assert "adam was expected at this address, anna answered" in str(ours)
        assert isinstance(theirs, UnknownMember)


async def test_two_versions_of_the_protocol() -> None:
    async with pair() as (near, far, alice, anna):
        ours, theirs = await settle(
            authenticate(near, alice, expected="anna", version=PROTOCOL_VERSION + 1), authenticate(far, anna)
        )
        assert isinstance(ours, VersionMismatch)
        assert isinstance(theirs, VersionMismatch)
        assert "install the same release" in str(ours)


# --- scripted peers: they know the words, and use them wrongly ---

Script = Callable[[Link, LocalMember, Hello], Awaitable[None]]


def hello(member: LocalMember) -> Hello:
    return Hello(PROTOCOL_VERSION, FEDERATION, member.role, bytes(32), 3)


async def read_hello(link: Link) -> Hello:
    signed, _ = await link.receive()
    return expect(decode_message(signed.body), Hello)


async def attack(script: Script) -> SmpcError:
    """What anna makes of alice's script, which begins after alice's hello has been sent and anna's read."""
    async with pair() as (near, far, alice, anna):

        async def play() -> None:
            await near.send(alice.sign(hello(alice)))
            await script(near, alice, await read_hello(near))

        theirs, ours = await settle(authenticate(far, anna), play())
        assert isinstance(theirs, SmpcError), theirs
        assert ours is None or isinstance(ours, SmpcError), ours
        assert far.peer == ""
        assert not far.is_open
        return theirs


async def test_a_proof_of_another_connection_is_refused() -> None:
    async def script(link: Link, alice: LocalMember, theirs: Hello) -> None:
        await link.send(alice.sign(Proof(bytes(32), bytes(32), "anna")))

    assert isinstance(await attack(script), BadSignature)


async def test_a_proof_for_somebody_else_is_refused() -> None:
    async def script(link: Link, alice: LocalMember, theirs: Hello) -> None:
        await link.send(alice.sign(Proof(bytes(32), theirs.nonce, "adam")))

    assert isinstance(await attack(script), BadSignature)


async def test_a_reflected_proof_is_refused() -> None:
    async def script(link: Link, alice: LocalMember, theirs: Hello) -> None:
        proof, _ = await link.receive()
        await link.send(proof)

    assert isinstance(await attack(script), BadSignature)


async def test_a_proof_under_another_key_is_refused() -> None:
    async def script(link: Link, alice: LocalMember, theirs: Hello) -> None:
        borrow_a_name(alice, alice)
        await link.send(alice.sign(Proof(bytes(32), theirs.nonce, "anna")))

    assert isinstance(await attack(script), BadSignature)


async def test_another_message_is_no_proof() -> None:
    async def script(link: Link, alice: LocalMember, theirs: Hello) -> None:
        await link.send(alice.sign(StatusRequest()))

    assert isinstance(await attack(script), MalformedMessage)


async def test_a_late_refusal_is_believed() -> None:
    async def script(link: Link, alice: LocalMember, theirs: Hello) -> None:
        await link.send(alice.sign(Refusal("RevokedKey", "no more of you")))

    error = await attack(script)
    assert isinstance(error, RevokedKey)
    assert "alice refused anna: no more of you" in str(error)


@pytest.mark.parametrize("size", [INLINE, 1 << 24])
async def test_a_flood_before_the_proof_is_refused(size: int) -> None:
    async def script(link: Link, alice: LocalMember, theirs: Hello) -> None:
        await asyncio.create_task(link.send(alice.sign(Refusal("Unavailable", "x" * 4000)), bytes(size)))

    assert isinstance(await attack(script), MalformedMessage)


@pytest.mark.parametrize("signed_by", ["the member", "another key", "another member"])
async def test_a_refusal_counts_when_the_expected_member_signed_it(signed_by: str) -> None:
    async with pair() as (near, far, alice, anna):
        speaker = anna
        if signed_by == "another key":
            borrow_a_name(anna, anna)
        elif signed_by == "another member":
            speaker = people(adam="aggregator")["adam"]

        async def play() -> None:
            await far.receive()
            await far.send(speaker.sign(Refusal("RevokedKey", "go away")))
            await far.close()

        ours, _ = await settle(authenticate(near, alice, expected="anna"), play())
        assert isinstance(ours, RevokedKey if signed_by == "the member" else BadSignature)


async def test_a_proof_from_a_third_member_is_refused() -> None:
    async with pair() as (near, far, alice, anna):
        book(anna).members["adam"] = (alice.identity.public, "owner")

        async def play() -> None:
            await near.send(alice.sign(hello(alice)))
            theirs = await read_hello(near)
            alice.id = "adam"
            await near.send(alice.sign(Proof(bytes(32), theirs.nonce, "anna")))

        error, _ = await settle(authenticate(far, anna), play())
        assert isinstance(error, BadSignature)
        assert "another member than its hello" in str(error)


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\xff" * 5000])
async def test_garbage_instead_of_a_hello(data: bytes) -> None:
    async with pair() as (near, far, _alice, anna):
        await near._socket.send(data)
        error, *_ = await settle(authenticate(far, anna), near.wait_closed())
        assert isinstance(error, MalformedMessage)
        assert not far.is_open


async def test_an_envelope_around_garbage() -> None:
    async with pair() as (near, far, _alice, anna):
        await near.send(Signed("alice", b"\xc1", bytes(64)))
        error, *_ = await settle(authenticate(far, anna))
        assert isinstance(error, MalformedMessage)


@pytest.mark.parametrize("expected", ["anna", None])
async def test_a_slow_peer_is_dropped(expected: str | None) -> None:
    alice = people(alice="owner", anna="aggregator")["alice"]
    async with raw_pair() as (near, far):
        near.limits = Limits(handshake=0.05)
        with pytest.raises(Unavailable, match=r"did not finish the handshake within 0\.05 s"):
            await authenticate(near, alice, expected=expected)
        await far.wait_closed()


async def test_a_peer_that_goes_away() -> None:
    async with pair() as (near, far, _alice, anna):
        near.abort()
        with pytest.raises(Unavailable):
            await authenticate(far, anna)


async def test_a_cancelled_handshake_leaves_no_connection() -> None:
    async with pair() as (near, far, _alice, anna):
        task = asyncio.create_task(authenticate(far, anna))
        await read_hello(near)
        task.cancel()
        assert isinstance((await settle(task))[0], asyncio.CancelledError)
        await far.wait_closed()
