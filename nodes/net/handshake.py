"""The first words on a connection: both sides prove who they are, or one says why it refuses.

    both   Hello   version, federation, claimed role, fresh nonce       (signed, but not fresh: not yet believed)
    both   Proof   both nonces and the peer's id, signed                (cannot be replayed or reflected)

Each side looks the other up in its own roster before it signs a proof. Either may send a signed `Refusal` instead, and
close; it says why, with the name of an error class. All of it is done within one deadline.

The nonces are X25519 keys: what follows carries tags under a key that the two agree on by them (`session.py`). Someone in
the middle who passes these words on unchanged gets nothing but the place in the middle, and can change, add, repeat or
leave out nothing; what is secret is sealed besides, whatever the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import NoReturn, Protocol

from smpc_fl.errors import (
    BadSignature,
    MalformedMessage,
    PeerMisbehaviour,
    Refused,
    SmpcError,
    Unavailable,
    UnknownMember,
    VersionMismatch,
    WrongRole,
    from_code,
)
from smpc_fl.identity import Identity, PublicIdentity
from smpc_fl.nodes.net.link import POLICY, Link
from smpc_fl.nodes.net.session import Session
from smpc_fl.protocols.codec import decode_message, expect, sign, signing_bytes, verify
from smpc_fl.protocols.messages import PROTOCOL_VERSION, Hello, Message, Proof, Refusal, Signed
from smpc_fl.sealing import Agreement, KeyPair

PHASE = "handshake"
_MAX_ENVELOPE = 8192
"""Bytes: more than the longest Refusal, and all that a stranger can make us decode."""


class Membership(Protocol):
    """The roster as this node trusts it (`roster.Membership` is one)."""

    @property
    def federation(self) -> bytes: ...

    @property
    def roster_version(self) -> int: ...

    def lookup(self, id: str, /) -> tuple[PublicIdentity, str]:
        """Key and role of a member; raises `UnknownMember` or `RevokedKey`."""
        ...


@dataclass
class LocalMember:
    """Who this node is. `membership` is replaced when the roster changes; the next handshake looks at the new one."""

    id: str
    role: str
    identity: Identity
    membership: Membership

    def sign(self, message: Message) -> Signed:
        return sign(message, identity=self.identity, sender=self.id, federation=self.membership.federation)


async def authenticate(
    link: Link,
    me: LocalMember,
    *,
    expected: str | None = None,
    roles: Collection[str] | None = None,
    version: int = PROTOCOL_VERSION,
) -> None:
    """Prove who we are, have the peer prove who it is, and write that on `link`.

    `expected`: the only member that may answer (for who dials); `roles`: the only roles that may connect. Raises what
    we or the peer refuse with (`UnknownMember`, `RevokedKey`, `WrongRole`, `VersionMismatch`, `BadSignature`,
    `MalformedMessage`), or `Unavailable` for a connection that broke off or was too slow; the connection is then closed."""
    try:
        async with asyncio.timeout(link.limits.handshake):
            await _converse(link, me, expected, roles, version)
    except TimeoutError:
        link.abort()
        raise Unavailable(
            f"{expected or 'a peer'} did not finish the handshake within {link.limits.handshake:g} s",
            peer=expected,
            phase=PHASE,
        ) from None
    except SmpcError as error:
        error.phase = PHASE
        await _refuse(link, me, error)
        raise
    except BaseException:
        link.abort()
        raise


async def _converse(
    link: Link, me: LocalMember, expected: str | None, roles: Collection[str] | None, version: int
) -> None:
    members = me.membership
    pair = KeyPair.generate(secrets.token_bytes)
    nonce = pair.public
    await link.send(me.sign(Hello(version, members.federation, me.role, nonce, members.roster_version)))

    signed = await _receive(link)
    hello = decode_message(signed.body, peer=signed.sender)
    if isinstance(hello, Refusal):
        _peer_refused(signed, me, signed.sender if expected is None else expected)
    hello = expect(hello, Hello, peer=signed.sender)
    if hello.version != version:
        raise VersionMismatch(
            f"{signed.sender} speaks version {hello.version} of the protocol, {me.id} speaks {version}: "
            "install the same release of smpc-fl on both",
            peer=signed.sender,
        )
    if hello.federation != members.federation:
        raise UnknownMember(f"{signed.sender} belongs to another federation", peer=signed.sender)
    if expected is not None and signed.sender != expected:
        raise UnknownMember(f"{expected} was expected at this address, {signed.sender} answered", peer=signed.sender)
    if signed.sender == me.id:
        raise PeerMisbehaviour(f"a peer presents itself as {me.id}, which is this node", peer=signed.sender)
    key, role = members.lookup(signed.sender)
    if hello.role != role:
        raise WrongRole(f"{signed.sender} is {role} in the roster and claims to be {hello.role}", peer=signed.sender)
    if roles is not None and role not in roles:
        raise WrongRole(f"{signed.sender} is {role}; here connect only: {', '.join(sorted(roles))}", peer=signed.sender)
    verify(signed, key, federation=members.federation)

    own_proof = me.sign(Proof(nonce, hello.nonce, signed.sender))
    own = me.identity.public  # what it was signed by: one of two, while this member's key is being replaced
    with contextlib.suppress(Unavailable):  # a peer that has closed may have said why: that is there to be read
        await link.send(own_proof)
    signed_proof = await _receive(link)
    if signed_proof.sender != signed.sender:
        raise BadSignature("a proof comes from another member than its hello", peer=signed.sender)
    proof = verify(signed_proof, key, federation=members.federation)
    if isinstance(proof, Refusal):
        _peer_refused(signed_proof, me, signed.sender)
    proof = expect(proof, Proof, peer=signed.sender)
    if (proof.own_nonce, proof.peer_nonce, proof.peer) != (hello.nonce, nonce, me.id):
        raise BadSignature("a proof was made for another connection", peer=signed.sender)
    theirs = key.signer(signing_bytes(members.federation, signed.sender, signed_proof.body), signed_proof.signature)
    assert theirs is not None  # it has just been verified
    session = _session(Agreement(pair, hello.nonce), own, theirs, members.federation)
    link.peer, link.role, link.key, link.roster_version = signed.sender, role, key, hello.roster_version
    link.begin(session)


def _session(agreed: Agreement, own: PublicIdentity, peer: PublicIdentity, federation: bytes) -> Session:
    """One key a direction; both identities and both nonces are in them. Raises `MalformedMessage`."""

    def key(sender: PublicIdentity, receiver: PublicIdentity) -> bytes:
        return agreed.key(sender=sender, receiver=receiver, manifest_hash=federation, about=b"", kind="link")

    return Session(key(own, peer), key(peer, own))


async def _receive(link: Link) -> Signed:
    signed, _ = await link.receive(max_envelope=_MAX_ENVELOPE, max_attachment=0)
    return signed


class _PeerRefused(Exception):
    """Marks a refusal as the peer's, so that it is not sent back; `__cause__` of the error that is raised."""


def _peer_refused(signed: Signed, me: LocalMember, peer: str) -> NoReturn:
    """Raise a peer's refusal as its own error class, if the peer has really signed it."""
    if signed.sender != peer:
        raise BadSignature("a refusal comes from another member than the one that was dialled", peer=peer)
    key, _ = me.membership.lookup(peer)
    refusal = expect(verify(signed, key, federation=me.membership.federation), Refusal, peer=peer)
    error = from_code(refusal.code, f"{peer} refused {me.id}: {refusal.text}", peer=peer, phase=PHASE)
    raise error from _PeerRefused()


async def _refuse(link: Link, me: LocalMember, error: SmpcError) -> None:
    if isinstance(error, Refused | PeerMisbehaviour) and not isinstance(error.__cause__, _PeerRefused):
        refusal = Refusal(error.code, error.message[:1024], PHASE)
        with contextlib.suppress(SmpcError):  # the peer is gone, or has closed after a refusal of its own
            await link.send(me.sign(refusal))
    reason = "malformed message" if isinstance(error, MalformedMessage) else error.code
    await link.close(reason, code=POLICY)
