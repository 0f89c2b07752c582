"""`smpc-fl simulate JOB.toml`: the training steps of a job over as many owners as you like, without nodes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from smpc_fl.errors import ConfigInvalid

if TYPE_CHECKING:
    from rich.console import Console

    from smpc_fl.nodes.cli.job_file import JobFile, TrainStep
    from smpc_fl.nodes.simulation.run import Progress

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)

HELP = """Run the training steps of JOB.toml over simulated owners: the same keys, shares and messages as between nodes, and
the same model bit for bit, in this process and its workers. It protects nobody: use it to try out a job, or how many
owners it bears, on data that may be where you are.

\b
The owners are those of the job's [local] section, each with its file:
    smpc-fl simulate job.toml
The rows of all of them, dealt out to 1,000 owners, or those of one file:
    smpc-fl simulate job.toml --owners 1000
    smpc-fl simulate job.toml --owners 1000 --data patients.csv --inputs age,bmi --target ill

Rows are dealt like cards from a shuffled pack, so that all owners hold the same sort of data and as many rows, but for
one. With --split blocks the first owner gets the first rows, and so on: sort the file by label, or by site, for owners
that differ. Results are written where `smpc-fl run` writes them.
"""


@click.command(help=HELP)
@click.argument("job", type=FILE)
@click.option("--owners", type=click.IntRange(min=2), help="How many; without it, the job's own owners.")
@click.option("--data", type=FILE, help="The table to divide (.csv .npz .parquet .safetensors).")
@click.option("--inputs", default="", help="Its input columns, by commas; without it, all but the target.")
@click.option("--target", default=None, help="Its target column.")
@click.option("--split", type=click.Choice(["deal", "blocks"]), default="deal", show_default=True)
@click.option("--split-seed", type=int, default=0, show_default=True, help="Shuffles the rows before they are dealt.")
@click.option("--aggregators", type=click.IntRange(2, 64), help="Else the job's own number, or 3.")
@click.option("--k-min", type=click.IntRange(min=2), help="Fewest owners in a sum; else the job's own, or 3.")
@click.option(
    "--executor",
    default="auto",
    show_default=True,
    help='Where owners compute: "threads", "processes", "ray" (needs smpc-fl[ray]) or "ray://HOST:PORT" of a cluster.',
)
@click.option("--workers", type=click.IntRange(min=1), help="How many at a time; else one a core.")
@click.option("--output", type=FOLDER, default=None, help="Where to write the model, the metrics and the curves.")
@click.option("--check", is_flag=True, help="Look at everything that the job names; run nothing.")
def simulate(job: Path, output: Path | None, check: bool, **options: Any) -> None:
    simulate_job(job, output=output, check=check, **options)


def simulate_job(
    path: Path,
    *,
    owners: int | None = None,
    data: Path | None = None,
    inputs: str = "",
    target: str | None = None,
    split: Any = "deal",
    split_seed: int = 0,
    aggregators: int | None = None,
    k_min: int | None = None,
    executor: str = "auto",
    workers: int | None = None,
    output: Path | None = None,
    check: bool = False,
) -> None:
    """What the command does. Raises `ConfigInvalid`, `DatasetInvalid`, `BadInput`, and what a run raises."""
    from rich.console import Console

    from smpc_fl.nodes.cli.job_file import TrainStep, plan_of, read_job
    from smpc_fl.nodes.simulation.data import deal

    job = read_job(path)
    steps: list[TrainStep] = []
    for number, step in enumerate(job.steps, 1):
        if not isinstance(step, TrainStep):
            raise ConfigInvalid(f"{path}: step {number} is not training: `smpc-fl run` does it, between nodes")
        steps.append(step)
    plans = [plan_of(step.model, path.parent) for step in steps]
    tables = _tables(job, path, data, [name for name in inputs.split(",") if name], target)
    if owners is not None:
        tables = deal(_pooled(tables, path), owners, split=split, seed=split_seed)
    elif data is not None:
        raise ConfigInvalid("--data: say among how many owners to divide it, with --owners")
    console = Console()
    rows = sorted({len(next(iter(tensors.values()))) for tensors in tables.values()})
    console.print(f"{len(tables):,} owners of {rows[0]:,} to {rows[-1]:,} rows")
    if check:
        console.print(f"{path}: {len(steps)} steps, ready to simulate")
        return
    folder = output or path.parent / (job.output or f"{path.stem}-output")
    folder.mkdir(parents=True, exist_ok=True)
    local = job.local
    where: dict[str, Any] = {
        "aggregators": aggregators or (local.aggregators if local else 3),
        "k_min": k_min or (local.k_min if local else 3),
        "executor": executor,
        "workers": workers,
    }
    for number, (step, plan) in enumerate(zip(steps, plans, strict=True), 1):
        if step.ring_bits is None and local is not None:
            where["ring_bits"] = local.ring_bits
        _train(plan, tables, step, where, folder / f"{number}-train", console)


def _tables(job: JobFile, path: Path, data: Path | None, inputs: list[str], target: str | None) -> dict[str, Any]:
    """{owner: tensors}: of the job's own owners, or of the one table."""
    from smpc_fl.nodes.ledger.datasets import read_dataset

    if data is not None:
        return {"data": read_dataset(data, inputs, target)}
    if inputs or target:
        raise ConfigInvalid("--inputs and --target are the columns of --data: name a file, or leave them out")
    if job.local is None:
        raise ConfigInvalid(f"{path} has no [local] section with owners and their files: name a table with --data")
    return {
        owner: read_dataset(path.parent / about.private, list(about.inputs), about.target or None)
        for owner, about in job.local.owners.items()
    }


def _pooled(tables: dict[str, Any], path: Path) -> dict[str, Any]:
    """One table of all owners' rows, in the order of their names."""
    import numpy as np

    parts = [tables[owner] for owner in sorted(tables)]
    shapes = {tuple((name, part[name].shape[1:]) for name in sorted(part)) for part in parts}
    if len(shapes) > 1:
        raise ConfigInvalid(f"{path}: the owners' tables have different columns: they cannot be dealt out as one")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _train(
    plan: Any, tables: dict[str, Any], step: TrainStep, where: dict[str, Any], stem: Path, console: Console
) -> None:
    from smpc_fl.nodes.cli.job_file import show_run, training_options, write_run
    from smpc_fl.nodes.simulation.run import simulate as begin

    told = ""

    def progress(now: Progress) -> None:
        nonlocal told
        told = "" if now.done == now.owners else str(now)

    run = begin(plan, tables, **(training_options(step) | where), progress=progress)
    show_run(run, console, lambda: told)
    write_run(run, stem, console)
