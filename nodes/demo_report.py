"""The demonstration's tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table as Grid

from smpc_fl.nodes.heart import HOSPITALS, Table

if TYPE_CHECKING:
    from smpc_fl.nodes.demo import SplitResult


def show_hospitals(console: Console, hospitals: Mapping[str, Table]) -> None:
    """Who takes part: each owner's rows stay in its own process."""
    grid = Grid(title="UCI Heart Disease: what each data owner holds, and keeps", title_justify="left")
    for name in ("owner", "patients", "ill", "values missing"):
        grid.add_column(name, justify="left" if name == "owner" else "right")
    for owner, table in hospitals.items():
        missing = float(np.isnan(table.x).mean())
        grid.add_row(HOSPITALS[owner], str(len(table.y)), f"{table.y.mean():.0%}", f"{missing:.0%}")
    console.print(grid)


def show_results(console: Console, results: Sequence[SplitResult], seconds: float) -> None:
    """AUC by split, then what the runs cost."""
    grid = Grid(
        title="ROC-AUC on all hospitals' held-out patients (computed by this harness, which owns the files)",
        title_justify="left",
        caption="estimate: the AUC as the federation itself knows it, from securely added histograms of scores.\n"
        "off plain: largest difference of any weight, after any round, to plain FedAvg on the same data.",
        caption_justify="left",
    )
    alone = [f"{name}\nalone" for name in HOSPITALS.values()]
    for name in ("split", "pooled", "secure\nfederated", "difference", "estimate", *alone, "off plain"):
        grid.add_column(name, justify="right")
    for number, item in enumerate(results, start=1):
        grid.add_row(
            str(number),
            f"{item.pooled:.3f}",
            f"[bold]{item.secure:.3f}[/bold]",
            f"{item.difference:+.4f}",
            f"{item.secure_estimate:.3f}",
            *(f"{item.alone[owner]:.3f}" for owner in HOSPITALS),
            f"{item.worst_difference:.1e}",
        )
    grid.add_section()
    grid.add_row(
        "median",
        f"{median(item.pooled for item in results):.3f}",
        f"[bold]{median(item.secure for item in results):.3f}[/bold]",
        f"{median(item.difference for item in results):+.4f}",
        f"{median(item.secure_estimate for item in results):.3f}",
        *(f"{median(item.alone[owner] for item in results):.3f}" for owner in HOSPITALS),
        f"{max(item.worst_difference for item in results):.1e}",
    )
    console.print(grid)
    rounds = sum(len(item.losses) for item in results)
    training = sum(item.seconds for item in results)
    console.print(f"{rounds} training rounds, each evaluated: {training:.1f} s; everything: {seconds:.1f} s.")
    for owner, name in HOSPITALS.items():
        uploaded = sum(item.uploaded[owner] for item in results)
        console.print(f"  {name} uploaded {uploaded / 1e6:.2f} MB, {uploaded / rounds / 1e3:.1f} kB a round")
