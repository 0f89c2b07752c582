"""`smpc-fl backup` and `restore`: what of a node may be kept elsewhere, and how it comes back."""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from smpc_fl.errors import ConfigInvalid
from smpc_fl.nodes.cli.members import FILE
from smpc_fl.nodes.home.backup import copy_folder, copy_home
from smpc_fl.nodes.home.config import NodeConfig, load_any
from smpc_fl.nodes.home.files import private_folder, read, sync_folder, write_new
from smpc_fl.nodes.home.keys import load_key, next_path
from smpc_fl.nodes.home.toml_text import struct_to_toml

NOTE, HOME, KEY, NEXT = "backup.toml", "home", "node.key", "node.next.key"
_VERSION = 1


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the backup is of."""

    version: int
    id: str
    role: str
    made: str


def _role(node: NodeConfig) -> str:
    return str(type(node).__struct_config__.tag)


@click.command()
@click.option("--config", required=True, type=FILE, help="The node's config.")
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), help="A new folder for it.")
@click.option("--with-key", is_flag=True, help="The node's private key too: whoever has the backup is then the node.")
def backup(config: Path, folder: Path, with_key: bool) -> None:
    """Copy what a node must not lose, while it runs. No secret of any round is in it; an owner's data sets are."""
    node = load_any(config)
    if os.path.lexists(folder):
        raise ConfigInvalid(f"{folder} exists already and is not overwritten: name a new folder")
    with _whole(folder) as partial:
        copy_home(node.home, _role(node), node.id, partial / HOME)
        if with_key:
            load_key(node.key)
            for path, name in ((node.key, KEY), (next_path(node.key), NEXT)):
                if path.exists():
                    write_new(partial / name, read(path, "a private key", "", limit=1024), mode=0o600)
        made = datetime.now(UTC).isoformat(timespec="seconds")
        write_new(partial / NOTE, struct_to_toml(Note(_VERSION, node.id, _role(node), made)).encode(), mode=0o600)
    key = "with its private key: guard it as you guard the node" if with_key else "without its private key"
    data = "; it holds the data sets" if _role(node) == "owner" else ""
    click.echo(f"{folder}: {node.id} as of {made}, {key}{data}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--config", required=True, type=FILE, help="The node's config.")
def restore(folder: Path, config: Path) -> None:
    """Put a backup in the place of a home that is lost. Rounds that were open when it was made stay closed."""
    node = load_any(config)
    note = _note(folder)
    if (note.id, note.role) != (node.id, _role(node)):
        raise ConfigInvalid(
            f"{folder} is a backup of {note.role} {note.id}, this is the config of {_role(node)} {node.id}"
        )
    if node.home.is_symlink() or (node.home.exists() and any(node.home.iterdir())):
        raise ConfigInvalid(
            f"{node.home} exists already, and what is in it is newer than any backup: move it away only if it is lost"
        )
    keys = [(folder / KEY, node.key), (folder / NEXT, next_path(node.key))]
    missing = [(source, path) for source, path in keys if source.is_file() and not path.exists()]
    if node.home.exists():
        node.home.rmdir()
    with _whole(node.home) as partial:
        copy_folder(folder / HOME, partial)
    for source, path in missing:
        write_new(path, read(source, "a private key", "", limit=1024), mode=0o600)
    click.echo(f"{node.home}: {node.id} as of {note.made}")
    if not node.key.exists():
        click.echo(f"its private key is not here: {node.key}. Put it back, or enrol with a new one")


def _note(folder: Path) -> Note:
    data = read(folder / NOTE, "a backup's note", "`smpc-fl backup` writes it")
    try:
        note = msgspec.convert(tomllib.loads(data.decode("utf-8")), Note)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigInvalid(f"{folder / NOTE}: not a backup's note: {error}") from None
    if note.version != _VERSION:
        raise ConfigInvalid(f"{folder} was made by another release of smpc-fl: restore it with that one")
    return note


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder that is there as a whole, or not at all."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        yield private_folder(partial)
        os.rename(partial, folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise ConfigInvalid(f"{folder} cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
