"""The coordinator's node: what `nodes.run.Run` does around the machines of its attempts, round after round, run beside run."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from disk import Change, decoded
from members import Member
from shell import Shell, Steps
from world import BEGIN

from smpc_fl.protocols.commands import PeerUp, Received
from smpc_fl.protocols.coordinator import CoordinatorRound, GivenUp, Released
from smpc_fl.protocols.manifest import manifest_hash
from smpc_fl.protocols.messages import (
    AttemptAborted,
    PartialSum,
    Refusal,
    ReleaseReceipt,
    Reported,
    RoundClosed,
    Signed,
)
from smpc_fl.protocols.records import SECRET, Made, Record

if TYPE_CHECKING:
    from mischief import Mischief
    from scenario import RunPlan


TOLD_AGAIN = 8
"""Rounds whose end is said again, as in `nodes.run`."""


class Attempt(msgspec.Struct, frozen=True):
    """As `nodes.run.Attempt`."""

    round: int
    attempt: int
    aborts: list[Signed]


_ATTEMPT = msgspec.msgpack.Decoder(Attempt)


@dataclass(frozen=True)
class Ended:
    """How one attempt ended at the coordinator, and when it began."""

    run: bytes
    attempt: Attempt
    began: float
    ended: float
    outcome: Released | GivenUp


class Run:
    """One run of the plan: what is durable of it is in the stream `run/…` of the coordinator's journal."""

    def __init__(self, member: Coordinator, plan: RunPlan) -> None:
        self.member, self.plan = member, plan
        self.shell: Shell | None = None
        self.closed: list[tuple[bytes, bool]] = []  # manifest, whether it was released: said again to who was away
        self.over = False
        self._waits: Steps | None = None
        self._outcome: Released | GivenUp | None = None

    @property
    def stream(self) -> str:
        return f"run/{self.plan.id.hex()}"

    def start(self) -> None:
        rows = self.member.disk.rows(self.stream)
        self.over = any(kind == "end" for kind, _ in rows)
        self.member.work(self._forget_rounds() if self.over else self._drive())

    # --- driving ---

    def _drive(self) -> Steps:
        while (number := self._results()) < self.plan.rounds:
            if not (yield from self._round(number)):
                break
        yield Change(self.stream, [("end", b"")])
        self.over = True
        yield from self._forget_rounds()

    def _forget_rounds(self) -> Steps:
        for stream in self.member.disk.streams(f"round/{self.plan.id.hex()}/"):
            yield Change(stream, [], erases=lambda row: True)

    def _results(self) -> int:
        return sum(kind == "result" for kind, _ in self.member.disk.rows(self.stream))

    def _round(self, number: int) -> Generator[Change, None, bool]:
        """Attempt after attempt; whether one was released."""
        while True:
            attempt = yield from self._attempt(number)
            outcome = yield from self._run_attempt(attempt)
            if isinstance(outcome, Released):
                self._close(True)
                yield Change(self.stream, [("result", b"")])
                prefix = f"round/{self.plan.id.hex()}/{number}/"
                for stream in self.member.disk.streams(prefix):
                    yield Change(stream, [], erases=lambda row: True)
                return True
            goes_on = outcome.aborts or self.member.scenario.goes_on_regardless
            if not goes_on or attempt.attempt + 1 >= self.plan.attempts:
                self._close(False)
                return False
            aborts = list(outcome.aborts)
            if self.member.scenario.goes_on_regardless:
                aborts = self.member.known_aborts(self.plan.id, number)
            yield from self._note(Attempt(number, attempt.attempt + 1, aborts))
            yield Change(self._round_stream(attempt), [], erases=lambda row: row[0] in SECRET)

    def _attempt(self, number: int) -> Generator[Change, None, Attempt]:
        rows = self.member.disk.rows(self.stream)
        noted = [_ATTEMPT.decode(data) for kind, data in rows if kind == "attempt"]
        noted = [attempt for attempt in noted if attempt.round == number]
        if noted:
            return noted[-1]
        return (yield from self._note(Attempt(number, 0, [])))

    def _note(self, attempt: Attempt) -> Generator[Change, None, Attempt]:
        yield Change(self.stream, [("attempt", msgspec.msgpack.encode(attempt))])
        return attempt

    def _round_stream(self, attempt: Attempt) -> str:
        return f"round/{self.plan.id.hex()}/{attempt.round}/{attempt.attempt}"

    def _run_attempt(self, attempt: Attempt) -> Generator[Change, None, Released | GivenUp]:
        member, plan = self.member, self.member.scenario.round_plan(self.plan, attempt)

        def build(records: Sequence[Record], bulk: bytearray | None) -> CoordinatorRound:
            return CoordinatorRound.restore(member.party, plan, records, bulk, entropy=member.entropy)

        began, self._outcome = member.world.now, None
        member.tell(f"attempt {attempt.attempt} of round {attempt.round}")
        self.shell = Shell(member, self._round_stream(attempt), build, self._finished)
        self.shell.start()
        while (outcome := self._found()) is None:
            yield Wait(self)
        member.tell(f"{type(outcome).__name__} {getattr(outcome, 'error', '')}")
        member.books.ended(Ended(self.plan.id, attempt, began, member.world.now, outcome), self.shell.machine)
        if isinstance(outcome, GivenUp):
            self.shell.close()
        return outcome

    def _found(self) -> Released | GivenUp | None:
        return self._outcome

    def _finished(self, outcome: Released | GivenUp) -> None:
        if self._outcome is None:
            self._outcome = outcome
            waiting, self._waits = self._waits, None
            if waiting is not None:
                self.member.later(0.0, lambda: self.member.work(waiting))

    def wait(self, steps: Steps) -> None:
        self._waits = steps

    def _close(self, released: bool) -> None:
        shell, self.shell = self.shell, None
        assert shell is not None
        machine = shell.machine
        for owner in machine.plan.cohort:
            self.member.boundary("send")
            self.member.say(owner, RoundClosed(machine.manifest_hash or bytes(32), released))
        shell.close()
        self.closed = [*self.closed, (machine.manifest_hash, released)][-TOLD_AGAIN:]

    def tells(self, hash_: bytes) -> bool:
        """Whether owners hear from this run how that manifest's round ends."""
        under_way = self.shell is not None and self.shell.machine.manifest_hash == hash_
        return under_way or (hash_, True) in self.closed

    def peer_up(self, peer: str) -> None:
        for hash_, released in self.closed:
            if released and peer in self.plan.cohort:
                self.member.say(peer, RoundClosed(hash_, released))
            elif released and peer in self.member.scenario.aggregators:
                self.member.say(peer, ReleaseReceipt(hash_))
        if self.shell is not None:
            self.shell.feed(PeerUp(peer))


class Wait(Change):
    """Not a commit: the run waits for the outcome of its attempt."""

    def __init__(self, run: Run) -> None:
        super().__init__("", [])
        self.run = run


class Coordinator(Member):
    """As `nodes.coordinator`: the runs, one beside the other; every message goes to the attempt under way of each."""

    mischief: Mischief | None = None

    def open(self) -> None:
        self.aborts: dict[tuple[bytes, int, int, str], Signed] = {}
        self.runs = [Run(self, plan) for plan in self.scenario.runs]
        for run in self.runs:
            self.later(max(0.0, BEGIN + run.plan.begins - self.world.now), run.start)

    def begins(self, change: Change, steps: Steps) -> bool:
        if isinstance(change, Wait):
            change.run.wait(steps)
            return False
        return True

    def handle(self, event: Received) -> None:
        if self.mischief is not None:
            self.mischief.hears(event.message, event.signed)
        if self.scenario.goes_on_regardless and isinstance(event.message, PartialSum) and self._first(event.message):
            return
        if isinstance(event.message, AttemptAborted):
            said = event.message
            self.aborts[said.run, said.round, said.attempt, event.sender] = event.signed
        for run in self.runs:
            if run.shell is not None:
                run.shell.feed(event)
        match event.message:
            case Reported(manifest_hash=hash_) | Refusal(about=hash_) if len(hash_) == 32:
                self._close_what_is_over(event.sender, hash_)

    def _first(self, partial: PartialSum) -> bool:
        return self.books.attempt_of(partial.manifest_hash)[2] == 0

    def _close_what_is_over(self, owner: str, hash_: bytes) -> None:
        """An owner that says how it stands in a round that is over has missed the end."""
        made = [record for stream in self.disk.streams("round/") for record in decoded(self.disk.rows(stream))]
        under_way = any(isinstance(record, Made) and manifest_hash(record.manifest) == hash_ for record in made)
        if owner in self.scenario.owners and not under_way and not any(run.tells(hash_) for run in self.runs):
            self.say(owner, RoundClosed(hash_, released=False))

    def peer_up(self, peer: str) -> None:
        for run in self.runs:
            run.peer_up(peer)

    def known_aborts(self, run: bytes, number: int) -> list[Signed]:
        """What a coordinator that goes on regardless puts into its next manifest: all that it has, sorted."""
        return [self.aborts[key] for key in sorted(self.aborts) if key[:2] == (run, number)]

    @property
    def over(self) -> bool:
        return all(run.over for run in self.runs)
