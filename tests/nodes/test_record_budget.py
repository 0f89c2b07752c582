"""What each record of an owner may give away: paid before a round is computed, and again when noise is drawn again."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from sample_federation import linear_plan, owners

import smpc_fl as sf
from smpc_fl.errors import BadInput, BudgetExceeded, JobNotApproved
from smpc_fl.jobs import AggregateJob, Evaluation, LocalTraining, Privacy, RecordPrivacy, TrainJob
from smpc_fl.nodes.home.config import OwnerPolicy
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.owner_budget import Budget, balance, price
from smpc_fl.nodes.record_budget import STREAM, given
from smpc_fl.nodes.simulation.data import holdings
from smpc_fl.privacy.records import Noisy, epsilon

RUN, OTHER = b"1" * 16, b"2" * 16
DELTA = 1e-6
STEP = Noisy(4.0)
"""All rows in every step: then the accountant needs no second for an answer."""
FIVE = epsilon({STEP: 10}, DELTA)
"""The ε of five rounds of two steps."""
TEST = Evaluation(inputs="tx", targets="ty")


def job(rounds: int = 1, *, noisy: bool = True, rate: float = 1.0, **fields: Any) -> TrainJob:
    privacy = RecordPrivacy(delta=1e-5, sampling_rate=rate, noise_multiplier=4.0) if noisy else None
    local = LocalTraining(epochs=2, privacy=privacy)
    return TrainJob(plan=b"", inputs="x", targets="y", rounds=rounds, local=local, **fields)


def policy(most: float = FIVE, **more: Any) -> OwnerPolicy:
    return OwnerPolicy(aggregators=("a", "b"), record_budget_epsilon=most, record_budget_delta=DELTA, **more)


@pytest_asyncio.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    with Journal.open(tmp_path / "journal.db") as opened:
        yield opened


async def test_a_records_budget_ends_and_survives(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "journal.db") as journal:
        budget = Budget(policy(), journal)
        budget.check(job(5), RUN)
        for number in range(3):
            await budget.debit((RUN, 2 * number), job(5))
    with Journal.open(tmp_path / "journal.db") as journal:
        budget = Budget(policy(), journal)
        assert given(journal.read(STREAM)) == {STEP: 6}
        budget.check(job(5), RUN)  # its own rounds are part of its price
        with pytest.raises(BudgetExceeded, match=r"this job would bring what each record .* past its budget of"):
            budget.check(job(3), OTHER)
        await budget.debit((RUN, 4), job(5))  # computed again after a crash: with noise of its own
        await budget.debit((RUN, 6), job(5))
        with pytest.raises(BudgetExceeded, match="this round would bring"):
            await budget.debit((RUN, 8), job(5))
        assert given(journal.read(STREAM)) == {STEP: 10}


async def test_noise_of_aggregators_pays_for_records_too(journal: Journal) -> None:
    """Once a round, whatever becomes of it; and evaluations as well."""
    budget, noise = Budget(policy(0.0), journal), Privacy(delta=1e-5, noise_multiplier=6.0)
    for key in ((RUN, 0), (RUN, 1), (RUN, 0)):
        await budget.debit(key, job(noisy=False, privacy=noise, evaluation=Evaluation(fraction=0.1)))
    await budget.debit((OTHER, 0), AggregateJob(expression=b"e", reduce="mean", shape=[1], bound=1.0, privacy=noise))
    await budget.debit((OTHER, 0), job(noisy=False))
    await budget.debit((OTHER, 1), job(evaluation=TEST))  # of other rows
    assert given(journal.read(STREAM)) == {Noisy(3.0): 3}
    assert given(journal.read(STREAM), but=RUN) == {Noisy(3.0): 1}


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (job(noisy=False), "a job without noise has no bound"),
        (AggregateJob(expression=b"e", reduce="mean", shape=[1], bound=1.0), "a job without noise has no bound"),
        (job(evaluation=TEST), "train without an evaluation"),
    ],
)
async def test_a_records_budget_wants_noise_in_every_sum(journal: Journal, asked: Any, why: str) -> None:
    with pytest.raises(JobNotApproved, match=why):
        Budget(policy(), journal).check(asked, RUN)
    with pytest.raises(JobNotApproved, match=why):
        await Budget(policy(), journal).debit((RUN, 0), asked)


async def test_a_budget_of_the_owner_is_not_paid_by_noise_for_records(journal: Journal) -> None:
    with pytest.raises(JobNotApproved, match="ask with privacy="):
        Budget(policy(0.0, budget_epsilon=5.0), journal).check(job(), RUN)


async def test_people_read_what_a_record_gives(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = f"ε = {epsilon({STEP: 10}, 1e-5):.3g} at δ = 1e-05"
    assert price(job(5)) == (
        "at this owner, multiplier 4 in each of 10 steps over rows drawn with probability 1, gradients cut to L2 norm 1; for "
        f"each record they cost {cost} together"
    )
    await Budget(policy(), journal).debit((RUN, 0), job(5))
    said = balance(policy(), tmp_path, job(4))
    assert said.endswith(
        f"Of each record: ε = {epsilon({STEP: 2}, DELTA):.3g} at δ = 1e-06 given so far, ε = {FIVE:.3g} at δ = 1e-06 with all of "
        f"this job; the budget is {FIVE:g}"
    )
    assert balance(policy(0.0), tmp_path, job()).endswith("there is no budget")
    assert "with all of this job" not in balance(policy(), tmp_path, job(noisy=False)).split("Of each record")[1]
    assert "record" not in balance(policy(0.0), tmp_path, job(noisy=False))
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    assert "an ε that is not known here (privacy accounting needs" in price(job(5, rate=0.5))


def test_a_federation_learns_with_privacy_for_each_record() -> None:
    """Through whole rounds: nothing but the update leaves, and the report is the accountant's."""
    data, plan = owners(3, rows=60), linear_plan()
    privacy = RecordPrivacy(delta=1e-4, sampling_rate=0.25, noise_multiplier=4.0)
    how = LocalTraining(epochs=4, batch_size=20, lr=0.5, privacy=privacy)
    run = sf.simulate(plan, data, rounds=2, local=how, strategy=sf.FedAvg(weights="equal"), executor="threads").wait()
    assert [round_.metrics for round_ in run.rounds] == [{}] * 2
    assert run.rounds[0].total_weight == 3.0
    assert run.privacy is not None
    assert run.privacy.epsilon == pytest.approx(epsilon({Noisy(4.0, 0.25): 32}, 1e-4))

    x, y = (torch.cat([tensors[name] for tensors in data.values()]) for name in ("x", "y"))
    with torch.no_grad():
        right = float((run.model(x).argmax(1) == y).float().mean())
    assert right > 0.8, f"{right:.0%} right"


def test_owners_refuse_what_would_not_keep_the_promise() -> None:
    """Whatever a researcher's own code lets through."""
    with pytest.raises(BadInput, match="weights='equal'"):
        sf.simulate(linear_plan(), owners(3, rows=9), local=job().local)
    asked = TrainJob(plan=linear_plan().to_bytes(), inputs="x", targets="y", rounds=1, local=job().local)
    with pytest.raises(BadInput, match="weights='equal'"):
        holdings(owners(1, rows=9)["owner-1"]).check_training(asked)
