"""How often this owner takes part in rounds, whoever asks: `[policy] round_interval` and `rounds_a_day`.

Counted are rounds that are taken on, across runs, researchers and restarts; a further attempt at a round and the evaluation
that follows a round of training go with it. The clock is the node's own; one that was set back starts the count again.
"""

from __future__ import annotations

import msgspec

from smpc_fl.errors import ManifestRefused
from smpc_fl.nodes.home.config import OwnerPolicy
from smpc_fl.nodes.home.journal import Journal

DAY = 24 * 3600.0
_KEY = "cadence"


class _Taken(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The newest round that was counted, when (seconds since the epoch), and how many since `day` began."""

    run: bytes = b""
    round: int = 0
    at: float = 0.0
    day: float = 0.0
    count: int = 0


class Cadence:
    """Durable. With neither limit set it writes nothing and refuses nothing."""

    def __init__(self, policy: OwnerPolicy, journal: Journal) -> None:
        self._policy, self._journal = policy, journal
        data = journal.get(_KEY)
        self._last = msgspec.msgpack.decode(data, type=_Taken) if data else _Taken()

    async def take(self, run: bytes, round_: int, purpose: str, now: float) -> _Taken | None:
        """Count a round that this owner is about to take on, durably; what to `give_back` if it does not. Raises
        `ManifestRefused` for one that comes too soon."""
        interval, most = self._policy.round_interval, self._policy.rounds_a_day
        last = self._last if self._last.at <= now else _Taken()
        follows = purpose == "evaluate" and (run, round_ - 1) == (last.run, last.round)
        if not (interval or most) or follows:
            return None
        if now - last.at < interval:
            raise _refused(
                f"takes part in a round every {interval:g} s at most (round_interval)", last.at + interval - now
            )
        day, count = (last.day, last.count) if now - last.day < DAY else (now, 0)
        if most and count >= most:
            raise _refused(f"takes part in {most} rounds a day at most (rounds_a_day)", day + DAY - now)
        before = self._last
        await self._keep(_Taken(run, round_, now, day, count + 1))
        return before

    async def give_back(self, before: _Taken | None) -> None:
        """The round was not taken on after all: bad offers use nothing up."""
        if before is not None:
            await self._keep(before)

    async def _keep(self, taken: _Taken) -> None:
        await self._journal.put(_KEY, msgspec.msgpack.encode(taken))
        self._last = taken


def _refused(what: str, wait: float) -> ManifestRefused:
    return ManifestRefused(f"this owner {what}: the next in {wait:.0f} s", phase="offer")
