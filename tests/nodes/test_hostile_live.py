"""A coordinator, an aggregator and other owners with real keys and ill will, against a real owner and a real aggregator:
every trick is refused by the rule's own error, and no share leaves the owner."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import torch
from hostile_world import ACCOMPLICE, AGGREGATOR, COHORT, OWNER, Hostile
from sample_federation import linear_plan, owners

from smpc_fl.errors import (
    AggregatorsNotPinned,
    BadSignature,
    CapacityExceeded,
    CohortTooSmall,
    Equivocation,
    JobNotApproved,
    ManifestRefused,
    ModelMismatch,
    NotFinite,
    RevokedKey,
    SmpcError,
    UnknownMember,
    VersionMismatch,
    WeightOutOfRange,
    WrongRole,
    from_code,
)
from smpc_fl.jobs import TrainJob
from smpc_fl.nodes.net.dialer import Dialer
from smpc_fl.protocols.manifest import manifest_hash, model_digest
from smpc_fl.protocols.messages import (
    PROTOCOL_VERSION,
    AbortRequest,
    Endorsement,
    FreezeRequest,
    JobAnswer,
    JobOffer,
    ManifestOffer,
    Message,
    PrekeyRequest,
    Refusal,
    Relay,
    ReleaseReceipt,
    RoundOffer,
    SeedReport,
    Signed,
    StartRun,
    VectorReport,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

PLAN = linear_plan()
MODEL = PLAN.initial.tobytes()
JOB = TrainJob(plan=PLAN.to_bytes(), inputs="x", targets="y", rounds=1, tolerance=1.0)
ROWS = 37


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hostile]:
    data = owners(1, rows=ROWS - 10)["owner-1"]
    data["holes"] = torch.full_like(data["x"], torch.nan)
    made = Hostile(tmp_path_factory.mktemp("hostile"), {OWNER: data, AGGREGATOR: {}})
    try:
        yield await made.open()
    finally:
        await made.close()


@dataclass
class Case:
    """A round that the owner has approved the job of."""

    world: Hostile
    start: Signed
    manifest: Signed
    model: bytes = MODEL

    @property
    def hash(self) -> bytes:
        return manifest_hash(self.manifest)

    async def to_aggregator(self) -> Signed:
        endorsed, _ = await self.world.ask("coordinator", AGGREGATOR, ManifestOffer(self.manifest), Endorsement)
        return endorsed

    async def to_owner(self, *endorsers: str) -> SmpcError:
        """The owner's refusal. Both aggregators have endorsed the manifest, whatever it is: their keys are stolen."""
        endorsed = self.world.endorse(self.hash, *(endorsers or (AGGREGATOR, ACCOMPLICE)))
        offer = RoundOffer(self.manifest, endorsed)
        _, refusal = await self.world.ask("coordinator", OWNER, offer, Refusal, self.model)
        assert refusal.about == self.hash
        return from_code(refusal.code, refusal.text)


async def prepare(world: Hostile, job: TrainJob = JOB, accomplice: str = ACCOMPLICE, **changes: Any) -> Case:
    start = world.start(job, MODEL)
    assert (await world.offer(start)).status == "approved"
    manifest = await world.manifest(start, job, MODEL, clock=time.time(), accomplice=accomplice, **changes)
    return Case(world, start, manifest)


def secrets_heard(world: Hostile) -> list[Message]:
    """Reports that left the owner. The real aggregator gets its one only after ours has given a receipt, so never."""
    return [m for heard in world.heard.values() for _, _, m in heard if isinstance(m, SeedReport | VectorReport)]


MANIFESTS: dict[str, tuple[dict[str, Any], type[SmpcError], type[SmpcError] | None, str]] = {
    "another version": ({"version": PROTOCOL_VERSION + 1}, VersionMismatch, VersionMismatch, "same release"),
    "a low k_min": ({"k_min": 2}, CohortTooSmall, CohortTooSmall, "add owners"),
    "two owners": ({"cohort": ["alice", "bob"]}, CohortTooSmall, CohortTooSmall, "add owners"),
    "a stranger": ({"cohort": ["alice", "bob", "zoe"]}, UnknownMember, UnknownMember, "zoe"),
    "an owner more": ({"cohort": [*COHORT, "dave"], "ring_bits": 64, "worst_error": 1.0}, ManifestRefused, None, "asked for"),
    "a cohort without it": ({"cohort": ["bob", "carol", "dave"]}, ManifestRefused, None, "cohort"),
    "a past deadline": ({"deadline": 1.0}, ManifestRefused, ManifestRefused, "check the clocks"),
    "too fine a scale": ({"fractional_bits": 40, "ring_bits": 32}, CapacityExceeded, CapacityExceeded, "use ring_bits="),
    "another roster": ({"roster_hash": bytes(32)}, ManifestRefused, ManifestRefused, "newest signed version"),
    "another job": ({"job_digest": bytes(32)}, JobNotApproved, None, "requests list"),
    "another model": ({"model_digest": bytes(32)}, ModelMismatch, None, "model"),
    "more slots": ({"dimension": 1000}, ManifestRefused, None, "dimension"),
    "a wide clip": ({"clip": 1e3, "fractional_bits": 0, "worst_error": 1e9}, SmpcError, None, ""),
    "unstated error": ({"worst_error": 0.0}, ManifestRefused, ManifestRefused, "decoding error"),
    "an attempt without aborts": ({"attempt": 1}, ManifestRefused, ManifestRefused, ""),
    "a dead key": ({"coordinator_key": bytes(32)}, SmpcError, SmpcError, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", MANIFESTS)
async def test_a_dishonest_manifest_is_refused_by_both(world: Hostile, name: str) -> None:
    changes, at_owner, at_aggregator, remedy = MANIFESTS[name]
    case = await prepare(world, **changes)
    if at_aggregator is not None:
        with pytest.raises(at_aggregator) as refused:
            await case.to_aggregator()
        assert remedy in str(refused.value)
    error = await case.to_owner()
    assert isinstance(error, at_owner)
    assert remedy in error.message
    assert not secrets_heard(world)


async def test_aggregators_that_are_not_pinned_get_nothing(world: Hostile) -> None:
    case = await prepare(world, accomplice="aggregator-3")
    error = await case.to_owner(AGGREGATOR, "aggregator-3")
    assert isinstance(error, AggregatorsNotPinned)
    assert "change the pinned set" in error.message
    assert not secrets_heard(world)


async def test_every_aggregator_must_have_endorsed(world: Hostile) -> None:
    case = await prepare(world)
    assert isinstance(await case.to_owner(ACCOMPLICE), BadSignature)
    assert isinstance(await case.to_owner(ACCOMPLICE, ACCOMPLICE), BadSignature)
    offer = RoundOffer(case.manifest, world.endorse(bytes(32), AGGREGATOR, ACCOMPLICE))
    _, refusal = await world.ask("coordinator", OWNER, offer, Refusal, MODEL)
    assert refusal.code == "ManifestRefused"
    assert not secrets_heard(world)


async def test_another_model_than_the_manifest_names_is_not_trained(world: Hostile) -> None:
    case = await prepare(world)
    case.model = bytes(len(MODEL))
    assert isinstance(await case.to_owner(), ModelMismatch)
    assert not secrets_heard(world)


@pytest.mark.parametrize(
    ("changes", "kind", "remedy"),
    [
        ({"inputs": "holes"}, NotFinite, "fill in missing values"),
        ({"max_samples": ROWS // 3}, WeightOutOfRange, "raise the job's max_samples"),
    ],
)
async def test_what_cannot_be_summed_is_not_shared(
    world: Hostile, changes: dict[str, Any], kind: type[SmpcError], remedy: str
) -> None:
    case = await prepare(world, msgspec.structs.replace(JOB, **changes))
    error = await case.to_owner()
    assert isinstance(error, kind)
    assert remedy in error.message
    assert str(ROWS) not in error.message
    assert not secrets_heard(world)


# --- jobs ---


async def refused_offer(world: Hostile, start: Signed, run: bytes = b"") -> SmpcError:
    if not run:
        run = msgspec.msgpack.decode(start.body, type=StartRun).run
    _, answer = await world.ask("coordinator", OWNER, JobOffer(run, start), JobAnswer)
    assert answer.status == "rejected"
    return from_code(answer.code, answer.reason)


async def test_only_a_researchers_own_words_are_a_job(world: Hostile) -> None:
    honest = world.start(JOB, MODEL)
    assert isinstance(await refused_offer(world, world.start(JOB, MODEL, by="bob")), WrongRole)
    assert isinstance(await refused_offer(world, world.start(JOB, MODEL, by="coordinator")), WrongRole)
    assert isinstance(await refused_offer(world, msgspec.structs.replace(honest, sender="rival")), BadSignature)
    assert isinstance(await refused_offer(world, honest, os.urandom(16)), ManifestRefused)
    assert isinstance(await refused_offer(world, world.start(JOB, MODEL, cohort=COHORT[:2])), CohortTooSmall)
    assert isinstance(await refused_offer(world, world.start(JOB, MODEL, cohort=["bob", "carol", "dave"])), WrongRole)


async def test_a_run_has_one_job_for_good(world: Hostile) -> None:
    """With two jobs under one run, owners of one round could be made to compute different things: all but one of them
    zeros, so that the sum is one owner's."""
    case = await prepare(world)
    run = msgspec.msgpack.decode(case.start.body, type=StartRun).run
    other = TrainJob(plan=JOB.plan, inputs="x", targets="y", rounds=1, tolerance=1.0, clip=5.0)
    second = world.disk.party("rival").sign(
        StartRun(run, msgspec.msgpack.Encoder(order="deterministic").encode(other), COHORT, model_digest(MODEL))
    )
    error = await refused_offer(world, second)
    assert isinstance(error, ManifestRefused)
    assert "begin a new run" in error.message
    assert (await world.offer(case.start)).status == "approved"


# --- two manifests, and the control ---


async def test_an_aggregator_accepts_one_manifest_for_an_attempt(world: Hostile) -> None:
    case = await prepare(world)
    assert await case.to_aggregator() == world.endorse(case.hash, AGGREGATOR)[0]
    other = Case(world, case.start, await world.manifest(case.start, JOB, MODEL, clock=time.time()))
    with pytest.raises(Equivocation, match="another manifest"):
        await other.to_aggregator()
    assert await case.to_aggregator()


async def test_an_honest_round_is_heard_and_a_second_manifest_for_it_is_not(world: Hostile) -> None:
    """The control of all above: shares are heard when they leave; and after them, nothing for another manifest."""
    case = await prepare(world)
    endorsed = [await case.to_aggregator(), *world.endorse(case.hash, ACCOMPLICE)]
    since = len(world.heard[ACCOMPLICE])
    await world.say("coordinator", OWNER, RoundOffer(case.manifest, endorsed), MODEL)
    _, report = await world.answer(ACCOMPLICE, SeedReport, since)
    assert report.manifest_hash == case.hash
    second = Case(world, case.start, await world.manifest(case.start, JOB, MODEL, clock=time.time()))
    assert isinstance(await second.to_owner(), Equivocation)
    assert {m.manifest_hash for m in secrets_heard(world)} == {case.hash}  # type: ignore[attr-defined]


# --- wrong roles ---


async def refusal_of(world: Hostile, me: str, to: str, message: Message) -> str:
    _, refusal = await world.ask(me, to, message, Refusal)
    return refusal.code


async def test_an_aggregator_cannot_play_the_coordinator(world: Hostile) -> None:
    start = world.start(JOB, MODEL)
    manifest = await world.manifest(start, JOB, MODEL, clock=time.time())
    for message in (JobOffer(bytes(16), start), RoundOffer(manifest, []), Relay(OWNER, start)):
        assert await refusal_of(world, ACCOMPLICE, OWNER, message) == "WrongRole"


async def test_an_owner_cannot_play_the_coordinator(world: Hostile) -> None:
    case = await prepare(world)
    await case.to_aggregator()
    run = os.urandom(16)
    for message in (PrekeyRequest(run, 0, 0), AbortRequest(run, 0, 0), FreezeRequest(case.hash)):
        assert await refusal_of(world, "bob", AGGREGATOR, message) == "WrongRole"
    assert await refusal_of(world, "coordinator", AGGREGATOR, ReleaseReceipt(bytes(32))) == "ManifestRefused"


async def test_nobody_speaks_in_anothers_name(world: Hostile) -> None:
    """Not even with the other's signature: what a member says comes over its own connection."""
    since = len(world.heard["bob"])
    signed = world.disk.party("coordinator").sign(PrekeyRequest(os.urandom(16), 0, 0))
    await world.links["bob", AGGREGATOR].send(signed)
    with pytest.raises(BadSignature):
        await world.answer("bob", Endorsement, since)
    since = len(world.heard["bob"])
    forged = msgspec.structs.replace(world.disk.party("bob").sign(Refusal("Unavailable", "")), signature=bytes(64))
    await world.links["bob", AGGREGATOR].send(forged)
    with pytest.raises(BadSignature):
        await world.answer("bob", Endorsement, since)


async def test_what_is_not_wanted_is_refused_before_a_byte_of_it_is_sent(world: Hostile) -> None:
    party, link, hash_ = world.disk.party("bob"), world.links["bob", AGGREGATOR], os.urandom(32)
    report = VectorReport(hash_, [bytes(32)] * 2, bytes(32), b"sealed", [party.sign(Endorsement(hash_))])
    for message, code in ((FreezeRequest(hash_), "MalformedMessage"), (report, "ManifestRefused")):
        since = len(world.heard["bob"])
        assert await link.send(party.sign(message), bytes(1 << 20)) < 4096
        _, refusal = await world.answer("bob", Refusal, since)
        assert (refusal.code, refusal.about) == (code, hash_)


async def turned_away(world: Hostile, me: str) -> SmpcError:
    """What the aggregator says to a member that dials in."""
    refused: asyncio.Queue[SmpcError] = asyncio.Queue()
    address = f"ws://{world.disk.address(AGGREGATOR)}"
    async with (
        asyncio.timeout(30.0),
        Dialer(address, AGGREGATOR, world.member(me), world._hear_as(me), on_failed=refused.put_nowait),
    ):
        return await refused.get()


async def test_a_researcher_does_not_get_in_at_an_aggregator(world: Hostile) -> None:
    error = await turned_away(world, "researcher")
    assert isinstance(error, WrongRole)
    assert "here connect only: coordinator, owner" in error.message


async def test_a_revoked_owner_is_cut_off_and_told_why(world: Hostile) -> None:
    """The last test: Bob's key is revoked by a newer roster, which the aggregator takes from its file."""
    world.disk.publish("bob")
    async with asyncio.timeout(30.0):
        await world.links["bob", AGGREGATOR].wait_closed()
    error = await turned_away(world, "bob")
    assert isinstance(error, RevokedKey)
    assert "make a new one and have it added to the roster" in error.message
