"""The command line of the examples: `python examples/<field>/train.py [--simulate] [--splits N] [--output FOLDER]`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from smpc_fl.nodes.demo.comparison import Scores, Task, compare, processes, simulated
from smpc_fl.nodes.demo.comparison_report import show, show_owners, write
from smpc_fl.nodes.demo.tables import Table, divide


def run_example(
    task: Task,
    tables: Callable[[int], Mapping[str, Table]],
    *,
    names: Mapping[int, str],
    splits: int = 5,
    test: Table | None = None,
    arguments: Sequence[str] | None = None,
) -> list[Scores]:
    """Compares federated, pooled and local-only training over several splits, prints the table and writes the pictures.

    `tables`: each owner's whole table in split 0, 1, …; a fifth of its rows is held out to test, a fifth of the others to
    choose by. `names`: of the classes. `test`: rows that all ways are judged on instead. `arguments`: sys.argv's."""
    parser = argparse.ArgumentParser(description=task.title)
    parser.add_argument(
        "--simulate", action="store_true", help="in this process, without nodes: the same models, sooner"
    )
    parser.add_argument("--splits", type=int, default=splits, help="divisions of the rows (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=task.rounds, help="rounds of a run (default: %(default)s)")
    parser.add_argument("--settings", type=int, help="how many of the settings are tried (default: all)")
    parser.add_argument("--output", type=Path, default=Path("example-output"), help="folder (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as a node has it; the others want the other cores
    console, task = Console(), replace(task, rounds=chosen.rounds, settings=task.settings[: chosen.settings])
    held = [tables(number) for number in range(chosen.splits)]
    divisions = [divide(tables, number) for number, tables in enumerate(held)]
    show_owners(console, held[0], names)
    federation = simulated if chosen.simulate else processes
    with console.status("starting") as status, federation(task, divisions) as source:
        results = [
            compare(task, source, division, number, test=test, progress=status.update)
            for number, division in enumerate(divisions)
        ]
    show(console, task, results)
    write(chosen.output, task, held[0], results, names)
    console.print(f"Pictures and all figures: {chosen.output}", highlight=False)
    return results
