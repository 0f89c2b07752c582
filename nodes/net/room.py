"""Memory for what peers send, a few things at a time: whoever asked first comes first.

Whoever waits has not sent a byte of it. What is let in may take as long as it likes while nobody waits; when others do,
those that come more slowly than a floor are cut off, so that a few slow peers do not hold up all others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from smpc_fl.nodes.net.limits import Limits

LEAST = 2
"""Things at a time, whatever their size: one is dealt with while the next is on its way."""
LARGE = 1 << 20
"""Bytes of an envelope that needs a place; there is always memory for shorter ones."""
TOO_SLOW = "it came too slowly while others waited for its room"

OnSlow = Callable[[str], None]
"""Told why what has a place is not waited for any longer. It closes the connection, which gives the place back."""


def _bear(why: str) -> None:
    pass


class Place:
    """Room for `size` bytes, until it is ended."""

    __slots__ = ("_room", "on_slow", "size", "until")

    def __init__(self, room: Room, size: int, until: float, on_slow: OnSlow) -> None:
        self._room: Room | None = room
        self.size, self.until, self.on_slow = size, until, on_slow

    def end(self) -> None:
        """It has been dealt with, or is not wanted. Idempotent."""
        room, self._room = self._room, None
        if room is not None:
            room._ended(self)


class Room:
    """`most` bytes at a time. `limits.stall` and `limits.slowest`: how long a peer may take while others wait."""

    def __init__(self, most: int, limits: Limits | None = None) -> None:
        self._most = most
        self._limits = limits or Limits()
        self._places: dict[Place, None] = {}
        self._sizes = 0
        self._waiting: deque[tuple[int, OnSlow, asyncio.Future[Place]]] = deque()
        self._clock: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Bytes that have a place."""
        return self._sizes

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return sum(not turn.done() for _, _, turn in self._waiting)

    async def begin(self, size: int, on_slow: OnSlow = _bear) -> Place:
        """Waits for room for `size` bytes."""
        turn: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, on_slow, turn))
        self._admit()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                turn.result().end()
            raise

    def _admit(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._waiting:
            size, on_slow, turn = self._waiting[0]
            if not turn.done() and len(self._places) >= LEAST and self._sizes + size > self._most:
                self._watch(now)
                return
            self._waiting.popleft()
            if not turn.done():
                place = Place(self, size, now + self._limits.stall + size / self._limits.slowest, on_slow)
                self._places[place] = None
                self._sizes += size
                turn.set_result(place)

    def _watch(self, now: float) -> None:
        """Somebody waits: look again when the first of those who have a place should be through."""
        if self._clock is None and self._places:
            first = min(place.until for place in self._places)
            self._clock = asyncio.get_running_loop().call_later(max(0.0, first - now), self._look)

    def _look(self) -> None:
        self._clock, now = None, asyncio.get_running_loop().time()
        if not self.waiting:
            return
        for place in [place for place in self._places if place.until <= now]:
            place.until = now + self._limits.stall  # told once, and again if its connection does not end
            place.on_slow(TOO_SLOW)
        self._watch(now)

    def _ended(self, place: Place) -> None:
        del self._places[place]
        self._sizes -= place.size
        self._admit()
