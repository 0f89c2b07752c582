"""The shell around one state machine: carries its commands out in order, and what is to be durable before what is said.

The machine decides, the shell acts: it writes records to the journal, erases secrets, sends what the machine says, wakes
it in time. The machine may be ahead of the disk: while records are being written it takes further events, and whatever
these ask for goes out with the next batch, all its records in one commit (group commit). Nothing of a batch is sent before
the batch's records are durable. If the journal fails (the disk is full, say), the batch waits until it can be written:
nothing is said meanwhile, and the round goes on when there is space.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
import structlog

from smpc_fl.errors import InternalError, Unavailable
from smpc_fl.hashing import Buffer
from smpc_fl.nodes import faults
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.net.pump import report_bug
from smpc_fl.protocols.codec import decode_message, encode
from smpc_fl.protocols.commands import (
    Command,
    Compute,
    Computed,
    EraseSecrets,
    Event,
    Finished,
    Persist,
    Received,
    Send,
    Start,
    Tick,
    WakeAt,
)
from smpc_fl.protocols.messages import DecryptRequest, ManifestOffer, Votes
from smpc_fl.protocols.records import ERASED, KINDS, Record
from smpc_fl.protocols.vectors import VectorOpener

log = structlog.get_logger()
LONG = 1 << 22
"""Elements of a vector that is worth a thread of its own: fewer take some milliseconds, and two changes of threads."""
DISK_AGAIN = 0.5
"""Seconds until what could not be written is written again."""
T = TypeVar("T")
_TICK = Tick()


class Machine(Protocol):
    """Any of the three roles' rounds."""

    def receive(self, event: Event, now: float) -> list[Command]: ...


def ledger_stream(computation: bytes) -> str:
    """Where the claims on sums over one computation are (`protocols/releases.py`)."""
    return f"ledger/{computation.hex()}"


def load_records(journal: Journal, stream: str) -> list[Record]:
    """A stream's records, oldest first. A record that this release cannot read is an error, never skipped."""
    records: list[Record] = []
    for kind, data in journal.read(stream):
        if kind not in KINDS:
            raise InternalError(f"the journal holds a record of kind {kind!r} that this release does not know")
        try:
            records.append(msgspec.msgpack.decode(data, type=KINDS[kind]))
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise InternalError(
                f"a record of kind {kind!r} in the journal does not read: the file is damaged"
            ) from None
    return records


def load_bulk(journal: Journal, stream: str) -> bytearray | None:
    """A stream's bulk. One that is damaged or gone is none: the machine knows that it should be there, and what to do."""
    try:
        return journal.read_bulk(stream)
    except Unavailable as error:
        log.error("bulk lost", stream=stream, error=error.code, message=error.message)
        return None


async def insist(
    write: Callable[[], Awaitable[object]], *, until: Callable[[], bool] = lambda: False, **about: str
) -> bool:
    """Write until it is durable, however long the disk takes to have space again, or until `until()`: then False.

    Said loudly when it begins to wait, and when it is over. `about` goes into the log."""
    waited = False
    while not until():
        try:
            await write()
        except Unavailable as error:
            if not waited:
                log.error("waiting for the disk", error=error.code, message=error.message, **about)
            waited = True
            await asyncio.sleep(DISK_AGAIN)
        else:
            if waited:
                log.warning("written after all", **about)
            return True
    return False


@dataclass
class RoundShell:
    """One machine, its journal stream, and the ways to act. `build` makes the machine from records and bulk; `send` delivers
    an envelope and returns the bytes written, raising `Unavailable` when the peer is not there (the machine sends again
    when it is); `compute` runs an owner's job and feeds the answer back; `finished` gets the outcome.
    `long`: elements of a computed vector that is worth a thread of its own."""

    stream: str
    journal: Journal
    build: Callable[[Sequence[Record], bytearray | None], Machine]
    send: Callable[[Send], Awaitable[int]]
    finished: Callable[[Any], Awaitable[None]]
    compute: Callable[[Buffer], None] | None = None
    sent: Callable[[int], None] | None = None
    long: int = LONG
    machine: Machine = field(init=False)

    def __post_init__(self) -> None:
        self._deciding = asyncio.Lock()
        self._acting = asyncio.Lock()
        self._decided: list[Command] = []
        self._unsaid: list[tuple[str, bytes]] = []
        self._timers: set[asyncio.TimerHandle] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.machine = self._rebuilt()

    def _rebuilt(self) -> Machine:
        return self.build(load_records(self.journal, self.stream), load_bulk(self.journal, self.stream))

    async def start(self) -> None:
        await self.feed(Start())

    async def feed(self, event: Event) -> None:
        """One event, and all that follows from it. Events queue up: a machine handles one at a time."""
        async with self._deciding:
            if self._closed:
                return
            if _is_heavy(event, self.long):
                # In a thread: it would hold up every other connection.
                commands = await asyncio.to_thread(self.machine.receive, event, time.time())
            else:
                commands = self.machine.receive(event, time.time())
            if not commands:
                return
            self._decided += commands
        # A caller that is cancelled does not take back what was decided, perhaps for others as well.
        await asyncio.shield(asyncio.create_task(self._act()))

    async def ask(self, question: Callable[[Machine], T]) -> T:
        """What `question` finds out from the machine, while that decides nothing."""
        async with self._deciding:
            return question(self.machine)

    @property
    def at_rest(self) -> bool:
        """Whether all that the machine has decided is done: until then the journal may not know it."""
        return not (self._decided or self._acting.locked())

    async def _act(self) -> None:
        async with self._acting:
            # Whoever comes first acts for all that have decided by then; the others find nothing left to do.
            async with self._deciding:
                batch = _segments(self._decided)
                self._decided = []
            for segment in batch:
                await self._carry_out(segment)

    async def _carry_out(self, segment: _Segment) -> None:
        if not await insist(self._durable(segment), until=lambda: self._closed, stream=self.stream):
            return
        for command in segment.others:
            match command:
                case Send():
                    # Not awaited: one slow peer must hold up nobody else. A link keeps the order of its own messages.
                    self._spawn(self._deliver(command))
                case WakeAt(time=at):
                    self._wake_at(at)
                case Compute(model=model):
                    assert self.compute is not None
                    if faults.armed:
                        faults.at("compute", ["vector"], "before")
                    self.compute(model)
                case Finished(outcome=outcome):
                    await self.finished(outcome)

    def _durable(self, segment: _Segment) -> Callable[[], Awaitable[None]]:
        """What makes a segment's records durable; more than once, if need be."""
        records, self._unsaid = self._unsaid + segment.records, []

        async def write() -> None:
            if segment.erases:
                kept = [record for record in records if record[0] not in ERASED]
                await self.journal.erase(self.stream, set(ERASED), records=kept, also=segment.ledger)
            elif not segment.speaks and segment.bulk is None and not segment.ledger:
                # Nobody hears of it yet: it is written with what is said next. A crash before that is one before the event.
                self._unsaid = records
            elif records:
                await self.journal.append_all(self.stream, records, segment.bulk, also=segment.ledger)

        return write

    async def _deliver(self, command: Send) -> None:
        if faults.armed:
            faults.at("send", [_kind(command)], "before")
        try:
            written = await self.send(command)
        except Unavailable:
            return  # the machine says it again when the peer is back
        if faults.armed:
            faults.at("send", [_kind(command)], "after")
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


@dataclass
class _Segment:
    """Commands up to an erasure: their records, which become durable first, and the others in their order."""

    records: list[tuple[str, bytes]] = field(default_factory=list)
    ledger: list[tuple[str, str, bytes]] = field(default_factory=list)
    bulk: Buffer | None = None
    erases: bool = False
    others: list[Command] = field(default_factory=list)

    @property
    def speaks(self) -> bool:
        return any(isinstance(command, Send | Finished) for command in self.others)


def _segments(commands: Sequence[Command]) -> list[_Segment]:
    """The commands cut behind each `EraseSecrets`, so that what is to be written after it is not erased with it.

    Called while the machine decides nothing: the newest bulk of a segment is what its records say."""
    found = [_Segment()]
    newest: Callable[[], Buffer] | None = None
    for command in commands:
        segment = found[-1]
        match command:
            case Persist(record=record, bulk=bulk, ledger=ledger):
                segment.records.append((type(record).__name__, encode(record)))
                newest = bulk or newest
                if ledger is not None:
                    computation, entry = ledger
                    segment.ledger.append((ledger_stream(computation), type(entry).__name__, encode(entry)))
            case EraseSecrets():
                # Secrets that were to be written before they are erased need not be written at all.
                segment.erases, newest = True, None
                found.append(_Segment())
            case _:
                segment.others.append(command)
    found[-1].bulk = newest() if newest is not None else None
    return found


def _kind(command: Send) -> str:
    return type(decode_message(command.signed.body)).__name__


def _is_heavy(event: Event, long: int) -> bool:
    """Whether what the machine does about it may take long: arithmetic on a long vector, or on all seeds of a round."""
    match event:
        case Computed(vector=vector):
            return (vector.size if isinstance(vector, np.ndarray) else vector.length) > long
        case Received(message=Votes() | ManifestOffer() | DecryptRequest()):
            return True
        case Received(attachment=VectorOpener(words=words)):
            return words.size > LONG
        case Received(attachment=bytes() | bytearray() | memoryview() as attached):
            return len(attached) > 4 * LONG
        case _:
            return False
