"""Who decrypts a sum of ciphertexts, what is refused, and what the coordinator makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from clear_cipher import ClearCipher
from encrypted_rig import AGGREGATOR, EncryptedRig, asked, request
from rig import OWNERS, Draws, Rig, refusal, told

from smpc_fl.encryption import MODULUS, sum_digest
from smpc_fl.errors import (
    CohortTooSmall,
    DecryptionFailed,
    Equivocation,
    MalformedMessage,
    ManifestRefused,
    SmpcError,
    Unavailable,
    WrongRole,
)
from smpc_fl.protocols import key_holder, partial
from smpc_fl.protocols.commands import Finished, PeerUp, Persist, Received, Send, Start, Tick
from smpc_fl.protocols.coordinator import GivenUp, Released
from smpc_fl.protocols.decryption import Decryption
from smpc_fl.protocols.decryption import State as DecryptionState
from smpc_fl.protocols.messages import (
    DecryptedSum,
    DecryptRequest,
    EncryptedSum,
    Entry,
    Message,
    PartialSum,
    Refusal,
)
from smpc_fl.protocols.records import Decrypting, SumDecrypted
from smpc_fl.protocols.simulate import COORDINATOR, federation
from smpc_fl.ring import RingArray


def entries(rig: EncryptedRig, *owners: str) -> list[Entry]:
    (released,) = rig.sent_by(AGGREGATOR, EncryptedSum)
    return [entry for owner in owners for entry in released.entries if entry.owner == owner]


FALSE: dict[str, tuple[Callable[[EncryptedRig], dict[str, Any]], type[SmpcError], str]] = {
    "of another manifest": (lambda rig: {"manifest_hash": bytes(32)}, ManifestRefused, "no encrypted report in such"),
    "released by an owner": (lambda rig: {"by": "bob"}, WrongRole, "is an owner"),
    "too few": (lambda rig: {"entries": entries(rig, "alice", "bob")}, CohortTooSmall, "a sum over 2 owners"),
    "without this owner": (lambda rig: {"entries": entries(rig, "bob", "carol", "dave")}, MalformedMessage, "without this"),
    "with another report": (
        lambda rig: {"entries": [Entry("alice", bytes(32)), *entries(rig, "bob", "carol")]}, MalformedMessage, "without this",
    ),
    "of a stranger": (
        lambda rig: {"entries": [*entries(rig, "alice", "bob", "carol"), Entry("eve", bytes(32))]}, MalformedMessage, "outside",
    ),
    "not sorted": (lambda rig: {"entries": entries(rig, "bob", "alice", "carol")}, MalformedMessage, "outside"),
    "one owner twice": (lambda rig: {"entries": entries(rig, "alice", "alice", "bob")}, MalformedMessage, "outside"),
    "other ciphertexts": (lambda rig: {"digest": bytes(32)}, MalformedMessage, "not the ciphertexts"),
}  # fmt: skip


@pytest.mark.parametrize("name", FALSE)
def test_what_was_not_released_over_k_min_owners_is_not_decrypted(name: str) -> None:
    make, kind, reason = FALSE[name]
    rig, who, _, _ = asked()
    assert who == "alice"
    error = refusal(rig.owner().receive(request(rig, **make(rig)), rig.now))
    assert isinstance(error, kind)
    assert reason in error.message
    assert not any(isinstance(record, Decrypting) for record in rig.written["alice"])
    rig.queue.append(("alice", request(rig)))  # the true one still is
    rig.exact(rig.finish())


def test_a_released_sum_of_another_manifest_is_not_decrypted() -> None:
    rig, _, _, message = asked()
    false = request(rig, manifest_hash=bytes(32)).message
    assert isinstance(false, DecryptRequest)
    mixed = rig.from_(COORDINATOR, DecryptRequest(message.manifest_hash, false.released), b"")
    assert "not released by this round's" in refusal(rig.owner().receive(mixed, rig.now)).message


def test_another_aggregator_of_the_roster_releases_nothing() -> None:
    entropy = Draws("two aggregators")
    rig, who, _, _ = asked(parties=federation([*OWNERS], [AGGREGATOR, "aggregator-9"], entropy))
    error = refusal(rig.owner(who).receive(request(rig, by="aggregator-9"), rig.now))
    assert "not released by this round's aggregator" in error.message


def spoil(words: RingArray) -> RingArray:
    other = words.copy()
    other[0] = (int(other[0]) + (1 << 20)) % MODULUS  # half a unit
    return other


@pytest.mark.parametrize(
    "cut", [lambda data: None, lambda data: b"", lambda data: data[:-1], lambda data: data + b"\0"]
)
def test_ciphertexts_of_another_size_are_not_read(cut: Callable[[bytes], Any]) -> None:
    rig, who, event, message = asked()
    false = rig.from_(COORDINATOR, message, cut(bytes(event.attachment)))
    assert "bytes long" in refusal(rig.nodes[who].machine.receive(false, rig.now)).message


def test_a_residue_beyond_the_modulus_is_refused() -> None:
    rig, who, event, message = asked()
    false = rig.from_(COORDINATOR, message, b"\xff" * len(bytes(event.attachment)))
    assert "residue" in refusal(rig.nodes[who].machine.receive(false, rig.now)).message


def test_an_owner_decrypts_one_sum_in_an_attempt_and_that_as_often_as_it_is_asked() -> None:
    rig, who, event, _ = asked()
    total = rig.decryption._released.total
    other = total.copy()
    other[0] = (int(other[0]) + (1 << 21)) % MODULUS  # one unit more: as good a sum, if the aggregator lies
    rig.deliver(who, event)
    first = rig.owner().receive(event, rig.now)
    assert [type(said) for said in told(first)] == [DecryptedSum]
    for _ in range(2):
        error = refusal(rig.owner().receive(request(rig, other), rig.now))
        assert isinstance(error, Equivocation)
        assert [type(said) for said in told(rig.owner().receive(event, rig.now))] == [DecryptedSum]
        rig.crash(who)  # it is durable
    rig.settle()
    rig.exact(rig.outcome)


def test_what_turns_out_to_be_no_sum_was_the_one_try() -> None:
    """Else a refusal would be an oracle: ask, look, ask again."""
    rig, who, event, _ = asked()
    false = request(rig, spoil(rig.decryption._released.total))
    kept, refused = rig.owner().receive(false, rig.now)
    assert isinstance(kept, Persist)
    assert isinstance(kept.record, Decrypting)
    assert isinstance(refusal([refused]), DecryptionFailed)
    rig.carry_out(who, kept)
    rig.crash(who)
    assert isinstance(refusal(rig.owner().receive(event, rig.now)), Equivocation)


def test_who_has_no_report_in_the_round_decrypts_nothing() -> None:
    rig, _, event, _ = asked()
    rig.close(released=True)
    assert "no encrypted report" in refusal(rig.owner().receive(event, rig.now)).message
    shared = Rig()
    shared.run()
    message = DecryptRequest(shared.owner().manifest_hash, event.signed)
    assert "no encrypted report" in refusal(shared.tell("alice", COORDINATOR, message, b"")).message
    assert shared.tell("alice", AGGREGATOR, message, b"") == []
    assert Rig().owner().receive(shared.from_(COORDINATOR, message), 0.0) != []


# --- the coordinator ---


def test_if_one_owner_is_gone_the_next_is_asked() -> None:
    rig, who, _, _ = asked()
    rig.down.add(who)
    outcome = rig.finish()
    rig.exact(outcome)
    assert [send.to for by, send, message in rig.said if isinstance(message, DecryptRequest)] == ["alice", "bob"]
    assert [by for by, _, message in rig.said if isinstance(message, DecryptedSum)] == ["bob"]
    assert isinstance(outcome, Released)
    assert outcome.uploaded["bob"] == 4 * 4 + 16


def test_if_one_owner_refuses_the_next_is_asked() -> None:
    rig, who, _, _ = asked()
    rig.deliver(who, request(rig, spoil(rig.decryption._released.total)))
    rig.exact(rig.finish())
    assert [by for by, _, message in rig.said if isinstance(message, DecryptedSum)] == ["bob"]


def test_if_no_owner_decrypts_there_is_no_further_attempt() -> None:
    rig, _, _, _ = asked()
    rig.down |= {*OWNERS}
    outcome = rig.finish()
    assert isinstance(outcome, GivenUp)
    assert outcome.aborts == ()
    assert isinstance(outcome.error, Unavailable)
    assert rig.decryption.state is DecryptionState.FAILED
    assert rig.decryption.receive(Tick(), rig.now) == []


def test_an_owner_that_is_back_is_asked_again() -> None:
    rig, who, _, _ = asked()
    assert rig.decryption.receive(PeerUp("bob"), rig.now) == []
    (again,) = rig.decryption.receive(PeerUp(who), rig.now)
    assert isinstance(again, Send)
    assert again.to == who


def test_answers_that_do_not_open_are_not_believed() -> None:
    rig, who, event, _ = asked()
    rig.queue.clear()
    rig.deliver(who, event)
    _, answer = rig.queue.pop()
    assert isinstance(answer, Received)
    true = answer.message
    assert isinstance(true, DecryptedSum)

    def says(by: str, message: Message, attachment: Any) -> list[Any]:
        return rig.decryption.receive(rig.from_(by, message, attachment), rig.now)

    for false in (
        msgspec.structs.replace(true, digest=bytes(32)),
        msgspec.structs.replace(true, manifest_hash=bytes(32)),
    ):
        assert says(who, false, answer.attachment) == []
    assert says(who, true, None) == []
    assert says(AGGREGATOR, true, answer.attachment) == []
    assert says("bob", true, answer.attachment) == []  # in another's name, and not the one that was asked
    assert says("bob", Refusal("Unavailable", "no", "decrypt", true.manifest_hash), None) == []
    assert says(who, Refusal("Unavailable", "no", "decrypt", bytes(32)), None) == []
    (next_, _) = says(who, true, bytes(answer.attachment)[:-1] + b"x")
    assert next_.to == "bob"
    rig.queue.append((COORDINATOR, answer))  # late, and true
    rig.exact(rig.finish())


def test_an_owner_outside_the_sum_decrypts_nothing_for_others() -> None:
    rig = EncryptedRig()
    rig.down.add("dave")
    rig.begin()
    who, event = rig.until(DecryptRequest)
    machine, manifest = rig.owner(who), rig.owner(who).manifest
    assert manifest is not None
    total = rig.decryption._released.total
    digest = sum_digest(total)
    false = key_holder.answer(
        digest, total, manifest, machine.manifest_hash, rig.parties["dave"], ClearCipher(), Draws("dave")
    )
    message = rig.parties[COORDINATOR].read(false.signed)
    assert rig.decryption.receive(Received("dave", message, false.signed, false.attachment), rig.now) == []
    rig.deliver(who, event)
    rig.exact(rig.finish())


def test_a_coordinator_that_lost_the_decrypted_sum_asks_again() -> None:
    rig, who, _, _ = asked()
    rig.finish()
    assert [type(record) for record in rig.nodes[COORDINATOR].journal] == [SumDecrypted]
    machine, outcome = rig._summed or (None, None)
    assert machine is not None
    assert outcome is not None
    lost = Decryption.restore(machine, outcome, [who], 30.0, rig.nodes[COORDINATOR].journal, None)
    assert lost.state is DecryptionState.ASKING
    found = Decryption.restore(
        machine, outcome, [who], 30.0, rig.nodes[COORDINATOR].journal, rig.nodes[COORDINATOR].bulk
    )
    (finished,) = found.receive(Start(), rig.now)
    assert isinstance(finished, Finished)
    rig.exact(finished.outcome)


def released(**changes: Any) -> tuple[EncryptedRig, Received, EncryptedSum]:
    """A round in which the aggregator's release is about to reach the coordinator."""
    rig = EncryptedRig()
    rig.begin()
    _, event = rig.until(EncryptedSum)
    assert isinstance(event.message, EncryptedSum)
    return rig, event, event.message


def test_a_release_that_does_not_fit_is_not_taken() -> None:
    rig, event, message = released()
    hash_, set_ = message.manifest_hash, partial.set_hash(message)
    falses: list[Message] = [
        msgspec.structs.replace(message, digest=bytes(32)),
        msgspec.structs.replace(message, entries=message.entries[:3]),
        PartialSum(hash_, set_, message.ephemeral),
    ]
    for false in falses:
        assert rig.tell(COORDINATOR, AGGREGATOR, false, event.attachment) == []
    rig.queue.append((COORDINATOR, event))
    rig.exact(rig.finish())


def test_a_shared_round_takes_no_sum_of_ciphertexts() -> None:
    rig = Rig()
    rig.begin()
    _, event = rig.until(PartialSum)
    message = event.message
    assert isinstance(message, PartialSum)
    false = EncryptedSum(message.manifest_hash, rig.coordinator._agreed, bytes(32), message.ephemeral)
    assert rig.tell(COORDINATOR, event.sender, false, event.attachment) == []
    rig.queue.append((COORDINATOR, event))
    rig.check(rig.finish())
