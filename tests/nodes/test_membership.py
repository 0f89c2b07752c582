from __future__ import annotations

import os
from pathlib import Path

import pytest
from federation_on_disk import OnDisk, make_federation

from smpc_fl.errors import BadSignature, ConfigInvalid, Equivocation, RevokedKey, UnknownMember
from smpc_fl.nodes.home.keys import make_key
from smpc_fl.nodes.home.membership import LATEST, LiveMembership, accepted_membership
from smpc_fl.roster import federation_id, roster_hash, sign_roster


@pytest.fixture
def made(tmp_path: Path) -> OnDisk:
    return make_federation(tmp_path, scheme="ws")


def test_what_the_operator_accepted_counts(made: OnDisk) -> None:
    live = LiveMembership(made.config("alice"))
    assert live.roster_version == 1
    assert live.roster_hash == roster_hash(made.roster())
    assert live.federation == federation_id(made.federation.public)
    assert live.signed == made.signed_path.read_bytes()
    assert live.lookup("bob") == (made.identities["bob"].public, "owner")
    assert live.key_of("coordinator", "coordinator") == made.identities["coordinator"].public
    assert live.member("carol").role == "owner"
    assert not live.current.pending
    assert not live.refresh()


def test_a_revocation_counts_at_once_and_after_a_restart(made: OnDisk) -> None:
    config = made.config("alice")
    live = LiveMembership(config)
    offered = made.sign(made.roster(2, revoked=("bob",)))
    assert live.offer(offered)
    assert not live.offer(offered)
    for now in (live, LiveMembership(config)):
        assert now.roster_version == 2
        assert now.signed == offered
        with pytest.raises(RevokedKey, match="test"):
            now.lookup("bob")
    assert (config.home / LATEST).stat().st_mode & 0o077 == 0


def test_new_owners_wait_at_an_owner_only(made: OnDisk) -> None:
    offered = made.sign(made.roster(2, extra=("dave",)))
    at_owner = LiveMembership(made.config("alice"))
    assert at_owner.offer(offered)
    with pytest.raises(UnknownMember, match="roster accept"):
        at_owner.lookup("dave")
    for id in ("aggregator-1", "coordinator", "researcher"):
        elsewhere = LiveMembership(made.config(id))
        assert elsewhere.offer(offered)
        assert elsewhere.lookup("dave")[1] == "owner"


def test_acceptance_reaches_the_running_node(made: OnDisk) -> None:
    config = made.config("alice")
    live = LiveMembership(config)
    offered = made.sign(made.roster(2, extra=("dave",)))
    live.offer(offered)
    made.signed_path.write_bytes(offered)
    assert live.refresh()
    assert live.lookup("dave")[1] == "owner"
    assert not live.refresh()


def test_an_operator_may_bring_a_newer_roster_than_peers(made: OnDisk) -> None:
    config = made.config("alice")
    live = LiveMembership(config)
    live.offer(made.sign(made.roster(2, extra=("dave",))))
    newer = made.sign(made.roster(3, extra=("dave", "erin")))
    made.signed_path.write_bytes(newer)
    assert live.refresh()
    assert live.signed == newer
    assert not live.current.pending


def test_a_missing_file_is_no_change(made: OnDisk) -> None:
    live = LiveMembership(made.config("alice"))
    made.signed_path.unlink()
    assert not live.refresh()
    assert live.roster_version == 1


def test_older_rosters_change_nothing(made: OnDisk) -> None:
    made.signed_path.write_bytes(made.sign(made.roster(5)))
    live = LiveMembership(made.config("alice"))
    assert not live.offer(made.sign(made.roster(4, revoked=("bob",))))
    assert live.roster_version == 5
    assert os.listdir(made.config("alice").home) == []


def test_bad_offers_change_nothing(made: OnDisk, tmp_path: Path) -> None:
    live = LiveMembership(made.config("alice"))
    stranger = make_key(tmp_path / "stranger.key")
    with pytest.raises(BadSignature):
        live.offer(sign_roster(made.roster(9), stranger))
    with pytest.raises(Equivocation):
        live.offer(made.sign(made.roster(1, without=("bob",))))
    assert live.roster_version == 1
    assert live.signed == made.signed_path.read_bytes()


def test_files_that_contradict_each_other_stop_the_node(made: OnDisk) -> None:
    config = made.config("alice")
    LiveMembership(config).offer(made.sign(made.roster(2, revoked=("bob",))))
    made.signed_path.write_bytes(made.sign(made.roster(2, revoked=("carol",))))
    with pytest.raises(ConfigInvalid, match=r"roster\.latest does not go with .*roster\.signed: two different"):
        LiveMembership(config)


def test_rosters_that_cannot_be_believed(made: OnDisk) -> None:
    config = made.config("alice", federation_key="00" * 31 + "01")
    with pytest.raises(ConfigInvalid, match=r"roster\.signed: .*pinned federation key"):
        accepted_membership(config)
    made.signed_path.write_bytes(b"nonsense")
    with pytest.raises(ConfigInvalid, match="not a signed roster"):
        accepted_membership(made.config("alice"))
    made.signed_path.unlink()
    with pytest.raises(ConfigInvalid, match="Ask whoever holds the federation key"):
        accepted_membership(made.config("alice"))


def test_a_roster_that_is_being_copied_in_place_is_read_when_it_is_whole(made: OnDisk) -> None:
    live = LiveMembership(made.config("alice"))
    newer = made.sign(made.roster(2, revoked=("bob",)))
    made.signed_path.write_bytes(newer[:100])
    with pytest.raises(ConfigInvalid, match="not a signed roster"):
        live.refresh()
    assert live.lookup("bob")[1] == "owner"
    assert not live.refresh()
    made.signed_path.write_bytes(newer)
    assert live.refresh()
    with pytest.raises(RevokedKey):
        live.lookup("bob")
