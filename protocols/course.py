"""What a training round asks for, and what becomes of the sums: the same over sockets and in a simulation, without I/O.

ask (train)      whoever drives the run does this protocol round, and hands over what its sum says: `take`
                 the server's step
ask (evaluate)   where an evaluation is due: the same with the new model
None             `model` and `metrics` are those after the round
"""

from __future__ import annotations

from dataclasses import dataclass, field

from smpc_fl.errors import InternalError
from smpc_fl.jobs import TrainJob
from smpc_fl.learning.metrics import evaluation_layout, read_evaluation
from smpc_fl.learning.server import Server, serve
from smpc_fl.learning.shared import shared_of
from smpc_fl.learning.strategy import About
from smpc_fl.learning.update import Aggregate
from smpc_fl.plans.layout import Vector
from smpc_fl.privacy.adaptive import adaptive_of, first_clip, next_clip
from smpc_fl.protocols.work import Work, compressor_of, evaluates, evaluation_round, train_round, work_of


@dataclass(frozen=True)
class Ask:
    """One protocol round that is wanted: its number, its work, and the model, float32[d], that its owners get."""

    round: int
    work: Work
    model: Vector = field(repr=False)


class TrainingRound:
    """Training round `number` (from 1) of `job`, over `cohort` owners at most. `vector`: the server after the round before
    (`learning.server`). `clip`: as the round before left it, None before the first. `ask`: what is wanted next, or None;
    `trained`: what the training's sum said, once it is there; `next_clip`: then that of the round to come."""

    def __init__(self, job: TrainJob, number: int, vector: Vector, cohort: int, clip: float | None = None) -> None:
        self.number = number
        self.metrics: dict[str, float] = {}
        self.trained: Aggregate | None = None
        self._job, self._cohort = job, cohort
        self._shared = shared_of(job.plan, job.strategy, job.private)
        self._server = Server.from_vector(job.strategy, self._shared, vector)
        self.clip = self.next_clip = first_clip(job) if clip is None else clip
        work = work_of(job, "train", self.clip)
        self.ask: Ask | None = Ask(train_round(number), work, self._server.shown(job.strategy))

    @property
    def model(self) -> Vector:
        """float32[d], the global model as it is now."""
        return self._server.model

    @property
    def vector(self) -> Vector:
        """The model, and what the server keeps beside it: what the next round begins with."""
        return self._server.vector

    def take(self, aggregate: Aggregate, included: int) -> None:
        """What the sum over `included` owners says. Arithmetic over a whole model: milliseconds for megabytes."""
        job, ask = self._job, self.ask
        if ask is None:
            raise InternalError(f"training round {self.number} wants no further sum")
        self.ask = None
        if ask.work.purpose == "evaluate":
            self.metrics |= read_evaluation(aggregate.mean, evaluation_layout(job))
            return
        self.trained, self.metrics = aggregate, dict(aggregate.metrics)
        if (adaptive := adaptive_of(job.privacy)) is not None:
            self.next_clip = next_clip(adaptive, self.clip, 1 - aggregate.flags / included, job.clip)
        about = About(self.number, included, self._cohort, job.local)
        total, weight = aggregate.sum, aggregate.total_weight
        if job.compression is not None:
            total, weight = compressor_of(job, ask.round).expand(aggregate.mean), 1.0
        self._server = serve(job.strategy, self._server, total, self._shared, about, weight=weight)
        if evaluates(job, self.number):
            self.ask = Ask(evaluation_round(self.number), work_of(job, "evaluate"), self.model)
