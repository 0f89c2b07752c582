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
from smpc_fl.learning.strategies import apply
from smpc_fl.learning.update import Aggregate
from smpc_fl.plans.layout import Vector, layout_of
from smpc_fl.protocols.work import Work, evaluation_round, train_round, work_of


@dataclass(frozen=True)
class Ask:
    """One protocol round that is wanted: its number, its work, and the model, float32[d], that its owners get."""

    round: int
    work: Work
    model: Vector = field(repr=False)


class TrainingRound:
    """Training round `number` (from 1) of `job`. `ask`: what is wanted next, or None; `trained`: what the training's sum
    said, once it is there."""

    def __init__(self, job: TrainJob, number: int, model: Vector) -> None:
        self.number, self.model = number, model
        self.metrics: dict[str, float] = {}
        self.trained: Aggregate | None = None
        self.ask: Ask | None = Ask(train_round(number), work_of(job, "train"), model)
        self._job = job

    def take(self, aggregate: Aggregate) -> None:
        """What the sum of the round that was asked for says. Arithmetic over a whole model: milliseconds for megabytes."""
        job, ask = self._job, self.ask
        if ask is None:
            raise InternalError(f"training round {self.number} wants no further sum")
        self.ask = None
        if ask.work.purpose == "evaluate":
            assert job.evaluation is not None
            self.metrics |= read_evaluation(aggregate.mean, evaluation_layout(job.plan, job.evaluation.bins))
            return
        self.trained, self.metrics = aggregate, dict(aggregate.metrics)
        self.model = apply(
            job.strategy, self.model, aggregate.sum, layout_of(job.plan), weight=aggregate.total_weight
        )  # fmt: skip
        if job.evaluation is not None and (self.number % job.evaluation.every == 0 or self.number == job.rounds):
            self.ask = Ask(evaluation_round(self.number), work_of(job, "evaluate"), self.model)
