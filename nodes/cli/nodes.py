"""`smpc-fl owner`, `aggregator`, `coordinator`, `provider`, `up`, `run`, `status`, `demo`: thin doors to what does it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from smpc_fl.errors import ConfigInvalid
from smpc_fl.nodes.cli.check import check as check_config
from smpc_fl.nodes.home.config import (
    AggregatorConfig,
    CoordinatorConfig,
    NodeConfig,
    OwnerConfig,
    ProviderConfig,
    ResearcherConfig,
    load,
    load_any,
)

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
CONFIG = click.option("--config", required=True, type=FILE, help="The node's config (`smpc-fl init` writes one).")
FEDERATION = click.option(
    "--config", default=Path("federation.toml"), type=FILE, show_default=True, help="The researcher's config."
)
CHECK = click.option("--check", is_flag=True, help="Look at everything that the config names; start nothing.")
LISTEN_FD = click.option("--listen-fd", type=click.IntRange(min=0), hidden=True, help="A socket that listens already.")

WITH_PARENT = click.option(
    "--with-parent", is_flag=True, hidden=True, help="Standard input is a pipe from our parent: stop when it closes."
)


def _call(module: str, attribute: str, *args: Any, **options: Any) -> Any:
    """Calls a function of a module that is only now imported: some of them load torch."""
    return getattr(importlib.import_module(module), attribute)(*args, **options)


@contextmanager
def _log_of(level: str) -> Iterator[None]:
    """What a connection logs goes to standard error meanwhile: standard output is for what was asked for."""
    undo = _call("smpc_fl.nodes.logs", "configure", level)
    try:
        yield
    finally:
        undo()


def show_findings(config: NodeConfig) -> int:
    """Prints what `--check` found; how many things are wrong."""
    findings = check_config(config)
    for finding in findings:
        click.echo(f"{'ok   ' if finding.ok else 'WRONG'}  {finding.text}")
    return sum(not finding.ok for finding in findings)


def report(config: NodeConfig) -> None:
    """As `show_findings`. Raises `ConfigInvalid` if anything is wrong."""
    wrong = show_findings(config)
    if wrong:
        raise ConfigInvalid(f"{config.id}: {wrong} {'check' if wrong == 1 else 'checks'} failed")


@click.command()
@CONFIG
@CHECK
@LISTEN_FD
@WITH_PARENT
def owner(config: Path, check: bool, listen_fd: int | None, with_parent: bool) -> None:
    """Run a data owner's node. It dials out only, so it works behind a firewall."""
    loaded = load(config, OwnerConfig)
    if check:
        report(loaded)
    else:
        _call("smpc_fl.nodes.owner", "main", loaded, listen_fd=listen_fd, with_parent=with_parent)


@click.command()
@CONFIG
@CHECK
@LISTEN_FD
@WITH_PARENT
def aggregator(config: Path, check: bool, listen_fd: int | None, with_parent: bool) -> None:
    """Run an aggregator. Use two or more, run by parties that do not collude."""
    loaded = load(config, AggregatorConfig)
    if check:
        report(loaded)
    else:
        _call("smpc_fl.nodes.aggregator", "main", loaded, listen_fd=listen_fd, with_parent=with_parent)


@click.command()
@CONFIG
@CHECK
@LISTEN_FD
@WITH_PARENT
def coordinator(config: Path, check: bool, listen_fd: int | None, with_parent: bool) -> None:
    """Run the coordinator, which drives rounds."""
    loaded = load(config, CoordinatorConfig)
    if check:
        report(loaded)
    else:
        _call("smpc_fl.nodes.coordinator", "main", loaded, listen_fd=listen_fd, with_parent=with_parent)


@click.command()
@CONFIG
@CHECK
@LISTEN_FD
@WITH_PARENT
def provider(config: Path, check: bool, listen_fd: int | None, with_parent: bool) -> None:
    """Run a crypto provider, which deals randomness for shared tensors. Its operator is nobody else in the federation."""
    loaded = load(config, ProviderConfig)
    if check:
        report(loaded)
    else:
        _call("smpc_fl.nodes.provider", "main", loaded, listen_fd=listen_fd, with_parent=with_parent)


@click.command()
@click.argument("federation", type=FILE)
@CHECK
def up(federation: Path, check: bool) -> None:
    """Run all nodes listed under `nodes` in FEDERATION.toml, on this machine, logs side by side, until Ctrl-C."""
    from smpc_fl.nodes.cli.up import Child, run_all

    config = load(federation, ResearcherConfig)
    if not config.nodes:
        raise ConfigInvalid(f'{federation}: nodes: list the configs to run, such as nodes = ["coordinator.toml", …]')
    nodes = [(path, load_any(path)) for path in config.nodes]
    for path, node in nodes:
        if isinstance(node, ResearcherConfig):
            raise ConfigInvalid(f"{federation}: nodes: {path} is a researcher's config, not a node's")
    if check:
        wrong = 0
        for node in [*(node for _, node in nodes), config]:
            click.echo(f"{node.id}:")
            wrong += show_findings(node)
        if wrong:
            raise ConfigInvalid(f"{federation}: {wrong} checks failed")
        return
    children = [Child(node.id, str(type(node).__struct_config__.tag), path) for path, node in nodes]
    run_all(children, click.echo)


@click.command()
@click.argument("job", type=FILE)
@FEDERATION
@click.option("--output", type=FOLDER, default=None, help="Where to write the model, the metrics and the curves.")
@CHECK
def run(job: Path, config: Path, output: Path | None, check: bool) -> None:
    """Run the secure rounds that JOB.toml describes, against the federation of --config or a local one."""
    with _log_of("warning"):
        _call("smpc_fl.nodes.cli.job_file", "run_job", job, config=config, output=output, check=check)


@click.command()
@FEDERATION
@CHECK
def status(config: Path, check: bool) -> None:
    """Show a federation's members, runs and traffic."""
    loaded = load(config, ResearcherConfig)
    if check:
        report(loaded)
    else:
        with _log_of("error"):
            _call("smpc_fl.nodes.client", "show_status", loaded)


@click.command()
@click.option("--output", type=FOLDER, default=Path("demo-output"), show_default=True, help="For curves and results.")
@click.option("--splits", type=click.IntRange(1, 100), default=5, show_default=True, help="Divisions of the patients.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=8, show_default=True, help="Rounds for each.")
@click.option("--aggregators", type=click.IntRange(2, 16), default=3, show_default=True)
def demo(output: Path, splits: int, rounds: int, aggregators: int) -> None:
    """Four real hospitals (UCI heart disease, 920 patients) train one model, each in its own process on this machine,
    and the result is compared with plain FedAvg, with pooled training and with each hospital alone."""
    _call("smpc_fl.nodes.demo.main", "main", output=output, splits=splits, rounds=rounds, aggregators=aggregators)
