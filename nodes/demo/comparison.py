"""What a federation is worth: one task learnt federated, pooled, and by each owner alone, with one tuning budget for all.

Every way tries the same settings for the same number of passes over its rows, from the same first network, and keeps the
model with the lowest loss on its validation rows; then each is judged once, on the same held-out rows. The federation reads
its validation loss from secure sums. Only a harness that owns all files can compare like this; no party of a federation can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import smpc_fl as sf
from smpc_fl.jobs import LocalTraining, TrainJob
from smpc_fl.learning.evaluation import evaluate
from smpc_fl.learning.metrics import layout_for, read_evaluation
from smpc_fl.learning.shared import shared_of
from smpc_fl.learning.training import train_locally
from smpc_fl.nodes.demo.main import secure_statistics
from smpc_fl.nodes.demo.tables import Division, Labels, Table, concatenate
from smpc_fl.nodes.demo.yardsticks import auc, statistics
from smpc_fl.nodes.training_job import run_seed
from smpc_fl.nodes.training_run import Run
from smpc_fl.plans.plan import Plan

Model = npt.NDArray[np.float32]
Divisions = Mapping[str, Division]


@dataclass(frozen=True)
class Task:
    """`network`: makes the first network, of as many logits as classes; with `bound`, the largest |x|, it is given the
    columns' mean and deviation float32[k]. `settings`: what each way tries; `rounds`: models sent around, or for those
    without a federation so many times `epochs` passes over the rows. `clip`, `max_samples`: as in `Federation.train`."""

    title: str
    network: Callable[..., nn.Module]
    settings: Sequence[LocalTraining]
    rounds: int
    bound: float | None = None
    clip: float = 10.0
    max_samples: int = 10_000


@dataclass(frozen=True)
class Score:
    """On all held-out rows: `accuracy`, `auc` (of more than two classes the mean of each against the others). `own`:
    accuracy on the held-out rows of one owner, or the mean of that over the owners."""

    accuracy: float
    auc: float
    own: float


@dataclass(frozen=True)
class Scores:
    """One division of the rows. `majority`: accuracy of always naming the class that is most frequent in training."""

    federated: Score
    pooled: Score
    alone: dict[str, Score]
    majority: float
    chosen: dict[str, str]
    """{way: the setting and number of rounds that its validation rows chose}."""
    seconds: float
    uploaded: float
    """Bytes of one owner in one round, evaluation included."""


class Source(Protocol):
    """A federation as a comparison needs it: of processes, or simulated."""

    def statistics(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the columns of x over all training rows of division `number`."""

    def train(self, plan: Plan, number: int, setting: LocalTraining) -> Run: ...


@dataclass
class _Best:
    """The model with the lowest validation loss so far, of one way."""

    loss: float = math.inf
    model: Model = field(default_factory=lambda: np.empty(0, np.float32))
    chosen: str = "none"

    def offer(self, loss: float, model: Model, setting: LocalTraining, rounds: int) -> None:
        if loss < self.loss:
            decay = f", decay {setting.weight_decay:g}" if setting.weight_decay else ""
            self.loss, self.model = loss, model.copy()
            self.chosen = f"{setting.optimizer} {setting.lr:g}{decay}, {rounds} rounds"


@contextmanager
def simulated(task: Task, divisions: Sequence[Divisions]) -> Iterator[Source]:
    """The federation in this process: the same models as between processes, bit for bit, and quicker. Statistics are
    computed in the clear."""
    yield _Simulated(task, divisions)


@dataclass(frozen=True)
class _Simulated:
    task: Task
    divisions: Sequence[Divisions]

    def statistics(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        return statistics(concatenate([division.train for division in self.divisions[number].values()]).x)

    def train(self, plan: Plan, number: int, setting: LocalTraining) -> Run:
        owners = {owner: _tensors(division, number) for owner, division in self.divisions[number].items()}
        return sf.simulate(plan, owners, **_options(self.task, number, setting))


@contextmanager
def processes(task: Task, divisions: Sequence[Divisions]) -> Iterator[Source]:
    """The federation as it is deployed: a process for each owner, three aggregators and a coordinator."""
    owners: dict[str, dict[str, Any]] = {
        owner: {
            name: array
            for number, division in enumerate(divisions)
            for name, array in _tensors(division[owner], number).items()
        }
        for owner in divisions[0]
    }
    with sf.LocalFederation(owners=owners, aggregators=3, ledger="own") as fed:  # ten owners start sooner without Syft
        yield _Processes(task, fed)


@dataclass(frozen=True)
class _Processes:
    task: Task
    fed: sf.LocalFederation

    def statistics(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.task.bound is not None
        return secure_statistics(self.fed, f"x{number}", bound=self.task.bound, max_samples=self.task.max_samples)

    def train(self, plan: Plan, number: int, setting: LocalTraining) -> Run:
        return self.fed.train(plan, **_options(self.task, number, setting))


def _tensors(division: Division, number: int) -> dict[str, Any]:
    """What an owner holds of one division, under names of their own."""
    train, validation = division.train, division.validation
    return {
        f"x{number}": train.x,
        f"y{number}": train.y,
        f"x{number}_val": validation.x,
        f"y{number}_val": validation.y,
    }


def _options(task: Task, number: int, setting: LocalTraining) -> dict[str, Any]:
    return {
        "inputs": f"x{number}",
        "targets": f"y{number}",
        "rounds": task.rounds,
        "local": setting,
        "evaluation": sf.Evaluation(inputs=f"x{number}_val", targets=f"y{number}_val", bins=2),
        "clip": task.clip,
        "max_samples": task.max_samples,
        "seed": number,
    }


def compare(
    task: Task,
    source: Source,
    divisions: Divisions,
    number: int,
    *,
    test: Table | None = None,
    progress: Callable[[str], object] = lambda text: None,
) -> Scores:
    """All ways on division `number`. `test`: rows that all are judged on, instead of all owners' held-out rows.

    `progress` is told of every way that has been tried."""
    everything = Division(
        *(concatenate([getattr(division, part.name) for division in divisions.values()]) for part in fields(Division))
    )
    judged = test or everything.test
    plan = _plan(task, number, everything.train, source.statistics if task.bound is not None else None)
    best, seconds = _Best(), 0.0
    uploaded: list[int] = []
    for setting in task.settings:
        for result in source.train(plan, number, setting):
            best.offer(result.metrics["val_loss"], result.model, setting, result.number)
            seconds += result.seconds
            uploaded += result.traffic.uploaded.values()
    progress(f"split {number + 1}: federated")
    pooled, chosen = _without(task, plan, everything, number)
    progress(f"split {number + 1}: pooled")
    alone = {owner: _without(task, plan, division, number) for owner, division in divisions.items()}
    progress(f"split {number + 1}: each owner alone")
    kinds, counts = np.unique(everything.train.y, return_counts=True)
    return Scores(
        federated=_score(plan.module_with(best.model), judged, divisions.values()),
        pooled=_score(pooled, judged, divisions.values()),
        alone={owner: _score(net, judged, [divisions[owner]]) for owner, (net, _) in alone.items()},
        majority=float((judged.y == kinds[counts.argmax()]).mean()),
        chosen={"federated": best.chosen, "pooled": chosen, **{owner: said for owner, (_, said) in alone.items()}},
        seconds=seconds,
        uploaded=float(np.mean(uploaded)),
    )


def _plan(task: Task, number: int, train: Table, secure: Callable[[int], Any] | None) -> Plan:
    """The plan with its first weights, which depend on `number` alone, and the federation's statistics."""
    return Plan.from_module(_first(task, number, secure(number) if secure else ()), example=(train.x[:4], train.y[:4]))


def _first(task: Task, number: int, statistics_of_columns: Sequence[torch.Tensor]) -> nn.Module:
    torch.manual_seed(number)
    return task.network(*statistics_of_columns)


def _without(task: Task, plan: Plan, rows: Division, number: int) -> tuple[nn.Module, str]:
    """The best network of `rows` without a federation, its columns' statistics its own; and how it was chosen.

    Training is the owners' own, with no rounding and nobody to average with."""
    if task.bound is not None:  # the same graph and first weights, with other statistics
        plan = replace(plan, network=_first(task, number, statistics(rows.train.x)))
    best, layout = _Best(), layout_for(plan.document, 0)
    for setting in task.settings:
        model = plan.initial
        job = TrainJob(
            plan=plan.data, inputs="x", targets="y", rounds=task.rounds, local=setting, seed=run_seed(number)
        )
        shared = shared_of(job.plan, job.strategy)
        for round_number in range(1, task.rounds + 1):
            result = train_locally(
                plan, model, rows.train.x, rows.train.y, job, round_number=round_number, owner="harness"
            )
            model = shared.scatter(shared.gather(model) + result.delta, model)
            mean, _ = evaluate(plan, model, rows.validation.x, rows.validation.y, 0)
            best.offer(read_evaluation(mean, layout)["val_loss"], model, setting, round_number)
    return plan.module_with(best.model), best.chosen


def _score(net: nn.Module, judged: Table, own: Collection[Division]) -> Score:
    scores = _probabilities(net, judged)
    return Score(
        accuracy=_accuracy(scores, judged),
        auc=_auc(scores, judged.y),
        own=float(np.mean([_accuracy(_probabilities(net, division.test), division.test) for division in own])),
    )


def _probabilities(net: nn.Module, table: Table) -> npt.NDArray[np.float64]:
    """float64[n, classes]"""
    with torch.no_grad():
        logits: torch.Tensor = net.eval()(torch.from_numpy(table.x))
    found: npt.NDArray[np.float64] = logits.double().softmax(1).numpy()
    return found


def _accuracy(scores: npt.NDArray[np.float64], table: Table) -> float:
    return float((scores.argmax(1) == table.y).mean())


def _auc(scores: npt.NDArray[np.float64], y: Labels) -> float:
    """Of two classes the usual one; of more the mean of each present class against the others."""
    classes = [1] if scores.shape[1] == 2 else [int(kind) for kind in np.unique(y)]
    return float(np.mean([auc(scores[:, kind], (y == kind).astype(np.int64)) for kind in classes]))
