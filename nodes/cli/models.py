"""`smpc-fl models`: what a data owner's node keeps of runs for itself, layers or whole models; they never leave it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from smpc_fl.errors import BadInput, MalformedMessage
from smpc_fl.jobs import TrainJob, decode_job
from smpc_fl.learning.names import OWN, PERSONAL
from smpc_fl.learning.shared import shared_of
from smpc_fl.nodes.cli.owner import CONFIG, FILE
from smpc_fl.nodes.home.backup import JOURNAL, reading
from smpc_fl.nodes.home.config import OwnerConfig, load
from smpc_fl.nodes.home.kept import Kept
from smpc_fl.plans.layout import Layout, Vector
from smpc_fl.protocols.codec import decode
from smpc_fl.protocols.messages import Signed, StartRun


@click.group()
def models() -> None:
    """Models and layers of this owner's own, which it keeps from runs of training and nobody else has."""


@models.command("list")
@CONFIG
def list_(config: Path) -> None:
    """What is kept, by run."""
    home = load(config, OwnerConfig).home
    table = Table("run", "kept", "numbers", title="kept by this owner")
    for folder in sorted((home / "kept").glob("*")):
        vectors = Kept(folder).read()
        table.add_row(folder.name, ", ".join(sorted(vectors)), f"{sum(v.size for v in vectors.values()):,}")
    Console().print(table if table.rows else "nothing is kept: no run had private layers or personal models here")


@models.command()
@click.argument("run")
@click.option(
    "--model", type=FILE, help="The run's global model (.safetensors), from the researcher, for private layers."
)
@click.option("--output", "-o", required=True, type=FILE, help="Where to write this owner's model (.safetensors).")
@CONFIG
def export(run: str, model: Path | None, output: Path, config: Path) -> None:
    """Write this owner's own model of RUN: its personal one, or the global one with its private layers."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save_file

    home = load(config, OwnerConfig).home
    folder = _folder(home, run)
    vectors, job = Kept(folder).read(), _job(home, folder.name)
    shared = shared_of(job.plan, job.strategy, job.private)
    layout: Layout = shared.model
    if PERSONAL in vectors:
        own: Vector = vectors[PERSONAL]
    elif OWN in vectors:
        if model is None:
            raise BadInput("this run's private layers belong into the global model: name its file with --model")
        try:
            own = shared.with_own(layout.flatten(load_file(model)), vectors[OWN])
        except (OSError, SafetensorError) as error:
            raise BadInput(f"{model}: cannot be read: {error}") from None
    else:
        raise BadInput(f"of run {folder.name} there is no model here, only {', '.join(vectors) or 'nothing'}")
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in layout.unflatten(own).items()}, output)
    output.chmod(0o600)
    click.echo(f"written: {output}, of your own data: keep it as you keep them")


@models.command()
@click.argument("run")
@CONFIG
def erase(run: str, config: Path) -> None:
    """Forget what is kept of RUN; if it goes on, this owner is a newcomer to it."""
    folder = _folder(load(config, OwnerConfig).home, run)
    Kept(folder).erase()
    click.echo(f"erased: {folder.name}")


def _folder(home: Path, run: str) -> Path:
    """Of the one run whose id begins so. Raises `BadInput`."""
    names = [path.name for path in (home / "kept").glob("*")]
    found = [name for name in names if run and name.startswith(run)]
    if len(found) != 1:
        raise BadInput(
            f"{len(found)} runs begin with {run!r}; `smpc-fl models list` shows them: {', '.join(names) or 'none'}"
        )
    return home / "kept" / found[0]


def _job(home: Path, run: str) -> TrainJob:
    with reading(home / JOURNAL) as db:
        row = db.execute("SELECT data FROM named WHERE key = ?", (f"job/{run}",)).fetchone()
    try:
        job = decode_job(decode(decode(bytes(row[0]), Signed).body, StartRun).job)
    except (TypeError, MalformedMessage, sqlite3.Error):
        raise BadInput(f"the job of run {run} is not in this node's journal, or of another release") from None
    assert isinstance(job, TrainJob)
    return job
