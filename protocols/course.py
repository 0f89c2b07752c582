"""What a training round asks for, and what becomes of the sums: the same wherever it runs, and without I/O.

next(steps) -> Ask (train)       whoever drives it runs that protocol round, over sockets or in memory, and sends back
send(Aggregate) -> Ask (eval.)   what its sum says; the server's step is between the two
send(Aggregate) -> StopIteration its value is `Trained`
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Trained:
    """A whole training round: the model after it, the aggregate of its training, and all its metrics."""

    model: Vector = field(repr=False)
    mean: Aggregate = field(repr=False)
    metrics: dict[str, float]


def training_round(job: TrainJob, number: int, model: Vector) -> Generator[Ask, Aggregate, Trained]:
    """Training round `number` (from 1) of `job`, from `model`; with the evaluation, where one is due after it."""
    mean = yield Ask(train_round(number), work_of(job, "train"), model)
    after = apply(job.strategy, model, mean.sum, layout_of(job.plan), weight=mean.total_weight)
    metrics = dict(mean.metrics)
    if job.evaluation is not None and (number % job.evaluation.every == 0 or number == job.rounds):
        evaluated = yield Ask(evaluation_round(number), work_of(job, "evaluate"), after)
        metrics |= read_evaluation(evaluated.mean, evaluation_layout(job.plan, job.evaluation.bins))
    return Trained(after, mean, metrics)
