"""`smpc-fl demo`: four hospitals train one model, and the harness shows what that cost in accuracy: nothing.

Real processes, real websockets, real patients. The harness owns all files, so it may also compute what no party of the
federation can: pooled training, each hospital alone, and the same rounds by plain FedAvg (`yardsticks.py`).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import smpc_fl as sf
from smpc_fl.errors import RunFailed
from smpc_fl.jobs import TrainJob
from smpc_fl.nodes.demo import report as demo_report
from smpc_fl.nodes.demo.heart import BOUND, FEATURES, HOSPITALS, HeartModel, Split, load_hospitals, split
from smpc_fl.nodes.demo.tables import concatenate
from smpc_fl.nodes.demo.yardsticks import PlainFedAvg, auc_of, train_centrally
from smpc_fl.nodes.plots import Panel, draw
from smpc_fl.nodes.training_job import run_seed

LOCAL = sf.LocalTraining(epochs=2, batch_size=32, optimizer="sgd", lr=0.1)
CLIP = 10.0
MAX_SAMPLES = 1_000
LARGEST_WEIGHT_DIFFERENCE = 1e-4
LARGEST_MEDIAN_AUC_DIFFERENCE = 0.01


@dataclass(frozen=True)
class SplitResult:
    """One division of the patients: areas under the ROC curve on all held-out patients, and what the run measured."""

    pooled: float
    alone: dict[str, float]
    secure: float
    estimate: float
    """As the federation itself knows it: from securely added score histograms, no patient's score seen."""
    worst_difference: float
    """Largest difference of any weight to plain FedAvg, after any round."""
    losses: list[float]
    held_out_losses: list[float]
    aucs: list[float]
    seconds: float
    uploaded: dict[str, int]

    @property
    def difference(self) -> float:
        return self.secure - self.pooled


def main(
    *,
    output: Path = Path("demo-output"),
    splits: int = 5,
    rounds: int = 8,
    aggregators: int = 3,
    console: Console | None = None,
) -> list[SplitResult]:
    """Runs the demonstration, prints its tables, and writes `curves.png` and `results.json` into `output`.

    Raises `RunFailed` when the secure run is not what the plain one is, or clearly worse than pooled training."""
    torch.set_num_threads(1)  # the nodes want the other cores
    console = console or Console()
    started = time.monotonic()
    hospitals = load_hospitals()
    demo_report.show_hospitals(console, hospitals)
    divisions = [split(hospitals, number) for number in range(splits)]
    owners = {owner: _tensors(divisions, owner) for owner in HOSPITALS}
    with console.status(f"starting {len(owners)} owners, {aggregators} aggregators and a coordinator…"):
        federation = sf.LocalFederation(owners=owners, aggregators=aggregators)
    with federation as fed, _progress(console) as progress:
        bar = progress.add_task("", total=splits * rounds)
        results = [
            _run_split(fed, division, number, rounds, lambda text: progress.update(bar, description=text, advance=1))
            for number, division in enumerate(divisions)
        ]
    demo_report.show_results(console, results, time.monotonic() - started)
    _write(output, results, console)
    check(results)
    return results


def _tensors(divisions: list[dict[str, Split]], owner: str) -> dict[str, Any]:
    """What one owner's process holds: the rows of each division, under names of their own."""
    return {
        name: array
        for number, division in enumerate(divisions)
        for name, array in (
            (f"x{number}", division[owner].train.x),
            (f"y{number}", division[owner].train.y),
            (f"x{number}_test", division[owner].test.x),
            (f"y{number}_test", division[owner].test.y),
        )
    }


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


def secure_statistics(
    fed: Any, name: str, *, bound: float = BOUND, max_samples: int = MAX_SAMPLES
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each column's present values, all within ±bound, over all owners: float32[k] each.

    Three secure means over pointers: which values are present, the values, their squared deviations. An owner that
    lacks a column adds nothing to it; nobody learns which one that was."""

    def mean_over_owners(expression: Any, limit: float) -> torch.Tensor:
        pointers = [expression(fed[owner].tensor(name)).mean(0) for owner in fed.owners]
        mean: torch.Tensor = sf.secure_mean(pointers, bound=limit, max_samples=max_samples)
        return mean

    present = mean_over_owners(lambda x: 1.0 - torch.isnan(x).float(), 1.0)
    share = present.clamp(min=1 / max_samples)
    centre = mean_over_owners(lambda x: torch.nan_to_num(x), bound) / share
    variance = mean_over_owners(lambda x: torch.square(torch.nan_to_num(x - centre)), 4 * bound**2) / share
    return centre, torch.where(variance > 1e-6, variance.clamp(min=1e-6).sqrt(), torch.ones_like(variance))


def _run_split(fed: Any, division: dict[str, Split], number: int, rounds: int, tick: Any) -> SplitResult:
    train = {owner: tables.train for owner, tables in division.items()}
    test = concatenate([tables.test for tables in division.values()])
    plan = sf.Plan.from_module(
        HeartModel(*secure_statistics(fed, f"x{number}")),
        loss="cross_entropy",
        example=(torch.zeros(4, len(FEATURES)), torch.zeros(4, dtype=torch.int64)),
    )
    job = TrainJob(
        plan=plan.to_bytes(),
        inputs=f"x{number}",
        targets=f"y{number}",
        rounds=rounds,
        local=LOCAL,
        clip=CLIP,
        max_samples=MAX_SAMPLES,
        seed=run_seed(number),
    )
    run = fed.train(
        plan,
        inputs=job.inputs,
        targets=job.targets,
        rounds=rounds,
        local=LOCAL,
        strategy=sf.FedAvg(),
        evaluation=sf.Evaluation(inputs=f"x{number}_test", targets=f"y{number}_test"),
        clip=CLIP,
        max_samples=MAX_SAMPLES,
        seed=number,
    )
    plain = PlainFedAvg(plan, job, train)
    worst, seconds, aucs, losses, held_out_losses = 0.0, 0.0, [], [], []
    uploaded = dict.fromkeys(HOSPITALS, 0)
    metrics: dict[str, float] = {}
    for result in run:
        worst = max(worst, float(np.abs(result.model - plain.advance()).max()))
        metrics = result.metrics
        losses.append(metrics["loss"])
        held_out_losses.append(metrics["val_loss"])
        aucs.append(metrics["val_auc"])
        seconds += result.seconds
        for owner, count in result.traffic.uploaded.items():
            uploaded[owner] += count
        tick(f"split {number + 1}: AUC {metrics['val_auc']:.3f}")
    return SplitResult(
        pooled=auc_of(train_centrally(concatenate(list(train.values())), job, seed=number), test),
        alone={owner: auc_of(train_centrally(table, job, seed=number), test) for owner, table in train.items()},
        secure=auc_of(run.model, test),
        estimate=metrics["val_auc"],
        worst_difference=worst,
        losses=losses,
        held_out_losses=held_out_losses,
        aucs=aucs,
        seconds=seconds,
        uploaded=uploaded,
    )


def _write(output: Path, results: list[SplitResult], console: Console) -> None:
    first = results[0]
    panels = [
        Panel("Loss", "cross-entropy", {"training": first.losses, "held out": first.held_out_losses}, {}),
        Panel(
            "ROC-AUC, held-out patients of all hospitals",
            "AUC",
            {"federated, secure": first.aucs},
            {"pooled": first.pooled, **{f"{owner} alone": value for owner, value in first.alone.items()}},
        ),
    ]
    draw(output / "curves.png", "Four hospitals, one model, no patient leaves", panels)
    rows = [{**{name: getattr(item, name) for name in item.__dataclass_fields__}} for item in results]
    (output / "results.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    console.print(f"Curves of split 1: {output / 'curves.png'}; all figures: {output / 'results.json'}")


def check(results: list[SplitResult]) -> None:
    """The verdict: `RunFailed` when the secure run is not the plain one, or clearly worse than pooled training."""
    worst = max(item.worst_difference for item in results)
    if worst > LARGEST_WEIGHT_DIFFERENCE:
        raise RunFailed(f"a weight of the secure run is {worst:.2g} off plain FedAvg: please report this as a bug")
    median = float(np.median([abs(item.difference) for item in results]))
    if len(results) >= 5 and median > LARGEST_MEDIAN_AUC_DIFFERENCE:
        raise RunFailed(f"the median difference of AUC to pooled training is {median:.4f}")
