"""The demonstration's tables in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid

from smpc_fl.nodes.demo.heart import HOSPITALS
from smpc_fl.nodes.demo.tables import Table

if TYPE_CHECKING:
    from smpc_fl.nodes.demo.main import SplitResult


def show_hospitals(console: Console, hospitals: Mapping[str, Table]) -> None:
    """Who takes part: each owner's rows stay in its own process."""
    console.print("UCI Heart Disease, held by four data owners", style="italic")
    grid = Grid(box=SIMPLE_HEAD)
    for name in ("owner", "patients", "ill", "values missing"):
        grid.add_column(name, justify="left" if name == "owner" else "right")
    for owner, table in hospitals.items():
        missing = float(np.isnan(table.x).mean())
        grid.add_row(HOSPITALS[owner], str(len(table.y)), f"{table.y.mean():.0%}", f"{missing:.0%}")
    console.print(grid)


def show_results(console: Console, results: Sequence[SplitResult], seconds: float) -> None:
    """AUC by split, then what the runs cost."""
    title = "ROC-AUC on all hospitals' held-out patients (computed by this harness, which owns the files)"
    console.print(title, style="italic", highlight=False)
    grid = Grid(box=SIMPLE_HEAD)
    grid.add_column("split", no_wrap=True)
    for number in range(1, len(results) + 1):
        grid.add_column(str(number), justify="right")
    grid.add_column("median", justify="right", style="bold")

    def row(label: str, pick: Callable[[SplitResult], float], form: str = ".3f", style: str = "") -> None:
        values = [pick(item) for item in results]
        grid.add_row(label, *(format(value, form) for value in [*values, median(values)]), style=style)

    row("secure, all hospitals", lambda item: item.secure, style="bold green")
    row("pooled, all hospitals", lambda item: item.pooled)
    row("difference", lambda item: item.difference, "+.3f")
    for owner, name in HOSPITALS.items():
        row(f"{name} alone", partial(_alone, owner))
    grid.add_section()
    row("secure estimate *", lambda item: item.estimate)
    row("off plain FedAvg **", lambda item: item.worst_difference, ".0e")
    console.print(grid)
    console.print("*  what the federation itself knows: from securely added histograms of scores", highlight=False)
    console.print("** largest difference of any weight, after any round, to FedAvg in the clear", highlight=False)
    rounds = sum(len(item.losses) for item in results)
    training = sum(item.seconds for item in results)
    console.print(
        f"\n{rounds} training rounds, each evaluated, took {training:.0f} s; everything {seconds:.0f} s. Uploaded:"
    )
    for owner, name in HOSPITALS.items():
        uploaded = sum(item.uploaded[owner] for item in results)
        console.print(f"  {name:14} {uploaded / 1e3:6.0f} kB, {uploaded / rounds / 1e3:.1f} kB a round")


def _alone(owner: str, item: SplitResult) -> float:
    return item.alone[owner]
