"""A simulated federation's members: real Ed25519 identities, all derived from one key that the simulating process holds.

That one process, and every worker that it tells, can derive every key is what makes this a simulation: it protects nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from smpc_fl.errors import BadInput
from smpc_fl.hashing import derive_key
from smpc_fl.identity import Identity, PublicIdentity
from smpc_fl.protocols.party import Party
from smpc_fl.roster import MAX_MEMBERS, Member, Membership, Role, Roster, open_roster, sign_roster
from smpc_fl.secret import Secret

COORDINATOR = "coordinator"


@dataclass(frozen=True)
class Federation:
    """`signed`: the roster as its members hold it; `key`: 32 bytes that every identity derives from."""

    key: bytes = field(repr=False)
    signed: bytes = field(repr=False)

    @property
    def membership(self) -> Membership:
        """What every member believes: one object for all of them in a process."""
        return _membership(self.signed, _identity(self.key, "").public.key)

    def party(self, id_: str) -> Party:
        return Party(id_, _identity(self.key, id_), self.membership)


def make_federation(owners: Sequence[str], aggregators: int, key: bytes) -> Federation:
    """Keys for everybody and a signed roster. `key`: 32 bytes of entropy. Raises `BadInput`, `ConfigInvalid`."""
    if len(owners) + aggregators + 1 > MAX_MEMBERS:
        raise BadInput(
            f"{len(owners)} owners: with aggregators and coordinator a roster has at most {MAX_MEMBERS} members"
        )
    roles: dict[str, Role] = {COORDINATOR: "coordinator"}
    roles |= dict.fromkeys((f"aggregator-{number}" for number in range(1, aggregators + 1)), "aggregator")
    taken = roles.keys() & set(owners)
    if taken:
        raise BadInput(f"{', '.join(sorted(taken))}: an owner needs a name that no other node has")
    roles |= dict.fromkeys(owners, "owner")
    # Nobody dials these addresses; a roster has one for everybody who would listen.
    members = [
        Member(id_, role, _identity(key, id_).public.key, "" if role == "owner" else "ws://127.0.0.1:1")
        for id_, role in roles.items()
    ]
    return Federation(key, sign_roster(Roster.of("simulation", 1, members), _identity(key, "")))


@lru_cache(maxsize=2)
def _membership(signed: bytes, federation_key: bytes) -> Membership:
    federation = PublicIdentity(federation_key)
    return Membership(open_roster(signed, federation), federation)


def _identity(key: bytes, id_: str) -> Identity:
    return Identity(Secret(derive_key("smpc-fl/1 simulated", key, id_.encode())))
