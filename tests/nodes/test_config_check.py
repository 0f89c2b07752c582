from __future__ import annotations

import importlib.util
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from federation_on_disk import MEMBERS, OnDisk, make_federation

from smpc_fl.nodes.cli.check import check, problems
from smpc_fl.nodes.home.config import DatasetConfig, OwnerPolicy, Tls
from smpc_fl.nodes.home.membership import LiveMembership
from smpc_fl.nodes.net.addresses import PLAINTEXT_WORDS
from smpc_fl.nodes.net.certificates import open_authority, write_certificate
from smpc_fl.roster import Member, Roster


@pytest.fixture
def made(tmp_path: Path) -> OnDisk:
    return make_federation(tmp_path)


@pytest.mark.parametrize("id", MEMBERS)
def test_a_good_federation_has_no_problems(made: OnDisk, id: str) -> None:
    assert problems(made.config(id)) == []
    text = "\n".join(finding.text for finding in check(made.config(id)))
    assert made.identities[id].public.fingerprint in text
    assert "version 1, 7 members of hospitals" in text


def test_who_dials_whom(made: OnDisk) -> None:
    def dialled(id: str) -> list[str]:
        return [finding.text.split()[0] for finding in check(made.config(id)) if "is dialled at" in finding.text]

    assert dialled("alice") == ["coordinator", "aggregator-1", "aggregator-2"]
    assert dialled("coordinator") == ["aggregator-1", "aggregator-2"]
    assert dialled("researcher") == ["coordinator"]
    assert dialled("aggregator-1") == []


def only(made: OnDisk, of: str, **changes: object) -> str:
    found = problems(made.config(of, **changes))
    assert len(found) == 1, found
    return found[0]


def test_home_key_and_roster(made: OnDisk) -> None:
    (made.folder / "alice-home").mkdir(mode=0o755)
    assert "chmod 700" in only(made, "alice")
    (made.folder / "alice-home").chmod(0o700)
    assert "keygen" in only(made, "alice", key=made.folder / "none.key")
    assert "pinned federation key" in only(made, "alice", federation_key=made.identities["bob"].public.hex)


def test_the_nodes_own_entry(made: OnDisk) -> None:
    assert "the roster has another key for alice" in only(made, "alice", key=made.folder / "keys" / "bob.key")
    assert "dave is not in the roster" in only(made, "alice", id="dave")
    assert "bob is in the roster as owner, but this is the config of the researcher" in only(
        made, "researcher", id="bob", key=made.folder / "keys" / "bob.key"
    )


def test_pinned_aggregators_and_enough_owners(made: OnDisk) -> None:
    policy = OwnerPolicy(aggregators=("aggregator-1", "bob"))
    assert "bob is an owner in the roster, not an aggregator" in only(made, "alice", policy=policy)
    policy = OwnerPolicy(aggregators=("aggregator-1", "aggregator-2"), k_min=4)
    assert "3 owners in the roster, k_min is 4" in only(made, "alice", policy=policy)
    assert "k_min is 9" in only(made, "researcher", k_min=9)


def test_members_that_wait_for_acceptance_are_shown(made: OnDisk) -> None:
    config = made.config("alice")
    LiveMembership(config).offer(made.sign(made.roster(2, extra=("dave",))))
    assert any("awaiting your `smpc-fl roster accept`: dave" in finding.text for finding in check(config))


def test_plaintext_beyond_this_machine(made: OnDisk) -> None:
    moved = [
        Member(item.id, item.role, item.key, "ws://10.0.0.1:8443" if item.role == "coordinator" else item.address)
        for item in made.roster().members
    ]
    made.signed_path.write_bytes(made.sign(Roster.of("hospitals", 1, moved)))
    assert "over the network in plaintext" in only(made, "researcher")
    assert problems(made.config("researcher", plaintext=PLAINTEXT_WORDS)) == []


def test_certificates(made: OnDisk) -> None:
    tls = made.folder / "tls"
    mine = made.config("coordinator").tls
    other = tls / "aggregator-1.key"
    assert "not a certificate and its own" in only(
        made, "coordinator", tls=Tls(certificate=mine.certificate, key=other)
    )
    assert "no certificate of a CA" in only(made, "alice", tls=Tls(ca=other))
    assert mine.key is not None
    mine.key.chmod(0o640)
    assert "chmod 600" in only(made, "coordinator")
    mine.key.chmod(0o600)
    shown, key = write_certificate(tls, "elsewhere", ["*.example.org", "example.org"], open_authority(tls, ""))
    assert "is for *.example.org, example.org, but the roster has 127.0.0.1" in only(
        made, "coordinator", tls=Tls(certificate=shown, key=key)
    )


@pytest.mark.parametrize(("host", "good"), [("hub.example.org", True), ("a.b.example.org", False), ("hub.org", False)])
def test_wildcards_cover_one_label(made: OnDisk, host: str, good: bool) -> None:
    tls = made.folder / "tls"
    shown, key = write_certificate(tls, "wild", ["*.example.org"], open_authority(tls, ""))
    members = [
        Member(item.id, item.role, item.key, f"wss://{host}:1" if item.role == "coordinator" else item.address)
        for item in made.roster().members
    ]
    made.signed_path.write_bytes(made.sign(Roster.of("hospitals", 1, members)))
    assert (problems(made.config("coordinator", tls=Tls(certificate=shown, key=key))) == []) is good


def test_certificates_that_end_soon(made: OnDisk) -> None:
    later = datetime.now(UTC) + timedelta(days=800)
    found = [finding.text for finding in check(made.config("coordinator"), now=later) if not finding.ok]
    assert len(found) == 1
    assert "ends in 2" in found[0]
    long_gone = datetime.now(UTC) + timedelta(days=2000)
    assert any("ends in 0 days" in finding.text for finding in check(made.config("coordinator"), now=long_gone))


def test_datasets_and_ledger(made: OnDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    there = made.folder / "d.csv"
    there.write_text("x\n1\n")
    good = DatasetConfig(name="d", private=there, mock=str(there))
    bad = DatasetConfig(name="e", private=made.folder / "none.csv")
    assert "dataset e: " in only(made, "alice", datasets=(good, bad))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "smpc-fl[syft]" in only(made, "alice", ledger="syft")


def test_automatic_approval_is_noted(made: OnDisk) -> None:
    policy = OwnerPolicy(aggregators=("aggregator-1", "aggregator-2"), approve="auto")
    assert any("trials only" in finding.text for finding in check(made.config("alice", policy=policy)))


def test_nodes_that_up_would_start(made: OnDisk) -> None:
    assert "nodes: " in only(made, "researcher", nodes=(made.folder / "none.toml",))
