"""Runs of programs on shared tensors: the one signed statement that a run is about, and the rules by which all check it.

    researcher                  parties (aggregators)            crypto provider
    ComputingKeyRequest   ->    ComputingKey               <-    ComputingKey        X25519, fresh for this run, signed
    ComputationOffer      ->    check, run                 ->    check, deal         the statement with all of these keys
                                <- Dealt                                             seeds and corrections, sealed to each
                                <-> Openings, round by round                         sealed between two parties
                          <-    ComputationDone                                      outputs' shares, sealed

Every key that something is sealed under is derived from the statement's hash, so parties that hold different statements
cannot read a word of each other. A member gives one key for a run id, ever; the key is gone when the run is over, or with
the process. So a run is never taken up again: whoever lost a part of it begins another, under a new id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from smpc_fl.errors import ComputationRefused, VersionMismatch
from smpc_fl.hashing import digest
from smpc_fl.protocols import commands
from smpc_fl.protocols.envelopes import check_key
from smpc_fl.protocols.messages import PROTOCOL_VERSION, Computation, ComputingKey, Signed
from smpc_fl.protocols.party import Party
from smpc_fl.roster import Role

PHASE = "computing"
LONGEST_RUN = 24 * 3600.0
"""Seconds that a deadline may lie ahead."""
KEY_LIFE = 900.0
"""Seconds that a key for a run waits for the run's statement."""


@dataclass(frozen=True)
class RunTaken:
    """To be durable: this member has given its key for the run, and gives no other for that id, ever."""


@dataclass(frozen=True)
class Continue:
    """To the provider's machine: what it had to say is on its way, it may deal on."""


@dataclass(frozen=True)
class GoOn:
    """From the provider's machine: `Continue` is wanted, once the commands before it are carried out."""


Event = commands.Event | Continue
Command = commands.Command | GoOn


@dataclass(frozen=True)
class ComputingRules:
    """A node's own policy. `providers`: whom it trusts to deal; none: it computes nothing. `most`: bytes of all the values
    that a program makes, and of what is dealt for it."""

    providers: frozenset[str]
    most: int = 8 << 30


@dataclass(frozen=True)
class Terms:
    """A statement that was checked. `parties`: sorted ids; `keys`: X25519, by member, the researcher's (`owner`) too."""

    statement: Computation
    hash: bytes
    owner: str
    parties: tuple[str, ...]
    provider: str
    keys: Mapping[str, bytes]

    @property
    def members(self) -> frozenset[str]:
        return frozenset(self.keys)


def check(signed: Signed, party: Party, *, now: float) -> Terms:
    """The statement in an envelope, if it keeps every rule that does not need the program. Raises the rule's own error."""
    who = signed.sender
    statement = party.open(signed, Computation, "researcher", phase=PHASE)

    def refuse(why: str) -> ComputationRefused:
        return ComputationRefused(why, peer=who, phase=PHASE)

    if statement.version != PROTOCOL_VERSION:
        raise VersionMismatch(
            f"the computation is of protocol version {statement.version}, this node speaks {PROTOCOL_VERSION}: "
            "run the same release everywhere",
            peer=who,
            phase=PHASE,
        )
    if statement.federation != party.federation or statement.roster_hash != party.membership.roster_hash:
        raise refuse("the computation goes by another federation or roster: bring all to the newest signed version")
    parties = [key.sender for key in statement.parties]
    if parties != sorted(set(parties)):
        raise refuse("the parties of a computation must be sorted, without doubles")
    if statement.revealed != sorted(set(statement.revealed)):
        raise refuse("the outputs to be revealed must be sorted, without doubles")
    if not now < statement.deadline <= now + LONGEST_RUN:
        raise refuse("the deadline has passed, or lies more than a day ahead: check the clocks")
    keys = {key.sender: key_in(key, party, statement.run, "aggregator") for key in statement.parties}
    provider = statement.provider.sender
    keys[provider] = key_in(statement.provider, party, statement.run, "provider")
    keys[who] = statement.key
    check_key(statement.key, who)
    if len(set(keys.values())) != len(keys):
        raise refuse("two members of a computation have the same key")
    return Terms(statement, statement_hash(signed), who, tuple(parties), provider, keys)


def key_in(signed: Signed, party: Party, run: bytes, role: Role) -> bytes:
    """The X25519 key that a member of `role` has signed for this run."""
    said = party.open(signed, ComputingKey, role, phase=PHASE)
    if said.run != run:
        raise ComputationRefused("a key belongs to another run", peer=signed.sender, phase=PHASE)
    check_key(said.public, signed.sender)
    return said.public


def statement_hash(signed: Signed) -> bytes:
    """The 32 bytes that everything in a run is bound to: over the researcher's very bytes."""
    return digest("smpc-fl/1 computation", signed.sender.encode(), signed.body)
