"""A batch of simulated owners, in one worker: from the round's offer to each owner's last word.

The code is the nodes' own. Each owner is an `OwnerRound` with a signing key of its own: it checks the manifest and its
endorsements, trains by the function that a node calls, encodes, shares, seals, signs. Each aggregator is an
`AggregatorRound` restored from the records of the real one (its prekey, the manifest), a *shard* of it that hears this batch
alone: it opens, checks commitments and receipts, adds, signs. Every envelope is verified by whoever it is for.

What differs from nodes: messages are passed as objects, and nothing is written to disk, so that nothing can be lost; what is
the same for all owners (the offer, the roster, the plan) is read once in a process; and a shard adds the stream of a seed as soon
as its report is complete, not at the release, so that this work is spread over the workers too.
"""

from __future__ import annotations

import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from smpc_fl.errors import InternalError, SmpcError
from smpc_fl.hashing import Buffer
from smpc_fl.jobs import Job, decode_job
from smpc_fl.nodes.simulation.data import Part, holdings
from smpc_fl.nodes.simulation.federation import COORDINATOR, Federation
from smpc_fl.nodes.simulation.kept import of_owner
from smpc_fl.prg import add_streams
from smpc_fl.protocols.aggregator import AggregatorRound
from smpc_fl.protocols.codec import encode
from smpc_fl.protocols.commands import Compute, Computed, ComputeFailed, Event, Persist, Received, Send
from smpc_fl.protocols.manifest import Expected, Rules, manifest_hash
from smpc_fl.protocols.messages import Manifest, Reported, RoundOffer, Signed, VectorReport
from smpc_fl.protocols.owner import OwnerRound
from smpc_fl.protocols.party import Party
from smpc_fl.protocols.records import Accepted, Prepared, SeedTaken, VectorAdded
from smpc_fl.protocols.vectors import VectorOpener
from smpc_fl.protocols.work import expected_of, purpose_of
from smpc_fl.ring import RingArray, ring
from smpc_fl.shares import Context, stream

Taken = SeedTaken | VectorAdded


@dataclass(frozen=True)
class Setting:
    """What all batches of a round have in common, as it travels to the workers. It holds every secret that there is:
    `federation` the key of all identities, `prepared` each aggregator's private prekey."""

    federation: Federation
    job: bytes = field(repr=False)
    cohort: tuple[str, ...] = field(repr=False)
    offer: Signed = field(repr=False)
    model: bytes = field(repr=False)
    prepared: tuple[tuple[str, Prepared], ...] = field(repr=False)
    k_min: int
    kept: str = ""
    """The folder of what owners keep from round to round; none where they keep nothing."""


@dataclass(frozen=True)
class Batch:
    """The owners of one task, with their data."""

    owners: tuple[str, ...]
    data: Part = field(repr=False)


@dataclass(frozen=True)
class Partial:
    """What the reports of some owners came to. By aggregator: `taken`, what it has acknowledged, and `sums`, ring[d], the
    sum of its shares of all reports that are complete. `said`: each owner's last word to the coordinator, verified."""

    owners: int
    taken: dict[str, list[Taken]] = field(repr=False)
    sums: dict[str, RingArray] = field(repr=False)
    said: list[Signed] = field(repr=False)


def combine(parts: Sequence[Partial]) -> Partial:
    """One node of the tree of partial accumulators: sums are added in the ring, lists are joined. The first is used up
    (where it may be written to: what Ray shares between processes may not)."""
    first, *others = parts
    sums = {a: total if total.flags.writeable else total.copy() for a, total in first.sums.items()}
    for part in others:
        for aggregator, total in part.sums.items():
            np.add(sums[aggregator], total, out=sums[aggregator])
    return Partial(
        sum(part.owners for part in parts),
        {aggregator: [record for part in parts for record in part.taken[aggregator]] for aggregator in first.taken},
        sums,
        [signed for part in parts for signed in part.said],
    )


def run_batch(setting: Setting, batch: Batch) -> Partial:
    """The task: the batch's owners, one after the other."""
    round_ = _read(setting)
    shards = {aggregator: Shard(round_, aggregator) for aggregator, _ in setting.prepared}
    said = [_Exchange(round_, owner, batch.data, shards).run() for owner in batch.owners]
    complete = {word.sender for word in said if isinstance(round_.coordinator.read(word), Reported)}
    for shard in shards.values():
        shard.expand(complete)
    return Partial(
        len(batch.owners),
        {aggregator: shard.taken for aggregator, shard in shards.items()},
        {aggregator: shard.sum for aggregator, shard in shards.items()},
        said,
    )


@dataclass(frozen=True)
class _Round:
    """A setting, read and verified: once in a process, for it is the same for every owner."""

    setting: Setting
    job: Job
    offer: RoundOffer
    manifest: Manifest
    expected: Expected
    coordinator: Party


@lru_cache(maxsize=2)
def _read(setting: Setting) -> _Round:
    coordinator = setting.federation.party(COORDINATOR)
    offer = coordinator.open(setting.offer, RoundOffer, "coordinator", phase="offer")
    manifest = coordinator.open(offer.manifest, Manifest, "coordinator", phase="offer")
    job = decode_job(setting.job)
    expected = expected_of(setting.job, job, manifest.round, setting.cohort, manifest.clip)
    return _Round(setting, job, offer, manifest, expected, coordinator)


class Shard:
    """One aggregator, as far as a batch's owners have to do with it. `taken` and `sum`: as in `Partial`."""

    def __init__(self, round_: _Round, aggregator: str) -> None:
        manifest, setting = round_.manifest, round_.setting
        self.party = setting.federation.party(aggregator)
        self.taken: list[Taken] = []
        self.sum: RingArray = ring(manifest.ring_bits).zeros(manifest.dimension)
        self._round = round_
        self._place = np.empty_like(self.sum)
        self._sum_of_vectors: Callable[[], Buffer] | None = None
        self._machine = AggregatorRound.restore(
            self.party,
            Rules(setting.k_min),
            (manifest.run, manifest.round, manifest.attempt),
            [dict(setting.prepared)[aggregator], Accepted(round_.offer.manifest)],
            coordinator=COORDINATOR,
            entropy=os.urandom,
        )

    def hear(self, owner: str, signed: Signed, attachment: Buffer | None) -> list[Send]:
        """An owner's report, verified and opened as a node does; the aggregator's answer to it."""
        message = self.party.read(signed)
        opener: VectorOpener | None = None
        if isinstance(message, VectorReport) and attachment is not None:
            size = memoryview(attachment).nbytes
            opener = self._machine.expect(owner, message, size, lambda n, dtype: self._place)
            assert opener is not None  # an owner reports once
            opener(attachment)
        answers: list[Send] = []
        for command in self._machine.receive(Received(owner, message, signed, opener), time.time()):
            match command:
                case Persist(record=SeedTaken() as record):
                    self.taken.append(record)
                case Persist(record=VectorAdded() as record, bulk=bulk):
                    self.taken.append(record)
                    self._sum_of_vectors = bulk
                case Send(to=to) if to == owner:
                    answers.append(command)
                case _:
                    pass  # where a batch is the whole cohort: the list is frozen here too, but the real aggregator says so
        return answers

    def expand(self, complete: Set[str]) -> None:
        """The end of the batch: the sum, with the vectors and with the streams of complete reports' seeds.

        A share that is in the sum is noted as such, whichever kind it was: the aggregator then releases it with the sum."""
        of, hash_ = ring(self._round.manifest.ring_bits), manifest_hash(self._round.offer.manifest)
        if self._sum_of_vectors is not None:
            # The machine has copied it for its journal, and writes no other: it is ours.
            self.sum = np.frombuffer(self._sum_of_vectors(), of.dtype)
        streams = []
        for place, record in enumerate(self.taken):
            if isinstance(record, SeedTaken) and record.owner in complete:
                streams.append(stream(record.seed, Context(hash_, record.owner), self.party.id))
                self.taken[place] = VectorAdded(record.owner, record.report_id)
        for _ in add_streams(of, self.sum, streams):
            pass


class _Exchange:
    """One owner's machine, and what passes between it and the shards until it has said its last word."""

    def __init__(self, round_: _Round, owner: str, data: Part, shards: Mapping[str, Shard]) -> None:
        manifest, setting = round_.manifest, round_.setting
        self._round, self._data, self._shards = round_, data, shards
        self._party = setting.federation.party(owner)
        self._machine = OwnerRound(
            self._party,
            Rules(setting.k_min, frozenset(shards)),
            (manifest.run, manifest.round),
            round_.expected,
            coordinator=COORDINATOR,
            entropy=os.urandom,
        )

    def run(self) -> Signed:
        """The owner's last word to the coordinator: a `Reported`, or a `Refusal`."""
        setting = self._round.setting
        events: deque[Event] = deque([Received(COORDINATOR, self._round.offer, setting.offer, setting.model)])
        while events:
            for command in self._machine.receive(events.popleft(), time.time()):
                match command:
                    case Compute(model=model):
                        events.append(self._compute(model))
                    case Send(to=to, signed=signed) if to == COORDINATOR:
                        return signed
                    case Send():
                        events += self._report(command)
                    case _:
                        pass  # nothing is written, so nothing is erased, and time is nobody's business
        raise InternalError(f"the simulated owner {self._party.id} fell silent in state {self._machine.state.value}")

    def _report(self, send: Send) -> list[Event]:
        attached = 0 if send.attachment is None else memoryview(send.attachment).nbytes
        self._machine.uploaded += len(encode(send.signed)) + attached
        answers = self._shards[send.to].hear(self._party.id, send.signed, send.attachment)
        return [Received(send.to, self._party.read(answer.signed), answer.signed) for answer in answers]

    def _compute(self, model: Buffer) -> Event:
        """As an owner's node: what goes wrong is told by its type, and here by its place, never by its text."""
        round_, owner = self._round, self._party.id
        number = round_.manifest.round
        try:
            data = holdings(self._data.load(owner))
            cohort = list(round_.setting.cohort)
            purpose = purpose_of(round_.job, number)
            kept = of_owner(round_.setting.kept, owner) if round_.setting.kept else None
            return Computed(data.vector(
                round_.job, purpose, number, model, owner=owner, cohort=cohort, kept=kept, clip=round_.manifest.clip
            ))  # fmt: skip
        except SmpcError as error:
            return ComputeFailed(error)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
            return ComputeFailed(InternalError(f"the computation failed at this owner ({where})"))
