"""An owner's privacy budget: paid before anything leaves, once a round, and still known after a crash."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from click.testing import CliRunner
from processes_on_disk import AGGREGATORS, OnDisk
from sample_federation import linear_plan, owners

import smpc_fl as sf
from smpc_fl.errors import BudgetExceeded, ConfigInvalid, JobNotApproved
from smpc_fl.jobs import AggregateJob, Privacy, TrainJob
from smpc_fl.nodes.cli.main import main
from smpc_fl.nodes.home.config import OwnerPolicy
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.owner_budget import STREAM, Budget, balance, price
from smpc_fl.privacy.accounting import cost, epsilon_of

RUN, OTHER = b"1" * 16, b"2" * 16
DELTA = 1e-6
FIVE = epsilon_of(cost(4.0, 5), DELTA)
"""The ε of five sums at noise multiplier 4."""


def job(rounds: int = 1, multiplier: float | None = 4.0) -> TrainJob:
    privacy = None if multiplier is None else Privacy(delta=1e-5, noise_multiplier=multiplier)
    return TrainJob(plan=b"", inputs="x", targets="y", rounds=rounds, privacy=privacy)


def policy(epsilon: float = FIVE, **more: Any) -> OwnerPolicy:
    return OwnerPolicy(aggregators=("a", "b"), budget_epsilon=epsilon, budget_delta=DELTA, **more)


@pytest_asyncio.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    with Journal.open(tmp_path / "journal.db") as opened:
        yield opened


async def test_a_budget_ends_and_says_so(journal: Journal) -> None:
    budget = Budget(policy(), journal)
    for number in range(4):
        await budget.debit((RUN, number), job(5))
    with pytest.raises(BudgetExceeded, match=r"this round would bring .* past its budget of .*: ask for fewer rounds"):
        await budget.debit((RUN, 4), job(5, 3.0))
    await budget.debit((RUN, 4), job(5))  # the last digits of sums of floats count for nothing
    for fewer in (1, 5):
        with pytest.raises(BudgetExceeded, match=r"this job|all 5 sums of this job"):
            budget.check(job(fewer), OTHER)


async def test_a_retry_and_a_restart_are_free(tmp_path: Path) -> None:
    """What was durable before the crash is found after it, and the same round is not paid for twice."""
    for _ in range(3):
        with Journal.open(tmp_path / "journal.db") as journal:
            for _ in range(2):
                await Budget(policy(), journal).debit((RUN, 0), job())
            assert len(journal.read(STREAM)) == 1
    with Journal.open(tmp_path / "journal.db") as journal:
        budget = Budget(policy(), journal)
        for number in range(1, 5):
            await budget.debit((RUN, number), job())
        with pytest.raises(BudgetExceeded):
            await budget.debit((RUN, 5), job())
        await budget.debit((RUN, 2), job())  # paid for


async def test_a_run_is_held_against_what_others_have_taken(journal: Journal) -> None:
    """Also when it is offered again in its midst: its own rounds are part of its price."""
    budget = Budget(policy(), journal)
    budget.check(job(5), RUN)
    for number in range(3):
        await budget.debit((RUN, number), job(5))
        budget.check(job(5), RUN)
    budget.check(job(2), OTHER)
    with pytest.raises(BudgetExceeded, match="all 3 sums of this job would bring"):
        budget.check(job(3), OTHER)


async def test_without_a_budget_everything_goes_and_noise_is_noted(journal: Journal) -> None:
    """So that a budget that is set later knows what was given before."""
    budget = Budget(policy(0.0), journal)
    budget.check(job(10_000, None), RUN)
    budget.check(job(10_000), RUN)
    await budget.debit((RUN, 0), job(1, None))
    assert journal.read(STREAM) == []
    await budget.debit((RUN, 0), job())
    assert len(journal.read(STREAM)) == 1


@pytest.mark.parametrize(
    ("more", "multiplier", "why"),
    [
        ({}, None, "a job without noise has no bound on what it costs"),
        ({"epsilon": 0.0, "least_noise": 2.0}, None, "a noise multiplier of 2 at least"),
        ({"least_noise": 5.0}, 4.0, "a noise multiplier of 5 at least"),
    ],
)
async def test_a_policy_wants_noise(journal: Journal, more: Any, multiplier: float | None, why: str) -> None:
    budget = Budget(policy(**more), journal)
    with pytest.raises(JobNotApproved, match=why):
        budget.check(job(1, multiplier), RUN)
    with pytest.raises(JobNotApproved, match=why):
        await budget.debit((RUN, 0), job(1, multiplier))


async def test_people_read_what_a_job_costs_and_what_was_given(tmp_path: Path, journal: Journal) -> None:
    assert price(job(1, None)) == "none"
    assert price(job(20)).startswith("noise multiplier 4 in each of 20 sums, which cost ε = 11.5 at δ = 1e-05 together")
    mean = AggregateJob(
        expression=b"e", reduce="mean", shape=[1], bound=1.0, privacy=Privacy(delta=1e-5, noise_multiplier=4.0)
    )
    assert "in each of 1 sums" in price(mean)
    assert (
        balance(policy(9.0), tmp_path / "never ran", job(1, None)) == "ε = 0 at δ = 1e-06 given so far; the budget is 9"
    )
    for number in range(5):
        await Budget(policy(), journal).debit((RUN, number), job())
    said = balance(policy(0.0), tmp_path, job())
    with_it = f"{epsilon_of(cost(4.0, 6), DELTA):.3g} with all of this job"
    assert said == f"ε = {FIVE:.3g} at δ = 1e-06 given so far, {with_it}; there is no budget"
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "journal.db").write_bytes(b"no database" * 100)
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        balance(policy(), tmp_path / "damaged", job())


# --- between real processes ---

OWNERS = ("alice", "bob", "carol")
NOISE = Privacy(delta=1e-5, noise_multiplier=4.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnDisk]:
    """Alice has a budget of five sums."""
    roles: dict[str, Any] = {
        **dict.fromkeys(OWNERS, "owner"), **dict.fromkeys(AGGREGATORS, "aggregator"), "coordinator": "coordinator",
        "researcher": "researcher",
    }  # fmt: skip
    thrifty = {"alice": {"budget_epsilon": FIVE, "budget_delta": DELTA}}
    made = OnDisk(tmp_path_factory.mktemp("budget"), roles, policies=thrifty)
    try:
        made.start(
            [id_ for id_ in roles if id_ != "researcher"], dict(zip(OWNERS, owners(3, rows=20).values(), strict=True))
        )
        yield made
    finally:
        made.stop()


def test_a_killed_owner_remembers_what_it_has_given(world: OnDisk) -> None:
    strategy = sf.FedAvg(weights="equal")
    arguments: dict[str, Any] = {"inputs": "x", "targets": "y", "strategy": strategy, "clip": 1.0}
    with sf.connect(world.researcher(), timeout=60.0) as fed:
        fed.wait_for_owners()
        with pytest.raises(JobNotApproved, match="alice: this owner has a privacy budget"):
            fed.train(linear_plan(), rounds=1, **arguments).wait()
        run = fed.train(linear_plan(), rounds=4, privacy=NOISE, **arguments).wait()
        assert run.privacy is not None
        assert run.privacy.releases == 4
        assert run.privacy.epsilon == pytest.approx(epsilon_of(cost(4.0, 4), 1e-5))
        assert run.rounds[0].total_weight == 3.0
        assert run.rounds[0].metrics == {}
        pointers = [fed[owner].tensor("x").mean(0) for owner in OWNERS]
        noisy = sf.secure_mean(pointers, weights=[1.0, 1.0, 1.0], bound=1.0, privacy=NOISE)
        assert noisy.abs().max() > 1.5  # sigma is 4 · sqrt(10), of each of two, over three owners
        assert world._children is not None
        world._children.kill("alice")
        fed.wait_for_owners()
        with pytest.raises(BudgetExceeded, match="alice: this job would bring what this owner has given to"):
            fed.train(linear_plan(), rounds=1, privacy=NOISE, **arguments).wait()
        columns = [fed[owner].tensor("x") for owner in OWNERS]
        with pytest.raises(BudgetExceeded, match="alice: this job would bring"):
            sf.stats.count(columns, max_rows=20, nan_policy="omit", privacy=NOISE)
    shown = CliRunner().invoke(
        main, ["requests", "list", "--all", "--config", str(world.folder / "alice" / "node.toml")]
    )
    digest = next(line.split()[1] for line in shown.stdout.splitlines() if "train" in line)
    shown = CliRunner().invoke(
        main, ["requests", "show", digest, "--config", str(world.folder / "alice" / "node.toml")]
    )
    assert f"ε = {FIVE:.3g} at δ = 1e-06 given so far" in shown.stdout
    assert "Noise for differential privacy: noise multiplier 4 in each of 4 sums" in shown.stdout
