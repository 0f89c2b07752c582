"""`sf.simulate`: a run of thousands of owners, round after round, as `Federation.train` gives it.

The rounds come from `protocols/course.py`, the sums from `round.py`; what is here is the coordinator's book-keeping,
without a journal: a simulation that is interrupted is run again, and comes out the same.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smpc_fl.errors import BadInput, CohortTooSmall, RunFailed, SmpcError, from_code
from smpc_fl.jobs import Evaluation, LocalTraining, Privacy, RingBits, Stop, TrainJob, encode_job, job_digest
from smpc_fl.learning.compression import Compression
from smpc_fl.learning.stopping import Stopper
from smpc_fl.learning.strategy import Strategy
from smpc_fl.learning.update import Aggregate, disassemble
from smpc_fl.nodes.simulation.data import Make, Owners, Tensors, read_owners
from smpc_fl.nodes.simulation.executors import Executor, choose, open_executor
from smpc_fl.nodes.simulation.federation import Federation, make_federation
from smpc_fl.nodes.simulation.kept import SimulatedKept, keeps_at_home
from smpc_fl.nodes.simulation.round import FOREVER, run_round
from smpc_fl.nodes.training_job import training_job
from smpc_fl.nodes.training_run import Run
from smpc_fl.protocols.coordinator import Released, RoundPlan
from smpc_fl.protocols.course import Ask, TrainingRound
from smpc_fl.protocols.manifest import Numbers
from smpc_fl.protocols.messages import RoundResult, RunState
from smpc_fl.protocols.work import Work, participants, public_weight, work_of

if TYPE_CHECKING:
    from smpc_fl.plans.plan import Plan
    from smpc_fl.plans.update_plan import UpdatePlan
    from smpc_fl.pointers.pointer import PointerTensor

LONGEST_ERROR = 4000
"""Characters of an error: with thousands of owners, the sentences of all of them would be a book."""


@dataclass(frozen=True)
class Progress:
    """How far a training round is: `done` of `owners` have been heard. `purpose`: "train", or "evaluate" after it."""

    round: int
    purpose: str
    done: int
    owners: int
    seconds: float

    def __str__(self) -> str:
        return f"round {self.round}, {self.purpose}: {self.done:,} of {self.owners:,} owners, {self.seconds:.1f} s"


def simulate(
    plan: Plan | UpdatePlan,
    owners: Mapping[str, Tensors] | tuple[int, Make],
    *,
    inputs: str | None = None,
    targets: str | None = None,
    rounds: int = 10,
    local: LocalTraining | None = None,
    strategy: Strategy | None = None,
    weighting: PointerTensor | bytes | None = None,
    private: Sequence[str] = (),
    fraction: float = 1.0,
    min_owners: int = 0,
    evaluation: Evaluation | None = None,
    stop: Stop | None = None,
    clip: float = 10.0,
    max_samples: int = 10_000,
    tolerance: float = 1e-2,
    ring_bits: RingBits | None = None,
    update_bits: int | None = None,
    compression: Compression | None = None,
    seed: int | None = None,
    privacy: Privacy | None = None,
    aggregators: int = 3,
    k_min: int = 3,
    executor: str = "auto",
    workers: int | None = None,
    progress: Callable[[Progress], object] | None = None,
) -> Run:
    """Train `plan` over simulated owners, thousands of them if you like: the nodes' own code, without sockets and disks.

    `owners`: {name: {tensor name: array, rows first}}, or (count, function of an owner's number that gives its tensors;
    it is called where they are needed, in every round). `inputs` … `seed`: as `Federation.train`; with the same owners,
    names, data and `seed` the model is the one of a federation of processes, bit for bit (unless `privacy` asks for noise,
    which nobody can repeat). `executor`: "threads",
    "processes", "ray", "ray://HOST:PORT" or "auto"; `workers`: how many, else one a core. `progress` is told of every
    batch of owners that is done: `progress=print` will do.

    Gives an iterator of its rounds; a round is computed when it is asked for. An owner whose training fails is missing
    in that round, and named. A simulation protects nobody: one process holds all keys and all data.

    Raises `BadInput`, `CohortTooSmall`; rounds raise what they would raise between processes."""
    if aggregators < 2:
        raise BadInput(f"{aggregators} aggregators: secret sharing needs at least two that do not collude")
    if workers is not None and workers < 1:
        raise BadInput(f"workers={workers}: at least one, or None for one a core")
    read = read_owners(owners)
    if len(read.names) < k_min:
        raise CohortTooSmall(f"{len(read.names)} owners are fewer than k_min = {k_min}: add owners, or lower k_min")
    first = plan.initial
    job = training_job(
        plan, inputs=inputs, targets=targets, rounds=rounds, local=local, strategy=strategy, weighting=weighting, private=private,
        fraction=fraction, min_owners=min_owners, evaluation=evaluation, stop=stop, clip=clip,
        max_samples=max_samples, tolerance=tolerance, ring_bits=ring_bits,
        update_bits=update_bits, compression=compression, seed=seed, privacy=privacy,
    )  # fmt: skip
    simulation = Simulation(
        job, read, first, aggregators=aggregators, k_min=k_min, executor=executor, workers=workers, progress=progress
    )
    return Run(simulation, plan, first, job)


class Simulation:
    """One run's rounds, computed as they are asked for: the feed of a `Run`."""

    def __init__(
        self,
        job: TrainJob,
        owners: Owners,
        model: np.ndarray[tuple[int], np.dtype[np.float32]],
        *,
        aggregators: int,
        k_min: int,
        executor: str,
        workers: int | None,
        progress: Callable[[Progress], object] | None,
    ) -> None:
        self.id = os.urandom(16)
        self.state = RunState(self.id, "waiting", 0)
        self._job, self._data = job, encode_job(job)
        self._owners, self._vector, self._k_min = owners, model, max(k_min, job.min_owners)
        self._executor, self._workers = choose(executor, owners), workers
        self._progress = progress
        self._history: list[dict[str, float]] = []
        self._clip: float | None = None  # of the next round
        self._cancelled = False
        self._failure: SmpcError | None = None
        self._kept = SimulatedKept() if keeps_at_home(job) else None
        if self._kept is not None and self._executor.startswith("ray"):
            raise BadInput(
                f"{type(job.strategy).__name__} keeps vectors at its owners from round to round, in files of this machine: "
                'use executor="threads" or "processes"'
            )
        self._federation: Federation = make_federation(owners.names, aggregators, os.urandom(32))
        for work in self._works():
            self._numbers(work)

    @property
    def digest(self) -> str:
        return job_digest(self._data).hex()

    def cancel(self) -> None:
        """Stop before the next round."""
        self._cancelled = True

    def events(self) -> Iterator[tuple[RoundResult, bytes]]:
        """Each round's result once, in order, until the run has ended. Raises what it failed with, every time."""
        if self._failure is not None:
            raise self._failure
        if self.state.state == "finished":
            return
        stopper = Stopper(self._job.stop)
        try:
            with open_executor(self._executor, self._workers) as executor:
                while len(self._history) < self._job.rounds and stopper.should_stop(self._history) is None:
                    if self._cancelled:
                        raise RunFailed(f"cancelled after {len(self._history)} rounds")
                    self.state = RunState(self.id, "running", len(self._history))
                    yield self._round(executor)
        except SmpcError as error:
            self._failure = from_code(error.code, str(error)[:LONGEST_ERROR])
            self.state = RunState(self.id, "failed", len(self._history), error.code, self._failure.message)
            raise self._failure from None
        self.state = RunState(self.id, "finished", len(self._history))

    # --- one training round ---

    def _round(self, executor: Executor) -> tuple[RoundResult, bytes]:
        number, began = len(self._history) + 1, time.monotonic()
        course = TrainingRound(self._job, number, self._vector, len(self._owners.names), self._clip)
        uploaded: Counter[str] = Counter()
        releases: list[Released] = []
        while (ask := course.ask) is not None:
            releases.append(self._released(ask, executor, number, began))
            course.take(self._read(ask.work, releases[-1]), len(releases[-1].agreed))
            if ask.work.purpose == "train" and self._kept is not None:
                self._kept.commit(ask.round, [entry.owner for entry in releases[-1].agreed])
            uploaded.update(releases[-1].uploaded)
        self._vector, self._clip = course.vector, course.next_clip
        self._history.append(course.metrics)
        return self._result(course, releases[0], dict(uploaded), time.monotonic() - began), self._vector.tobytes()

    def _released(self, ask: Ask, executor: Executor, number: int, began: float) -> Released:
        done, cohort = 0, participants(self._job, ask.round, self._owners.names, self._k_min)

        def on_done(count: int) -> None:
            nonlocal done
            done += count
            if self._progress is not None:
                self._progress(Progress(number, ask.work.purpose, done, len(cohort), time.monotonic() - began))

        work = ask.work
        plan = RoundPlan(
            self.id, ask.round, 0, work.purpose, tuple(cohort), self._aggregators, work.layout.length,
            self._numbers(work), work.clip, work.max_samples, self._k_min, FOREVER, FOREVER, job_digest(self._data),
            work.subject, ask.model.tobytes(),
        )  # fmt: skip
        return run_round(
            self._federation, plan, self._data, self._owners, executor, on_done, kept=str(self._kept or "")
        )

    @property
    def _aggregators(self) -> tuple[str, ...]:
        return tuple(member.id for member in self._federation.membership.aggregators)

    def _works(self) -> list[Work]:
        return [work_of(self._job, "train"), *([work_of(self._job, "evaluate")] if self._job.evaluation else [])]

    def _numbers(self, work: Work) -> Numbers:
        return work.numbers(owners=len(self._owners.names), k_min=self._k_min, aggregators=len(self._aggregators))

    def _read(self, work: Work, released: Released) -> Aggregate:
        included = [entry.owner for entry in released.agreed]
        weight = public_weight(self._job, work.purpose, included, self._owners.names)
        return disassemble(self._numbers(work).fixed_point.decode(released.total), work.layout, weight)

    def _result(
        self, course: TrainingRound, released: Released, uploaded: dict[str, int], seconds: float
    ) -> RoundResult:
        assert course.trained is not None
        numbers = self._numbers(work_of(self._job, "train", course.clip))
        return RoundResult(
            run=self.id,
            number=course.number,
            metrics=course.metrics,
            seconds=seconds,
            uploaded=uploaded,
            included=[entry.owner for entry in released.agreed],
            missing={owner: str(error) for owner, error in released.refusals.items()},
            total_weight=course.trained.total_weight,
            clipped=course.trained.clipped,
            worst_error=numbers.worst_error,
            attempts=1,
            ring_bits=numbers.ring_bits,
            clip=course.clip,
            next_clip=course.next_clip,
        )
