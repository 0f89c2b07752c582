"""How somebody becomes a member, or changes its key: tokens that people type, letters that they mail, the list of the invited."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import grammar
import msgspec
import mutations
from engine import Target, Wrong
from file_targets import folder, nearly_bytes, nearly_toml, written
from rig import Draws

from smpc_fl.enrolment import Request, Token, ask
from smpc_fl.errors import BadInput, BadSignature, ConfigInvalid, Refused
from smpc_fl.identity import Identity
from smpc_fl.nodes.home import invitations, letters
from smpc_fl.protocols import codec
from smpc_fl.roster import Rotation

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KINDS: tuple[type[Any], ...] = (Request, Rotation)
FEDERATION = Identity.generate(Draws("federation"))


@cache
def _token() -> Token:
    return Token.new("alice", "owner", Draws("token"))


@cache
def _true() -> tuple[Any, Any]:
    old, new = (Identity.generate(Draws(name)) for name in ("old", "new"))
    return ask(_token(), old), Rotation.make("alice", old, new, FEDERATION.public)


def _make_letter(rng: Random) -> bytes:
    texts = [letters.to_letter(value).encode() for value in _true()]
    draw = rng.random()
    if draw < 0.4:
        return mutations.mutate_bytes(rng, rng.choice(texts), texts)
    value = rng.choice(_true()) if draw < 0.8 else grammar.draw(rng, rng.choice(KINDS))
    tree = mutations.unpack(codec.encode(value))
    body = mutations.pack(mutations.mutate_tree(rng, tree, [tree]), rng) if draw < 0.9 else mutations.nested(3000, True)
    mark = b"smpc-fl %b: " % type(value).__name__.lower().encode()
    return mark + base64.b64encode(body) + rng.choice((b"\n", b"", b"\r\n", b" \n"))


def take_letter(data: bytes) -> None:
    """Read, and believed only if it is what was written."""
    path, failed = written("letter", data), 0
    request = rotation = None
    try:
        request = letters.read_letter(path, Request, "Ask again")
    except ConfigInvalid:
        failed += 1
    try:
        rotation = letters.read_letter(path, Rotation, "Ask again")
    except ConfigInvalid:
        failed += 1
    if failed == len(KINDS):
        raise ConfigInvalid("neither")
    if rotation is not None:
        rotation.check(FEDERATION.public)
        if msgspec.structs.replace(rotation, until=0) != _true()[1]:  # which whoever signs the roster sets
            raise Wrong("a rotation that nobody signed is believed")
    if request is not None:
        if not invitations.invitations_path(_draft()).exists():
            invitations.invite(_draft(), "alice", "owner", "", timedelta(days=1), now=NOW, entropy=Draws("token"))
        invitations.accept(_draft(), request, now=NOW)
        if request != _true()[0]:
            raise Wrong("a request that was not made with the token is believed")


def _draft() -> Path:
    home = folder() / "invited"
    home.mkdir(exist_ok=True)
    return home / "roster.toml"


def _tokens() -> list[bytes]:
    return [_token().text.encode(), b"bob/aggregator/2q4z", b"//", b"a/owner/" + b"a" * 26]


def take_token(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    token = Token.read(text)
    if Token.read(token.text).verifier != token.verifier:
        raise Wrong("a token that was written is read as another")


def _lists() -> list[bytes]:
    draft = folder() / "list.toml"
    invitations.invite(draft, "alice", "owner", "", timedelta(days=1), now=NOW, entropy=Draws("token"))
    invitations.invite(draft, "bob", "aggregator", "wss://b:1", timedelta(days=-1), now=NOW, entropy=Draws(2))
    return [invitations.invitations_path(draft).read_bytes()]


def take_list(data: bytes) -> None:
    draft = folder() / "read.toml"
    invitations.invitations_path(draft).write_bytes(data)
    invitations.accept(draft, _true()[0], now=NOW)


def targets() -> list[Target]:
    bad = (ConfigInvalid, Refused, BadSignature)
    return [
        Target("letter", _make_letter, take_letter, bad, 0.5),
        Target("token", nearly_bytes(_tokens), take_token, (BadInput,), 0.3),
        Target("invitations", nearly_toml(_lists), take_list, bad, 0.3),
    ]
