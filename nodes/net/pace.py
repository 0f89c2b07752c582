"""How much each member says, over all its connections: a budget that comes back with time."""

from __future__ import annotations

import asyncio

from smpc_fl.nodes.net.budget import Budget
from smpc_fl.nodes.net.limits import Limits
from smpc_fl.protocols.messages import Signed

PAGE = 14
"""2^14 bytes of a message count as one message more: they take as long to check."""
CONNECTING = 20.0
"""Messages that a new connection counts for: two key agreements and four signatures."""
REFUSED = 50.0
"""Messages that one counts for that had to be refused: it was answered, and written into the log."""
TELL_EVERY = 60.0
"""Seconds between two warnings to one member."""


def cost_of(signed: Signed, attachment: object) -> float:
    """What a message counts for. A long attachment has waited for its room instead (`room.py`)."""
    size = len(signed.body)
    if type(attachment) is memoryview:
        size += attachment.nbytes
    return 1.0 + (size >> PAGE)


class Pace:
    """One member's. `owed`: seconds until it may say more."""

    __slots__ = ("_budget", "_clock", "_told", "_until")

    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self._clock = loop.time
        self._budget = Budget(limits.messages, limits.messages_burst, loop.time())
        self._until, self._told = 0.0, -TELL_EVERY

    def spend(self, cost: float) -> None:
        now = self._clock()
        owed = self._budget.take(cost, now)
        self._until = now + owed if owed else 0.0

    @property
    def owed(self) -> float:
        return self._until - self._clock() if self._until else 0.0

    def tell(self) -> bool:
        """Whether it is time to tell the member that it says too much."""
        now = self._clock()
        if now - self._told < TELL_EVERY:
            return False
        self._told = now
        return True


class Paces:
    """By member: as many as the roster has."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._of: dict[str, Pace] = {}

    def of(self, member: str) -> Pace:
        pace = self._of.get(member)
        if pace is None:
            pace = self._of[member] = Pace(self._limits, asyncio.get_running_loop())
        return pace
