"""One protocol round over simulated owners: the coordinator's and the aggregators' machines in this process, the owners'
in workers.

    coordinator <-> aggregators     prekeys, manifest, endorsements          here
    owners <-> aggregators          offer, training, reports, receipts       in batches, on workers (`batch.py`)
    aggregators                     their batches' records and sums          a tree of partial sums
    coordinator <-> aggregators     lists, votes, release                    here

Between the second line and the fourth an aggregator is restored, as after a crash, from what it had acknowledged: its
records, and the sum that became durable with them. So it decides on the very entries that its shards have signed for.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable

from smpc_fl.errors import InternalError
from smpc_fl.nodes.simulation.batch import Batch, Partial, Setting
from smpc_fl.nodes.simulation.data import Owners
from smpc_fl.nodes.simulation.executors import Executor, batch_size
from smpc_fl.nodes.simulation.federation import COORDINATOR, Federation
from smpc_fl.protocols.aggregator import AggregatorRound
from smpc_fl.protocols.codec import decode_message
from smpc_fl.protocols.commands import Command, Event, Finished, Persist, Received, Send, Start
from smpc_fl.protocols.coordinator import CoordinatorRound, GivenUp, Released, RoundPlan
from smpc_fl.protocols.manifest import Rules
from smpc_fl.protocols.messages import Signed
from smpc_fl.protocols.records import Prepared, Record
from smpc_fl.ring import ring

FOREVER = 6 * 24 * 3600.0
"""Seconds of a round's deadline and patience: nobody is late in a simulation, however long it takes."""


def run_round(
    federation: Federation,
    plan: RoundPlan,
    job: bytes,
    owners: Owners,
    executor: Executor,
    on_done: Callable[[int], None],
    *,
    kept: str = "",
) -> Released:
    """To the round's release. `on_done` hears how many owners each finished batch had; `kept`: where owners keep vectors
    from round to round. Raises what ended it instead."""
    hub = Hub(federation, plan)
    setting = Setting(
        federation, job, plan.cohort, hub.offer_round(), bytes(plan.model), tuple(sorted(hub.prepared.items())), plan.k_min, kept
    )  # fmt: skip
    size = batch_size(len(plan.cohort), executor.workers)
    batches = (
        Batch(names, owners.part(names))
        for names in (plan.cohort[first : first + size] for first in range(0, len(plan.cohort), size))
    )
    return hub.close_round(executor.reduce(setting, batches, on_done))


class Hub:
    """The coordinator and the aggregators at one attempt, with the messages between them in one queue."""

    def __init__(self, federation: Federation, plan: RoundPlan) -> None:
        self.plan = plan
        self.parties = {id_: federation.party(id_) for id_ in (COORDINATOR, *plan.aggregators)}
        self.prepared: dict[str, Prepared] = {}
        self._records: dict[str, list[Record]] = {aggregator: [] for aggregator in plan.aggregators}
        self._coordinator = CoordinatorRound(self.parties[COORDINATOR], plan, entropy=os.urandom)
        self._aggregators = {aggregator: self._aggregator(aggregator) for aggregator in plan.aggregators}
        self._queue: deque[tuple[str, Event]] = deque()
        self._offer: Signed | None = None
        self._outcome: Released | GivenUp | None = None

    def _aggregator(self, id_: str, bulk: bytearray | None = None) -> AggregatorRound:
        key = (self.plan.run, self.plan.round, self.plan.attempt)
        return AggregatorRound.restore(
            self.parties[id_], Rules(self.plan.k_min), key, self._records[id_], bulk,
            coordinator=COORDINATOR, entropy=os.urandom,
        )  # fmt: skip

    def offer_round(self) -> Signed:
        """Up to the offer that every owner gets, the same for all of them."""
        self._queue.extend((id_, Start()) for id_ in self.parties)
        self._pass_messages()
        if self._offer is None:
            raise self._error()
        return self._offer

    def close_round(self, partial: Partial) -> Released:
        """From what the owners have said to the release."""
        of = ring(self.plan.numbers.ring_bits)
        for id_ in self._aggregators:
            self._records[id_] += partial.taken[id_]
            self._aggregators[id_] = self._aggregator(id_, bytearray(of.as_buffer(partial.sums[id_])))
        for signed in partial.said:  # verified where it was said
            self._queue.append((COORDINATOR, Received(signed.sender, decode_message(signed.body), signed)))
        self._pass_messages()
        if not isinstance(self._outcome, Released):
            raise self._error()
        return self._outcome

    def _error(self) -> Exception:
        if isinstance(self._outcome, GivenUp):
            return self._outcome.error
        return InternalError(f"the simulated coordinator fell silent in state {self._coordinator.state.value}")

    def _pass_messages(self) -> None:
        while self._queue:
            to, event = self._queue.popleft()
            machine = self._coordinator if to == COORDINATOR else self._aggregators[to]
            for command in machine.receive(event, time.time()):
                self._carry_out(to, command)

    def _carry_out(self, by: str, command: Command) -> None:
        match command:
            case Persist(record=record) if by != COORDINATOR:
                self._records[by].append(record)
                if isinstance(record, Prepared):
                    self.prepared[by] = record
            case Send(to=to, signed=signed, attachment=attachment) if to in self.parties:
                self._queue.append((to, Received(by, self.parties[to].read(signed), signed, attachment)))
            case Send(signed=signed):  # to an owner: of the words that are said to all of them, the offer counts
                self._offer = self._offer or signed
            case Finished(outcome=outcome) if by == COORDINATOR:
                self._outcome = outcome
            case _:
                pass  # nothing is on disk, so nothing is erased; time passes by itself
