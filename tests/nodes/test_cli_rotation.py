"""`smpc-fl rotate`, `roster rotate`, and which key a node uses when."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from federation_on_disk import OnDisk, make_federation
from test_cli_enrolment import bad, good

from smpc_fl.errors import BadSignature, ConfigInvalid, RevokedKey
from smpc_fl.identity import Identity
from smpc_fl.nodes.home.config import NodeConfig, load_any
from smpc_fl.nodes.home.keys import KeyRing, load_key, make_key, next_path, public_path, take_successor
from smpc_fl.nodes.home.letters import read_letter, to_letter
from smpc_fl.nodes.home.membership import LiveMembership
from smpc_fl.nodes.home.roster_file import draft_to_toml, read_draft
from smpc_fl.nodes.own_keys import OwnKeys
from smpc_fl.protocols.codec import verify
from smpc_fl.protocols.messages import RosterOffer
from smpc_fl.roster import Member, Membership, Rotation

KEY = "federation.pub"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnDisk:
    """A federation on disk; the working directory is its office, with the draft of the roster."""
    disk = make_federation(tmp_path, scheme="ws")
    monkeypatch.chdir(tmp_path / "office")
    Path("roster.toml").write_text(draft_to_toml(disk.roster()))
    disk.write_config("alice")
    return disk


def rotate(disk: OnDisk, *more: str) -> None:
    good("rotate", "--config", disk.folder / "alice.toml", "--output", "alice.rotation")
    good("roster", "rotate", "roster.toml", "alice.rotation", "--federation-key", KEY, *more)


def sign(*more: object) -> bytes:
    good("roster", "sign", "roster.toml", "--key", "federation.key", *more)
    return Path("roster.signed").read_bytes()


def config(disk: OnDisk, of: str = "alice") -> NodeConfig:
    return load_any(disk.folder / f"{of}.toml")


def old_and_new(disk: OnDisk) -> tuple[Identity, Identity]:
    path = disk.folder / "keys" / "alice.key"
    return load_key(path), load_key(next_path(path))


def test_a_member_replaces_its_key(made: OnDisk) -> None:
    rotate(made)
    old, new = old_and_new(made)
    draft = read_draft(Path("roster.toml"))
    assert draft.member("alice").key == new.public.key
    (rotation,) = draft.rotations
    assert (rotation.old, rotation.new) == (old.public.key, new.public.key)
    assert 13.9 * 86400 < rotation.until - time.time() <= 14 * 86400
    signed = sign()
    assert read_draft(Path("roster.toml")).rotations == draft.rotations
    shown = good("roster", "show", "roster.signed", "--federation-key", KEY).output
    assert f"alice                replaced     {old.public.fingerprint}" in shown

    made.write_config("bob")
    bob = LiveMembership(made.config("bob"))
    assert bob.offer(signed)
    assert not bob.current.pending
    assert bob.key_of("alice", "owner").verify(b"x", old.sign(b"x"))
    assert bob.lookup("alice")[0].verify(b"x", new.sign(b"x"))
    accepted = good("roster", "accept", "--config", made.folder / "bob.toml", "--yes").output
    assert "new key: alice, signed by the one before, which counts until" in accepted


def test_again_is_the_same_statement(made: OnDisk) -> None:
    rotate(made)
    first = Path("alice.rotation").read_text()
    good("rotate", "--config", made.folder / "alice.toml", "--output", "alice.rotation")
    assert Path("alice.rotation").read_text() == first


def test_the_operator_is_told(made: OnDisk, capsys: pytest.CaptureFixture[str]) -> None:
    from smpc_fl.nodes.logs import configure

    rotate(made)
    offered = sign()
    bob = LiveMembership(made.config("bob"))
    undo = configure("info")
    try:
        bob.offer(offered)
        made.signed_path.write_bytes(offered)
        bob.refresh()
    finally:
        undo()
    (line,) = capsys.readouterr().err.splitlines()
    assert '"event": "key replaced"' in line
    assert old_and_new(made)[1].public.fingerprint in line


def test_forged_and_foreign_rotations_are_refused(made: OnDisk) -> None:
    before = Path("roster.toml").read_text()
    thief, federation = make_key(Path("thief.key")), made.federation.public
    alice = made.identities["alice"]
    stranger = Rotation.make("alice", thief, thief, federation)
    forged = msgspec.structs.replace(stranger, old=alice.public.key)
    other = Rotation.make("alice", alice, thief, thief.public)
    for statement, complaint in ((forged, "BadSignature"), (other, "BadSignature"), (stranger, "have it made anew")):
        Path("odd").write_text(to_letter(statement))
        assert complaint in bad("roster", "rotate", "roster.toml", "odd", "--federation-key", KEY)
    taken = Rotation.make("alice", alice, made.identities["bob"], federation)
    Path("odd").write_text(to_letter(taken))
    assert "alice and bob have the same key" in bad("roster", "rotate", "roster.toml", "odd", "--federation-key", KEY)
    nobody = Rotation.make("zoe", thief, alice, federation)
    Path("odd").write_text(to_letter(nobody))
    assert "not in the roster" in bad("roster", "rotate", "roster.toml", "odd", "--federation-key", KEY)
    Path("odd").write_text("smpc-fl rotation: AAAA")
    assert "not a rotation" in bad("roster", "rotate", "roster.toml", "odd", "--federation-key", KEY)
    assert Path("roster.toml").read_text() == before


def test_a_stolen_key_cannot_rotate_once_it_is_revoked(made: OnDisk) -> None:
    good("roster", "revoke", "roster.toml", "--id", "alice", "--reason", "stolen")
    good("rotate", "--config", made.folder / "alice.toml", "--output", "alice.rotation")
    said = bad("roster", "rotate", "roster.toml", "alice.rotation", "--federation-key", KEY)
    assert "the key of alice was revoked (stolen)" in said
    assert "vouches for none" in said
    fresh = make_key(Path("fresh.key"))
    good("roster", "add", "roster.toml", "--id", "alice", "--role", "owner", "--key", fresh.public.hex)
    assert "have it made anew" in bad("roster", "rotate", "roster.toml", "alice.rotation", "--federation-key", KEY)


def test_an_overlap_can_be_cut_short(made: OnDisk) -> None:
    rotate(made)
    first = sign()
    old, new = old_and_new(made)
    assert "has replaced no key" in bad("roster", "revoke", "roster.toml", "--id", "bob", "--former")
    assert "is not in the roster" in bad("roster", "revoke", "roster.toml", "--id", "zoe", "--former")
    good("roster", "revoke", "roster.toml", "--id", "alice", "--former", "--reason", "lost")
    bob = LiveMembership(made.config("bob"))
    bob.offer(first)
    bob.offer(sign())
    assert bob.lookup("alice")[0].verify(b"x", new.sign(b"x"))
    assert not bob.lookup("alice")[0].verify(b"x", old.sign(b"x"))
    assert not bob.current.pending
    assert "has replaced no key" in bad("roster", "revoke", "roster.toml", "--id", "alice", "--former")


def test_spans_and_dates_are_read_strictly(made: OnDisk) -> None:
    rotate(made, "--overlap", "0d")
    draft = Path("roster.toml")
    assert LiveMembership(made.config("bob")).offer(sign())
    date = datetime.fromtimestamp(read_draft(draft).rotations[0].until, UTC).isoformat(timespec="seconds")
    assert date in draft.read_text()
    draft.write_text(draft.read_text().replace(date, "soon"))
    with pytest.raises(ConfigInvalid, match="'soon' is no date"):
        read_draft(draft)
    assert "Invalid value" in bad(
        "roster", "rotate", "roster.toml", "alice.rotation", "--federation-key", KEY, "--overlap", "91d"
    )


# --- which key a node uses ---


def speaks(node: OwnKeys, membership: Membership) -> bool:
    """Whether a peer with this membership believes what the node says by itself."""
    signed = node.sign(RosterOffer(b"x"))
    try:
        verify(signed, membership.lookup("alice")[0], federation=membership.federation)
    except BadSignature:
        return False
    return True


def test_a_running_node_takes_the_new_key_by_itself(made: OnDisk) -> None:
    now = [time.time()]
    members = LiveMembership(made.config("alice"), clock=lambda: now[0])
    node = OwnKeys(made.config("alice"), "owner", members)
    behind = members.current
    assert node.party.identity.public == made.identities["alice"].public

    rotate(made, "--overlap", "1h")
    members.offer(sign())
    old, new = old_and_new(made)
    assert node.party.identity.public == new.public
    assert node.party.key_of("alice") == new.public
    assert speaks(node, behind)
    assert speaks(node, members.current)

    now[0] += 3601
    assert not speaks(node, behind)
    assert speaks(node, members.current)
    assert not members.key_of("alice").verify(b"x", old.sign(b"x"))
    assert list(node._ring._held) == [new.public.key]


def test_after_a_restart_it_is_as_before(made: OnDisk) -> None:
    rotate(made)
    LiveMembership(made.config("alice")).offer(sign())
    members = LiveMembership(made.config("alice"))
    node = OwnKeys(made.config("alice"), "owner", members)
    old, new = old_and_new(made)
    assert node.party.identity.public == new.public
    node.sign(RosterOffer(b"x"))
    assert node.identity.public == old.public


def test_the_old_key_is_erased_when_it_counts_no_more(made: OnDisk) -> None:
    path = made.folder / "keys" / "alice.key"
    assert "no key of alice is being replaced" in bad("rotate", "--config", made.folder / "alice.toml", "--finish")
    rotate(made, "--overlap", "1h")
    assert "does not have the new key of alice yet" in bad("rotate", "--config", made.folder / "alice.toml", "--finish")
    made.signed_path.write_bytes(sign())
    assert "it counts until" in bad("rotate", "--config", made.folder / "alice.toml", "--finish")
    good("roster", "revoke", "roster.toml", "--id", "alice", "--former")
    made.signed_path.write_bytes(sign())
    _, new = old_and_new(made)
    text = path.read_bytes()
    with path.open("rb") as held:
        good("rotate", "--config", made.folder / "alice.toml", "--finish")
        assert held.read() == bytes(len(text))
    assert load_key(path).public == new.public
    assert public_path(path).read_text().strip() == new.public.hex
    assert not next_path(path).exists()
    node = OwnKeys(made.config("alice"), "owner", LiveMembership(made.config("alice")))
    assert node.party.identity.public == new.public
    assert "has the key" not in good("owner", "--config", made.folder / "alice.toml", "--check").output


def test_check_knows_a_successor(made: OnDisk) -> None:
    rotate(made)
    made.signed_path.write_bytes(sign())
    output = good("owner", "--config", made.folder / "alice.toml", "--check").output
    assert "alice is in the roster as owner with this key" in output


def test_a_ring_without_the_rosters_key_goes_on_with_its_own(made: OnDisk) -> None:
    ring = KeyRing(made.folder / "keys" / "alice.key")
    own = made.identities["alice"].public
    elsewhere = Membership(made.roster(2, revoked=("alice",)), made.federation.public)
    assert ring.signer("alice", elsewhere).public == own
    assert ring.speaker("alice", elsewhere).public == own
    other = Membership(made.roster(), made.federation.public)
    assert ring.speaker("bob", other).public == own
    waiting = Membership(made.roster(), made.federation.public, frozenset({"alice"}))
    assert ring.speaker("alice", waiting).public == own
    with pytest.raises(RevokedKey):
        elsewhere.believed("alice")


@pytest.mark.parametrize("name", ["alice.key", "key", "a.b"])
def test_names_of_successors_do_not_meet(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    make_key(path)
    new = make_key(next_path(path))
    take_successor(path)
    assert load_key(path).public == new.public
    with pytest.raises(ConfigInvalid, match="cannot be replaced"):
        take_successor(path)


def test_letters_are_of_one_kind(tmp_path: Path, made: OnDisk) -> None:
    path = tmp_path / "letter"
    path.write_text(to_letter(Member("a", "owner", bytes(32))))
    with pytest.raises(ConfigInvalid, match="not a rotation"):
        read_letter(path, Rotation, "")
    assert config(made).id == "alice"
