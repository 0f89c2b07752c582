"""The states of an aggregator's attempt, and what leads from one to another.

    state      event                     next       what is said, after what is durable
    ─────────  ────────────────────────  ─────────  ──────────────────────────────────────────────
    EMPTY      PrekeyRequest             PREPARED   Prepared -> Prekey
    PREPARED   ManifestOffer             OPEN       Accepted -> Endorsement
    OPEN       SeedReport                OPEN       SeedTaken -> Receipt
    OPEN       VectorReport              OPEN       VectorAdded, with the sum -> Receipt
    OPEN       all in, FreezeRequest,    FROZEN     Frozen -> FrozenList
               deadline
    FROZEN     FrozenLists               VOTED      Voted -> Vote (for S, or an abort)
    VOTED      Votes, all for S          RELEASED   Released -> PartialSum
    OPEN…      Votes with an abort       ABORTED    Aborted -> AttemptAborted
    VOTED
    EMPTY…     AbortRequest              ABORTED    Aborted -> AttemptAborted (not after a vote for S)
    FROZEN
    OPEN,      Start, the sum is lost    ABORTED    Aborted -> AttemptAborted (the node came back from a backup)
    FROZEN
    RELEASED   ReleaseReceipt            CLOSED     Closed, secrets erased
    OPEN…      own words that the        OUTDATED   Outdated -> Refusal, to everything (the node came back from a backup)
    VOTED      journal does not have
    OPEN…      long after the deadline   ABORTED,   as above (nobody went on with the attempt)
    RELEASED                             CLOSED

`TRANSITIONS` is this table as data; the documentation's diagram is drawn from it.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    EMPTY = "empty"
    PREPARED = "prepared"
    OPEN = "open"
    FROZEN = "frozen"
    VOTED = "voted"
    RELEASED = "released"
    ABORTED = "aborted"
    OUTDATED = "outdated"
    CLOSED = "closed"


TRANSITIONS: dict[tuple[State, str], State] = {
    (State.EMPTY, "PrekeyRequest"): State.PREPARED,
    (State.PREPARED, "ManifestOffer"): State.OPEN,
    (State.OPEN, "SeedReport: all are in"): State.FROZEN,
    (State.OPEN, "VectorReport: all are in"): State.FROZEN,
    (State.OPEN, "FreezeRequest"): State.FROZEN,
    (State.OPEN, "Tick: the deadline"): State.FROZEN,
    (State.FROZEN, "FrozenLists"): State.VOTED,
    (State.VOTED, "Votes: all for S"): State.RELEASED,
    (State.RELEASED, "ReleaseReceipt"): State.CLOSED,
    (State.OPEN, "Votes: an abort"): State.ABORTED,
    (State.FROZEN, "Votes: an abort"): State.ABORTED,
    (State.VOTED, "Votes: an abort, or two sets"): State.ABORTED,
    (State.EMPTY, "AbortRequest"): State.ABORTED,
    (State.PREPARED, "AbortRequest"): State.ABORTED,
    (State.OPEN, "AbortRequest"): State.ABORTED,
    (State.FROZEN, "AbortRequest"): State.ABORTED,
    (State.VOTED, "AbortRequest: the vote was to abort"): State.ABORTED,
    (State.OPEN, "Start: the sum is lost"): State.ABORTED,
    (State.FROZEN, "Start: the sum is lost"): State.ABORTED,
    (State.OPEN, "Tick: long after the deadline"): State.ABORTED,
    (State.OPEN, "Start: long after the deadline"): State.ABORTED,
    (State.FROZEN, "Tick: long after the deadline"): State.ABORTED,
    (State.FROZEN, "Start: long after the deadline"): State.ABORTED,
    (State.VOTED, "Tick: long after the deadline"): State.CLOSED,
    (State.VOTED, "Start: long after the deadline"): State.CLOSED,
    (State.RELEASED, "Tick: long after the deadline"): State.CLOSED,
    (State.RELEASED, "Start: long after the deadline"): State.CLOSED,
    (State.OPEN, "FrozenLists: its own is not in the journal"): State.OUTDATED,
    (State.FROZEN, "FrozenLists: its own is not in the journal"): State.OUTDATED,
    (State.OPEN, "Votes: its own is not in the journal"): State.OUTDATED,
    (State.FROZEN, "Votes: its own is not in the journal"): State.OUTDATED,
    (State.VOTED, "Votes: its own is not in the journal"): State.OUTDATED,
    (State.OPEN, "ReleaseReceipt"): State.OUTDATED,
    (State.FROZEN, "ReleaseReceipt"): State.OUTDATED,
    (State.VOTED, "ReleaseReceipt"): State.OUTDATED,
}
"""Every change of state: (state, event, after a colon its circumstances) -> state. Any other event leaves it as it is."""

ENDED = (State.ABORTED, State.OUTDATED, State.CLOSED)
