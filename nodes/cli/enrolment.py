"""`smpc-fl roster invite`, `enrol` and `roster enrol`: how a new member's key gets to whoever holds the federation key."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from smpc_fl.enrolment import Request, Token, ask
from smpc_fl.errors import BadInput, ConfigInvalid
from smpc_fl.identity import PublicIdentity
from smpc_fl.nodes.cli.members import FILE, roster
from smpc_fl.nodes.cli.spans import Span
from smpc_fl.nodes.home import invitations, roster_file
from smpc_fl.nodes.home.files import write_new
from smpc_fl.nodes.home.keys import load_key, make_key
from smpc_fl.nodes.home.letters import read_letter, to_letter
from smpc_fl.nodes.net.addresses import parse_address
from smpc_fl.roster import LISTENERS, ROLES, Member, Role

LONGEST = timedelta(days=90)
REMEDY = "`smpc-fl enrol` writes one"


@roster.command()
@click.argument("draft", type=FILE)
@click.option("--id", "member_id", required=True, help="The id that the new node will have.")
@click.option("--role", required=True, type=click.Choice(ROLES))
@click.option("--address", default="", metavar="wss://HOST:PORT", help="The only address that it may give (listeners).")
@click.option("--valid", type=Span(LONGEST, timedelta(minutes=1)), default="7d", show_default=True, help="Until when.")
def invite(draft: Path, member_id: str, role: Role, address: str, valid: timedelta) -> None:
    """Invite a member: prints a token that serves once. Send it by a way that only the new member reads.

    An earlier invitation of the same id is withdrawn. The token itself is kept nowhere."""
    if address:
        parse_address(address)
    known = roster_file.read_draft(draft)
    if any(member.id == member_id for member in known.members):
        raise ConfigInvalid(f"{member_id} is in the roster already: replace its key with `smpc-fl rotate`")
    now = datetime.now(UTC)
    token = invitations.invite(draft, member_id, role, address, valid, now=now, entropy=os.urandom)
    until = roster_file.date_of((now + valid).timestamp())
    click.echo(f"For {member_id}, as {role}; serves once, until {until}. It runs: smpc-fl enrol --key FILE", err=True)
    click.echo(token.text)


@click.command()
@click.option("--token", prompt="Token", hide_input=True, help="What you were sent; asked for if it is left out.")
@click.option("--key", required=True, type=FILE, help="This node's private key; made if it is not there.")
@click.option("--address", default="", metavar="wss://HOST:PORT", help="Where an aggregator or coordinator listens.")
@click.option("--output", type=FILE, default=None, help="The request [KEY's name with .request].")
def enrol(token: str, key: Path, address: str, output: Path | None) -> None:
    """Ask to become a member, with the token of an invitation. Writes a request for whoever sent it."""
    invitation = Token.read(token)
    if address:
        parse_address(address)
    if (invitation.role in LISTENERS) != bool(address):
        needs = "needs --address" if invitation.role in LISTENERS else "only dials out: leave --address out"
        raise BadInput(f"{invitation.id} is invited as {invitation.role}, which {needs}")
    output = output or key.with_suffix(".request")
    if output.exists():
        raise ConfigInvalid(f"{output} exists already and is not overwritten: move it away or choose another name")
    identity = load_key(key) if key.exists() else make_key(key)
    write_new(output, to_letter(ask(invitation, identity, address)).encode())
    click.echo(f"request       {output}   send it to whoever sent you the token")
    click.echo(f"fingerprint   {identity.public.fingerprint}")
    click.echo("\nThey will ask you for the fingerprint by phone: read it out from here.")


@roster.command("enrol")
@click.argument("draft", type=FILE)
@click.argument("request", type=FILE)
@click.option("--yes", is_flag=True, help="The fingerprints have been compared: do not ask.")
def enrol_member(draft: Path, request: Path, yes: bool) -> None:
    """Add a member who asks with the token of an invitation. Its token is spent with the answer, whatever that is."""
    asked = read_letter(request, Request, REMEDY)
    member = invitations.accept(draft, asked, now=datetime.now(UTC))
    changed = roster_file.with_member(roster_file.read_draft(draft), member)
    click.echo(_line(member))
    if not yes and not click.confirm("Call them. Do they read out this very fingerprint?"):
        invitations.close(draft, member.id, "withdrawn")
        raise click.ClickException("not added, and the token is withdrawn: find out who sent this request")
    # The token first: one that was spent in vain is harmless, one that serves twice is not.
    invitations.close(draft, member.id, "used")
    roster_file.write_draft(draft, changed)
    click.echo(f"{member.id} is in the draft: sign it and hand it on")


def _line(member: Member) -> str:
    return f"{member.id}   {member.role}   fingerprint {PublicIdentity(member.key).fingerprint}   {member.address}".rstrip()
