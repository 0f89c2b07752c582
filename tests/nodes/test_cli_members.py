from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from federation_on_disk import OnDisk, make_federation

from smpc_fl.errors import ConfigInvalid
from smpc_fl.nodes.cli.main import main
from smpc_fl.nodes.home.keys import load_key, read_public
from smpc_fl.nodes.home.membership import LATEST, LiveMembership
from smpc_fl.nodes.home.roster_file import read_draft
from smpc_fl.nodes.net.certificates import hosts_of
from smpc_fl.roster import open_roster


def call(*args: object, input: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], input=input, catch_exceptions=False)


def good(*args: object, input: str | None = None) -> str:
    result = call(*args, input=input)
    assert result.exit_code == 0, result.output
    return result.output


def bad(*args: object) -> str:
    result = call(*args)
    assert result.exit_code == 2, result.output
    return result.output


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a federation key and an empty draft, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    good("keygen", "federation.key")
    good("roster", "new", "roster.toml", "--name", "hospitals")
    return tmp_path


@pytest.fixture
def made(tmp_path: Path) -> OnDisk:
    return make_federation(tmp_path)


def add(id: str, role: str, address: str = "") -> str:
    good("keygen", f"{id}.key")
    extra = ["--address", address] if address else []
    return good("roster", "add", "roster.toml", "--id", id, "--role", role, "--key", f"{id}.pub", *extra)


def test_keygen_shows_only_the_public_half(office: Path) -> None:
    output = good("keygen", "alice.key")
    identity = load_key(office / "alice.key")
    assert identity.public.hex in output
    assert identity.public.fingerprint in output
    assert identity.seed.reveal().hex() not in output
    assert "not overwritten" in bad("keygen", "alice.key")


def test_a_roster_from_nothing(office: Path) -> None:
    for owner in ("alice", "bob", "carol"):
        output = add(owner, "owner")
        assert load_key(office / f"{owner}.key").public.fingerprint in output
    add("aggregator-1", "aggregator", "wss://10.0.0.1:8443")
    assert "not overwritten" in bad("roster", "new", "roster.toml", "--name", "x")
    output = good("roster", "sign", "roster.toml", "--key", "federation.key")
    assert "version 1, 4 members" in output
    assert "there is no coordinator yet" in output
    assert "there are 1 aggregators" in output
    add("aggregator-2", "aggregator", "ws://127.0.0.1:8443")
    add("coordinator", "coordinator", "wss://10.0.0.3:8443")
    output = good("roster", "sign", "roster.toml", "--key", "federation.key")
    assert "note: aggregator-2 listens on ws://127.0.0.1:8443, in plaintext" in output
    assert output.count("note:") == 1
    roster = open_roster((office / "roster.signed").read_bytes(), read_public("federation.pub"))
    assert roster.version == 2
    assert [member.id for member in roster.owners] == ["alice", "bob", "carol"]
    assert read_draft(office / "roster.toml") == roster

    shown = good("roster", "show", "roster.signed", "--federation-key", "federation.pub")
    assert shown.startswith("hospitals, version 2 (signature holds)")
    for member in roster.members:
        assert member.id in shown
        assert read_public(member.key.hex()).fingerprint in shown
    assert "draft, not signed" in good("roster", "show", "roster.toml")
    assert "give --federation-key" in bad("roster", "show", "roster.signed")
    verified = good("roster", "verify", "roster.signed", "--federation-key", read_public("federation.pub").hex)
    assert read_public("federation.pub").fingerprint in verified
    assert "BadSignature: roster.signed: " in bad("roster", "verify", "roster.signed", "--federation-key", "alice.pub")
    assert "not a signed roster" in bad("roster", "verify", "roster.toml", "--federation-key", "federation.pub")


def test_addresses_may_change_and_keys_may_not(office: Path) -> None:
    add("hub", "coordinator", "wss://10.0.0.3:8443")
    good(
        "roster",
        "add",
        "roster.toml",
        "--id",
        "hub",
        "--role",
        "coordinator",
        "--key",
        "hub.pub",
        "--address",
        "wss://h:1",
    )
    assert read_draft(office / "roster.toml").coordinator.address == "wss://h:1"
    good("keygen", "new.key")
    arguments = ["roster", "add", "roster.toml", "--id", "hub", "--role", "coordinator", "--address", "wss://h:1"]
    assert "revoke that first" in bad(*arguments, "--key", "new.pub")
    good("roster", "revoke", "roster.toml", "--id", "hub", "--reason", "new machine")
    assert "the key of hub is revoked" in bad(*arguments, "--key", "hub.pub")
    good(*arguments, "--key", "new.pub")
    good("roster", "sign", "roster.toml", "--key", "federation.key", "--output", "out.signed")
    shown = good("roster", "show", "out.signed", "--federation-key", "federation.pub")
    assert "revoked" in shown
    assert "new machine" in shown


def test_what_a_roster_refuses(office: Path) -> None:
    good("keygen", "a.key")
    start = ["roster", "add", "roster.toml", "--id", "a"]
    assert "needs an address" in bad(*start, "--role", "aggregator", "--key", "a.pub")
    assert "not an address" in bad(*start, "--role", "aggregator", "--key", "a.pub", "--address", "10.0.0.1")
    assert "only dials out" in bad(*start, "--role", "owner", "--key", "a.pub", "--address", "wss://h:1")
    assert "names a private key" in bad(*start, "--role", "owner", "--key", "a.key")
    assert call(*start, "--role", "king", "--key", "a.pub").exit_code == 2
    assert "cannot be written" in bad(
        "roster", "add", "roster.toml", "--id", "a b", "--role", "owner", "--key", "a.pub"
    )
    assert "it has nobody" in bad("roster", "revoke", "roster.toml", "--id", "a")
    good(*start, "--role", "owner", "--key", "a.pub")
    assert "it has a" in bad("roster", "revoke", "roster.toml", "--id", "b")
    good("roster", "add", "roster.toml", "--id", "f", "--role", "owner", "--key", "federation.pub")
    assert "f uses the federation key as its own" in bad("roster", "sign", "roster.toml", "--key", "federation.key")
    assert tomllib.loads((office / "roster.toml").read_text())["version"] == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"\xff\x00", "not a draft"),
        (b"name = ", "not a roster's draft"),
        (b"name = 'x'\nversion = 1\nnope = 3", "unknown field `nope`"),
        (b"name = 'x'\nversion = -1", ">= 0"),
        (b"name = 'x'\nversion = 0\n[[members]]\nid = 'a'\nrole = 'owner'\nkey = 'zz'", "key"),
        (
            b"name = 'x'\nversion = 0\n[[members]]\nid = 'a'\nrole = 'aggregator'\nkey = '" + b"00" * 32 + b"'",
            "address",
        ),
    ],
)
def test_broken_drafts(tmp_path: Path, text: bytes, complaint: str) -> None:
    file = tmp_path / "roster.toml"
    file.write_bytes(text)
    with pytest.raises(ConfigInvalid, match=complaint) as caught:
        read_draft(file)
    assert str(file) in str(caught.value)


def test_accepting_what_peers_have_offered(made: OnDisk) -> None:
    config = made.write_config("alice")
    live = LiveMembership(made.config("alice"))
    assert "no newer roster has reached alice" in bad("roster", "accept", "--config", config)
    offered = made.sign(made.roster(2, extra=("dave",), revoked=("carol",)))
    live.offer(offered)

    declined = call("roster", "accept", "--config", config, input="n\n")
    assert declined.exit_code == 1
    assert "version 1 -> 2" in declined.output
    assert "+ dave" in declined.output
    assert "- carol" in declined.output
    assert "revoked: carol (test)" in declined.output
    assert not live.refresh()

    good("roster", "accept", "--config", config, input="y\n")
    assert live.refresh()
    assert live.lookup("dave")[1] == "owner"
    assert "version 2 is accepted already" in good("roster", "accept", "--config", config)


def test_accepting_a_file_that_was_handed_over(made: OnDisk) -> None:
    config = made.write_config("alice")
    first = made.signed_path.read_bytes()
    newer = made.folder / "newer.signed"
    newer.write_bytes(made.sign(made.roster(3, revoked=("bob",))))
    good("roster", "accept", newer, "--config", config, "--yes")
    assert made.signed_path.read_bytes() == newer.read_bytes()
    old = made.folder / "old.signed"
    old.write_bytes(first)
    assert "version 1 is older than version 3" in bad("roster", "accept", old, "--config", config, "--yes")
    old.write_bytes(made.sign(made.roster(4)))
    assert "lacks revocations" in bad("roster", "accept", old, "--config", config, "--yes")


def test_what_peers_have_offered_also_counts_against_a_file(made: OnDisk) -> None:
    config = made.write_config("alice")
    LiveMembership(made.config("alice")).offer(made.sign(made.roster(5, revoked=("bob",))))
    file = made.folder / "handed.signed"
    file.write_bytes(made.sign(made.roster(4)))
    assert "older than version 5" in bad("roster", "accept", file, "--config", config, "--yes")
    assert (made.config("alice").home / LATEST).exists()


def test_the_first_roster_of_a_node(made: OnDisk) -> None:
    config = made.write_config("alice", roster=made.folder / "mine" / "roster.signed")
    output = good("roster", "accept", made.signed_path, "--config", config, input="y\n")
    assert "version 1 accepted" in output
    assert (made.folder / "mine" / "roster.signed").read_bytes() == made.signed_path.read_bytes()


def test_certificates_of_ones_own(office: Path) -> None:
    output = good("certificate", "tls", "coordinator", "hub.example.org", "10.0.0.1")
    assert "stays here:     tls/ca.key" in output
    assert hosts_of(office / "tls" / "coordinator.pem") == ["hub.example.org", "10.0.0.1"]
    ca = (office / "tls" / "ca.pem").read_bytes()
    good("certificate", "tls", "aggregator-1", "10.0.0.2")
    assert (office / "tls" / "ca.pem").read_bytes() == ca
    assert "not overwritten" in bad("certificate", "tls", "aggregator-1", "10.0.0.2")
    assert "neither a host name" in bad("certificate", "tls", "aggregator-2", "wss://10.0.0.2")
    assert call("certificate", "tls", "nobody").exit_code == 2
