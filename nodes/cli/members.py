"""`smpc-fl keygen`, `roster` and `certificate`: who belongs to a federation, and how the others know."""

from __future__ import annotations

from pathlib import Path

import click

from smpc_fl.errors import ConfigInvalid, SmpcError
from smpc_fl.identity import PublicIdentity
from smpc_fl.nodes.home import roster_file
from smpc_fl.nodes.home.config import load_any
from smpc_fl.nodes.home.files import private_folder, replace, write_new
from smpc_fl.nodes.home.keys import load_key, make_key, public_path, read_public
from smpc_fl.nodes.home.membership import LATEST, accepted_membership, read_signed
from smpc_fl.nodes.net.addresses import parse_address
from smpc_fl.roster import ROLES, Member, Membership, Role, Roster, accept_update, everybody, open_roster, sign_roster

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("file", type=FILE)
def keygen(file: Path) -> None:
    """Make a key pair: FILE (private, mode 0600, never leaves) and its public half beside it.

    One for each node, where that node will run:  smpc-fl keygen alice.key
    And one that signs the list of members, kept offline:  smpc-fl keygen federation.key
    """
    identity = make_key(file)
    click.echo(f"private key   {file}   stays on this machine: never send it to anybody")
    click.echo(f"public key    {public_path(file)}   {identity.public.hex}")
    click.echo(f"fingerprint   {identity.public.fingerprint}")
    click.echo(f"\nSend {public_path(file).name} to whoever keeps the roster, and compare the fingerprint by voice.")


@click.group()
def roster() -> None:
    """The list of members: id, role, key, address.

    Whoever holds the federation key keeps a draft (new, add, revoke; invite, enrol, rotate) and signs it (sign). Every node
    gets the signed file, pins the federation key in its config, and takes over changes (verify, accept).
    """


@roster.command()
@click.argument("draft", type=FILE)
@click.option("--name", required=True, help="Name of the federation.")
def new(draft: Path, name: str) -> None:
    """Start the draft of a roster, a TOML file."""
    roster_file.new_draft(draft, name)
    click.echo(f"{draft}: add members with `smpc-fl roster add {draft} --id … --role … --key ….pub`")


@roster.command()
@click.argument("draft", type=FILE)
@click.option("--id", "member_id", required=True, help="The node's id, as in its config.")
@click.option("--role", required=True, type=click.Choice(ROLES))
@click.option("--key", required=True, metavar="HEX|FILE.pub", help="The node's public key.")
@click.option("--address", default="", metavar="wss://HOST:PORT", help="Where an aggregator or coordinator listens.")
def add(draft: Path, member_id: str, role: Role, key: str, address: str) -> None:
    """Add a member to the draft, or change a member's address."""
    if address:
        parse_address(address)
    public = read_public(key)
    changed = roster_file.with_member(roster_file.read_draft(draft), Member(member_id, role, public.key, address))
    roster_file.write_draft(draft, changed)
    click.echo(f"{member_id}   {role}   fingerprint {public.fingerprint}")


@roster.command()
@click.argument("draft", type=FILE)
@click.option("--id", "member_id", required=True, help="The member whose key must not be believed any more.")
@click.option("--reason", default="", help="Shown to those who meet the revoked key.")
@click.option(
    "--former", is_flag=True, help="Only the keys that it has replaced: the member stays, an overlap ends at once."
)
def revoke(draft: Path, member_id: str, reason: str, former: bool) -> None:
    """Revoke a member's key, for good. Takes effect, once signed and handed on, in the next round."""
    change = roster_file.without_former_keys if former else roster_file.without_member
    roster_file.write_draft(draft, change(roster_file.read_draft(draft), member_id, reason))
    what = f"what {member_id} had before its key" if former else member_id
    click.echo(f"{what} is revoked in the draft: sign it and hand it on")


@roster.command()
@click.argument("draft", type=FILE)
@click.option("--key", required=True, type=FILE, help="The federation's private key.")
@click.option("--output", type=FILE, default=None, help="The signed file [DRAFT's name with .signed].")
def sign(draft: Path, key: Path, output: Path | None) -> None:
    """Sign the draft as the roster's next version."""
    output = output or draft.with_suffix(".signed")
    federation = load_key(key)
    roster = roster_file.next_version(roster_file.read_draft(draft))
    signed = sign_roster(roster, federation)
    # The draft first: a version number that was used up is harmless, one used twice is not.
    roster_file.write_draft(draft, roster)
    replace(output, signed)
    click.echo(f"{output}: version {roster.version}, {len(roster.members)} members, signed by {federation.public.hex}")
    for sentence in roster_file.shortcomings(roster):
        click.echo(f"note: {sentence}")
    click.echo(
        f"\nHand {output.name} to every node; each pins the federation key {public_path(key).name} in its config."
    )


@roster.command()
@click.argument("file", type=FILE)
@click.option("--federation-key", metavar="HEX|FILE.pub", help="Check the signature of a signed roster.")
def show(file: Path, federation_key: str | None) -> None:
    """Show the members in a draft, or in a signed roster."""
    if file.suffix == ".toml":
        _print(roster_file.read_draft(file), "draft, not signed")
        return
    if federation_key is None:
        raise ConfigInvalid(f"{file}: give --federation-key, so that what you see is what the federation signed")
    _print(_verified(file, read_public(federation_key)), "signature holds")


@roster.command()
@click.argument("signed", type=FILE)
@click.option("--federation-key", required=True, metavar="HEX|FILE.pub", help="The key that must have signed it.")
def verify(signed: Path, federation_key: str) -> None:
    """Check a signed roster against the federation key, whose fingerprint you compare by voice."""
    key = read_public(federation_key)
    _print(_verified(signed, key), "signature holds")
    click.echo(f"\nfederation key fingerprint {key.fingerprint}")


@roster.command()
@click.argument("signed", type=FILE, required=False)
@click.option("--config", required=True, type=FILE, help="The node's config.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def accept(signed: Path | None, config: Path, yes: bool) -> None:
    """Take over a new roster on a node, new members included. Without SIGNED: the newest that peers have offered.

    A running node takes revocations over by itself; new owners and aggregators wait for this command.
    """
    node = load_any(config)
    received = node.home / LATEST
    if signed is None and not received.exists():
        raise ConfigInvalid(f"no newer roster has reached {node.id}: name the signed file that you were given")
    offered = read_signed(signed or received)
    if not node.roster.exists():
        first = open_roster(offered, node.federation)
        _print(first, "signature holds")
        _confirm(yes)
        write_new(node.roster, offered)
        click.echo(f"{node.roster}: version {first.version} accepted")
        return
    accepted, _ = accepted_membership(node)
    newest = accepted
    if received.exists():
        newest = accept_update(accepted, read_signed(received), everybody)
    offered_roster = open_roster(offered, node.federation)
    if offered_roster.version < newest.roster_version:
        raise ConfigInvalid(
            f"version {offered_roster.version} is older than version {newest.roster_version}, which this node has: "
            "ask for the newest"
        )
    after = accept_update(newest, offered, everybody)
    if after == accepted:
        click.echo(f"version {accepted.roster_version} is accepted already")
        return
    _print_changes(accepted, after)
    _confirm(yes)
    private_folder(node.home)
    replace(node.roster, offered)
    click.echo(f"{node.roster}: version {after.roster_version} accepted; a running node notices by itself")


@click.command()
@click.argument("folder", type=FOLDER)
@click.argument("name")
@click.argument("hosts", nargs=-1, required=True)
@click.option("--ca-name", default="smpc-fl federation CA", help="Name in the CA's certificate, if it is made now.")
def certificate(folder: Path, name: str, hosts: tuple[str, ...], ca_name: str) -> None:
    """Make a certificate for the listener NAME, reached under HOSTS (names or IP addresses), in FOLDER.

    The first call makes the CA as well: ca.pem goes to every node (`ca` under [tls]); ca.key stays here.

    \b
    smpc-fl certificate tls coordinator coordinator.example.org 10.0.0.1
    smpc-fl certificate tls aggregator-1 10.0.0.2
    """
    from smpc_fl.nodes.net.certificates import open_authority, write_certificate

    authority = open_authority(folder, ca_name)
    shown, key = write_certificate(folder, name, hosts, authority)
    click.echo(f"for {name}:      {shown} and {key} (move both there; the key is secret)")
    click.echo(f"for everybody:  {folder / 'ca.pem'}")
    click.echo(f"stays here:     {folder / 'ca.key'} (makes further certificates)")


def _verified(path: Path, key: PublicIdentity) -> Roster:
    signed = read_signed(path)
    try:
        return open_roster(signed, key)
    except SmpcError as error:
        raise type(error)(f"{path}: {error.message}") from None


def _confirm(yes: bool) -> None:
    if not yes:
        click.confirm("Have you compared new fingerprints with the people behind them? Accept?", abort=True)


def _line(member: Member) -> str:
    return f"{member.id:20} {member.role:12} {PublicIdentity(member.key).fingerprint}  {member.address}".rstrip()


def _print(roster: Roster, state: str) -> None:
    click.echo(f"{roster.name}, version {roster.version} ({state})\n")
    for member in roster.members:
        click.echo(f"  {_line(member)}")
    for entry in roster.revoked:
        click.echo(f"  {entry.id:20} revoked      {PublicIdentity(entry.key).fingerprint}  {entry.reason}".rstrip())
    for rotation in roster.rotations:
        until = roster_file.date_of(rotation.until)
        click.echo(f"  {rotation.id:20} replaced     {PublicIdentity(rotation.old).fingerprint}  counts until {until}")


def _print_changes(before: Membership, after: Membership) -> None:
    click.echo(f"{after.roster.name}: version {before.roster_version} -> {after.roster_version}\n")
    old, new = set(before.roster.members), set(after.roster.members)
    for member in sorted(new - old, key=lambda item: item.id):
        click.echo(f"  + {_line(member)}")
    for member in sorted(old - new, key=lambda item: item.id):
        click.echo(f"  - {_line(member)}")
    for rotation in after.roster.rotations:
        if rotation not in before.roster.rotations:
            until = roster_file.date_of(rotation.until)
            click.echo(f"  new key: {rotation.id}, signed by the one before, which counts until {until}")
    for entry in after.roster.revoked:
        if entry not in before.roster.revoked:
            click.echo(f"  revoked: {entry.id}{f' ({entry.reason})' if entry.reason else ''}")
