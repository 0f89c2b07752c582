"""`smpc-fl ckks-keygen`: the key that owners have in common where their updates are encrypted."""

from __future__ import annotations

from pathlib import Path

import click

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("file", type=FILE)
def ckks_keygen(file: Path) -> None:
    """Make the owners' common CKKS key in FILE (mode 0600; needs the extra `ckks`).

    One owner makes it and hands it to the other owners on a way that only they see: whoever has it can read every owner's
    update. No aggregator and no coordinator may ever hold it; the coordinator's config names its id, which opens nothing.
    """
    from smpc_fl.nodes.encryption import make_key_file

    key = make_key_file(file)
    click.echo(f"common key    {file}   for the owners alone: `ckks_key` in each owner's config")
    click.echo(f"id            {key.id.hex()}")
    click.echo('\nThe coordinator\'s policy needs protection = "ckks" and this id as `ckks_key_id`.')
