"""What each role writes to its journal before it speaks: a machine is rebuilt from these records alone.

A record's class name is its kind in the journal. Kinds in `SECRET` hold round secrets (prekeys, seeds, keys): they are
erased when the round closes, and with them the round's bulk: the one large vector that a role keeps (an owner its sealed
vector, an aggregator the sum of what it carries, the coordinator the total). Kinds in `SPENT` go with them, because nobody
needs them any more: what is left of a round is how it ended, and the claims in the ledgers of what was summed.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from smpc_fl.protocols.messages import Entry, Hash, Id, Id128, Key, Signed


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


# --- aggregator ---


class Prepared(Record, frozen=True):
    """The private half of this attempt's prekey."""

    private: Key


class Accepted(Record, frozen=True):
    """The one manifest of this (run, round, attempt)."""

    manifest: Signed


class SeedTaken(Record, frozen=True):
    """An owner's share where it is a seed."""

    owner: Id
    report_id: Hash
    seed: Key


class VectorAdded(Record, frozen=True):
    """An owner's share at its carrier: it is in the sum of the vectors, which became durable (`bulk`) with this record."""

    owner: Id
    report_id: Hash


class Frozen(Record, frozen=True):
    """`releases` as in `FrozenList`."""

    entries: list[Entry]
    releases: int = 0


class Voted(Record, frozen=True):
    """`choice`, `reason` and `code` as in `Vote`; `agreed`: S, empty for an abort; `heard`: how many sums each peer had said
    that it had voted to release, by key (hex)."""

    choice: bytes
    agreed: list[Entry]
    reason: str
    code: str = ""
    heard: dict[str, int] = {}


class Claim(Record, frozen=True):
    """In a computation's ledger: an attempt voted for the sum over these owners, so that it may be released. `number`: it
    counts this aggregator's claims, with this one."""

    run: Id128
    round: int
    attempt: int
    owners: list[Id]
    number: int = 0


class Withdrawn(Record, frozen=True):
    """In a computation's ledger: the attempt was aborted; its claim counts no more."""

    run: Id128
    round: int
    attempt: int


class Released(Record, frozen=True):
    """`heard`: how many sums each peer has voted to release, this one too, as far as is known; by key (hex)."""

    set_hash: Hash
    heard: dict[str, int] = {}


class Aborted(Record, frozen=True):
    reason: str


class Outdated(Record, frozen=True):
    """This journal is older than what the node has said: it was restored from a copy. `witness` showed it. Nothing of this
    attempt leaves the node any more, not even an abort, which what it said before may forbid."""

    witness: Id


class Closed(Record, frozen=True):
    """The coordinator has receipted the release, or nobody went on with the round: nothing secret is left."""


# --- owner ---


class Reporting(Record, frozen=True):
    """All of a report, before its first byte leaves: seeds by aggregator, blinders and commitments in the aggregators'
    order, the private half of the ephemeral key, and the key of the sealed vector, which became durable (`bulk`) with
    this record. The encoded update is that vector, opened, plus the seeds' streams."""

    seeds: dict[str, Annotated[bytes, Meta(min_length=32, max_length=32)]]
    blinders: list[Key]
    commitments: list[Hash]
    ephemeral: Key
    vector_key: Key


class Done(Record, frozen=True):
    """How the owner's part ended: reported with this id, or refused for this reason (a code and a text)."""

    report_id: bytes
    code: str
    text: str


class Decrypting(Record, frozen=True):
    """An owner decrypts this sum (its digest) in this attempt, and no other."""

    digest: Hash


# --- coordinator ---


class Opened(Record, frozen=True):
    """The private half of the key that this attempt's partial sums are sealed to."""

    private: Key


class Made(Record, frozen=True):
    manifest: Signed


class Agreed(Record, frozen=True):
    """S, as every aggregator voted for it."""

    entries: list[Entry]


class Summed(Record, frozen=True):
    """Every partial sum is in the total, which became durable (`bulk`) with this record, before any was receipted. `released`:
    the aggregator's `EncryptedSum`, where the total is one of ciphertexts."""

    released: Signed | None = None


class SumDecrypted(Record, frozen=True):
    """The sum is decrypted: the total in the manifest's ring became durable (`bulk`) with this record. `uploaded`: bytes of
    the answer of the owner who did it."""

    owner: Id
    uploaded: int


SECRET = frozenset({"Prepared", "SeedTaken", "Reporting", "Opened"})
SPENT = frozenset({"Accepted", "VectorAdded", "Frozen", "Voted", "Decrypting"})
ERASED = SECRET | SPENT
"""What `EraseSecrets` takes away."""

KINDS: dict[str, type[Record]] = {kind.__name__: kind for kind in Record.__subclasses__()}
