"""A member replaces its key: who vouches for what, and how long the old one counts."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpc_fl.errors import BadSignature, ConfigInvalid, MalformedMessage, RevokedKey, UnknownMember, WrongRole
from smpc_fl.identity import Identity, OverlappingIdentity, PublicIdentity
from smpc_fl.roster import (
    Member,
    Membership,
    Revocation,
    Roster,
    Rotation,
    accept_update,
    encode_roster,
    open_roster,
    sign_roster,
)


def identity(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


FEDERATION = identity(1)
FIRST, SECOND, THIRD, THIEF = (identity(number) for number in (21, 22, 23, 66))
BOB = Member("bob", "owner", identity(30).public.key)
UNTIL = 1000


def alice(key: Identity) -> Member:
    return Member("alice", "owner", key.public.key)


def rotation(old: Identity = FIRST, new: Identity = SECOND, until: int = UNTIL, id: str = "alice") -> Rotation:
    return msgspec.structs.replace(Rotation.make(id, old, new, FEDERATION.public), until=until)


def roster(
    key: Identity, *rotations: Rotation, version: int = 2, revoked: tuple[Revocation, ...] = (), also: Member = BOB
) -> Roster:
    return Roster.of("hospitals", version, [alice(key), also], revoked, rotations)


BEFORE = roster(FIRST, version=1)
AFTER = roster(SECOND, rotation())


def membership(roster: Roster, when: float = 0.0) -> Membership:
    return Membership(roster, FEDERATION.public, when=when)


def signed(roster: Roster) -> bytes:
    return sign_roster(roster, FEDERATION)


def believes(who: Membership, key: Identity, id: str = "alice") -> bool:
    data = b"what was said"
    verdicts = {who.believed(id).verify(data, key.sign(data)), who.lookup(id)[0].verify(data, key.sign(data))}
    assert len(verdicts) == 1
    return verdicts.pop()


def test_a_roster_without_rotations_is_spelled_as_it_always_was() -> None:
    assert set(msgspec.msgpack.decode(encode_roster(BEFORE))) == {"name", "version", "members", "revoked"}
    assert BEFORE.rotations == ()
    with pytest.raises(ConfigInvalid, match="cannot be written"):
        encode_roster(msgspec.structs.replace(BEFORE, rotated=()))


def test_a_rotation_travels_in_the_signed_roster() -> None:
    opened = open_roster(signed(AFTER), FEDERATION.public)
    assert opened == AFTER
    assert opened.rotations == (rotation(),)
    assert opened.line_of(alice(SECOND)) == (rotation(),)
    assert opened.line_of(BOB) == ()


def test_during_the_overlap_both_keys_are_believed() -> None:
    now = membership(AFTER)
    assert believes(now, FIRST)
    assert believes(now, SECOND)
    assert not believes(now, THIEF)
    assert not believes(now, FIRST, "bob")
    assert now.former("alice") == (FIRST.public,)
    assert now.former("bob") == ()
    assert isinstance(now.believed("alice", "owner"), OverlappingIdentity)
    with pytest.raises(WrongRole):
        now.believed("alice", "aggregator")


def test_which_of_the_keys_has_signed_is_known() -> None:
    both = membership(AFTER).believed("alice")
    assert [both.signer(b"x", key.sign(b"x")) for key in (FIRST, SECOND, THIEF)] == [FIRST.public, SECOND.public, None]
    assert FIRST.public.signer(b"x", FIRST.sign(b"x")) == FIRST.public
    assert FIRST.public.signer(b"x", SECOND.sign(b"x")) is None


def test_what_is_sealed_goes_by_one_key() -> None:
    assert membership(AFTER).key_of("alice") == SECOND.public
    assert type(membership(AFTER).believed("bob")) is PublicIdentity


def test_afterwards_the_old_key_counts_for_nothing() -> None:
    now = membership(AFTER)
    assert now.at(UNTIL - 0.5) is now
    later = now.at(UNTIL)
    assert later == now
    assert not believes(later, FIRST)
    assert believes(later, SECOND)
    assert later.at(UNTIL + 1) is later
    assert membership(BEFORE).at(1e12).when == 0.0


def test_a_round_that_is_under_way_goes_by_the_time_that_it_began_at() -> None:
    began = membership(AFTER)
    began.at(2 * UNTIL)
    assert believes(began, FIRST)


def test_revoking_the_old_key_ends_the_overlap_at_once() -> None:
    now = membership(roster(SECOND, rotation(), revoked=(Revocation("alice", FIRST.public.key, "stolen"),)))
    assert not believes(now, FIRST)
    assert believes(now, SECOND)


def test_a_revoked_member_is_out_with_all_its_keys() -> None:
    gone = Roster.of("hospitals", 3, [BOB], [Revocation("alice", SECOND.public.key)], [rotation()])
    with pytest.raises(RevokedKey):
        membership(gone).believed("alice")


def test_owners_that_approved_the_old_key_have_approved_the_new_one() -> None:
    after = accept_update(membership(BEFORE, 5.0), signed(AFTER))
    assert after.pending == frozenset()
    assert after.key_of("alice") == SECOND.public
    assert after.when == 5.0


def test_also_when_they_have_slept_through_several() -> None:
    twice = roster(THIRD, rotation(), rotation(SECOND, THIRD), version=9)
    after = accept_update(membership(BEFORE), signed(twice))
    assert after.pending == frozenset()
    assert after.former("alice") == (SECOND.public, FIRST.public)
    expired = roster(THIRD, rotation(until=1), rotation(SECOND, THIRD), version=9)
    late = accept_update(membership(BEFORE, 500.0), signed(expired))
    assert late.pending == frozenset()
    assert late.former("alice") == (SECOND.public,)


def test_a_key_that_was_not_approved_vouches_for_none() -> None:
    waiting = Membership(BEFORE, FEDERATION.public, frozenset({"alice"}))
    assert accept_update(waiting, signed(AFTER)).pending == {"alice"}
    with pytest.raises(UnknownMember):
        accept_update(waiting, signed(AFTER)).believed("alice")


def test_a_revoked_key_vouches_for_none() -> None:
    stolen = roster(THIEF, rotation(FIRST, THIEF), revoked=(Revocation("alice", FIRST.public.key),))
    assert accept_update(membership(BEFORE), signed(stolen)).pending == {"alice"}


def test_a_new_role_is_not_vouched_for() -> None:
    other = Member("alice", "aggregator", SECOND.public.key, "wss://h:1")
    changed = Roster.of("hospitals", 2, [other, BOB], (), [rotation()])
    assert accept_update(membership(BEFORE), signed(changed)).pending == {"alice"}


def test_without_the_rotation_a_new_key_is_a_new_member() -> None:
    assert accept_update(membership(BEFORE), signed(roster(SECOND))).pending == {"alice"}


FORGERIES = {
    "by the thief alone": lambda: Rotation.make("alice", THIEF, SECOND, FEDERATION.public),
    "of another member": lambda: rotation(id="bob"),
    "of another federation": lambda: Rotation.make("alice", FIRST, SECOND, identity(2).public),
    "with another's new key": lambda: Rotation.make("alice", FIRST, THIEF, FEDERATION.public),
}


@pytest.mark.parametrize("how", FORGERIES)
def test_forged_rotations_are_neither_signed_nor_believed(how: str) -> None:
    made = FORGERIES[how]()
    forged = Rotation("alice", FIRST.public.key, SECOND.public.key, made.by_old, made.by_new, UNTIL)
    with pytest.raises(BadSignature, match="the new key of alice is not signed"):
        forged.check(FEDERATION.public)
    with pytest.raises(BadSignature, match="the new key of alice"):
        signed(roster(SECOND, forged))
    with pytest.raises(BadSignature, match="the new key of alice"):
        accept_update(membership(BEFORE), sign_unseen(roster(SECOND, forged)))


def sign_unseen(roster: Roster) -> bytes:
    """What a careless holder of the federation key could sign, by other means than ours."""
    from smpc_fl.hashing import digest

    body = encode_roster(roster)
    covered = digest("smpc-fl/1 signed roster", FEDERATION.public.key, body)
    return msgspec.msgpack.encode({"roster": body, "signature": FEDERATION.sign(covered)})


@given(st.data())
def test_no_bit_of_a_rotation_may_change(data: st.DataObject) -> None:
    good = rotation()
    name = data.draw(st.sampled_from(["old", "new", "by_old", "by_new"]))
    value = bytearray(getattr(good, name))
    value[data.draw(st.integers(0, len(value) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadSignature):
        msgspec.structs.replace(good, **{name: bytes(value)}).check(FEDERATION.public)


CONTRADICTIONS = {
    "sorted": lambda: Roster("h", 1, (alice(THIRD),), (), (rotation(SECOND, THIRD), rotation())),
    "replaced twice": lambda: roster(THIRD, rotation(), rotation(FIRST, THIRD)),
    "or replaces two": lambda: roster(THIRD, rotation(FIRST, THIRD), rotation(SECOND, THIRD)),
    "alice still has": lambda: roster(FIRST, rotation()),
    "bob still has": lambda: roster(SECOND, rotation(), also=Member("bob", "owner", FIRST.public.key)),
}


@pytest.mark.parametrize("complaint", CONTRADICTIONS)
def test_rotations_that_contradict_the_roster(complaint: str) -> None:
    if complaint == "sorted" and FIRST.public.key > SECOND.public.key:
        pytest.fail("choose other keys")
    with pytest.raises(ConfigInvalid, match=complaint):
        CONTRADICTIONS[complaint]()


def test_keys_that_replace_each_other_in_a_circle_lead_nowhere() -> None:
    circle = roster(THIRD, rotation(FIRST, SECOND), rotation(SECOND, FIRST))
    assert circle.line_of(alice(THIRD)) == ()
    assert accept_update(membership(BEFORE), signed(circle)).pending == {"alice"}


def test_a_rotation_of_an_odd_shape_does_not_decode() -> None:
    body = msgspec.msgpack.decode(encode_roster(AFTER))
    body["rotated"] = []
    from smpc_fl.hashing import digest

    data = msgspec.msgpack.encode(body)
    covered = digest("smpc-fl/1 signed roster", FEDERATION.public.key, data)
    with pytest.raises(MalformedMessage, match="does not decode"):
        open_roster(msgspec.msgpack.encode({"roster": data, "signature": FEDERATION.sign(covered)}), FEDERATION.public)
