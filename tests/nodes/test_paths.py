"""Nothing is written outside a node's home, whatever an id or a name looks like.

Every place where an id or a name from a peer, the roster, a job, a ledger or a command line becomes part of a path stands in
`PLACES`; each is given every hostile name, while somebody watches the tree around the home."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from federation_on_disk import OnDisk, make_federation
from hypothesis import given, settings
from hypothesis import strategies as st

import smpc_fl as sf
from smpc_fl.errors import BadInput, ConfigInvalid, SmpcError
from smpc_fl.hashing import digest
from smpc_fl.jobs import job_digest
from smpc_fl.nodes.aggregator import Aggregator
from smpc_fl.nodes.cli.main import main
from smpc_fl.nodes.home.config import AggregatorConfig, from_dict, load_any
from smpc_fl.nodes.home.files import refuse_links
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.home.values import Values
from smpc_fl.nodes.ledger.base import check_digest, check_name, open_ledger
from smpc_fl.nodes.metrics import NodeMetrics
from smpc_fl.nodes.run import run_of, run_stream
from smpc_fl.protocols.codec import decode, encode, sign
from smpc_fl.protocols.messages import Id, RoundClosed, Signed, StartRun
from smpc_fl.roster import Member, MemberId, Roster, encode_roster, open_roster

# ruff: noqa: RUF001 — letters that look like others are the point
HOSTILE = [
    "..", ".", "", "/", "../evil", "../../evil", "a/../../evil", "..\\evil", "a/b", "/tmp/evil", "//evil", "~", "~root/evil",
    "a\0b", "\0", "../evil\0.csv", "a\nb", "\n", "a\n", "a\r", "$HOME", "${PWD}", "`id`", "-rf", "--config", " a", "a ", "*",
    "x" * 65, "x" * 300, "../" * 100 + "evil", "．．/evil", "‥/evil", "..／evil", "a\u202egnp", "ａ", "é", "e\u0301", "\ufeffa",
    "\udcff", "%2e%2e%2fevil", "....//evil", ".hidden", "a:b", "file:///evil",
]  # fmt: skip
CONTROL = "good-name.1"
X = {"x": np.ones((4, 2), np.float32)}


@dataclass
class World:
    """`inside` is the node's home; what lies outside it must not change. The working directory and $HOME are outside too."""

    disk: OnDisk
    inside: Path
    outside: Path
    written: int = 0
    allowed: set[Path] = field(default_factory=set)

    def seen(self) -> dict[str, tuple[int, int, int]]:
        found = {}
        for path in [self.outside, *self.outside.rglob("*")]:
            if (
                path == self.inside
                or self.inside in path.parents
                or any(a in (path, *path.parents) for a in self.allowed)
            ):
                continue
            status = path.lstat()
            found[str(path)] = (status.st_mode, status.st_size if path.is_file() else 0, status.st_ino)
        return found

    def run(self, *words: str) -> str:
        """A command line; anything but an error in words is our own bug."""
        result = CliRunner().invoke(main, list(words))
        if result.exit_code != 0:
            assert isinstance(result.exception, SystemExit), result.exception
            raise BadInput(result.output)
        return result.output


Place = Callable[[World, str], Any]


def a_data_set(kind: str) -> Place:
    def use(world: World, name: str) -> None:
        ledger = open_ledger(kind, world.inside, "alice")  # type: ignore[arg-type]
        ledger.add_dataset(name, X, X, tags=[name], summary=name)
        ledger.load_private(name)
        ledger.remove_dataset(name)

    return use


def a_tensor(world: World, name: str) -> None:
    ledger = open_ledger("own", world.inside, "alice")
    ledger.add_dataset(f"d{world.written}", {name: X["x"]}, {name: X["x"]})


def a_researcher(kind: str) -> Place:
    """As it comes from a member that has proved who it is: the roster has no other ids."""

    def use(world: World, name: str) -> None:
        encode_roster(Roster("h", 1, (Member(name, "owner", bytes(32)),)))
        ledger = open_ledger(kind, world.inside, "alice")  # type: ignore[arg-type]
        payload = name.encode()
        ledger.submit(job_digest(payload).hex(), "train", name, f"from {name}", payload)

    return use


def a_digest(world: World, name: str) -> None:
    ledger = open_ledger("own", world.inside, "alice")
    check_digest(name)
    ledger.request(name)


def a_member_in_the_draft(world: World, name: str) -> None:
    encode_roster(Roster("h", 1, (Member(name, "owner", bytes(32)),)))


def a_member_in_a_signed_roster(world: World, name: str) -> None:
    """Under the federation's signature, by other means than ours."""
    if "\udcff" in name:
        raise BadInput("msgpack cannot spell it either")
    member = {"id": name, "role": "owner", "key": bytes(32), "address": ""}
    fields = {"name": "h", "version": 1, "members": [member], "revoked": []}
    body = msgspec.msgpack.encode(fields)
    key = world.disk.federation
    covered = digest("smpc-fl/1 signed roster", key.public.key, body)
    open_roster(msgspec.msgpack.encode({"roster": body, "signature": key.sign(covered)}), key.public)


def a_sender(world: World, name: str) -> None:
    if "\udcff" in name:
        raise BadInput("msgpack cannot spell it either")
    identity = world.disk.federation
    signed = sign(RoundClosed(bytes(32), True), identity=identity, sender=name, federation=bytes(32))
    assert decode(encode(signed), Signed).sender == name


def a_run(world: World, name: str) -> None:
    """Of 16 bytes, whatever they are; any other is refused where it is read."""
    run = (name.encode("utf-8", "replace") + bytes(16))[:16]
    values = Values(world.inside / "values" / run.hex())
    values.write(1, b"model")
    assert values.read(1) == b"model"
    assert run_of(run_stream(run)) == run
    start = msgspec.msgpack.encode({"type": "StartRun", "run": name.encode("utf-8", "replace")})
    with pytest.raises(SmpcError):
        decode(start, StartRun)


def a_stream(world: World, name: str) -> None:
    """Names within a database are no paths: nothing is refused, and nothing happens."""

    if name != CONTROL:
        return

    async def use() -> None:
        with Journal.open(world.inside / "journal.db") as journal:
            for each in HOSTILE:
                if "\udcff" not in each:  # SQLite cannot spell it
                    await journal.append(each, "kind", b"")
                    await journal.put(each, b"")

    asyncio.run(use())


def a_page(world: World, name: str) -> None:
    metrics = NodeMetrics("alice", "owner")
    assert metrics.pages(dict)(f"/{name}") is None or name in ("", "healthz", "metrics")


def a_config(key: str) -> Place:
    def use(world: World, name: str) -> None:
        raw = json.loads(json.dumps(msgspec.to_builtins(world.disk.config("alice"), enc_hook=str)))
        if key == "id":
            raw["id"] = name
        else:
            raw["datasets"] = [{"name": name, "private": "x.csv"}]
        from_dict({**raw, "role": "owner"}, world.disk.folder / "alice.toml")

    return use


def a_local_owner(world: World, name: str) -> None:
    if name == CONTROL:
        return  # it would start processes
    with sf.LocalFederation({name: X, "b": X, "c": X}, 2, ledger="own", home=world.inside):
        raise AssertionError(f"{name!r} was taken")


def a_command(*words: str) -> Place:
    """NAME in `words` is the name. No word of a command line holds a zero byte."""

    def use(world: World, name: str) -> None:
        if "\0" in name:
            raise BadInput("no command line can hold it")
        world.run(*(word.replace("NAME", name) for word in words))

    return use


ADD = (
    "datasets",
    "add",
    "--config=alice.toml",
    "--private=x.csv",
    "--mock=auto",
    "--inputs=x",
    "--target=y",
    "--",
    "NAME",
)
PLACES: dict[str, Place] = {
    "a data set in the node's own ledger": a_data_set("own"),
    "a data set in Syft": a_data_set("syft"),
    "a tensor": a_tensor,
    "who asks, in the node's own ledger": a_researcher("own"),
    "who asks, in Syft": a_researcher("syft"),
    "a job's digest": a_digest,
    "a member in the draft": a_member_in_the_draft,
    "a member in a signed roster": a_member_in_a_signed_roster,
    "an envelope's sender": a_sender,
    "a run": a_run,
    "a stream of the journal": a_stream,
    "a page": a_page,
    "an id in a config": a_config("id"),
    "a data set in a config": a_config("datasets"),
    "an owner of a local federation": a_local_owner,
    "init --id": a_command("init", "owner", "--id=NAME"),
    "certificate": a_command("certificate", "tls", "--", "NAME", "localhost"),
    "roster add --id": a_command("roster", "add", "roster.toml", "--id=NAME", "--role", "owner", "--key", "12" * 32),
    "roster invite --id": a_command("roster", "invite", "roster.toml", "--id=NAME", "--role", "owner"),
    "roster revoke --id": a_command("roster", "revoke", "roster.toml", "--id=NAME"),
    "enrol --token": a_command("enrol", "--token=NAME/owner/aaaaaaaaaaaaaaaaaaaaaaaaaa", "--key", "new.key"),
    "datasets add": a_command(*ADD),
    "datasets remove": a_command("datasets", "remove", "--config", "alice.toml", "--", "NAME"),
    "requests show": a_command("requests", "show", "--config", "alice.toml", "--", "NAME"),
}
# What these commands are asked to write, where their user stands.
OWN_OUTPUT = {"good-name.1.toml", "tls", "roster.toml", "roster.invitations", "new.key", "new.pub", "new.request"}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    disk = make_federation(tmp_path / "around" / "there", scheme="ws")
    monkeypatch.chdir(disk.folder)
    monkeypatch.setenv("HOME", str(tmp_path / "around"))
    disk.write_config("alice")
    (disk.folder / "x.csv").write_text("x,y\n1,2\n3,4\n")
    inside = load_any(disk.folder / "alice.toml").home
    inside.mkdir(mode=0o700)
    made = World(disk, inside, tmp_path)
    made.run("roster", "new", "roster.toml", "--name", "h")
    made.allowed = {disk.folder / name for name in OWN_OUTPUT}
    return made


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_written_outside(world: World, place: str) -> None:
    before = world.seen()
    taken = []
    for name in [*HOSTILE, CONTROL]:
        world.written += 1
        try:
            PLACES[place](world, name)
        except SmpcError:
            pass
        else:
            taken.append(name)
        assert world.seen() == before, f"{place}: {name!r}"
    if place not in ("a job's digest", "roster revoke --id", "datasets remove", "requests show"):
        assert CONTROL in taken or (place, taken) == ("enrol --token", [" a"])  # which has written the one request
    for path in world.allowed:  # and in what they may write, nothing has got another name
        if path.is_dir():
            assert {"ca.pem", "ca.key", "good-name.1.pem", "good-name.1.key"} >= {
                p.name for p in path.iterdir() if not taken_as_file(p.name, taken)
            }


def taken_as_file(name: str, taken: list[str]) -> bool:
    return name.rpartition(".")[0] in taken


def test_the_watcher_sees_what_is_written(world: World) -> None:
    before = world.seen()
    (world.disk.folder / "evil").mkdir()
    assert world.seen() != before
    (world.disk.folder / "evil").rmdir()
    assert world.seen() == before
    file = world.disk.folder / "x.csv"
    file.write_text("another")
    assert world.seen() != before


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_a_name_that_is_taken_is_one_component(name: str) -> None:
    for check in (check_name, lambda text: msgspec.convert(text, MemberId), lambda text: msgspec.convert(text, Id)):
        try:
            check(name)
        except (SmpcError, msgspec.ValidationError):
            continue
        if check is not check_name and name == "":
            continue
        assert Path(name).parts == (name,), name
        assert name not in (".", "..")
        assert name.isascii() or check is not check_name
        assert "\0" not in name


@pytest.mark.parametrize(
    "inner", ["spool", "values", "ledger", "journal.db", "values/aa", "ledger/datasets", "roster.latest"]
)
def test_a_link_in_a_home_is_refused(world: World, inner: str) -> None:
    outside = world.outside / "elsewhere"
    outside.mkdir()
    if "." in inner:
        (outside / "file").write_bytes(b"")
    config = world.disk.config("aggregator-1", home=world.inside)
    assert isinstance(config, AggregatorConfig)
    link = world.inside / inner
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside / "file" if "." in inner else outside)
    before = world.seen()
    with pytest.raises(ConfigInvalid, match="is a link"):
        Aggregator(config)
    assert world.seen() == before
    link.unlink()
    refuse_links(world.inside)


def test_a_link_in_the_place_of_a_data_set_is_refused(world: World) -> None:
    outside = world.outside / "elsewhere"
    outside.mkdir(mode=0o755)
    ledger = open_ledger("own", world.inside, "alice")
    for link in (world.inside / "ledger" / "datasets", world.inside / "ledger" / "datasets" / "heart"):
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(outside)
        before = world.seen()
        with pytest.raises(SmpcError):
            ledger.add_dataset("heart", X, X)
        assert world.seen() == before
        link.unlink()
    dangling = world.inside / "ledger" / "datasets" / "heart"
    dangling.symlink_to(outside / "new")
    with pytest.raises(SmpcError):
        ledger.add_dataset("heart", X, X)
    assert not (outside / "new").exists()


def test_a_home_may_be_on_another_disk(world: World) -> None:
    real = world.outside / "disk"
    real.mkdir(mode=0o700)
    os.rmdir(world.inside)
    world.inside.symlink_to(real, target_is_directory=True)
    refuse_links(world.inside)
    open_ledger("own", world.inside, "alice").add_dataset("heart", X, X)
    assert (real / "ledger" / "datasets" / "heart").is_dir()
