"""Who may say what, and how long it can be: read off the messages themselves (`protocols/messages.py`).

The longest encoding of a type follows from the caps of its fields, once it is known how many members and aggregators the
federation has, and which message is in each envelope that travels inside another one. It is compared with an envelope's
length before the envelope has arrived; decoding then holds every field to its own cap.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import msgspec
from msgspec import inspect

from smpc_fl.protocols.codec import MAX_BODY
from smpc_fl.protocols.messages import (
    LONGEST_TEXT,
    AbortRequest,
    Answer,
    AttemptAborted,
    CancelRun,
    Command,
    Computation,
    ComputationDone,
    ComputationFailed,
    ComputationOffer,
    ComputingKey,
    ComputingKeyRequest,
    Dealt,
    DecryptedSum,
    DecryptRequest,
    EncryptedSum,
    Endorsement,
    ForgetTensors,
    FreezeRequest,
    FrozenList,
    FrozenLists,
    JobAnswer,
    JobOffer,
    Manifest,
    ManifestOffer,
    Message,
    Openings,
    PartialSum,
    Prekey,
    PrekeyRequest,
    Receipt,
    Refusal,
    Relay,
    ReleaseReceipt,
    Reported,
    ResumeRun,
    RosterOffer,
    RoundClosed,
    RoundOffer,
    RoundResult,
    RunState,
    SeedReport,
    Signed,
    StartRun,
    Status,
    StatusRequest,
    Subscribe,
    TensorHeld,
    TensorShare,
    VectorReport,
    Vote,
    Votes,
)
from smpc_fl.roster import MAX_MEMBERS, MAX_ROSTER

SMALL = 1 << 14
"""Bytes of an envelope that is taken of any type: it is decoded before anybody could measure it."""
HEAD = 512
"""Bytes of an envelope that show its type, at most."""
MOST_ATTEMPTS = 100
"""Attempts at a round, the most that a coordinator's policy may allow: each has one abort of every aggregator."""
NEWER = 1024
"""Members more than we know of: the sender's roster may be newer than ours."""

Sizes = Callable[[str], int]
"""Bytes of the longest envelope around a message of this type that a peer may send; 0: it may send none."""
Says = dict[tuple[str, str], tuple[type[Message], ...]]

SAYS: Says = {
    ("coordinator", "aggregator"): (
        PrekeyRequest, ManifestOffer, FreezeRequest, FrozenLists, Votes, AbortRequest, ReleaseReceipt
    ),
    ("aggregator", "coordinator"): (
        Prekey, Endorsement, FrozenList, Vote, AttemptAborted, PartialSum, EncryptedSum
    ),
    ("coordinator", "owner"): (JobOffer, RoundOffer, RoundClosed, DecryptRequest, Relay),
    ("owner", "coordinator"): (JobAnswer, Reported, DecryptedSum, Relay),
    ("owner", "aggregator"): (SeedReport, VectorReport),
    ("aggregator", "owner"): (Receipt,),
    ("researcher", "coordinator"): (StartRun, Subscribe, CancelRun, ResumeRun, StatusRequest, Relay),
    ("coordinator", "researcher"): (RunState, RoundResult, Status, Relay),
    ("researcher", "aggregator"): (
        ComputingKeyRequest, TensorShare, ForgetTensors, ComputationOffer, ComputationFailed
    ),
    ("aggregator", "researcher"): (ComputingKey, TensorHeld, ComputationDone, ComputationFailed),
    ("researcher", "provider"): (ComputingKeyRequest, ComputationOffer, ComputationFailed),
    ("provider", "researcher"): (ComputingKey, ComputationFailed),
    ("provider", "aggregator"): (Dealt, ComputationFailed),
    ("aggregator", "provider"): (ComputationFailed,),
    ("aggregator", "aggregator"): (Openings, ComputationFailed),
}  # fmt: skip
"""(who says it, to whom): what it may be. Everybody may refuse, and offer a roster."""
ANYBODY: tuple[type[Message], ...] = (Refusal, RosterOffer)

COMPUTING = frozenset({"TensorShare", "ComputationOffer", "Openings", "Dealt", "ComputationDone"})
"""What may have a long attachment in shared tensors' runs."""
ATTACHED = COMPUTING | {
    "RoundOffer", "VectorReport", "PartialSum", "EncryptedSum", "DecryptRequest", "DecryptedSum", "StartRun", "RunState",
    "RoundResult",
}  # fmt: skip
"""What may have a long attachment."""

_INSIDE: dict[tuple[type[msgspec.Struct], str], tuple[type[Message], ...]] = {
    (ManifestOffer, "manifest"): (Manifest,),
    (RoundOffer, "manifest"): (Manifest,),
    (RoundOffer, "endorsements"): (Endorsement,),
    (Manifest, "aggregators"): (Prekey,),
    (Manifest, "aborts"): (AttemptAborted,),
    (VectorReport, "receipts"): (Receipt,),
    (FrozenLists, "lists"): (FrozenList,),
    (DecryptRequest, "released"): (EncryptedSum,),
    (Votes, "votes"): (Vote, AttemptAborted),
    (JobOffer, "start"): (StartRun,),
    (Relay, "inner"): (Command, Answer),
    (ComputationOffer, "computation"): (Computation,),
    (Computation, "parties"): (ComputingKey,),
    (Computation, "provider"): (ComputingKey,),
}
"""What is in the envelopes that a message carries."""

_TYPE = re.compile(rb"(?:[\x80-\x8f]|\xde..)\xa4type([\xa0-\xbf])", re.DOTALL)
_BODY = re.compile(
    rb"\x83\xa6sender(?:[\xa0-\xbf]|\xd9.)[A-Za-z0-9_.@-]{1,64}\xa4body(?:\xc4.|\xc5..|\xc6....)", re.DOTALL
)


def type_of(body: bytes) -> str:
    """The name of an encoded message's type, or "": the tag comes first in its one spelling."""
    found = _TYPE.match(body)
    if found is None:
        return ""
    end = found.end()
    return body[end : end + found[1][0] - 0xA0].decode("ascii", "replace")


def type_in(envelope: bytes) -> str:
    """The same of the message in an envelope, of which the first `HEAD` bytes are there."""
    found = _BODY.match(envelope)
    return "" if found is None else type_of(envelope[found.end() :])


@lru_cache(maxsize=64)
def allowed(sender: str, receiver: str, members: int, aggregators: int) -> dict[str, int]:
    """By type, what a member of role `sender` may say to one of role `receiver`: bytes of the longest envelope."""
    kinds = (*SAYS.get((sender, receiver), ()), *ANYBODY)
    return {kind.__name__: longest(kind, members=members, aggregators=aggregators) for kind in kinds}


def longest(kind: type[Message], *, members: int, aggregators: int) -> int:
    """Bytes of the longest envelope around such a message, in a federation of so many."""
    if kind is RosterOffer:
        return MAX_ROSTER + HEAD
    people = min(members + NEWER, MAX_MEMBERS)

    def envelope(kinds: tuple[type[Message], ...]) -> int:
        # Three field names, an id, a signature, and the heads of all of these.
        return 192 + max(struct(kind) for kind in kinds)

    def struct(kind: type[msgspec.Struct]) -> int:
        told = inspect.type_info(kind)
        assert isinstance(told, inspect.StructType)
        tag = 0 if told.tag is None else 8 + len(str(told.tag))
        inside = {name: kinds for (of, name), kinds in _INSIDE.items() if of is kind}
        return (
            tag + 5 + sum(2 + len(field.name) + size(field.type, inside.get(field.name, ())) for field in told.fields)
        )

    def size(told: inspect.Type, inside: tuple[type[Message], ...]) -> int:
        match told:
            case inspect.BytesType(max_length=most):
                return 5 + (most if most is not None else MAX_BODY)
            case inspect.StrType(max_length=most, pattern=pattern):
                wide = 1 if pattern is not None else 4  # patterns are of ASCII
                return 5 + wide * (most if most is not None else LONGEST_TEXT)
            case inspect.ListType(item_type=item, max_length=most):
                return 5 + _count(most, inside, people, aggregators) * size(item, inside)
            case inspect.DictType(key_type=key, value_type=value):
                return 5 + people * (size(key, ()) // 64 + 69 + size(value, ()))
            case inspect.StructType(cls=cls):
                return envelope(inside) if cls is Signed else struct(cls)
            case _:
                return 9  # numbers and booleans

    return min(envelope((kind,)), MAX_BODY)


def _count(most: int | None, inside: tuple[type[Message], ...], people: int, aggregators: int) -> int:
    """Entries of a list: what its own cap says, and not more than there are members of that kind."""
    if AttemptAborted in inside and Vote not in inside:
        people = aggregators * MOST_ATTEMPTS
    elif inside:
        people = aggregators
    return people if most is None else min(most, people)
