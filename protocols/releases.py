"""Sums that could be subtracted from each other, and what an aggregator remembers of its releases.

Two releases over the same computation on the same model are two equations in the same unknowns. Where their agreed sets
differ by one owner, the difference is that owner's update. Over a family of sets, whatever is formed of the sums (the
differences of differences as well) is a combination of the sums over the *cells* of the family: the owners that are in
exactly the same sets. So every cell must be empty or have at least k_min owners; for two sets that is the rule that they
differ, each way, by nobody or by k_min owners. Compare the inference attacks on statistical databases, Denning, Denning
and Schwartz, "The Tracker", ACM TODS 4(1), 1979, and their defence by query-set overlap and partitioning.

The rule is about computations that are the same; a job that is changed a little is another one (`docs/security.md`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from smpc_fl.hashing import digest
from smpc_fl.protocols.messages import Manifest
from smpc_fl.protocols.records import Claim, Record, Released, Withdrawn

Key = tuple[bytes, int, int]
"""(run, round, attempt)."""


def computation_of(manifest: Manifest) -> bytes:
    """32 bytes that name what a manifest's sum is of: the subject, on the model."""
    return digest("smpc-fl/1 computation", manifest.subject, manifest.model_digest)


def isolates(sets: Collection[Collection[str]], k_min: int) -> bool:
    """Whether sums over all these sets of owners, taken together, show the sum over fewer than `k_min` of them."""
    places: dict[str, int] = defaultdict(int)  # owner -> the sets that it is in, a bit each
    for number, owners in enumerate(sets):
        for owner in owners:
            places[owner] |= 1 << number
    return any(size < k_min for size in Counter(places.values()).values())


class Releases:
    """One aggregator's book, shared by the machines of all its rounds.

    A vote for S claims S for the attempt: it may be released from then on. An abort withdraws the claim. What is durable
    is in the ledger of the computation (`Persist.ledger`), which `past` reads; the claims of attempts that are open are
    remembered here as well, because a machine is ahead of its disk.

    `number`: claims so far, withdrawn ones too; `heard`: how many each peer is known to have made, by its key (hex)."""

    def __init__(self, past: Callable[[bytes], Sequence[Record]] = lambda computation: ()) -> None:
        self.number = 0
        self.heard: dict[str, int] = {}
        self._past = past
        self._open: dict[Key, tuple[bytes, frozenset[str]]] = {}

    def learn(self, record: Claim | Released) -> None:
        """The newest ones of the journal at start, each one when it is made."""
        if isinstance(record, Claim):
            self.number = max(self.number, record.number)
        else:
            self.hear(record.heard)

    def hear(self, counts: Mapping[str, int]) -> None:
        for peer, count in counts.items():
            self.heard[peer] = max(count, self.heard.get(peer, 0))

    def claim(self, key: Key, computation: bytes, owners: Iterable[str]) -> None:
        self._open[key] = computation, frozenset(owners)

    def withdraw(self, key: Key) -> None:
        self._open.pop(key, None)

    def others(self, key: Key, computation: bytes) -> list[frozenset[str]]:
        """The sets of this computation that any other attempt has released, or still may."""
        claims: dict[Key, frozenset[str]] = {}
        for record in self._past(computation):
            assert isinstance(record, Claim | Withdrawn)
            attempt = (record.run, record.round, record.attempt)
            if isinstance(record, Claim):
                claims[attempt] = frozenset(record.owners)
            else:
                claims.pop(attempt, None)
        claims |= {other: owners for other, (about, owners) in self._open.items() if about == computation}
        claims.pop(key, None)
        return sorted(set(claims.values()), key=sorted)
