"""What this owner has given into sums: of which computation on which model, over which of its data, with which owners.

The owner's own half of the rule of `protocols.releases`, which aggregators hold against agreed sets. An owner does not learn
who was in a sum in the end, so here the rule is over the cohorts of manifests; and it alone knows whether its data are still
the same. A contribution is noted, durably, before its first byte leaves: after a crash it counts as given.

Attempts of one round share the same integers, and at most one of them is released, so the newest stands for its round.

One journal stream a computation: a round looks up its own, and nothing is read at the start. A cohort is kept once, under its
hash, so that a round of training adds about 200 bytes, and a statistic that is asked for every day no more than the first time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from functools import lru_cache

import msgspec

from smpc_fl.hashing import digest
from smpc_fl.nodes.home.journal import Journal

Key = tuple[bytes, int]
"""(run, round)."""
ANY = b""
"""In the place of a data's digest: it is not known any more, so it is that of all data."""


class Contribution(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`data`: digest of what was read for it, a secret of the owner's; `cohort`: hash of the owners' names."""

    run: bytes
    round: int
    data: bytes
    cohort: bytes


class Contributions:
    """One owner's ledger of contributions. `computation`: as `releases.computation_of` gives it."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._noting = asyncio.Lock()
        self._owners = lru_cache(maxsize=16)(self._read_owners)

    def earlier(self, computation: bytes, data: bytes, but: Key | None = None) -> set[frozenset[str]]:
        """The cohorts of this computation over these data, `but` those of one round. Raises `Unavailable`."""
        noted = self._read(computation)
        own = noted.pop(but, None) if but is not None else None
        # A further attempt shares the integers of the first one, whatever became of the data since.
        over = {data, own.data} if own else {data}
        return {self._owners(each.cohort) for each in noted.values() if each.data in over or ANY in (each.data, *over)}

    async def note(
        self, computation: bytes, data: bytes | None, key: Key, cohort: Collection[str], open_: Collection[Key] = ()
    ) -> None:
        """Durable when it returns; again is harmless. `data`: None where this node was restarted since it read them;
        `open_`: rounds that may see further attempts, whose entries may still change. Raises `Unavailable`."""
        async with self._noting:
            noted = self._read(computation)
            own = noted.get(key)
            if data is None:
                data = own.data if own else ANY
            new = Contribution(*key, data, _hash(cohort))
            if own == new:
                return
            if own is None and any(
                (each.data, each.cohort) == (new.data, new.cohort) and other not in open_
                for other, each in noted.items()
            ):
                return  # the very same sum again
            await self._keep_owners(new.cohort, cohort)
            await self._journal.append(_stream(computation), "contribution", msgspec.msgpack.encode(new))

    def _read(self, computation: bytes) -> dict[Key, Contribution]:
        """By round, its newest attempt's."""
        found = [
            msgspec.msgpack.decode(data, type=Contribution) for _, data in self._journal.read(_stream(computation))
        ]
        return {(each.run, each.round): each for each in found}

    def _read_owners(self, hash_: bytes) -> frozenset[str]:
        data = self._journal.get(_cohort(hash_))
        assert data is not None, "a cohort is durable before what refers to it"
        return frozenset(msgspec.msgpack.decode(data, type=list[str]))

    async def _keep_owners(self, hash_: bytes, cohort: Collection[str]) -> None:
        if self._journal.get(_cohort(hash_)) is None:
            await self._journal.put(_cohort(hash_), msgspec.msgpack.encode(sorted(cohort)))


def _stream(computation: bytes) -> str:
    return f"given/{computation.hex()}"


def _cohort(hash_: bytes) -> str:
    return f"cohort/{hash_.hex()}"


def _hash(cohort: Collection[str]) -> bytes:
    return digest("smpc-fl/1 cohort", *(owner.encode() for owner in sorted(cohort)))
