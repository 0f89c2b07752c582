"""An attachment on its way in: announced, waited for, let in, taken piece by piece.

Whoever sends a long attachment first says how long it is, and sends it when the receiver says so. So a node holds no
bytes that it has no room for, and small messages of both directions pass while one waits for room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import numpy as np

from smpc_fl.errors import MalformedMessage, SmpcError, Unavailable
from smpc_fl.nodes.net.room import Place
from smpc_fl.protocols.messages import Signed


class Sink(Protocol):
    """Takes an attachment piece by piece, in order, without a copy: a piece is valid during the call only. Raising an
    `SmpcError` refuses the message.

    It may have a method `abandoned()`, which is called once if the message never completes, or is refused. Either that
    happens, or `Link.receive` hands the sink on."""

    def __call__(self, piece: memoryview, /) -> None: ...


Accept = Callable[[Signed, int], Awaitable[Sink | None]]
"""Told of an envelope with a long attachment (so many bytes) that has not been sent yet. It may wait until there is
room. It gives a sink, or None to have the attachment collected in memory, or refuses by raising an `SmpcError`. The
envelope's signature has not been checked yet."""


def abandon(sink: object) -> None:
    """Tell a sink that nothing more comes."""
    tell = getattr(sink, "abandoned", None)
    if tell is not None:
        tell()


class Collected:
    """A sink: all of it, in memory that has a place. `data` is whole when the message comes; `close` ends its place."""

    def __init__(self, place: Place) -> None:
        self._place = place
        # Not a bytearray: that is cleared before it is filled, and NumPy asks the system for large pages.
        self.data = np.empty(place.size, np.uint8).data
        self._taken = 0

    def __call__(self, piece: memoryview) -> None:
        begin, self._taken = self._taken, self._taken + len(piece)
        self.data[begin : self._taken] = piece

    def abandoned(self) -> None:
        self.close()

    def close(self) -> None:
        """Whoever has the data counts it from now on. Idempotent."""
        self._place.end()


class Attachment:
    """One announced attachment. `admission`: the task that waits for room. `patience`: seconds that the peer has for
    what comes next, None while it may not send.

    Its sink is abandoned, or taken out by `finish`, never both."""

    def __init__(self, signed: Signed, size: int) -> None:
        self.signed = signed
        self.size = size
        self.patience: float | None = None
        self.admission: asyncio.Task[None] | None = None
        self.let_in = False
        self.refused: Exception | None = None
        self._sink: Sink | None = None
        self._collected = memoryview(b"")
        self._taken = 0
        self._over = False

    def open(self, sink: Sink | None) -> None:
        """There is room: the attachment may come."""
        if self._over:
            abandon(sink)
            return
        self._sink, self.let_in = sink, True
        if sink is None:
            # Not a bytearray: that is cleared before it is filled, and NumPy asks the system for large pages.
            self._collected = np.empty(self.size, np.uint8).data

    def take(self, piece: bytes) -> None:
        """The next bytes. Raises `MalformedMessage`, and what is no `SmpcError` out of the sink."""
        begin, self._taken = self._taken, self._taken + len(piece)
        if self._taken > self.size:
            raise MalformedMessage("an attachment is longer than it said")
        if not self._over:
            if self._sink is None:
                self._collected[begin : self._taken] = piece
            else:
                try:
                    self._sink(memoryview(piece))
                except SmpcError as error:
                    self.refuse(error)

    def refuse(self, error: Exception) -> None:
        self.refused = error
        self.abandon()

    def finish(self) -> memoryview | Sink | None:
        """What was taken, or its sink; None if it was refused. Raises `MalformedMessage`, and `Unavailable` when it was
        abandoned."""
        if self._taken < self.size:
            raise MalformedMessage("an attachment is shorter than it said")
        if self.refused is not None:
            return None
        if self._over:
            raise Unavailable("the connection was closed in the midst of an attachment")
        sink, self._sink, self._over = self._sink, None, True
        return self._collected if sink is None else sink

    def abandon(self) -> None:
        """Nothing more is wanted or to be had of it. Idempotent."""
        self._over = True
        sink, self._sink = self._sink, None
        abandon(sink)
        if self.admission is not None and self.admission is not asyncio.current_task():
            self.admission.cancel()
