from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpc_fl.errors import (
    BadSignature,
    ConfigInvalid,
    Equivocation,
    MalformedMessage,
    Refused,
    RevokedKey,
    UnknownMember,
    WrongRole,
)
from smpc_fl.identity import Identity, PublicIdentity
from smpc_fl.roster import (
    MAX_ROSTER,
    ROLES,
    Member,
    Membership,
    Revocation,
    Role,
    Roster,
    accept_update,
    encode_roster,
    everybody,
    federation_id,
    nobody,
    open_roster,
    roster_hash,
    sign_roster,
)


def identity(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


def key(number: int) -> bytes:
    return identity(number).public.key


FEDERATION = identity(1)
MEMBERS = (
    Member("agg-1", "aggregator", key(11), "wss://10.0.0.1:8443"),
    Member("agg-2", "aggregator", key(12), "ws://[::1]:8443"),
    Member("alice", "owner", key(21)),
    Member("bob", "owner", key(22)),
    Member("hub", "coordinator", key(13), "wss://hub.example.org:443"),
    Member("rae", "researcher", key(31)),
)
ROSTER = Roster("hospitals", 3, MEMBERS)


def with_changes(
    *, version: int = 4, add: tuple[Member, ...] = (), drop: tuple[str, ...] = (), revoked: tuple[Revocation, ...] = ()
) -> Roster:
    kept = [member for member in MEMBERS if member.id not in drop]
    return Roster.of("hospitals", version, [*kept, *add], revoked)


def signed(roster: Roster) -> bytes:
    return sign_roster(roster, FEDERATION)


def current(roster: Roster = ROSTER) -> Membership:
    return Membership(roster, FEDERATION.public)


def test_a_signed_roster_opens_under_the_federation_key_only() -> None:
    assert open_roster(signed(ROSTER), FEDERATION.public) == ROSTER
    with pytest.raises(BadSignature, match="fingerprint"):
        open_roster(signed(ROSTER), identity(2).public)


def test_roles_are_the_literal() -> None:
    assert get_args(Role) == ROLES


def test_members_by_role() -> None:
    assert [member.id for member in ROSTER.owners] == ["alice", "bob"]
    assert [member.id for member in ROSTER.aggregators] == ["agg-1", "agg-2"]
    assert current().providers == ()
    dealer = Member("dealer", "provider", key(14), "wss://10.0.0.2:8443")
    assert current(with_changes(add=(dealer,))).providers == (dealer,)
    assert ROSTER.coordinator.id == "hub"
    assert [member.id for member in ROSTER.of_role("researcher")] == ["rae"]
    with pytest.raises(UnknownMember, match="no coordinator"):
        _ = with_changes(drop=("hub",)).coordinator


def test_keys_of_members() -> None:
    assert ROSTER.key_of("alice") == PublicIdentity(key(21))
    assert ROSTER.key_of("alice", "owner") == PublicIdentity(key(21))
    with pytest.raises(WrongRole, match="alice is an owner in the roster, not a coordinator") as wrong:
        ROSTER.key_of("alice", "coordinator")
    assert wrong.value.peer == "alice"
    with pytest.raises(UnknownMember, match="mallory is not in the roster of federation hospitals"):
        ROSTER.key_of("mallory")


@pytest.mark.parametrize(("reason", "shown"), [("stolen", r"was revoked \(stolen\)"), ("", "was revoked:")])
def test_revoked_members_are_refused_with_the_reason(reason: str, shown: str) -> None:
    roster = with_changes(drop=("alice",), revoked=(Revocation("abe", key(40)), Revocation("alice", key(21), reason)))
    with pytest.raises(RevokedKey, match=shown):
        roster.key_of("alice", "owner")


def test_a_revoked_member_comes_back_with_a_new_key() -> None:
    roster = with_changes(
        drop=("alice",), add=(Member("alice", "owner", key(99)),), revoked=(Revocation("alice", key(21)),)
    )
    assert roster.key_of("alice").key == key(99)


@pytest.mark.parametrize(
    ("members", "revoked", "complaint"),
    [
        (tuple(reversed(MEMBERS)), (), "sorted by id"),
        ((MEMBERS[2], MEMBERS[2]), (), "each id once"),
        ((MEMBERS[2], Member("bob", "owner", key(21))), (), "alice and bob have the same key"),
        ((MEMBERS[2],), (Revocation("alice", key(21)),), "key of alice is revoked"),
        ((Member("agg-1", "aggregator", key(11)),), (), "agg-1 is an aggregator and needs an address"),
        ((Member("rae", "researcher", key(31), "ws://127.0.0.1:1"),), (), "rae is a researcher, which only dials out"),
        ((MEMBERS[4], Member("hub2", "coordinator", key(14), "wss://x:1")), (), "one coordinator"),
        ((), (Revocation("b", key(5)), Revocation("a", key(6))), "revocations of a roster must be sorted"),
        ((), (Revocation("a", key(5)), Revocation("a", key(5))), "each once"),
    ],
)
def test_contradictions_are_refused(
    members: tuple[Member, ...], revoked: tuple[Revocation, ...], complaint: str
) -> None:
    with pytest.raises(ConfigInvalid, match=complaint):
        Roster("hospitals", 1, members, revoked)


@pytest.mark.parametrize(
    "member",
    [
        Member("alice\n", "owner", key(21)),
        Member("", "owner", key(21)),
        Member("\udcff", "owner", key(21)),
        Member("alice", "owner", b"short"),
        Member("alice", "king", key(21)),  # type: ignore[arg-type]
        Member("hub", "coordinator", key(13), "http://hub:80"),
        Member("hub", "coordinator", key(13), "wss://hub\x1b[2J:80"),
    ],
)
def test_fields_out_of_range_are_not_encoded(member: Member) -> None:
    with pytest.raises(ConfigInvalid, match="cannot be written"):
        encode_roster(Roster("hospitals", 1, (member,)))


def test_no_control_characters_in_texts() -> None:
    with pytest.raises(ConfigInvalid):
        encode_roster(Roster("hospitals\x1b[2J", 1, ()))
    with pytest.raises(ConfigInvalid):
        encode_roster(Roster("hospitals", 1, (), (Revocation("a", key(5), "gone\n"),)))


def test_the_federation_key_is_nobodys_node_key() -> None:
    roster = with_changes(add=(Member("zed", "owner", FEDERATION.public.key),))
    with pytest.raises(ConfigInvalid, match="zed uses the federation key"):
        signed(roster)
    # Also when it was signed by other means.
    envelope = msgspec.msgpack.decode(signed(ROSTER))
    assert set(envelope) == {"roster", "signature"}


def forged(body: bytes) -> bytes:
    """What a careless holder of the federation key could sign."""
    from smpc_fl.hashing import digest

    covered = digest("smpc-fl/1 signed roster", FEDERATION.public.key, body)
    return msgspec.msgpack.encode({"roster": body, "signature": FEDERATION.sign(covered)})


def test_what_is_signed_is_still_checked() -> None:
    assert open_roster(forged(encode_roster(ROSTER)), FEDERATION.public) == ROSTER
    with pytest.raises(ConfigInvalid, match="federation key"):
        open_roster(
            forged(encode_roster(Roster("h", 1, (Member("zed", "owner", FEDERATION.public.key),)))), FEDERATION.public
        )
    with pytest.raises(MalformedMessage, match="does not decode"):
        open_roster(forged(b"\x80"), FEDERATION.public)
    unsorted = {"name": "h", "version": 1, "members": [msgspec.structs.asdict(item) for item in reversed(MEMBERS)]}
    with pytest.raises(MalformedMessage, match="sorted by id"):
        open_roster(forged(msgspec.msgpack.encode(unsorted)), FEDERATION.public)
    # The same roster, its fields in another order: a second spelling.
    other = {"version": 1, "name": "h", "members": [], "revoked": []}
    with pytest.raises(MalformedMessage, match="canonical"):
        open_roster(forged(msgspec.msgpack.encode(other)), FEDERATION.public)


def test_a_second_spelling_of_the_envelope_is_refused() -> None:
    fields = msgspec.msgpack.decode(signed(ROSTER))
    with pytest.raises(MalformedMessage, match="canonical"):
        open_roster(
            msgspec.msgpack.encode({"signature": fields["signature"], "roster": fields["roster"]}), FEDERATION.public
        )


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage, match="not a signed roster"):
        open_roster(data, FEDERATION.public)


@given(st.data())
def test_every_flipped_byte_is_noticed(data: st.DataObject) -> None:
    good = bytearray(signed(ROSTER))
    place = data.draw(st.integers(0, len(good) - 1))
    good[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises((MalformedMessage, BadSignature)):
        open_roster(bytes(good), FEDERATION.public)


def test_left_over_bytes_and_oversize_are_refused() -> None:
    with pytest.raises(MalformedMessage):
        open_roster(signed(ROSTER) + b"\x00", FEDERATION.public)
    with pytest.raises(MalformedMessage, match="over the limit"):
        open_roster(bytes(MAX_ROSTER + 1), FEDERATION.public)


def test_hashes_depend_on_everything() -> None:
    assert len(roster_hash(ROSTER)) == 32
    others = [with_changes(version=3, drop=("bob",)), with_changes(), Roster("banks", 3, MEMBERS)]
    assert len({roster_hash(item) for item in [ROSTER, *others]}) == 4
    assert federation_id(FEDERATION.public) != federation_id(identity(2).public)


def test_a_membership_trusts_everybody_but_the_pending() -> None:
    everyone = current()
    assert everyone.members == MEMBERS
    assert everyone.lookup("hub") == (PublicIdentity(key(13)), "coordinator")
    assert everyone.key_of("agg-1", "aggregator").key == key(11)
    assert everyone.federation == federation_id(FEDERATION.public)
    assert everyone.roster_version == 3
    assert everyone.roster_hash == roster_hash(ROSTER)
    assert everyone.coordinator.id == "hub"
    assert everyone.owner_ids == {"alice", "bob"}

    fewer = Membership(ROSTER, FEDERATION.public, frozenset({"bob", "agg-2"}))
    assert [member.id for member in fewer.owners] == ["alice"]
    assert [member.id for member in fewer.aggregators] == ["agg-1"]
    for look in (fewer.member, fewer.key_of, fewer.lookup):
        with pytest.raises(UnknownMember, match="roster accept"):
            look("bob")


def test_older_versions_change_nothing() -> None:
    now = current()
    assert accept_update(now, signed(with_changes(version=2, drop=("bob",)))) is now


def test_the_same_version_again_changes_nothing() -> None:
    assert accept_update(current(), signed(ROSTER)) == current()
    partly = Membership(ROSTER, FEDERATION.public, frozenset({"bob"}))
    assert accept_update(partly, signed(ROSTER)) == partly


def test_two_rosters_of_one_version_are_equivocation() -> None:
    with pytest.raises(Equivocation, match="version 3"):
        accept_update(current(), signed(with_changes(version=3, drop=("bob",))))


def test_another_federations_name_is_refused() -> None:
    with pytest.raises(Refused, match="banks"):
        accept_update(current(), signed(Roster("banks", 4, MEMBERS)))


def test_revocations_count_at_once_and_for_good() -> None:
    after = accept_update(current(), signed(with_changes(drop=("bob",), revoked=(Revocation("bob", key(22)),))))
    assert after.pending == frozenset()
    with pytest.raises(RevokedKey):
        after.lookup("bob")
    with pytest.raises(Refused, match=r"version 5 lacks revocations .*: bob"):
        accept_update(after, signed(with_changes(version=5, drop=("bob",))))


def test_new_owners_and_aggregators_wait_for_local_approval() -> None:
    new = (
        Member("agg-3", "aggregator", key(14), "wss://10.0.0.3:1"),
        Member("dave", "owner", key(23)),
        Member("ria", "researcher", key(32)),
    )
    offered = signed(with_changes(add=new))
    assert accept_update(current(), offered).pending == {"agg-3", "dave"}
    assert accept_update(current(), offered, everybody).pending == frozenset()
    assert accept_update(current(), offered, lambda member: member.id == "dave").pending == {"agg-3"}
    assert not nobody(new[0])


def test_pending_members_stay_pending_in_later_versions() -> None:
    dave = Member("dave", "owner", key(23))
    first = accept_update(current(), signed(with_changes(add=(dave,))))
    second = accept_update(first, signed(with_changes(version=5, add=(dave, Member("erin", "owner", key(24))))))
    assert second.pending == {"dave", "erin"}
    assert accept_update(first, signed(with_changes(version=5))).pending == frozenset()


def test_a_new_key_or_role_under_a_known_id_is_a_new_member() -> None:
    swapped = with_changes(drop=("bob", "rae"), add=(Member("bob", "owner", key(98)), Member("rae", "owner", key(31))))
    assert accept_update(current(), signed(swapped)).pending == {"bob", "rae"}


def test_a_new_address_is_no_new_member() -> None:
    moved = with_changes(drop=("agg-1",), add=(Member("agg-1", "aggregator", key(11), "wss://10.9.9.9:1"),))
    after = accept_update(current(), signed(moved))
    assert after.pending == frozenset()
    assert after.member("agg-1").address == "wss://10.9.9.9:1"


def test_an_update_by_another_key_is_refused() -> None:
    with pytest.raises(BadSignature):
        accept_update(current(), sign_roster(with_changes(), identity(2)))
