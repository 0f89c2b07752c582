"""`smpc-fl init ROLE`: a config that explains itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import click
import msgspec

from smpc_fl.errors import ConfigInvalid
from smpc_fl.nodes.home.config import (
    CONFIGS,
    AggregatorConfig,
    CoordinatorConfig,
    DatasetConfig,
    NodeConfig,
    OwnerConfig,
    OwnerPolicy,
    ProviderConfig,
    ResearcherConfig,
    Tls,
    to_toml,
)
from smpc_fl.nodes.home.files import write_new
from smpc_fl.nodes.home.keys import read_public
from smpc_fl.nodes.home.toml_text import struct_to_toml
from smpc_fl.nodes.net.addresses import PLAINTEXT_WORDS
from smpc_fl.roster import LISTENERS, MemberId

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
UNKNOWN_KEY = "64 hex digits: the content of federation.pub"

PURPOSES = {
    "owner": "A data owner: keeps tensors at home, answers only through secure sums, dials out only.",
    "aggregator": "An aggregator: listens, adds shares that it cannot read, releases one partial sum a round.",
    "coordinator": "The coordinator: listens, drives rounds, sees only what all aggregators have released.",
    "researcher": 'A researcher\'s view of the federation: for sf.connect("{file}"), smpc-fl run, status and up.',
    "provider": "A crypto provider: listens, deals randomness for shared tensors, sees no share of any data.",
}


@click.command()
@click.argument("role", type=click.Choice(list(CONFIGS)))
@click.argument("file", type=FILE, required=False)
@click.option("--id", "node_id", help="The node's id in the roster.")
@click.option("--federation-key", metavar="HEX|FILE.pub", help="The federation's public key, to be pinned.")
@click.option("--key", type=FILE, help="The node's private key [ID.key].")
@click.option("--roster", type=FILE, help="The signed roster [roster.signed].")
@click.option("--home", type=FOLDER, help="Folder for the node's state [ID-home].")
@click.option("--tls", "tls_folder", type=FOLDER, help="Folder with ca.pem and, for listeners, ID.pem and ID.key.")
@click.option("--plaintext", is_flag=True, help=f"Write: {PLAINTEXT_WORDS}.")
@click.option(
    "--listen", metavar="HOST:PORT", help="Where an aggregator, the coordinator or a crypto provider listens."
)
@click.option(
    "--aggregator", "aggregators", multiple=True, metavar="ID", help="An aggregator that an owner pins; repeat."
)
@click.option("--ledger", type=click.Choice(["syft", "own"]), default="syft", help="Where an owner's consent is kept.")
@click.option(
    "--node", "nodes", type=FILE, multiple=True, help="A node's config for `smpc-fl up` (researcher); repeat."
)
def init(
    role: str,
    file: Path | None,
    node_id: str | None,
    federation_key: str | None,
    key: Path | None,
    roster: Path | None,
    home: Path | None,
    tls_folder: Path | None,
    plaintext: bool,
    listen: str | None,
    aggregators: tuple[str, ...],
    ledger: Literal["syft", "own"],
    nodes: tuple[Path, ...],
) -> None:
    """Write a commented config for ROLE into FILE [ID.toml; federation.toml for a researcher]."""
    node_id = node_id or {"owner": "alice", "aggregator": "aggregator-1"}.get(role, role)
    try:
        msgspec.convert(node_id, MemberId)  # it becomes the name of files
    except msgspec.ValidationError:
        raise ConfigInvalid(
            f"--id: {node_id!r} cannot be an id: letters and digits, then also . _ @ and -, 64 at most"
        ) from None
    file = file or Path("federation.toml" if role == "researcher" else f"{node_id}.toml")

    def place(path: Path) -> Path:
        """A path as the file must write it: relative to its own folder."""
        return path if path.is_absolute() else Path(os.path.relpath(path, file.parent))

    tls = Tls()
    if tls_folder is not None:
        tls = Tls(ca=place(tls_folder / "ca.pem"))
        if role in LISTENERS:
            shown, secret = place(tls_folder / f"{node_id}.pem"), place(tls_folder / f"{node_id}.key")
            tls = Tls(ca=tls.ca, certificate=shown, key=secret)
    common: dict[str, Any] = {
        "id": node_id,
        "home": place(home) if home else Path(f"{node_id}-home"),
        "key": place(key) if key else Path(f"{node_id}.key"),
        "roster": place(roster) if roster else Path("roster.signed"),
        "federation_key": read_public(federation_key).hex if federation_key else UNKNOWN_KEY,
        "plaintext": PLAINTEXT_WORDS if plaintext else "",
        "tls": tls,
    }
    text = to_toml(_config(role, common, listen, aggregators, ledger, tuple(map(place, nodes))), comments=True)
    if role == "owner":
        text += "\n" + _example_dataset()
    write_new(file, (_head(role, file) + text).encode())
    click.echo(f"{file}: read it, fill it in, then: {_check_command(role, file)}")


def _config(
    role: str,
    common: dict[str, Any],
    listen: str | None,
    aggregators: tuple[str, ...],
    ledger: Literal["syft", "own"],
    nodes: tuple[Path, ...],
) -> NodeConfig:
    if listen is not None and role not in LISTENERS:
        raise ConfigInvalid(f"--listen: a node of role {role} only dials out")
    if aggregators and role != "owner":
        raise ConfigInvalid("--aggregator: it is owners who pin aggregators")
    if nodes and role != "researcher":
        raise ConfigInvalid("--node: `smpc-fl up` takes the researcher's file")
    match role:
        case "owner":
            policy = OwnerPolicy(aggregators=aggregators or ("aggregator-1", "aggregator-2"))
            return OwnerConfig(**common, policy=policy, ledger=ledger)
        case "aggregator":
            return AggregatorConfig(**common, listen=listen or "127.0.0.1:8444")
        case "coordinator":
            return CoordinatorConfig(**common, listen=listen or "127.0.0.1:8443")
        case "provider":
            return ProviderConfig(**common, listen=listen or "127.0.0.1:8445")
        case _:
            return ResearcherConfig(**common, nodes=nodes)


def _check_command(role: str, file: Path) -> str:
    return f"smpc-fl {'status' if role == 'researcher' else role} --config {file} --check"


def _head(role: str, file: Path) -> str:
    lines = [
        PURPOSES[role].format(file=file.name),
        "Paths are relative to this file's folder. A line that starts with # shows a default, or an example.",
        f"Check this file with: {_check_command(role, file)}",
    ]
    return "".join(f"# {line}\n" for line in lines) + "\n"


def _example_dataset() -> str:
    """A table of the list `datasets`, as comments."""
    example = DatasetConfig(name="patients", private=Path("patients.csv"), inputs=("age", "pressure"), target="ill")
    table = "[[datasets]]\n" + struct_to_toml(example)
    lines = ["Datasets to publish when the node starts; `smpc-fl datasets add` does it by hand."]
    return "".join(f"# {line}\n" for line in lines + table.splitlines())
