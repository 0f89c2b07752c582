"""What a comparison has shown: a table in the terminal, its figures as JSON, and two pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid

from smpc_fl.learning.partition import Partition
from smpc_fl.nodes.demo.comparison import Score, Scores, Task
from smpc_fl.nodes.demo.tables import Table, concatenate
from smpc_fl.nodes.plots import new_figure, plot_partition, save

NEAR = 0.02
"""How far below pooled a federation may end, by the median over splits."""

Pick = Callable[[Scores], Score]


def _mean_alone(item: Scores) -> Score:
    return Score(*(float(np.mean([asdict(score)[name] for score in item.alone.values()])) for name in MEASURES))


def _worst_alone(item: Scores) -> Score:
    return Score(*(min(asdict(score)[name] for score in item.alone.values()) for name in MEASURES))


MEASURES = {
    "accuracy": "accuracy",
    "auc": "AUC",
    "own": "accuracy, own rows",
}
WAYS: Mapping[str, Pick] = {
    "federated": lambda item: item.federated,
    "pooled": lambda item: item.pooled,
    "local-only, mean": _mean_alone,
    "local-only, worst": _worst_alone,
}


def show_owners(console: Console, tables: Mapping[str, Table], names: Mapping[int, str]) -> None:
    """Who takes part, in the first split."""
    kinds = sorted(int(kind) for kind in np.unique(concatenate(list(tables.values())).y))
    grid = Grid(box=SIMPLE_HEAD)
    grid.add_column("owner", no_wrap=True)
    for name in ("rows", *(names.get(kind, str(kind)) for kind in kinds)):
        grid.add_column(name, justify="right")
    for owner, table in tables.items():
        grid.add_row(owner, f"{len(table.y):,}", *(f"{int((table.y == kind).sum()):,}" for kind in kinds))
    console.print(grid)


def show(console: Console, task: Task, results: Sequence[Scores]) -> None:
    """The table: for each measure and way the median over splits with its range, and that of the paired difference
    "federated minus this"."""
    tried = f"splits: {len(results)}; for each way settings: {len(task.settings)}, rounds: {task.rounds}"
    console.print(f"{task.title}; {tried}", style="italic", highlight=False)
    grid = Grid(box=SIMPLE_HEAD)
    grid.add_column("", no_wrap=True)
    for name in ("median", "range", "fed. minus it", "range"):
        grid.add_column(name, justify="right", no_wrap=True)
    for measure, name in MEASURES.items():
        grid.add_row(f"[italic]{name}")
        for way, pick in WAYS.items():
            if measure == "own" and pick is _worst_alone:
                continue  # one owner's rows against the mean over all owners'
            cells = _spread([asdict(pick(item))[measure] for item in results], ".3f")
            if way == "federated":
                grid.add_row(f"  {way}", *cells, style="bold green")
            else:
                grid.add_row(f"  {way}", *cells, *_spread(differences(results, way, measure), "+.3f"))
        if measure == "accuracy":
            grid.add_row("  majority class", *_spread([item.majority for item in results], ".3f"))
        grid.add_section()
    console.print(grid)
    seconds, rounds = sum(item.seconds for item in results), len(results) * len(task.settings) * task.rounds
    uploaded = np.mean([item.uploaded for item in results]) / 1e3
    console.print(
        f"{rounds} secure rounds, each evaluated, took {seconds:.0f} s; an owner uploads {uploaded:.1f} kB in one.",
        highlight=False,
    )
    for sentence in verdict(results):
        console.print(sentence, highlight=False, soft_wrap=True)


def _spread(values: Sequence[float], form: str) -> list[str]:
    return [format(median(values), form), f"{min(values):{form}}…{max(values):{form}}"]


def differences(results: Sequence[Scores], way: str, measure: str) -> list[float]:
    """Federated minus `way`, split by split."""
    return [asdict(item.federated)[measure] - asdict(WAYS[way](item))[measure] for item in results]


def verdict(results: Sequence[Scores]) -> list[str]:
    """Sentences: is the federation within NEAR of pooled, is it above owners alone; also where it is not."""
    said = []
    for measure, name in (("accuracy", "accuracy"), ("auc", "AUC")):
        pooled, alone = (differences(results, way, measure) for way in ("pooled", "local-only, mean"))
        near = "within" if median(pooled) >= -NEAR else "NOT within"
        above = sum(value > 0 for value in alone)
        said.append(
            f"{name}: {near} {100 * NEAR:.0f} points of pooled ({100 * median(pooled):+.1f}); "
            f"{100 * median(alone):+.1f} points to the mean owner alone, above it in {above} of {len(alone)} splits"
        )
    return said


def write(
    output: Path, task: Task, tables: Mapping[str, Table], results: Sequence[Scores], names: Mapping[int, str]
) -> None:
    """`results.json`, `split.png` (who holds what, in the first split) and `scores.png` into the folder `output`."""
    output.mkdir(parents=True, exist_ok=True)
    rows = [asdict(item) for item in results]
    (output / "results.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    starts = np.cumsum([0, *(len(table.y) for table in tables.values())])
    held = {owner: np.arange(*starts[i : i + 2]) for i, owner in enumerate(tables)}
    labels = np.concatenate([table.y for table in tables.values()])
    plot_partition(Partition(held), labels, output / "split.png", title=task.title, names=names)
    plot_scores(results, output / "scores.png", task.title)


def plot_scores(results: Sequence[Scores], path: Path, title: str) -> None:
    """A panel for each measure, a line for each way: a dot for each split, a stroke at their median. Of owners alone
    every one's dots, in grey."""
    figure, canvas = new_figure(path, 11, 3.1)
    shown = ["federated", "pooled", "local-only, mean"]
    for axes, (measure, name) in zip(figure.subplots(1, 3, sharey=True), MEASURES.items(), strict=True):
        for place, way in enumerate(shown):
            values = [asdict(WAYS[way](item))[measure] for item in results]
            axes.plot(values, np.linspace(place - 0.15, place + 0.15, len(values)), "o", color=f"C{place}", ms=4)
            axes.plot([median(values)] * 2, [place - 0.32, place + 0.32], color=f"C{place}", linewidth=2)
        single = [asdict(score)[measure] for item in results for score in item.alone.values()]
        heights = np.linspace(len(shown) - 0.25, len(shown) + 0.25, len(single))
        axes.plot(single, heights, ".", color="0.55", ms=4)
        axes.set_yticks(range(len(shown) + 1), [*shown, "each owner alone"])
        axes.set(xlabel=name, ylim=(len(shown) + 0.6, -0.6))
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    save(canvas, path)
