"""The node shell as a model: `nodes.rounds.RoundShell`, line by line, around a simulated disk, network and clock.

The machine is ahead of its disk: while a commit is under way it decides on further events, and all that these ask for goes
out with the next batch. Records that nobody hears of yet wait for those that somebody does. If the disk fails, the
machine's mind is thrown away and rebuilt from what is durable. A node may die before and after each write, and before
each message that it says: `Member.boundary` counts these places.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from disk import Change, Row, decoded, ledger_of

from smpc_fl.hashing import Buffer
from smpc_fl.protocols.codec import encode
from smpc_fl.protocols.commands import (
    Command,
    Compute,
    EraseSecrets,
    Event,
    Finished,
    Persist,
    Received,
    Send,
    Start,
    Tick,
    WakeAt,
)  # fmt: skip
from smpc_fl.protocols.records import ERASED, Record

if TYPE_CHECKING:
    from members import Member

Ledger = list[tuple[str, Row]]
Steps = Generator[Change, None, None]
"""A piece of work that stops at each commit until it is durable; one that fails for good is thrown into it."""
_TICK = Tick()


def label(event: Event) -> str:
    return type(event.message if isinstance(event, Received) else event).__name__


@dataclass
class Segment:
    """As `nodes.rounds._Segment`: commands up to an erasure."""

    records: list[Row] = field(default_factory=list)
    ledger: Ledger = field(default_factory=list)
    bulk: Buffer | None = None
    erases: bool = False
    others: list[Command] = field(default_factory=list)

    @property
    def speaks(self) -> bool:
        return any(isinstance(command, Send | Finished) for command in self.others)


def segments(commands: Sequence[Command]) -> list[Segment]:
    """As `nodes.rounds._segments`: cut behind each `EraseSecrets`; the newest bulk of a segment is what its records say."""
    found = [Segment()]
    newest: Callable[[], Buffer] | None = None
    for command in commands:
        segment = found[-1]
        match command:
            case Persist(record=record, bulk=bulk, ledger=ledger):
                segment.records.append((type(record).__name__, encode(record)))
                if ledger is not None:
                    segment.ledger.append((ledger_of(ledger[0]), (type(ledger[1]).__name__, encode(ledger[1]))))
                newest = bulk or newest
            case EraseSecrets():
                segment.erases, newest = True, None
                found.append(Segment())
            case _:
                segment.others.append(command)
    found[-1].bulk = newest() if newest is not None else None
    return found


class Shell:
    """One machine and its journal stream at one node."""

    def __init__(
        self,
        member: Member,
        stream: str,
        build: Callable[[Sequence[Record], bytearray | None], Any],
        finished: Callable[[Any], None],
        compute: Callable[[Buffer], None] | None = None,
    ) -> None:
        self.member, self.stream = member, stream
        self.build, self.finished, self.compute = build, finished, compute
        self.closed = False
        self._decided: list[Command] = []
        self._unsaid: list[Row] = []
        self._acting = False
        self.machine = self._rebuilt()

    def _rebuilt(self) -> Any:
        disk = self.member.disk
        return self.build(decoded(disk.rows(self.stream)), disk.bulk(self.stream))

    @property
    def at_rest(self) -> bool:
        """Whether all that the machine has decided is done."""
        return not self._acting

    def start(self) -> None:
        self.feed(Start())

    def feed(self, event: Event) -> None:
        if self.closed:
            return
        before = self.machine.state.name
        commands = self.machine.receive(event, self.member.clock)
        after = self.machine.state.name
        if commands or before != after:
            sender = f" from {event.sender}" if isinstance(event, Received) else ""
            moved = f": {before} -> {after}" if before != after else ""
            self.member.tell(f"{self.stream[-3:]} {label(event)}{sender}{moved}")
        if not commands:
            return
        self._decided += commands
        if not self._acting:
            self._acting = True
            self.member.work(self._act())

    def _act(self) -> Steps:
        while self._decided:
            batch = segments(self._decided)
            self._decided = []
            for segment in batch:
                yield from self._carry_out(segment)
        self._acting = False

    def _carry_out(self, segment: Segment) -> Steps:
        yield from self._make_durable(segment)
        for command in segment.others:
            match command:
                case Send():
                    self.member.boundary("send")
                    self.member.deliver(self, command)
                case WakeAt(time=at):
                    self._wake_at(at)
                case Compute(model=model):
                    assert self.compute is not None
                    self.member.books.computes(self.member, self.machine, model)
                    self.compute(model)
                case Finished(outcome=outcome):
                    self.member.boundary("finish")
                    self.finished(outcome)

    def _make_durable(self, segment: Segment) -> Steps:
        """A full disk holds a round up: the write is tried until it succeeds, or the round is closed."""
        records, self._unsaid = self._unsaid + segment.records, []
        if segment.erases:
            records = [record for record in records if record[0] not in ERASED]
            yield self._change(records, None, segment.ledger, erases=_is_erased)
        elif not segment.speaks and segment.bulk is None and not segment.ledger:
            self._unsaid = records
        elif records:
            yield self._change(records, segment.bulk, segment.ledger)

    def _change(
        self, records: list[Row], bulk: Buffer | None, ledger: Ledger, erases: Callable[[Row], bool] | None = None
    ) -> Change:
        return Change(self.stream, records, bulk, erases, ledger, unwanted=lambda: self.closed)

    def _wake_at(self, at: float, event: Event = _TICK) -> None:
        self.member.later(max(0.0, at - self.member.clock), lambda: self.feed(event))

    def close(self) -> None:
        self.closed = True


def _is_erased(row: Row) -> bool:
    return row[0] in ERASED
