"""Who has been invited: a private file (mode 0600) beside the roster's draft. Of a token it holds what checks a request."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from smpc_fl.enrolment import Request, Token, check
from smpc_fl.entropy import Entropy
from smpc_fl.errors import ConfigInvalid, Refused
from smpc_fl.nodes.home.files import read, replace
from smpc_fl.nodes.home.roster_file import HexKey
from smpc_fl.nodes.home.toml_text import struct_to_toml
from smpc_fl.roster import Member, MemberId, Role


class Invitation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`verifier`: see `enrolment.Token`. `expires`: in UTC, as ISO 8601 has it. `address`: the only one, if one is given."""

    id: MemberId
    role: Role
    verifier: HexKey
    expires: Annotated[str, Meta(max_length=40)]
    state: Literal["open", "used", "withdrawn"] = "open"
    address: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    invitations: tuple[Invitation, ...] = ()


def invitations_path(draft: Path) -> Path:
    return draft.with_suffix(".invitations")


def read_invitations(draft: Path) -> tuple[Invitation, ...]:
    """All of a draft's invitations, spent ones too. Raises `ConfigInvalid`."""
    path = invitations_path(draft)
    if not path.exists():
        return ()
    data = read(path, "a list of invitations", "`smpc-fl roster invite` writes it")
    try:
        found = msgspec.convert(tomllib.loads(data.decode("utf-8")), _File).invitations
        for invitation in found:
            if datetime.fromisoformat(invitation.expires).tzinfo is None:
                raise ValueError(f"{invitation.expires} has no time zone")
    except (ValueError, RecursionError) as error:
        raise ConfigInvalid(f"{path}: not a list of invitations: {error}") from None
    return found


def _write(draft: Path, invitations: tuple[Invitation, ...]) -> None:
    replace(invitations_path(draft), struct_to_toml(_File(invitations)).encode(), mode=0o600)


def invite(
    draft: Path, id: str, role: Role, address: str, valid: timedelta, *, now: datetime, entropy: Entropy
) -> Token:
    """A token for a new member; an open invitation of the same id is withdrawn. Raises `ConfigInvalid`."""
    try:
        msgspec.convert(id, MemberId)
    except msgspec.ValidationError as error:
        raise ConfigInvalid(f"nobody can be invited like this: {error}") from None
    token = Token.new(id, role, entropy)
    expires = (now + valid).astimezone(UTC).isoformat(timespec="seconds")
    made = Invitation(id, role, token.verifier.hex(), expires, address=address)
    _write(draft, (*_closed(read_invitations(draft), id, "withdrawn"), made))
    return token


def accept(draft: Path, request: Request, *, now: datetime) -> Member:
    """Who asks, as invited. Raises `Refused`, or `BadSignature` for a request that was not made under the token."""
    of_id = [invitation for invitation in read_invitations(draft) if invitation.id == request.id]
    if not of_id:
        raise Refused(f"{request.id} has not been invited: `smpc-fl roster invite` does that")
    invitation = of_id[-1]
    member = check(request, bytes.fromhex(invitation.verifier))
    again = f"invite {request.id} again"
    if invitation.state != "open":
        raise Refused(f"the token of {request.id} was {invitation.state} already, and serves once: {again}")
    if now >= datetime.fromisoformat(invitation.expires):
        raise Refused(f"the token of {request.id} expired at {invitation.expires}: {again}")
    if request.role != invitation.role:
        raise Refused(f"{request.id} was invited as {invitation.role}, not as {request.role}: {again}")
    if invitation.address and request.address != invitation.address:
        raise Refused(
            f"{request.id} was invited with the address {invitation.address}, and gives {request.address or 'none'}: {again}"
        )
    return member


def close(draft: Path, id: str, state: Literal["used", "withdrawn"]) -> None:
    """The open invitation of this id serves no more; durable on return."""
    _write(draft, _closed(read_invitations(draft), id, state))


def _closed(
    invitations: tuple[Invitation, ...], id: str, state: Literal["used", "withdrawn"]
) -> tuple[Invitation, ...]:
    return tuple(
        msgspec.structs.replace(invitation, state=state)
        if (invitation.id, invitation.state) == (id, "open")
        else invitation
        for invitation in invitations
    )
