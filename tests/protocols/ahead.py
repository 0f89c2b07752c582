"""A simulation that is as hard on its machines as the nodes are: they are ahead of their disks, and vectors come in pieces.

A node lets its machine decide on further events while it writes; then all records of these become durable at once, with
the newest bulk, before anything that was decided is said. Records that nobody hears of yet wait for those that somebody
does. If the disk fails, the machine is rebuilt from it. And an aggregator is asked for the place of a vector when its
report is announced, some events before it is told that the vector has come.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
from rig import Rig

from smpc_fl.errors import SmpcError
from smpc_fl.protocols.aggregator import AggregatorRound
from smpc_fl.protocols.commands import Command, EraseSecrets, Event, Finished, Persist, Received, Send, Start
from smpc_fl.protocols.coordinator import GivenUp, Released
from smpc_fl.protocols.manifest import subject_of
from smpc_fl.protocols.messages import Signed, VectorReport
from smpc_fl.protocols.records import SECRET
from smpc_fl.protocols.simulate import COORDINATOR


class Ahead(Rig):
    """`batches`: how many commits there were of how many records."""

    def __init__(self, *args: Any, seed: int = 0, **more: Any) -> None:
        super().__init__(*args, seed=seed, **more)
        self.draw = np.random.default_rng(seed)
        self.decided: dict[str, list[Command]] = defaultdict(list)
        self.unsaid: dict[str, list[Persist]] = defaultdict(list)
        self.batches: Counter[int] = Counter()

    # --- deciding ---

    def deliver(self, to: str, event: Event) -> None:
        if to in self.down:
            return
        if isinstance(event, Received):
            report, sealed = event.message, event.attachment
            if isinstance(report, VectorReport) and isinstance(sealed, bytes | bytearray):
                self._announce(to, event, report, memoryview(sealed))
                return
            self.received[to].append(event)
        self.decided[to] += self.nodes[to].machine.receive(event, self.now)
        if self.draw.random() < 0.4:
            self.act(to)

    def _announce(self, to: str, event: Received, report: VectorReport, sealed: memoryview) -> None:
        """The report is looked at, and its vector taken in, before the machine is told of it."""
        machine, cut = self.nodes[to].machine, int(self.draw.integers(sealed.nbytes))
        assert isinstance(machine, AggregatorRound)
        try:
            opener = machine.expect(event.sender, report, sealed.nbytes)
            for piece in (sealed[:cut], sealed[cut:]):
                if opener is not None:
                    opener(piece)
        except SmpcError as error:
            signed = self.parties[to].refuse(error, error.phase or "report", subject_of(report))
            self.queue.append((event.sender, Received(to, self.parties[to].read(signed), signed)))
        else:
            self.queue.append((to, Received(event.sender, report, event.signed, opener)))

    # --- acting ---

    def act(self, by: str) -> None:
        """Carry out all that was decided, part by part: each ends with an erasure, or with all that there is."""
        part: list[Command] = []
        for command in self.decided.pop(by, []):
            part.append(command)
            if isinstance(command, EraseSecrets):
                self._commit(by, part, erases=True)
                part = []
        self._commit(by, part)

    def _commit(self, by: str, part: list[Command], *, erases: bool = False) -> None:
        """The records first, at once, unless they can wait; those that are erased with them are not written at all."""
        records = self.unsaid.pop(by, []) + [command for command in part if isinstance(command, Persist)]
        newest = next((record for record in reversed(records) if record.bulk is not None), None)
        if erases:
            records, newest = [kept for kept in records if type(kept.record).__name__ not in SECRET], None
        if not (erases or newest or any(isinstance(command, Send | Finished) for command in part)):
            self.unsaid[by] = records
            records = []
        bulk = bytes(newest.bulk()) if newest and newest.bulk else b""
        for kept in records:
            self.carry_out(by, Persist(kept.record, (lambda: bulk) if kept is newest else None))
        self.batches[len(records)] += 1
        for command in part:
            if not isinstance(command, Persist):
                self.carry_out(by, command)

    def act_all(self) -> None:
        for by in list(self.decided):
            self.act(by)

    # --- faults ---

    def _lose(self, id_: str) -> None:
        self.decided.pop(id_, None)
        self.unsaid.pop(id_, None)

    def crash(self, id_: str) -> None:
        self._lose(id_)
        super().crash(id_)

    def disk_fails(self, id_: str) -> None:
        """What was decided is not written: the machine goes on from what is. Nobody else notices."""
        if id_ != COORDINATOR or self.outcome is None:
            self._lose(id_)
            node = self.nodes[id_]
            node.machine = self._machine(id_, node.journal, node.bulk and bytearray(node.bulk))
            self.queue.append((id_, Start()))

    # --- running ---

    def next_attempt(self, aborts: tuple[Signed, ...]) -> None:
        for id_ in (COORDINATOR, *self.plan.aggregators):
            self._lose(id_)
        super().next_attempt(aborts)

    def pass_time(self, seconds: float = 10.0) -> None:
        """Only once there is nothing left to do."""
        self.act_all()
        if not self.queue:
            super().pass_time(seconds)

    def settle(self) -> None:
        while self.queue or self.decided:
            super().settle()
            self.act_all()

    def run(self) -> Released | GivenUp:
        self.begin()
        return self.finish()
