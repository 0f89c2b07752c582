"""The roster: who belongs to a federation, under which key and in which role, signed by the offline federation key.

The federation key is nobody's node key, least of all the coordinator's; every node pins its public half. A roster is
one canonical byte string (msgpack), versioned; versions only grow, revocations only add up and count at once. A node
that meets a newer roster goes on with the members that it knew and keeps new owners and aggregators *pending* until
its own operator has approved them, so that nobody can invent owners, or aggregators, behind a node's back.

A member that replaces its key signs the new one with the old and the old one with the new (`Rotation`). Who has approved the
old key need not approve the new one. Until a date in the roster, both are believed: peers lag, and rounds are under way.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from smpc_fl.errors import (
    BadSignature,
    ConfigInvalid,
    Equivocation,
    MalformedMessage,
    Refused,
    RevokedKey,
    UnknownMember,
    WrongRole,
)
from smpc_fl.hashing import digest
from smpc_fl.identity import Identity, OverlappingIdentity, PublicIdentity

Role: TypeAlias = Literal["owner", "aggregator", "coordinator", "researcher", "provider"]
ROLES: tuple[Role, ...] = ("owner", "aggregator", "coordinator", "researcher", "provider")
LISTENERS: frozenset[Role] = frozenset({"aggregator", "coordinator", "provider"})
"""Roles that others dial, and whose members therefore have an address."""

MAX_MEMBERS = 1 << 15
"""Members of a roster, at most."""
MAX_ROTATIONS = 1 << 10
"""Replaced keys of a roster, at most: two signatures of each are verified whenever one is opened."""
MAX_ROSTER = 1 << 22
"""Bytes of a signed roster, the largest that is read."""

LAST_SECOND = 253_402_300_799
"""The end of the year 9999, after which there are no dates."""

Version = Annotated[int, Meta(ge=0, le=1 << 40)]
MemberId = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]*\Z")]
PublicKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
# No control characters: these texts are shown on terminals.
Line = Annotated[str, Meta(max_length=256, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")]
Address = Annotated[str, Meta(max_length=256, pattern=r"^(wss?://[A-Za-z0-9_.:\[\]-]+:[0-9]{1,5})?\Z")]


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node. `key`: Ed25519 public key, 32 bytes; `address`: `wss://host:port` or `ws://host:port` of a listener."""

    id: MemberId
    role: Role
    key: PublicKey
    address: Address = ""


class Revocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """This key of this member is never to be believed again."""

    id: MemberId
    key: PublicKey
    reason: Line = ""


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Member `id` has replaced the key `old` by `new`. `by_old` and `by_new` sign that: the one says so, the other has the
    new key. `until`: when `old` ceases to be believed (seconds since 1970), as whoever signs the roster has set it."""

    id: MemberId
    old: PublicKey
    new: PublicKey
    by_old: Signature
    by_new: Signature
    until: Annotated[int, Meta(ge=0, le=LAST_SECOND)] = 0

    @classmethod
    def make(cls, id: str, old: Identity, new: Identity, federation_key: PublicIdentity) -> Rotation:
        """What a member hands to whoever holds the federation key."""
        covered = _rotation_bytes(federation_key, id, old.public.key, new.public.key)
        return cls(id, old.public.key, new.public.key, old.sign(covered), new.sign(covered))

    def check(self, federation_key: PublicIdentity) -> None:
        """Raises `BadSignature` unless both keys have signed, for this federation and member."""
        covered = _rotation_bytes(federation_key, self.id, self.old, self.new)
        signed = ((self.old, self.by_old), (self.new, self.by_new))
        if not all(PublicIdentity(key).verify(covered, signature) for key, signature in signed):
            raise BadSignature(f"the new key of {self.id} is not signed by the one before it, or not by itself")


class Roster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Members sorted by id, ids and keys unique, at most one coordinator; `Roster.of` sorts. `rotated`: see `rotations`.

    Raises `ConfigInvalid` when built with members that contradict each other."""

    name: Annotated[Line, Meta(min_length=1)]
    version: Version
    members: Annotated[tuple[Member, ...], Meta(max_length=MAX_MEMBERS)]
    revoked: Annotated[tuple[Revocation, ...], Meta(max_length=4096)] = ()
    # Not there in a roster without any, so that one that was signed before there were rotations is spelled as it was.
    rotated: Annotated[tuple[Rotation, ...], Meta(min_length=1, max_length=MAX_ROTATIONS)] | UnsetType = UNSET

    @staticmethod
    def of(
        name: str,
        version: int,
        members: Iterable[Member],
        revoked: Iterable[Revocation] = (),
        rotations: Iterable[Rotation] = (),
    ) -> Roster:
        """A roster of members, revocations and rotations in any order."""
        by_id = sorted(members, key=lambda member: member.id)
        by_key = sorted(revoked, key=lambda entry: (entry.id, entry.key))
        by_old = sorted(rotations, key=lambda rotation: (rotation.id, rotation.old))
        return Roster(name, version, tuple(by_id), tuple(by_key), tuple(by_old) or UNSET)

    def __post_init__(self) -> None:
        ids = [member.id for member in self.members]
        if ids != sorted(set(ids)):
            raise ConfigInvalid("the members of a roster must be sorted by id, each id once")
        keys: dict[bytes, str] = {}
        revoked = {entry.key for entry in self.revoked}
        for member in self.members:
            other = keys.setdefault(member.key, member.id)
            if other != member.id:
                raise ConfigInvalid(f"{other} and {member.id} have the same key: each node needs one of its own")
            if member.key in revoked:
                raise ConfigInvalid(f"the key of {member.id} is revoked: give {member.id} a new one (smpc-fl keygen)")
            if member.role in LISTENERS and not member.address:
                raise ConfigInvalid(f"{member.id} is {_a(member.role)} and needs an address such as wss://host:8443")
            if member.role not in LISTENERS and member.address:
                raise ConfigInvalid(f"{member.id} is {_a(member.role)}, which only dials out: leave its address empty")
        order = [(entry.id, entry.key) for entry in self.revoked]
        if order != sorted(set(order)):
            raise ConfigInvalid("the revocations of a roster must be sorted by id and key, each once")
        if len(self.of_role("coordinator")) > 1:
            raise ConfigInvalid("a roster has one coordinator: remove the other before adding one")
        self._check_rotations(keys)

    def _check_rotations(self, keys: dict[bytes, str]) -> None:
        """Each key has one successor and one predecessor, and a member's own has no successor: so its line has an end."""
        olds = [(rotation.id, rotation.old) for rotation in self.rotations]
        if olds != sorted(olds):
            raise ConfigInvalid("the rotations of a roster must be sorted by id and old key")
        if len({old for _, old in olds}) < len(olds) or len({rotation.new for rotation in self.rotations}) < len(olds):
            raise ConfigInvalid("a key has been replaced twice, or replaces two: each has one successor")
        for id, old in olds:
            if old in keys:
                raise ConfigInvalid(f"{keys[old]} still has the key that {id} has replaced")

    @property
    def rotations(self) -> tuple[Rotation, ...]:
        """Keys that members have replaced, sorted by id and old key."""
        return () if self.rotated is UNSET else self.rotated

    def line_of(self, member: Member) -> tuple[Rotation, ...]:
        """How the member came to its key, the newest rotation first, back to a key that was revoked (a revoked key vouches
        for none) or to its first."""
        by_new = {rotation.new: rotation for rotation in self.rotations if rotation.id == member.id}
        revoked = {entry.key for entry in self.revoked}
        found: list[Rotation] = []
        key = member.key
        while key in by_new and by_new[key].old not in revoked:
            found.append(by_new[key])
            key = by_new[key].old
        return tuple(found)

    def of_role(self, role: Role) -> tuple[Member, ...]:
        """Members of one role, sorted by id."""
        return tuple(member for member in self.members if member.role == role)

    @property
    def owners(self) -> tuple[Member, ...]:
        return self.of_role("owner")

    @property
    def aggregators(self) -> tuple[Member, ...]:
        return self.of_role("aggregator")

    @property
    def coordinator(self) -> Member:
        """The coordinator; raises `UnknownMember` when there is none yet."""
        for member in self.of_role("coordinator"):
            return member
        raise UnknownMember(f"federation {self.name} has no coordinator in its roster (version {self.version})")

    def member(self, id: str) -> Member:
        """The member of that id. Raises `UnknownMember` or, when only a revocation is left of it, `RevokedKey`."""
        place = bisect_left(self.members, id, key=lambda member: member.id)
        if place < len(self.members) and self.members[place].id == id:
            return self.members[place]
        for entry in self.revoked:
            if entry.id == id:
                why = f" ({entry.reason})" if entry.reason else ""
                raise RevokedKey(
                    f"the key of {id} was revoked{why}: make a new one and have it added to the roster", peer=id
                )
        raise UnknownMember(
            f"{id} is not in the roster of federation {self.name} (version {self.version}): check the id, or ask "
            "whoever holds the federation key to add it",
            peer=id,
        )

    def key_of(self, id: str, role: Role | None = None) -> PublicIdentity:
        """The key of a member. Raises `UnknownMember`, `RevokedKey`, or `WrongRole` when it has another role."""
        member = self.member(id)
        if role is not None and member.role != role:
            raise WrongRole(f"{id} is {_a(member.role)} in the roster, not {_a(role)}", peer=id)
        return PublicIdentity(member.key)


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    roster: Annotated[bytes, Meta(max_length=MAX_ROSTER)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_encoder = msgspec.msgpack.Encoder(order="deterministic")
_roster_decoder = msgspec.msgpack.Decoder(Roster)
_envelope_decoder = msgspec.msgpack.Decoder(_Envelope)


def _a(role: str) -> str:
    return f"an {role}" if role[0] in "ao" else f"a {role}"


def encode_roster(roster: Roster) -> bytes:
    """The one byte string of a roster. Raises `ConfigInvalid` when a field is out of its range."""
    try:
        data = _encoder.encode(roster)
        _roster_decoder.decode(data)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise ConfigInvalid(f"a roster cannot be written: {error}") from None
    return data


def roster_hash(roster: Roster) -> bytes:
    """What manifests carry: 32 bytes over the roster's canonical bytes."""
    return digest("smpc-fl/1 roster", encode_roster(roster))


def federation_id(federation_key: PublicIdentity) -> bytes:
    """What every signed message is bound to: 32 bytes over the federation's public key."""
    return digest("smpc-fl/1 federation", federation_key.key)


def _rotation_bytes(federation_key: PublicIdentity, id: str, old: bytes, new: bytes) -> bytes:
    return digest("smpc-fl/1 rotation", federation_key.key, id.encode(), old, new)


def _signing_bytes(federation_key: PublicIdentity, body: bytes) -> bytes:
    return digest("smpc-fl/1 signed roster", federation_key.key, body)


def _check_keys(roster: Roster, federation_key: PublicIdentity) -> None:
    for rotation in roster.rotations:
        rotation.check(federation_key)
    for member in roster.members:
        if member.key == federation_key.key:
            raise ConfigInvalid(
                f"{member.id} uses the federation key as its own: the federation key signs rosters, stays offline, and "
                "is no node's key"
            )


def sign_roster(roster: Roster, federation: Identity) -> bytes:
    """The signed roster, as it is handed to nodes and travels in `RosterOffer`. Raises `ConfigInvalid`, or
    `BadSignature` for a rotation that its keys have not signed."""
    _check_keys(roster, federation.public)
    body = encode_roster(roster)
    return _encoder.encode(_Envelope(body, federation.sign(_signing_bytes(federation.public, body))))


def open_roster(signed: bytes, federation_key: PublicIdentity) -> Roster:
    """The roster in `signed`, if the pinned federation key signed it.

    Raises `MalformedMessage` (not the one spelling of a signed roster), `BadSignature`, `ConfigInvalid`."""
    if len(signed) > MAX_ROSTER:
        raise MalformedMessage(f"a signed roster of {len(signed)} bytes is over the limit of {MAX_ROSTER}")
    try:
        envelope = _envelope_decoder.decode(signed)
    except _UNDECODABLE:
        raise MalformedMessage("this is not a signed roster: it comes from `smpc-fl roster sign`") from None
    if not federation_key.verify(_signing_bytes(federation_key, envelope.roster), envelope.signature):
        raise BadSignature(
            "the roster is not signed by the pinned federation key: compare the key's fingerprint with whoever signs "
            "the federation's rosters"
        )
    try:
        roster = _roster_decoder.decode(envelope.roster)
    except _UNDECODABLE as error:
        raise MalformedMessage(f"a signed roster does not decode: {error}") from None
    if _encoder.encode(roster) != envelope.roster or _encoder.encode(envelope) != signed:
        raise MalformedMessage("a signed roster is not in its one canonical spelling")
    _check_keys(roster, federation_key)
    return roster


@dataclass(frozen=True)
class Membership:
    """The roster as one node trusts it. `pending`: ids of owners and aggregators that its operator has not approved. `when`:
    the time that replaced keys are held against; they are believed no longer than until their date."""

    roster: Roster
    federation_key: PublicIdentity
    pending: frozenset[str] = frozenset()
    when: float = field(default=0.0, compare=False)

    @property
    def federation(self) -> bytes:
        return federation_id(self.federation_key)

    @property
    def roster_version(self) -> int:
        return self.roster.version

    @cached_property
    def roster_hash(self) -> bytes:
        return roster_hash(self.roster)

    @property
    def members(self) -> tuple[Member, ...]:
        """Trusted members of all roles, sorted by id."""
        return tuple(member for member in self.roster.members if member.id not in self.pending)

    @property
    def owners(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if member.role == "owner")

    @cached_property
    def owner_ids(self) -> frozenset[str]:
        """Ids of the trusted owners."""
        return frozenset(member.id for member in self.owners)

    @property
    def aggregators(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if member.role == "aggregator")

    @property
    def providers(self) -> tuple[Member, ...]:
        """Crypto providers: they deal randomness for shared tensors, and are nothing else."""
        return tuple(member for member in self.members if member.role == "provider")

    @property
    def coordinator(self) -> Member:
        return self.roster.coordinator

    def member(self, id: str) -> Member:
        """A trusted member. Raises `UnknownMember` or `RevokedKey`."""
        member = self.roster.member(id)
        if id in self.pending:
            raise UnknownMember(
                f"{id} is new in the roster (version {self.roster.version}) and this node's operator has not approved "
                "it: look at it and run `smpc-fl roster accept`",
                peer=id,
            )
        return member

    def key_of(self, id: str, role: Role | None = None) -> PublicIdentity:
        """As `Roster.key_of`, of trusted members only."""
        self.member(id)
        return self.roster.key_of(id, role)

    def believed(self, id: str, role: Role | None = None) -> PublicIdentity:
        """As `key_of`, to verify with: under a key that the member is replacing, a signature holds as well.

        What is sealed goes by `key_of`: all parties to a manifest have the same roster, so they mean the same key."""
        key, former = self.key_of(id, role), self.former(id)
        return OverlappingIdentity(key.key, former) if former else key

    def former(self, id: str) -> tuple[PublicIdentity, ...]:
        """The keys that a trusted member is replacing and that are believed still, the newest first."""
        line = self.roster.line_of(self.member(id)) if self.roster.rotations else ()
        return tuple(PublicIdentity(rotation.old) for rotation in line if rotation.until > self.when)

    def lookup(self, id: str) -> tuple[PublicIdentity, Role]:
        """The key to verify a trusted member with, and its role, for the handshake of a link."""
        return self.believed(id), self.member(id).role

    def at(self, now: float) -> Membership:
        """This membership at another time: itself, unless a replaced key has come to its date meanwhile."""
        if not any(self.when < rotation.until <= now for rotation in self.roster.rotations):
            return self
        return Membership(self.roster, self.federation_key, self.pending, now)


def nobody(member: Member) -> bool:
    """Approves nobody: the default of `accept_update`, and an owner's."""
    return False


def everybody(member: Member) -> bool:
    """Approves everybody that the federation key has signed: enough for a coordinator, a researcher, an aggregator."""
    return True


def accept_update(current: Membership, offered: bytes, approve: Callable[[Member], bool] = nobody) -> Membership:
    """The membership after a peer, or the operator, has offered a signed roster.

    An older version changes nothing: peers may lag. Otherwise the offered roster counts from now on, with its revocations.
    Owners and aggregators are pending unless `approve` says yes, or `current` trusted them under the same id and role, and
    under the same key or one that vouches for it (`Roster.line_of`). Raises the errors of `open_roster`, `Equivocation` (two
    rosters of one version) and `Refused` (another federation's name, or a revocation that is gone)."""
    roster = open_roster(offered, current.federation_key)
    if roster.version < current.roster.version:
        return current
    if roster.version == current.roster.version and roster != current.roster:
        raise Equivocation(f"two different rosters of version {roster.version} carry the federation's signature")
    if roster.name != current.roster.name:
        raise Refused(f"the roster offered is that of {roster.name}, not of {current.roster.name}")
    gone = set(current.roster.revoked) - set(roster.revoked)
    if gone:
        names = ", ".join(sorted({entry.id for entry in gone}))
        raise Refused(f"roster version {roster.version} lacks revocations that version {current.roster.version} has: "
                      f"{names}. Revocations are for good; sign a roster that keeps them")  # fmt: skip
    trusted = {(member.id, member.role, member.key) for member in current.members}
    pending = frozenset(
        member.id
        for member in roster.members
        if member.role in ("owner", "aggregator")
        and not any((member.id, member.role, key) in trusted for key in _keys(roster, member))
        and not approve(member)
    )
    return Membership(roster, current.federation_key, pending, current.when)


def _keys(roster: Roster, member: Member) -> tuple[bytes, ...]:
    """The member's key, and those before it that vouch for it."""
    return (member.key, *(rotation.old for rotation in roster.line_of(member))) if roster.rotations else (member.key,)
