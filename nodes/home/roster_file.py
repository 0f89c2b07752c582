"""The roster's draft: a TOML file that whoever holds the federation key edits, by hand or with `smpc-fl roster`."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from smpc_fl.errors import ConfigInvalid, SmpcError
from smpc_fl.identity import PublicIdentity
from smpc_fl.nodes.home.files import read, replace, write_new
from smpc_fl.nodes.home.toml_text import struct_to_toml
from smpc_fl.roster import LISTENERS, Member, Revocation, Role, Roster, Rotation, Version, encode_roster

HexKey = Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}\Z")]
HexSignature = Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{128}\Z")]


class _Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    role: Role
    key: HexKey
    address: str = ""


class _Revocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    key: HexKey
    reason: str = ""


class _Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    old: HexKey
    new: HexKey
    by_old: HexSignature
    by_new: HexSignature
    until: Annotated[str, Meta(max_length=40)]


class _Draft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    version: Version
    members: tuple[_Member, ...] = ()
    revoked: tuple[_Revocation, ...] = ()
    rotated: tuple[_Rotation, ...] = ()


def draft_to_toml(roster: Roster) -> str:
    """The draft's text; `version` is that of the roster signed last, 0 before the first."""
    members = tuple(_Member(item.id, item.role, item.key.hex(), item.address) for item in roster.members)
    revoked = tuple(_Revocation(item.id, item.key.hex(), item.reason) for item in roster.revoked)
    rotated = tuple(
        _Rotation(
            item.id, item.old.hex(), item.new.hex(), item.by_old.hex(), item.by_new.hex(), date_of(item.until)
        )
        for item in roster.rotations
    )  # fmt: skip
    return struct_to_toml(_Draft(roster.name, roster.version, members, revoked, rotated))


def date_of(seconds: float) -> str:
    """Seconds since 1970 as people read them: ISO 8601, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _rotation(item: _Rotation) -> Rotation:
    old, new, by_old, by_new = map(bytes.fromhex, (item.old, item.new, item.by_old, item.by_new))
    try:
        until = int(datetime.fromisoformat(item.until).timestamp())
    except (ValueError, OverflowError):
        raise ConfigInvalid(f"rotated: until: {item.until!r} is no date such as 2027-01-31T12:00:00+00:00") from None
    return Rotation(item.id, old, new, by_old, by_new, until)


def read_draft(path: Path) -> Roster:
    """The roster that a draft describes. Raises `ConfigInvalid` naming file, key and remedy."""
    data = read(path, "a roster's draft", "`smpc-fl roster new` makes one")
    try:
        draft = msgspec.convert(tomllib.loads(data.decode("utf-8")), _Draft)
        roster = Roster.of(
            draft.name,
            draft.version,
            [Member(item.id, item.role, bytes.fromhex(item.key), item.address) for item in draft.members],
            [Revocation(item.id, bytes.fromhex(item.key), item.reason) for item in draft.revoked],
            [_rotation(item) for item in draft.rotated],
        )
        encode_roster(roster)
    except UnicodeDecodeError:
        raise ConfigInvalid(f"{path}: not a draft (a signed roster?): name the file of `smpc-fl roster new`") from None
    except ConfigInvalid as error:
        raise ConfigInvalid(f"{path}: {error.message}") from None
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        raise ConfigInvalid(f"{path}: not a roster's draft: {error}") from None
    return roster


def new_draft(path: Path, name: str) -> Roster:
    """An empty draft in a file that is not there yet. Raises `ConfigInvalid`."""
    roster = Roster(name, 0, ())
    encode_roster(roster)
    write_new(path, draft_to_toml(roster).encode())
    return roster


def write_draft(path: Path, roster: Roster) -> None:
    encode_roster(roster)
    replace(path, draft_to_toml(roster).encode())


def with_member(roster: Roster, member: Member) -> Roster:
    """The roster with a member added, or with a new address of one that is in it. Raises `ConfigInvalid`."""
    known = next((item for item in roster.members if item.id == member.id), None)
    if known is not None and (known.role, known.key) != (member.role, member.key):
        raise ConfigInvalid(
            f"{member.id} is in the roster with another key or role: revoke that first (`smpc-fl roster revoke`), then "
            "add the new one. Its holder can also replace the key with `smpc-fl rotate`"
        )
    others = [item for item in roster.members if item.id != member.id]
    return Roster.of(roster.name, roster.version, [*others, member], roster.revoked, roster.rotations)


def with_rotation(roster: Roster, rotation: Rotation) -> Roster:
    """The roster with a member's new key, which its present one has signed. Raises `ConfigInvalid`, also for a revoked member."""
    try:
        member = roster.member(rotation.id)
    except SmpcError as error:
        raise ConfigInvalid(f"{error.message}. A key that is not in the roster vouches for none") from None
    if member.key != rotation.old:
        raise ConfigInvalid(
            f"the rotation of {rotation.id} is signed by the key {PublicIdentity(rotation.old).fingerprint}, and its key is "
            f"{PublicIdentity(member.key).fingerprint}: have it made anew (`smpc-fl rotate`)"
        )
    changed = msgspec.structs.replace(member, key=rotation.new)
    others = [item for item in roster.members if item.id != member.id]
    return Roster.of(roster.name, roster.version, [*others, changed], roster.revoked, [*roster.rotations, rotation])


def without_former_keys(roster: Roster, id: str, reason: str) -> Roster:
    """The roster with every key revoked that the member has replaced; the member stays. Raises `ConfigInvalid`."""
    line = roster.line_of(_member(roster, id))
    if not line:
        raise ConfigInvalid(f"{id} has replaced no key that is not revoked already")
    gone = [Revocation(id, rotation.old, reason) for rotation in line]
    return Roster.of(roster.name, roster.version, roster.members, [*roster.revoked, *gone], roster.rotations)


def _member(roster: Roster, id: str) -> Member:
    for member in roster.members:
        if member.id == id:
            return member
    raise ConfigInvalid(f"{id} is not in the roster: it has {', '.join(m.id for m in roster.members) or 'nobody'}")


def without_member(roster: Roster, id: str, reason: str) -> Roster:
    """The roster with a member's key revoked, for good. Raises `ConfigInvalid`."""
    member = _member(roster, id)
    others = [item for item in roster.members if item.id != id]
    gone = Revocation(id, member.key, reason)
    return Roster.of(roster.name, roster.version, others, [*roster.revoked, gone], roster.rotations)


def next_version(roster: Roster) -> Roster:
    """What is signed next."""
    return msgspec.structs.replace(roster, version=roster.version + 1)


def shortcomings(roster: Roster) -> list[str]:
    """Why no round can run over this roster yet, in sentences; nothing is wrong with signing it."""
    found = []
    if not roster.of_role("coordinator"):
        found.append("there is no coordinator yet")
    if len(roster.aggregators) < 2:
        found.append(
            f"there are {len(roster.aggregators)} aggregators; shares need at least two, run by different parties (a single one "
            "can add what owners encrypt: docs/homomorphic.md)"
        )
    if len(roster.owners) < 3:
        found.append(f"there are {len(roster.owners)} owners; a sum hides one among no fewer than three")
    found += [
        f"{member.id} listens on {member.address}, in plaintext"
        for member in roster.members
        if member.role in LISTENERS and member.address.startswith("ws://")
    ]
    return found
