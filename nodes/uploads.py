"""Room for the vectors that are on their way in: a few at a time, in buffers that are used again.

Whoever else wants to upload waits, without a byte of its vector having been sent (`net.link` asks first), so an aggregator's
memory does not grow with the number of owners.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from smpc_fl.nodes.net.limits import Limits
from smpc_fl.nodes.net.room import OnSlow, Place, Room
from smpc_fl.protocols.vectors import VectorOpener
from smpc_fl.ring import RingArray

Words = Callable[[int, np.dtype[np.unsignedinteger]], RingArray]


class Uploads:
    """Vectors of `most` bytes together at a time (`net.room`). Whoever asked first comes first."""

    def __init__(self, most: int, limits: Limits | None = None) -> None:
        self._room = Room(most, limits)
        self._free: list[RingArray] = []

    async def begin(self, size: int, on_slow: OnSlow = lambda why: None) -> Upload:
        """Waits for room for `size` bytes. The upload is closed, or abandoned, by whoever has it. `on_slow`: how its
        connection is closed if it comes too slowly while others wait."""
        return Upload(self, await self._room.begin(size, on_slow))

    def forget(self) -> None:
        """Overwrite the shares that lie in the buffers: nothing more of a round comes. The memory serves the next one."""
        for free in self._free:
            free.fill(0)

    def buffer(self, n: int, dtype: np.dtype[np.unsignedinteger]) -> RingArray:
        for place, free in enumerate(self._free):
            if free.size == n and free.dtype == dtype:
                return self._free.pop(place)
        self._free.clear()  # of another round: a federation's models differ in size at most now and then
        return np.empty(n, dtype)

    def end(self, place: Place, buffer: RingArray | None) -> None:
        if buffer is not None:
            self._free.append(buffer)
        place.end()


class Upload:
    """One vector on its way in: the transport's sink. Without an `opener` what comes is dropped (it is known already)."""

    def __init__(self, room: Uploads, place: Place) -> None:
        self.opener: VectorOpener | None = None
        self._place = place
        self._room: Uploads | None = room
        self._buffer: RingArray | None = None

    def words(self, n: int, dtype: np.dtype[np.unsignedinteger]) -> RingArray:
        """The place, ring[n], that the vector is opened into."""
        assert self._room is not None
        self._buffer = self._room.buffer(n, dtype)
        return self._buffer

    def __call__(self, piece: memoryview) -> None:
        if self.opener is not None:
            self.opener(piece)

    def abandoned(self) -> None:
        """The connection broke off, or what came was refused."""
        self.close()

    def close(self) -> None:
        """The vector has been added, or is not wanted: its room is free. Idempotent."""
        room, self._room = self._room, None
        if room is not None:
            self.opener = None
            room.end(self._place, self._buffer)
