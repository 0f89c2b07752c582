"""How a stranger's key gets into the roster: a single-use token one way, a request under it the other way.

Whoever holds the federation key invites a member by id and role, and keeps of the token what checks a request
(`verifier`), not the token. The new member's request carries its public key, a MAC under the token (keyed BLAKE2b, RFC 7693)
and a signature that shows that it has the private half. Who does not know the token can neither make nor alter a request.

The token travels by mail or the like, where others may read it; so two people also compare the key's fingerprint by voice.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass, field
from typing import Annotated, Self

import msgspec
from msgspec import Meta

from smpc_fl.entropy import Entropy
from smpc_fl.errors import BadInput, BadSignature
from smpc_fl.hashing import derive_key, digest
from smpc_fl.identity import Identity, PublicIdentity
from smpc_fl.roster import ROLES, Address, Member, MemberId, PublicKey, Role, Signature
from smpc_fl.secret import Secret

TOKEN_SIZE = 16
"""Random bytes of a token."""


@dataclass(frozen=True)
class Token:
    """An invitation for one id and role. `text` is what its holder types; keep it out of logs."""

    id: str
    role: Role
    secret: Secret = field(repr=False)

    @classmethod
    def new(cls, id: str, role: Role, entropy: Entropy) -> Self:
        return cls(id, role, Secret(entropy(TOKEN_SIZE)))

    @property
    def text(self) -> str:
        return f"{self.id}/{self.role}/{base64.b32encode(self.secret.reveal()).decode().rstrip('=').lower()}"

    @classmethod
    def read(cls, text: str) -> Self:
        """The token that `text` wrote, in letters of either case. Raises `BadInput`, which does not quote it."""
        id, _, rest = text.strip().partition("/")
        role, _, letters = rest.partition("/")
        try:
            secret = base64.b32decode(letters.upper() + "=" * (-len(letters) % 8))
            msgspec.convert(id, MemberId)
        except (binascii.Error, ValueError, msgspec.ValidationError):
            secret = b""
        if role not in ROLES or len(secret) != TOKEN_SIZE:
            raise BadInput("this is not a token of `smpc-fl roster invite`: copy all of it, such as id/owner/2q4z…")
        return cls(id, role, Secret(secret))

    @property
    def verifier(self) -> bytes:
        """32 bytes that check a request under this token, and do not give the token away."""
        return derive_key("smpc-fl/1 invitation", self.secret.reveal(), self.id.encode(), self.role.encode())


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """To become a member with this key. `mac` is under the token, `possession` the key's own signature of it."""

    id: MemberId
    role: Role
    key: PublicKey
    address: Address
    mac: Annotated[bytes, Meta(min_length=32, max_length=32)]
    possession: Signature


def _mac(verifier: bytes, id: str, role: str, key: bytes, address: str) -> bytes:
    return derive_key("smpc-fl/1 enrolment", verifier, id.encode(), role.encode(), key, address.encode())


def _covered(mac: bytes) -> bytes:
    return digest("smpc-fl/1 enrolled key", mac)


def ask(token: Token, identity: Identity, address: str = "") -> Request:
    """The new member's request. `address`: where an aggregator or a coordinator listens."""
    key = identity.public.key
    mac = _mac(token.verifier, token.id, token.role, key, address)
    return Request(token.id, token.role, key, address, mac, identity.sign(_covered(mac)))


def check(request: Request, verifier: bytes) -> Member:
    """Who asks, if it was invited with the token of this verifier. Raises `BadSignature`."""
    mac = _mac(verifier, request.id, request.role, request.key, request.address)
    if not hmac.compare_digest(mac, request.mac):
        raise BadSignature(
            f"the request of {request.id} was not made with the token of its invitation, or was altered since: nothing in it "
            "can be believed"
        )
    if not PublicIdentity(request.key).verify(_covered(mac), request.possession):
        raise BadSignature(f"the request of {request.id} does not show that it has the private half of its key")
    return Member(request.id, request.role, request.key, request.address)
