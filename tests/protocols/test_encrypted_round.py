"""Rounds in which one aggregator adds ciphertexts: whole ones, crashes, and the manifests that ask for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from clear_cipher import ClearCipher
from encrypted_rig import AGGREGATOR, EncryptedRig
from rig import OWNERS, Rig, next_offer, offered, powers, refusal

from smpc_fl.encryption import RESIDUES, SLOTS
from smpc_fl.errors import (
    BadInput,
    CohortTooSmall,
    ManifestRefused,
)
from smpc_fl.jobs import AggregateJob
from smpc_fl.privacy.mechanism import Mechanism, Noise
from smpc_fl.protocols import manifest as manifests
from smpc_fl.protocols import owner
from smpc_fl.protocols.commands import ComputeFailed, Persist, Send
from smpc_fl.protocols.coordinator import GivenUp, Released
from smpc_fl.protocols.manifest import Protection, Rules
from smpc_fl.protocols.messages import (
    AbortRequest,
    DecryptRequest,
    EncryptedSum,
    Manifest,
    PartialSum,
    SeedReport,
    VectorReport,
)
from smpc_fl.protocols.owner import OwnerRound, State
from smpc_fl.protocols.simulate import COORDINATOR, decoded
from smpc_fl.protocols.work import work_of

# --- whole rounds ---


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("bits", [None, 40])
def test_the_sum_is_that_of_shares_to_the_last_bit(number: int, bits: int | None) -> None:
    rig = EncryptedRig(ring_bits=bits, round_number=number, seed=number)
    outcome = rig.run()
    rig.exact(outcome)
    assert isinstance(outcome, Released)
    shared = Rig(ring_bits=bits, round_number=number)
    there = shared.run()
    assert isinstance(there, Released)
    assert decoded(rig, outcome).tolist() == decoded(shared, there).tolist()
    assert [entry.owner for entry in outcome.agreed] == list(OWNERS)


def test_several_ciphertexts_make_a_vector() -> None:
    rig = EncryptedRig(powers(dimension=SLOTS + 3))
    rig.exact(rig.run())


def test_one_aggregator_gets_ciphertexts_of_one_size_whatever_they_hold() -> None:
    sizes = set()
    for value in (0.0, 1.0, -0.5):
        rig = EncryptedRig(dict.fromkeys(OWNERS, np.full(9, value)))
        rig.run()
        reports = [(send, message) for _, send, message in rig.said if isinstance(message, VectorReport)]
        assert len(reports) == len(OWNERS)
        sizes |= {(len(send.signed.body), memoryview(send.attachment or b"").nbytes) for send, _ in reports}
        assert not any(isinstance(message, SeedReport | PartialSum) for _, _, message in rig.said)
    assert len(sizes) == 1
    assert {size for _, size in sizes} == {RESIDUES.packed_size(8192) + 16}


def test_owners_that_drop_out_are_not_in_the_sum() -> None:
    rig = EncryptedRig()
    rig.down.add("dave")
    outcome = rig.run()
    rig.exact(outcome)
    assert isinstance(outcome, Released)
    assert [entry.owner for entry in outcome.agreed] == ["alice", "bob", "carol"]


def test_fewer_than_k_min_owners_are_not_summed_and_nobody_is_asked_to_decrypt() -> None:
    rig = EncryptedRig()
    rig.down |= {"carol", "dave"}
    outcome = rig.run()
    assert isinstance(outcome, GivenUp)
    assert isinstance(outcome.error, CohortTooSmall)
    assert not any(isinstance(message, EncryptedSum | DecryptRequest) for _, _, message in rig.said)


def test_a_crash_of_anybody_before_anything_costs_nothing() -> None:
    """Every node dies once just before each of its commands, and comes back from what it had made durable."""
    vectors = powers(OWNERS[:3])
    whole = EncryptedRig(vectors)
    whole.run()
    for place in range(len(whole.said) + sum(map(len, whole.written.values()))):
        rig = EncryptedRig(vectors)
        count = -1

        def dies(by: str, command: object, at: int = place) -> bool:
            nonlocal count
            count += isinstance(command, Send | Persist)
            return isinstance(command, Send | Persist) and count == at

        rig.dies = dies
        rig.exact(rig.run())


def test_a_further_attempt_sends_the_same_ciphertexts_again() -> None:
    rig = EncryptedRig()
    rig.begin()
    rig.until(VectorReport)
    rig.queue.clear()
    rig.deliver(AGGREGATOR, rig.from_(COORDINATOR, AbortRequest(*rig.aggregator().key)))
    outcome = rig.finish()
    assert isinstance(outcome, GivenUp)
    computed = dict(rig.computed)
    rig.next_attempt(outcome.aborts)
    rig.exact(rig.run())
    assert rig.computed == computed


def test_rounds_that_were_shared_and_encrypted_go_by_the_tables() -> None:
    """Of an owner's: what was seen here is in its table where vectors are encrypted."""
    rigs = [EncryptedRig(), EncryptedRig(dict.fromkeys(OWNERS, np.array([np.nan, 0.0])))]
    for rig in rigs:
        rig.run()
        rig.close(released=True)
    failing = EncryptedRig()
    failing.begin()
    failing.until(VectorReport)
    failing.deliver("alice", next_offer(failing))
    failing.deliver("bob", ComputeFailed(BadInput("no such column")))
    seen = [one for rig in (*rigs, failing) for one in rig.seen if one.machine is OwnerRound]
    done = {(one.before, one.event, one.after) for one in seen if one.before != one.after}
    assert done <= {(before, event.split(":")[0], after) for (before, event), after in owner.ENCRYPTED.items()}
    assert (State.COMPUTING, "Computed", State.CARRYING) in done


# --- manifests ---


def manifest_of(rig: Rig) -> tuple[Manifest, Any]:
    manifest, _ = offered(rig)
    return manifest, rig.parties


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "shares": ({"encryption": b""}, 'protection="shares", this node takes part in "ckks" only'),
    "half an id": ({"encryption": bytes(16)}, "the id of a key"),
    "noise": ({"privacy": Noise(4, 1, 0)}, "noise is added to shares"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_manifest_that_leads_off_the_road_is_refused(name: str) -> None:
    changes, reason = REFUSED[name]
    rig = EncryptedRig()
    manifest, parties = manifest_of(rig)
    signed = parties[COORDINATOR].sign(msgspec.structs.replace(manifest, **changes))
    with pytest.raises(ManifestRefused, match=reason):
        manifests.check(signed, parties["alice"], rig.rules, now=rig.now)


def test_each_road_has_its_number_of_aggregators() -> None:
    one, several = EncryptedRig(), Rig()
    manifest, parties = manifest_of(one)
    signed = parties[COORDINATOR].sign(msgspec.structs.replace(manifest, encryption=b""))
    with pytest.raises(ManifestRefused, match='protection="shares" with 1 aggregators'):
        manifests.check(signed, parties["alice"], Rules(3), now=one.now)
    manifest, parties = manifest_of(several)
    signed = parties[COORDINATOR].sign(msgspec.structs.replace(manifest, encryption=bytes(32)))
    with pytest.raises(ManifestRefused, match='protection="ckks" with 3 aggregators'):
        manifests.check(signed, parties["alice"], Rules(3, protection="ckks"), now=several.now)
    with pytest.raises(ManifestRefused, match='takes part in "shares" only'):
        manifests.check(signed, parties["alice"], Rules(3), now=several.now)


@pytest.mark.parametrize("cipher", [None, ClearCipher(bytes(32))])
def test_an_owner_without_this_key_sends_nothing(cipher: ClearCipher | None) -> None:
    rig = EncryptedRig()
    _, event = offered(rig)
    rig.owner().cipher = cipher
    error = refusal(rig.owner().receive(event, rig.now))
    assert isinstance(error, ManifestRefused)
    assert "another CKKS key" in error.message


def test_an_attempt_under_another_key_is_another_round() -> None:
    rig = EncryptedRig()
    rig.begin()
    rig.until(VectorReport)
    rig.owner().cipher = ClearCipher(bytes(32))
    assert "begin another round" in refusal(rig.owner().receive(next_offer(rig, encryption=bytes(32)), rig.now)).message


def test_jobs_with_noise_are_for_shares() -> None:
    job = AggregateJob(expression=b"e", reduce="mean", shape=[2, 3], bound=5.0)
    work = work_of(job, "aggregate")
    settings: dict[str, Any] = {"owners": 4, "k_min": 3, "aggregators": 1}
    shared, encrypted = (work.numbers(**settings, protection=road) for road in get_args(Protection))
    assert (shared.ring_bits, encrypted.ring_bits) == (64, 36)
    assert encrypted.worst_error <= job.tolerance
    assert work.numbers(**settings, protection="ckks", ring_bits=64) == shared
    noisy = replace(work, mechanism=Mechanism(1.0, 1.0, 0, work.layout.length))
    with pytest.raises(BadInput, match='privacy= adds noise at several aggregators, and protection="ckks" has one'):
        noisy.numbers(**settings, protection="ckks")


def test_few_bits_where_few_do() -> None:
    job = AggregateJob(expression=b"e", reduce="sum", shape=[2, 3], bound=5.0)
    settings: dict[str, Any] = {"owners": 4, "k_min": 3, "aggregators": 1}
    assert work_of(job, "aggregate").numbers(**settings, protection="ckks").ring_bits == 32
