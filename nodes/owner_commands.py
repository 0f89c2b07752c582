"""Which commands of which researcher's sessions an owner has taken: each works once, also across restarts.

A session's commands carry a growing number; the highest that was taken is durable before it is acted upon. Of a researcher's
sessions the newest `SESSIONS` are remembered. Ids of sessions are in the order of their beginnings (`relay.session_id`), so
what is not remembered and not newer than everything that was forgotten is old: its commands may have been taken before.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from smpc_fl.errors import BadInput, Unavailable
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.protocols.relay import PHASE, begun

SESSIONS = 256
"""Of one researcher."""
AHEAD = 24 * 3600.0
"""Seconds that a researcher's clock may be ahead of ours: its old sessions would keep the new ones out for so long."""


class _Marks(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """`taken`: by session, the one used last behind; `forgotten`: the newest session that is not in it any more."""

    taken: dict[bytes, int] = {}
    forgotten: bytes = b""


class Commands:
    """Not safe for two calls with one researcher at once: the node takes its commands in turn. `clock()`: seconds since
    the epoch."""

    def __init__(self, journal: Journal, clock: Callable[[], float]) -> None:
        self._journal, self._clock = journal, clock
        self._marks: dict[str, _Marks] = {}

    async def take(self, researcher: str, session: bytes, sequence: int) -> bool:
        """Whether this command is new: then it is not, durably, from now on. Raises `Unavailable` for a session that is too
        old to tell (or a disk that is full), `BadInput` for one that has not begun yet."""
        marks = self._of(researcher)
        last = marks.taken.get(session)
        if last is None:
            if begun(session) > self._clock() + AHEAD:
                raise BadInput("this session begins more than a day from now: set the researcher's clock", phase=PHASE)
            if session <= marks.forgotten:
                raise Unavailable("this session is too old here: connect again, for a new one", phase=PHASE)
        elif sequence <= last:
            return False
        taken = {other: number for other, number in marks.taken.items() if other != session} | {session: sequence}
        forgotten = marks.forgotten
        while len(taken) > SESSIONS:
            oldest = next(iter(taken))
            del taken[oldest]
            forgotten = max(forgotten, oldest)
        new = _Marks(taken, forgotten)
        await self._journal.put(_key(researcher), msgspec.msgpack.encode(new))
        self._marks[researcher] = new
        return True

    def _of(self, researcher: str) -> _Marks:
        if researcher not in self._marks:
            data = self._journal.get(_key(researcher))
            self._marks[researcher] = msgspec.msgpack.decode(data, type=_Marks) if data else _Marks()
        return self._marks[researcher]


def _key(researcher: str) -> str:
    return f"commands/{researcher}"
