"""What an owner's node remembers when it is started again: its contributions, its rounds, the commands that it has taken."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import torch
from hostile_world import COHORT, OWNER, Hostile
from processes_on_disk import AGGREGATORS
from sample_federation import linear_plan, owners

from smpc_fl.errors import BadInput, SmpcError, from_code
from smpc_fl.jobs import TrainJob
from smpc_fl.nodes.home.config import OwnerConfig, load
from smpc_fl.nodes.ledger.own import OwnLedger
from smpc_fl.nodes.net.server import serve
from smpc_fl.nodes.owner import Owner
from smpc_fl.pointers.lineage import Ref
from smpc_fl.pointers.session import (
    Ask,
    Asked,
    Claim,
    Fetch,
    Found,
    Made,
    Object,
    Operate,
    Search,
    Value,
    encode_request,
)
from smpc_fl.protocols import relay
from smpc_fl.protocols.codec import decode
from smpc_fl.protocols.manifest import manifest_hash
from smpc_fl.protocols.messages import Manifest, Prekey, Refusal, Relay, RoundClosed, RoundOffer, SeedReport, Signed
from smpc_fl.protocols.records import SECRET
from smpc_fl.sealing import KeyPair

pytestmark = pytest.mark.asyncio(loop_scope="module")

PLAN = linear_plan()
MODEL = PLAN.initial.tobytes()
MOST = 11
"""Rounds a day."""
EVERYBODY = [*COHORT, "dave"]
JOB = TrainJob(plan=PLAN.to_bytes(), inputs="x", targets="y", rounds=1, tolerance=1.0, ring_bits=64)


class Played(Hostile):
    """The owner is the node of every owner's process, in this one: it dials the test, which is everybody else."""

    def __init__(self, folder: Path, tensors: Mapping[str, torch.Tensor], **policy: Any) -> None:
        super().__init__(folder, {})
        self.disk.policies = {OWNER: policy}
        path = folder / OWNER / "node.toml"
        path.write_text(self.disk._config(OWNER, tensors))
        self.config = load(path, OwnerConfig)

    async def open(self) -> Played:
        for id_, listening in self.disk.sockets.items():
            self._listeners.append(await serve(self._hear_as(id_), self.member(id_), listening.dup()))
        self.owner = Owner(self.config)
        await self.owner.open()
        await self.linked("coordinator", OWNER)
        return self

    async def close(self) -> None:
        await self.owner.stop()
        await super().close()

    async def restart(self) -> None:
        """With nothing but what is on its disk."""
        await self.owner.stop()
        del self.links["coordinator", OWNER]
        self.owner = Owner(self.config)
        await self.owner.open()
        await self.linked("coordinator", OWNER)

    async def prekeys(self, run: bytes, attempt: int = 0, accomplice: str = "") -> list[Signed]:
        return [
            self.disk.party(id_).sign(Prekey(run, 0, attempt, KeyPair.generate(os.urandom).public))
            for id_ in AGGREGATORS
        ]

    async def begin(self, cohort: list[str], job: TrainJob = JOB, **changes: Any) -> tuple[Signed, Signed]:
        """(the run's start, a manifest over just this cohort)"""
        start = self.start(job, MODEL, cohort=cohort)
        assert (await self.offer(start)).status == "approved"
        changes = {"cohort": cohort, "worst_error": 1.0, **changes}
        return start, await self.manifest(start, job, MODEL, clock=time.time(), **changes)

    async def answer_to(self, *manifests: Signed) -> list[SmpcError | None]:
        """Offers these rounds at once; what each is refused with, None where the owner has sent a report."""
        for manifest in manifests:
            hash_ = manifest_hash(manifest)
            await self.say("coordinator", OWNER, RoundOffer(manifest, self.endorse(hash_, *AGGREGATORS)), MODEL)

        def of(manifest: Signed) -> list[SmpcError | None]:
            hash_ = manifest_hash(manifest)
            heard = [m for each in self.heard.values() for _, _, m in each]
            reports: list[SmpcError | None] = [
                None for m in heard if isinstance(m, SeedReport) and m.manifest_hash == hash_
            ]
            return reports + [from_code(m.code, m.text) for m in heard if isinstance(m, Refusal) and m.about == hash_]

        async with asyncio.timeout(30.0), self._changed:
            await self._changed.wait_for(lambda: all(map(of, manifests)))
        return [of(manifest)[0] for manifest in manifests]

    async def close_round(self, manifest: Signed) -> None:
        await self.say("coordinator", OWNER, RoundClosed(manifest_hash(manifest), True))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Played]:
    made = Played(tmp_path_factory.mktemp("memory"), owners(1)["owner-1"], rounds_a_day=MOST)
    try:
        yield await made.open()
    finally:
        await made.close()


def code(error: SmpcError | None) -> str:
    return "" if error is None else error.code


async def subtracted(world: Played) -> None:
    """After a sum over `COHORT`, none over a cohort near it, and the very same one again."""
    for cohort in (EVERYBODY, ["alice", "bob", "dave"]):
        _, other = await world.begin(cohort)
        [error] = await world.answer_to(other)
        assert code(error) == "SubtractionRefused"
        assert "Ask for the same owners again" in str(error)
    start = world.start(JOB, MODEL, cohort=EVERYBODY)  # signed for all four, and made for three of them
    assert (await world.offer(start)).status == "approved"
    again = await world.manifest(start, JOB, MODEL, clock=time.time(), cohort=COHORT, worst_error=1.0)
    assert await world.answer_to(again) == [None]
    await world.close_round(again)


async def test_sums_that_could_be_subtracted_are_not_given(world: Played) -> None:
    _, first = await world.begin(COHORT)
    assert await world.answer_to(first) == [None]
    await subtracted(world)
    await world.close_round(first)
    await subtracted(world)


async def test_another_model_or_computation_is_another_sum(world: Played) -> None:
    job = msgspec.structs.replace(JOB, seed=b"another seed....")
    _, manifest = await world.begin(EVERYBODY, job)
    assert await world.answer_to(manifest) == [None]
    _, fewer = await world.begin(COHORT, msgspec.structs.replace(job, tolerance=2.0))  # another job of the same subject
    assert code((await world.answer_to(fewer))[0]) == "SubtractionRefused"


async def test_of_two_offers_at_once_one_is_taken(world: Played) -> None:
    """Nothing has been computed for either of them when the other one comes."""
    job = msgspec.structs.replace(JOB, seed=b"both at once....")
    both = [(await world.begin(cohort, job))[1] for cohort in (COHORT, EVERYBODY)]
    assert sorted(code(error) for error in await world.answer_to(*both)) == ["", "SubtractionRefused"]


async def test_an_offer_that_comes_while_the_end_is_written_leaves_no_secret(
    world: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the simulation (seed 196459): the round was forgotten before its erasure was on the disk."""
    _, manifest = await world.begin(COHORT, msgspec.structs.replace(JOB, seed=b"closed at once.."))
    offer = RoundOffer(manifest, world.endorse(manifest_hash(manifest), *AGGREGATORS))
    writing, go_on, closed, again = (asyncio.Event() for _ in range(4))
    journal, owner = world.owner.journal, world.owner
    append, offered, to_rounds = journal.append_all, owner._offered, owner._to_rounds

    async def slowly(stream: str, records: Any, *more: Any, **others: Any) -> None:
        if any(kind == "Reporting" for kind, _ in records):
            writing.set()
            await go_on.wait()
        await append(stream, records, *more, **others)

    async def watched(*given: Any) -> None:
        second = writing.is_set()
        if second:
            await closed.wait()
        await offered(*given)
        if second:
            again.set()

    async def heard(event: Any) -> None:
        hearing = asyncio.ensure_future(to_rounds(event))
        while _state_of(owner, manifest) not in ("", "CLOSED"):
            await asyncio.sleep(0)
        closed.set()
        await hearing

    monkeypatch.setattr(journal, "append_all", slowly)
    monkeypatch.setattr(owner, "_offered", watched)
    async with asyncio.timeout(30.0):
        await world.say("coordinator", OWNER, offer, MODEL)
        await writing.wait()
        monkeypatch.setattr(owner, "_to_rounds", heard)
        await world.say("coordinator", OWNER, offer, MODEL)
        await world.close_round(manifest)
        await again.wait()
        go_on.set()
        stream = f"round/{start_of(manifest).hex()}/0"
        while {kind for kind, _ in journal.read(stream)} & SECRET or not journal.read(stream):
            await asyncio.sleep(0.01)


def start_of(manifest: Signed) -> bytes:
    return decode(manifest.body, Manifest).run


def _state_of(owner: Owner, manifest: Signed) -> str:
    shell = owner._rounds.get((start_of(manifest), 0))
    return "" if shell is None else str(shell.machine.state.name)  # type: ignore[attr-defined]


async def test_a_round_that_was_refused_has_given_nothing(world: Played) -> None:
    job = msgspec.structs.replace(JOB, seed=b"too many rows...", max_samples=2)
    _, manifest = await world.begin(COHORT, job)
    assert code((await world.answer_to(manifest))[0]) == "WeightOutOfRange"
    await world.close_round(manifest)
    _, other = await world.begin(EVERYBODY, msgspec.structs.replace(job, max_samples=1000))  # of the same subject
    assert await world.answer_to(other) == [None]


# --- commands ---


async def relayed(world: Played, envelope: Signed) -> list[Relay]:
    return [message for message in await world.said_to(envelope) if isinstance(message, Relay)]


async def test_what_was_given_and_taken_is_remembered_after_a_restart(world: Played) -> None:
    """A coordinator keeps what it carried. Said again to the owner's next process, it would use the approval up."""
    found = await world.command(Search("x"))
    assert isinstance(found, Found)
    mean = await world.command(Operate("mean", (Object(found.objects[0].id),), (Ref(0), 0)))
    assert isinstance(mean, Made)
    asked = await world.command(Ask(mean.object.id, "once"))
    assert isinstance(asked, Asked)
    party = world.disk.party("researcher")
    kept = [
        relay.ask(party, OWNER, world.session, number, encode_request(request), os.urandom).signed
        for number, request in ((1001, Claim(asked.digest)), (1002, Fetch(mean.object.id)))
    ]
    for envelope in kept:  # too early: the owner has not decided
        assert len(await relayed(world, envelope)) == 1
    ledger = OwnLedger(world.disk.folder / OWNER / "state" / "ledger")
    ledger.decide(asked.digest, True, "agreed")
    await world.restart()
    for envelope in kept:
        assert await relayed(world, envelope) == []
    assert ledger.status(asked.digest) == "approved"
    world._sequence = 2000
    assert isinstance(await world.command(Claim(asked.digest)), Made)
    assert isinstance(await world.command(Fetch(mean.object.id)), Value)
    assert ledger.status(asked.digest) == "used"
    await subtracted(world)


async def test_a_session_that_has_not_begun_is_refused_by_name(world: Played) -> None:
    party = world.disk.party("researcher")
    asked = relay.ask(party, OWNER, b"\xff" * 16, 1, encode_request(Search("x")), os.urandom)
    [answer] = await relayed(world, asked.signed)
    said = asked.read(answer.inner, party)
    assert isinstance(said, BadInput)
    assert "clock" in said.message


# --- how often ---


async def test_rounds_that_are_too_many_are_refused(world: Played) -> None:
    """The last test. What was refused for another reason did not count, and a restart does not help."""
    for _ in range(4):
        _, bad = await world.begin(COHORT, dimension=3)
        assert code((await world.answer_to(bad))[0]) == "ManifestRefused"
    taken = 0
    while (error := (await world.answer_to((await world.begin(COHORT))[1]))[0]) is None:
        taken += 1
    assert taken == MOST - 9
    assert "rounds_a_day" in str(error)
    await world.restart()
    [error] = await world.answer_to((await world.begin(COHORT))[1])
    assert "rounds_a_day" in str(error)
