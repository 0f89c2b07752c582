"""`smpc-fl rotate` and `roster rotate`: a member replaces its key, and the roster says until when the old one counts."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import click
import msgspec

from smpc_fl.errors import ConfigInvalid
from smpc_fl.identity import PublicIdentity
from smpc_fl.nodes.cli.members import FILE, roster
from smpc_fl.nodes.cli.spans import Span
from smpc_fl.nodes.home import roster_file
from smpc_fl.nodes.home.config import NodeConfig, load_any
from smpc_fl.nodes.home.files import replace
from smpc_fl.nodes.home.keys import load_key, make_key, next_path, read_public, take_successor
from smpc_fl.nodes.home.letters import read_letter, to_letter
from smpc_fl.nodes.home.membership import LiveMembership
from smpc_fl.roster import Rotation

LONGEST = timedelta(days=90)


@click.command()
@click.option("--config", required=True, type=FILE, help="The node's config.")
@click.option("--output", type=FILE, default=None, help="The rotation [KEY's name with .rotation].")
@click.option("--finish", is_flag=True, help="The overlap is over: the new key takes the old one's place.")
def rotate(config: Path, output: Path | None, finish: bool) -> None:
    """Replace a node's key. Makes the new one beside it, and a statement for whoever holds the federation key.

    The node goes on with the old key until the roster has the new one, which it then takes by itself; no restart. When the
    old one counts no more, `--finish` erases it. A key that may have been stolen is revoked instead, at once."""
    node = load_any(config)
    if finish:
        _finish(node)
        return
    old = load_key(node.key)
    successor = next_path(node.key)
    new = load_key(successor) if successor.exists() else make_key(successor)
    output = output or node.key.with_suffix(".rotation")
    replace(output, to_letter(Rotation.make(node.id, old, new, node.federation)).encode())
    click.echo(f"new key       {successor}   stays here; the old one goes on meanwhile")
    click.echo(f"fingerprint   {new.public.fingerprint}")
    click.echo(f"rotation      {output}   send it to whoever holds the federation key")


def _finish(node: NodeConfig) -> None:
    successor = next_path(node.key)
    if not successor.exists():
        raise ConfigInvalid(f"{successor} is not there: no key of {node.id} is being replaced")
    new = load_key(successor).public
    membership = LiveMembership(node).current
    if membership.roster.member(node.id).key != new.key:
        raise ConfigInvalid(
            f"the roster (version {membership.roster_version}) does not have the new key of {node.id} yet"
        )
    if membership.former(node.id):
        (until, *_) = [item.until for item in membership.roster.rotations if item.new == new.key]
        raise ConfigInvalid(
            f"peers with an older roster know the old key only: it counts until {roster_file.date_of(until)}"
        )
    take_successor(node.key)
    click.echo(
        f"{node.key} is the new key, {new.fingerprint}; the old one is erased. Restart the node when it suits you"
    )


@roster.command("rotate")
@click.argument("draft", type=FILE)
@click.argument("statement", type=FILE)
@click.option("--federation-key", required=True, metavar="HEX|FILE.pub", help="The federation that it is for.")
@click.option(
    "--overlap", type=Span(LONGEST), default="14d", show_default=True,
    help="How long the old key is believed as well: longer than any node is away.",
)  # fmt: skip
def rotate_member(draft: Path, statement: Path, federation_key: str, overlap: timedelta) -> None:
    """Put a member's new key into the draft, as its `smpc-fl rotate` asks. Owners that trust the old key need not approve it."""
    made = read_letter(statement, Rotation, "`smpc-fl rotate` writes one")
    made.check(read_public(federation_key))
    rotation = msgspec.structs.replace(made, until=int(time.time() + overlap.total_seconds()))
    changed = roster_file.with_rotation(roster_file.read_draft(draft), rotation)
    roster_file.write_draft(draft, changed)
    old, new = (PublicIdentity(key).fingerprint for key in (rotation.old, rotation.new))
    click.echo(f"{rotation.id}   {old} -> {new}")
    click.echo(f"the old key counts until {roster_file.date_of(rotation.until)}: sign the draft and hand it on")
