"""The shell around one state machine: carries its commands out, in order, each to its end before the next.

The machine decides, the shell acts: it writes records to the journal (durable before the next command), erases secrets,
sends what the machine says, wakes it in time. If the journal fails, the machine's mind is thrown away and rebuilt from
what is durable: nothing was said that was not written.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import structlog

from smpc_fl.errors import InternalError, Unavailable
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.net.pump import report_bug
from smpc_fl.protocols.codec import encode
from smpc_fl.protocols.commands import (
    Command,
    Compute,
    EraseSecrets,
    Event,
    Finished,
    Persist,
    Send,
    Start,
    Tick,
    WakeAt,
)
from smpc_fl.protocols.records import KINDS, SECRET, Record

log = structlog.get_logger()
_TICK = Tick()


class Machine(Protocol):
    """Any of the three roles' rounds."""

    def receive(self, event: Event, now: float) -> list[Command]: ...


def load_records(journal: Journal, stream: str) -> list[Record]:
    """A stream's records, oldest first. A record that this release cannot read is an error, never skipped."""
    records: list[Record] = []
    for kind, data in journal.read(stream):
        if kind not in KINDS:
            raise InternalError(f"the journal holds a record of kind {kind!r} that this release does not know")
        records.append(msgspec.msgpack.decode(data, type=KINDS[kind]))
    return records


@dataclass
class RoundShell:
    """One machine, its journal stream, and the ways to act. `build` makes the machine from records; `send` delivers an
    envelope and returns the bytes written, raising `Unavailable` when the peer is not there (the machine sends again
    when it is); `compute` runs an owner's job and feeds the answer back; `finished` gets the outcome."""

    stream: str
    journal: Journal
    build: Callable[[Sequence[Record]], Machine]
    send: Callable[[Send], Awaitable[int]]
    finished: Callable[[Any], Awaitable[None]]
    compute: Callable[[bytes], None] | None = None
    sent: Callable[[int], None] | None = None
    machine: Machine = field(init=False)

    def __post_init__(self) -> None:
        self._lock = asyncio.Lock()
        self._timers: set[asyncio.TimerHandle] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.machine = self.build(load_records(self.journal, self.stream))

    async def start(self) -> None:
        await self.feed(Start())

    async def feed(self, event: Event) -> None:
        """One event, and all that follows from it. Events queue up: a machine handles one at a time."""
        async with self._lock:
            if self._closed:
                return
            # In a thread: verifying, opening and adding megabytes would hold up every other connection.
            commands = await asyncio.to_thread(self.machine.receive, event, time.time())
            try:
                for command in commands:
                    await self._carry_out(command)
            except Unavailable as error:
                log.error("journal failed", stream=self.stream, error=error.code)
                self.machine = await asyncio.to_thread(lambda: self.build(load_records(self.journal, self.stream)))
                self._wake_at(time.time() + 1.0, Start())

    async def _carry_out(self, command: Command) -> None:
        match command:
            case Persist(record=record):
                await self.journal.append(self.stream, type(record).__name__, encode(record))
            case EraseSecrets():
                await self.journal.erase(self.stream, set(SECRET))
            case Send():
                # Not awaited: one slow peer must hold up nobody else. A link keeps the order of its own messages.
                self._spawn(self._deliver(command))
            case WakeAt(time=at):
                self._wake_at(at)
            case Compute(model=model):
                assert self.compute is not None
                self.compute(model)
            case Finished(outcome=outcome):
                await self.finished(outcome)

    async def _deliver(self, command: Send) -> None:
        try:
            written = await self.send(command)
        except Unavailable:
            return  # the machine says it again when the peer is back
        if self.sent is not None:
            self.sent(written)

    def _wake_at(self, at: float, event: Event = _TICK) -> None:
        loop = asyncio.get_running_loop()
        handle: asyncio.TimerHandle

        def wake() -> None:
            self._timers.discard(handle)
            self._spawn(self.feed(event))

        handle = loop.call_later(max(0.0, at - time.time()), wake)
        self._timers.add(handle)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _guard(work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            report_bug(error, "in a round")

    def close(self) -> None:
        """Stop waking the machine; what is durable stays."""
        self._closed = True
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
