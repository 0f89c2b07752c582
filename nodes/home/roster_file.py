"""The roster's draft: a TOML file that whoever holds the federation key edits, by hand or with `smpc-fl roster`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from smpc_fl.errors import ConfigInvalid
from smpc_fl.nodes.home.files import read, replace, write_new
from smpc_fl.nodes.home.toml_text import struct_to_toml
from smpc_fl.roster import LISTENERS, Member, Revocation, Role, Roster, encode_roster

HexKey = Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}\Z")]


class _Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    role: Role
    key: HexKey
    address: str = ""


class _Revocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    key: HexKey
    reason: str = ""


class _Draft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    version: int
    members: tuple[_Member, ...] = ()
    revoked: tuple[_Revocation, ...] = ()


def draft_to_toml(roster: Roster) -> str:
    """The draft's text; `version` is that of the roster signed last, 0 before the first."""
    members = tuple(_Member(item.id, item.role, item.key.hex(), item.address) for item in roster.members)
    revoked = tuple(_Revocation(item.id, item.key.hex(), item.reason) for item in roster.revoked)
    return struct_to_toml(_Draft(roster.name, roster.version, members, revoked))


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
        )
        encode_roster(roster)
    except UnicodeDecodeError:
        raise ConfigInvalid(f"{path}: not a draft (a signed roster?): name the file of `smpc-fl roster new`") from None
    except ConfigInvalid as error:
        raise ConfigInvalid(f"{path}: {error.message}") from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
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
            "add the new one"
        )
    others = [item for item in roster.members if item.id != member.id]
    return Roster.of(roster.name, roster.version, [*others, member], roster.revoked)


def without_member(roster: Roster, id: str, reason: str) -> Roster:
    """The roster with a member's key revoked, for good. Raises `ConfigInvalid`."""
    member = next((item for item in roster.members if item.id == id), None)
    if member is None:
        raise ConfigInvalid(f"{id} is not in the roster: it has {', '.join(m.id for m in roster.members) or 'nobody'}")
    others = [item for item in roster.members if item.id != id]
    return Roster.of(roster.name, roster.version, others, [*roster.revoked, Revocation(id, member.key, reason)])


def next_version(roster: Roster) -> Roster:
    """What is signed next."""
    return Roster(roster.name, roster.version + 1, roster.members, roster.revoked)


def shortcomings(roster: Roster) -> list[str]:
    """Why no round can run over this roster yet, in sentences; nothing is wrong with signing it."""
    found = []
    if not roster.of_role("coordinator"):
        found.append("there is no coordinator yet")
    if len(roster.aggregators) < 2:
        found.append(
            f"there are {len(roster.aggregators)} aggregators; shares need at least two, run by different parties"
        )
    if len(roster.owners) < 3:
        found.append(f"there are {len(roster.owners)} owners; a sum hides one among no fewer than three")
    found += [
        f"{member.id} listens on {member.address}, in plaintext"
        for member in roster.members
        if member.role in LISTENERS and member.address.startswith("ws://")
    ]
    return found
