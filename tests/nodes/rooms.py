"""Helper: a receiver's room for long attachments, a sender that sends by hand, and a clock that jumps."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable

import pytest
from websockets.asyncio.connection import Connection
from wires import note, people, settle

from smpc_fl.nodes.net.attachment import Sink
from smpc_fl.nodes.net.framing import INLINE
from smpc_fl.nodes.net.link import Link
from smpc_fl.protocols.codec import encode
from smpc_fl.protocols.messages import Signed

ALICE = people(alice="owner")["alice"]
ENVELOPE = encode(note(ALICE))
GO, DROP, ATTACHMENT = b"\2", b"\3", b"\4"
LONG = 8 * INLINE


def announcement(size: int = LONG) -> bytes:
    return struct.pack(">BIQ", 1, len(ENVELOPE), size) + ENVELOPE


def small(text: str) -> bytes:
    envelope = encode(note(ALICE, text))
    return struct.pack(">BIQ", 0, len(envelope), 0) + envelope


class Room:
    """A receiver's room: `accept` waits until it is `opened` or refused, and keeps what it is given."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.opened = asyncio.Event()
        self.refusal: Exception | None = None
        self.cancelled = 0
        self.begun = asyncio.Event()
        self.abandonments = 0
        self.pieces: list[bytes] = []
        self.closed = asyncio.Event()

    async def accept(self, signed: Signed, size: int) -> Sink:
        self.asked.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            self.closed.set()
            raise
        if self.refusal is not None:
            raise self.refusal
        return self

    def __call__(self, piece: memoryview) -> None:
        assert isinstance(piece, memoryview)
        self.pieces.append(bytes(piece))
        self.begun.set()

    def abandoned(self) -> None:
        self.abandonments += 1
        self.closed.set()


def open_room() -> Room:
    room = Room()
    room.opened.set()
    return room


class Slowly:
    """Sends one websocket message in fragments, each when it is told to."""

    def __init__(self, socket: Connection) -> None:
        self._fragments: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._task = asyncio.create_task(socket.send(self._all()))

    async def _all(self) -> AsyncIterator[bytes]:
        while (fragment := await self._fragments.get()) is not None:
            yield fragment

    def say(self, *fragments: bytes | None) -> None:
        """None ends it."""
        for fragment in fragments:
            self._fragments.put_nowait(fragment)

    async def end(self) -> None:
        self._task.cancel()
        await settle(self._task)


class Time:
    """A clock that jumps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self._ahead = 0.0
        real: Callable[[], float] = loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + self._ahead)

    def pass_(self, seconds: float) -> None:
        self._ahead += seconds


async def until_waiting(task: asyncio.Task[object]) -> None:
    """Let a task that has all that it needs go on until it waits."""
    for _ in range(20):
        await asyncio.wait({task}, timeout=0)


async def wait_for_go(near: Link) -> None:
    assert await near._socket.recv() == GO
