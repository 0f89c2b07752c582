"""What an owner's yes holds for, and what its data are called."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import pytest_asyncio
from sample_federation import linear_plan

from smpc_fl.identity import Identity
from smpc_fl.jobs import TrainJob, encode_job, job_digest
from smpc_fl.nodes import owner_consent
from smpc_fl.nodes.home.config import OwnerPolicy
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.ledger.base import Array
from smpc_fl.nodes.ledger.own import OwnLedger
from smpc_fl.nodes.owner_consent import Consent
from smpc_fl.nodes.owner_data import Holdings
from smpc_fl.protocols.messages import JobAnswer, StartRun
from smpc_fl.protocols.party import Party
from smpc_fl.roster import Member, Membership, Role, Roster

pytestmark = pytest.mark.asyncio

ROLES: dict[str, Role] = {"alice": "owner", "bob": "owner", "carol": "owner", "dave": "owner", "rita": "researcher"}
KEYS = {id_: Identity.generate(os.urandom) for id_ in ROLES}
MEMBERSHIP = Membership(
    Roster.of("consent", 1, [Member(id_, role, KEYS[id_].public.key) for id_, role in ROLES.items()]),
    Identity.generate(os.urandom).public,
)
ABC = ["alice", "bob", "carol"]
JOB = TrainJob(plan=linear_plan().to_bytes(), inputs="x", targets="y", rounds=1)
ROWS: dict[str, Array] = {"x": np.ones((8, 10), np.float32), "y": np.zeros(8, np.int64)}


class Alice:
    """`say` decides as a person does."""

    def __init__(self, folder: Path, journal: Journal) -> None:
        self.ledger, self.journal = OwnLedger(folder / "ledger"), journal
        self.ledger.add_dataset("data", ROWS, ROWS)

    async def asked(self, cohort: list[str], job: TrainJob = JOB, approve: str = "ask") -> JobAnswer:
        policy: Any = OwnerPolicy(aggregators=("a", "b"), approve=approve)  # type: ignore[arg-type]
        party, rita = (Party(id_, KEYS[id_], MEMBERSHIP) for id_ in ("alice", "rita"))
        start = StartRun(os.urandom(16), encode_job(job), cohort, bytes(32))
        consent = Consent("alice", policy, self.ledger, Holdings(self.ledger), self.journal)  # started again each time
        return await consent.offered(start.run, rita.sign(start), party)

    def say(self, yes: bool, job: TrainJob = JOB) -> None:
        self.ledger.decide(job_digest(encode_job(job)).hex(), yes)


@pytest_asyncio.fixture
async def alice(tmp_path: Path) -> AsyncIterator[Alice]:
    with Journal.open(tmp_path / "journal.db") as journal:
        yield Alice(tmp_path, journal)


async def test_a_yes_to_a_training_is_for_the_owners_that_it_named(alice: Alice) -> None:
    everybody = [*ABC, "dave"]
    assert (await alice.asked(everybody)).status == "pending"
    [request] = alice.ledger.requests()
    assert "with 4 owners (alice, bob, carol, dave)" in request.summary
    assert "A yes holds for these owners or fewer of them" in request.summary
    alice.say(True)
    assert (await alice.asked(everybody)).status == "approved"
    assert (await alice.asked(ABC)).status == "approved"


async def test_a_training_with_others_is_asked_for_anew(alice: Alice) -> None:
    await alice.asked(ABC)
    for decided in (False, True):
        if decided:
            alice.say(True)
        for cohort in ([*ABC, "dave"], ["alice", "bob", "dave"]):
            answer = await alice.asked(cohort)
            assert (answer.status, answer.code) == ("rejected", "JobNotApproved")
            assert "change the job (its seed, say) to ask anew" in answer.reason
    assert (await alice.asked(ABC)).status == "approved"
    other = msgspec.structs.replace(JOB, seed=b"another seed....")
    assert (await alice.asked([*ABC, "dave"], other)).status == "pending"


async def test_a_node_that_approves_by_itself_names_nobody(alice: Alice) -> None:
    for cohort in (ABC, [*ABC, "dave"]):
        assert (await alice.asked(cohort, approve="auto")).status == "approved"


async def test_what_was_never_asked_of_anybody_binds_nobody(alice: Alice) -> None:
    """Killed between the note and the ledger, or refused by the owner's own policy: no person has read it."""
    assert (await alice.asked(ABC, msgspec.structs.replace(JOB, rounds=5000))).status == "rejected"
    assert (await alice.asked(["alice", "bob"])).code == "CohortTooSmall"
    assert (await alice.asked([*ABC, "dave"])).status == "pending"


async def test_so_many_jobs_of_a_researcher_wait(alice: Alice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner_consent, "MAX_PENDING", 2)
    jobs = [msgspec.structs.replace(JOB, seed=bytes([number] * 16)) for number in range(3)]
    assert [(await alice.asked(ABC, job)).status for job in jobs] == ["pending", "pending", "rejected"]
    assert (await alice.asked(ABC, jobs[0])).status == "pending"
    alice.say(False, jobs[0])
    assert (await alice.asked(ABC, jobs[2])).status == "pending"


# --- data ---


async def test_data_are_called_by_what_is_in_them(tmp_path: Path) -> None:
    ledger = OwnLedger(tmp_path / "ledger")
    ledger.add_dataset("data", ROWS, ROWS)
    holdings = Holdings(ledger)
    first = holdings.digest(["x", "y"])
    assert first == holdings.digest(["y", "x", "x"]) == Holdings(ledger).digest(["x", "y"])
    assert len({first, holdings.digest(["x"]), holdings.digest(["y"])}) == 3
    for changed in (
        {"x": ROWS["x"] + np.eye(8, 10, dtype=np.float32) * 1e-6, "y": ROWS["y"]},
        {"x": ROWS["x"][:7], "y": ROWS["y"][:7]},
        {"x": ROWS["x"].astype(np.float64), "y": ROWS["y"]},
        {"x": ROWS["x"].reshape(8, 5, 2), "y": ROWS["y"]},
    ):
        ledger.remove_dataset("data")
        ledger.add_dataset("data", changed, changed)
        holdings.refresh()
        assert holdings.digest(["x", "y"]) != first
    ledger.remove_dataset("data")
    ledger.add_dataset("data", ROWS, ROWS)
    holdings.refresh()
    assert holdings.digest(["x", "y"]) == first
