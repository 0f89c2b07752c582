"""`smpc-fl datasets` and `smpc-fl requests`: what a data owner publishes, and what the owner allows.

Both work on the ledger in the node's home, whether the node runs or not; a running node sees every change in seconds.
"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from smpc_fl.errors import BadInput
from smpc_fl.jobs import decode_job
from smpc_fl.nodes.home.config import OwnerConfig, load
from smpc_fl.nodes.ledger.base import Dataset, Ledger, Request, TensorInfo, describe, open_ledger, printable
from smpc_fl.nodes.ledger.datasets import TargetType, add_from_files, read_dataset
from smpc_fl.nodes.owner_budget import balance

FILE = click.Path(path_type=Path, dir_okay=False)
SHORT = 16
"""Digits of a digest that tables show and that `approve` takes."""

DEFAULT_CONFIG = Path("owner.toml")
_STYLES = {"pending": "yellow", "approved": "green", "rejected": "red", "used": "dim"}

CONFIG = click.option("--config", default=DEFAULT_CONFIG, type=FILE, show_default=True, help="The owner node's config.")
CHECK = click.option("--check", is_flag=True, help="Look at the config and whatever is named; change nothing.")


def _ledger(config: Path) -> Ledger:
    loaded = load(config, OwnerConfig)
    ledger = open_ledger(loaded.ledger, loaded.home, loaded.id)
    if ledger.notice:
        click.echo(f"note: {ledger.notice}", err=True)
    return ledger


def _checked(config: Path) -> None:
    loaded = load(config, OwnerConfig)
    click.echo(f'{config}: ok, {loaded.id} keeps a ledger of kind "{loaded.ledger}" in {loaded.home}')


def _commas(context: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (value or "").split(",") if part.strip())


@click.group()
def datasets() -> None:
    """Publish datasets: the private part stays at home, the mock part is what researchers may see."""


@datasets.command()
@click.argument("name")
@click.option("--private", "private", required=True, type=FILE, help="The data: .csv, .npz, .parquet or .safetensors.")
@click.option("--mock", required=True, metavar="FILE|auto", help='Invented data of the same columns, or "auto".')
@click.option("--inputs", callback=_commas, metavar="A,B,…", help='Columns of the tensor "x", in order.')
@click.option("--target", metavar="COLUMN", help='Column of the tensor "y".')
@click.option("--tag", "tags", multiple=True, metavar="#WORD", help="A word to find it by; may be given again.")
@click.option("--summary", default="", help="What it is, for researchers.")
@click.option("--publish-rows", is_flag=True, help="Let researchers see the number of rows.")
@click.option(
    "--target-type",
    type=click.Choice(["auto", "class", "number"]),
    default="auto",
    show_default=True,
    help='"auto": whole numbers are class labels.',
)
@click.option(
    "--classes", type=click.IntRange(min=2), default=2, show_default=True, help="Labels in an automatic mock."
)
@CONFIG
@CHECK
def add(
    name: str,
    private: Path,
    mock: str,
    inputs: tuple[str, ...],
    target: str | None,
    tags: tuple[str, ...],
    summary: str,
    publish_rows: bool,
    target_type: TargetType,
    classes: int,
    config: Path,
    check: bool,
) -> None:
    """Publish the dataset NAME.

    smpc-fl datasets add heart --private heart.csv --mock auto --inputs age,sex,chol --target sick --tag '#heart'
    """
    if check:
        _checked(config)
        for file in [private] + ([] if mock == "auto" else [Path(mock)]):
            found = describe(read_dataset(file, inputs, target, target_type=target_type))
            click.echo(f"{file}: ok, {_shapes(found, None)}")
        return
    made = add_from_files(
        _ledger(config),
        name,
        private,
        mock,
        inputs=inputs,
        target=target,
        tags=tags,
        summary=summary,
        publish_rows=publish_rows,
        target_type=target_type,
        classes=classes,
    )
    click.echo(f"published {made.name}: {_shapes(made.tensors, made.rows)}")
    click.echo(f"private part from {private}; mock part {'invented' if mock == 'auto' else f'from {mock}'}")


@datasets.command("list")
@CONFIG
@CHECK
def list_datasets(config: Path, check: bool) -> None:
    """Show the datasets that are published, without their values."""
    if check:
        return _checked(config)
    found = _ledger(config).datasets()
    if not found:
        click.echo("no datasets yet: publish one with `smpc-fl datasets add`")
        return None
    table = Table("name", "tensors", "tags", "summary")
    for dataset in found:
        table.add_row(*_cells(dataset.name, _tensors(dataset), " ".join(dataset.tags), dataset.summary))
    _show(table)
    return None


@datasets.command()
@click.argument("name")
@CONFIG
@CHECK
def remove(name: str, config: Path, check: bool) -> None:
    """Withdraw the dataset NAME and erase the ledger's copy; your own file stays."""
    if check:
        return _checked(config)
    _ledger(config).remove_dataset(name)
    click.echo(f"removed {name}")
    return None


@click.group()
def requests() -> None:
    """What researchers asked for. Nothing runs, and nothing is released, without your yes."""


@requests.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that are decided as well.")
@CONFIG
@CHECK
def list_requests(everything: bool, config: Path, check: bool) -> None:
    """Show the requests that wait for a decision."""
    if check:
        return _checked(config)
    known = _ledger(config).requests()
    found = known if everything else [request for request in known if request.status == "pending"]
    if not found:
        decided = f" ({len(known)} decided: see --all)" if known else ""
        click.echo(f"no requests{'' if everything else ' waiting'}{decided}")
        return None
    table = Table("digest", "kind", "researcher", "asked", "status", "what")
    for request in found:
        first = (request.summary.splitlines() or [""])[0]
        row = _cells(request.digest[:SHORT], request.kind, request.researcher, _when(request), request.status, first)
        row[4].stylize(_STYLES.get(request.status, ""))
        table.add_row(*row)
    _show(table)
    return None


@requests.command()
@click.argument("digest")
@CONFIG
@CHECK
def show(digest: str, config: Path, check: bool) -> None:
    """Show one request in full. DIGEST: its first digits."""
    if check:
        return _checked(config)
    ledger = _ledger(config)
    request = _resolve(ledger, digest)
    status = request.status + (f": {request.reason}" if request.reason else "")
    for label, value in (
        ("digest", request.digest),
        ("kind", request.kind),
        ("researcher", request.researcher),
        ("asked", _when(request)),
        ("status", status),
    ):
        click.echo(f"{label:<12}{printable(value)}")
    click.echo(f"\n{printable(request.summary)}\n")
    if request.kind in ("train", "aggregate"):
        loaded = load(config, OwnerConfig)
        job = decode_job(ledger.stored(request.digest))
        click.echo(f"privacy     {balance(loaded.policy, loaded.home, job)}")
    for receipt in ledger.receipts(request.digest):
        click.echo(f"receipt     {printable(receipt)}")
    if request.status == "pending":
        where = "" if config == DEFAULT_CONFIG else f" --config {config}"
        click.echo(f"decide with `smpc-fl requests approve {request.digest[:SHORT]}{where}` or `… reject …`")
    return None


DIGESTS = click.argument("digests", nargs=-1, required=True, metavar="DIGEST…")
REASON = click.option("--reason", default="", help="A word to the researcher.")


@requests.command()
@DIGESTS
@REASON
@CONFIG
@CHECK
def approve(digests: tuple[str, ...], reason: str, config: Path, check: bool) -> None:
    """Allow requests: jobs as often as they say, the release of a value once. DIGEST: first digits."""
    return _checked(config) if check else _decide(_ledger(config), digests, True, reason)


@requests.command()
@DIGESTS
@REASON
@CONFIG
@CHECK
def reject(digests: tuple[str, ...], reason: str, config: Path, check: bool) -> None:
    """Refuse requests, also some that were approved before. DIGEST: first digits."""
    return _checked(config) if check else _decide(_ledger(config), digests, False, reason)


def _decide(ledger: Ledger, digests: tuple[str, ...], approved: bool, reason: str) -> None:
    # All are looked up before any is decided: a typing error decides nothing.
    for request in [_resolve(ledger, digest) for digest in digests]:
        decided = ledger.decide(request.digest, approved, reason)
        click.echo(f"{decided.status} {decided.digest[:SHORT]} ({decided.kind}, {printable(decided.researcher)})")


def _resolve(ledger: Ledger, digits: str) -> Request:
    """The one request whose digest begins with `digits`. Raises `BadInput`."""
    found = [request for request in ledger.requests() if digits and request.digest.startswith(digits.lower())]
    if len(found) == 1:
        return found[0]
    if found:
        raise BadInput(f"{len(found)} requests begin with {digits}: give more digits")
    raise BadInput(f"no request begins with {digits!r}: `smpc-fl requests list --all` shows what there is")


def _shapes(tensors: dict[str, TensorInfo], rows: int | None) -> str:
    first = "rows" if rows is None else str(rows)
    return ", ".join(
        f"{name} {info.dtype}[{', '.join([first, *map(str, info.shape_without_rows)])}]"
        for name, info in sorted(tensors.items())
    )


def _tensors(dataset: Dataset) -> str:
    return _shapes(dataset.tensors, dataset.rows)


def _when(request: Request) -> str:
    return datetime.fromtimestamp(request.created).strftime("%Y-%m-%d %H:%M")


def _cells(*values: str) -> list[Text]:
    """Plain text: nothing that a researcher wrote is markup or moves the cursor."""
    return [Text(printable(value)) for value in values]


def _show(table: Table) -> None:
    # A pipe is no terminal with a width: nothing is cut off there.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
