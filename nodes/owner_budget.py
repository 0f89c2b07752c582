"""What this owner's data may still give away: a ledger of the noisy sums that it took part in, against the budget in its policy.

The unit is the owner, so there is one ledger for all of its datasets, jobs and researchers. A round is debited, durably, before
it is computed and so before anything leaves; once, whatever becomes of it: attempts at it share the same integers, a restarted
node finds its debit, and one that fails afterwards stays paid for. Costs add up as `privacy.accounting` says, exactly.

With a budget (`budget_epsilon` above 0) a job without noise is refused: its cost has no bound.
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import msgspec

from smpc_fl.errors import BudgetExceeded, ConfigInvalid, JobNotApproved
from smpc_fl.jobs import Job, Privacy, TrainJob
from smpc_fl.nodes.home.backup import JOURNAL, reading
from smpc_fl.nodes.home.config import OwnerPolicy
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.record_budget import STREAM as RECORDS
from smpc_fl.nodes.record_budget import RecordBudget, balance_of_records, price_of_records
from smpc_fl.privacy.accounting import cost, cost_of, epsilon_of
from smpc_fl.protocols.work import releases

Key = tuple[bytes, int]
"""(run, round)."""
STREAM = "budget"
_DIGITS = 1 + 1e-9
"""Sums of floats may be off by their last digits: a job that was calibrated to a whole budget fits it."""


class Debit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One round's sum; `cost` as in `privacy.accounting`."""

    run: bytes
    round: int
    cost: float


class Budget:
    """One owner's ledger, durable in its journal."""

    def __init__(self, policy: OwnerPolicy, journal: Journal) -> None:
        self._policy, self._journal = policy, journal
        self._records = RecordBudget(policy, journal)
        self._debiting = asyncio.Lock()

    def check(self, job: Job, run: bytes) -> None:
        """Can all of this run be paid for? Raises `JobNotApproved`, `BudgetExceeded`."""
        noise = self._noise(job)
        self._records.check(job, run)
        if noise is not None:
            others = sum(each for key, each in _costs(self._journal.read(STREAM)).items() if key[0] != run)
            self._must_fit(others, cost(*noise, *_times(job)), _what(job))

    async def debit(self, key: Key, job: Job) -> None:
        """Pay for one round: durable when it returns; again is harmless, and free. Raises as `check`, and `Unavailable`."""
        noise = self._noise(job)
        await self._records.debit(key, job)
        if noise is None:
            return
        async with self._debiting:
            debited = _costs(self._journal.read(STREAM))
            if key in debited:
                return
            price = cost(*noise)
            self._must_fit(sum(debited.values()), price, "this round")
            await self._journal.append(STREAM, "debit", msgspec.msgpack.encode(Debit(*key, price)))

    def _noise(self, job: Job) -> tuple[float] | None:
        """The noise multiplier, or None where no noise is asked for and none is needed. Raises `JobNotApproved`."""
        multiplier = (job.privacy and job.privacy.noise_multiplier) or 0.0
        if multiplier < self._policy.least_noise:
            raise JobNotApproved(
                f"this owner takes part with a noise multiplier of {self._policy.least_noise:g} at least (least_noise): "
                "ask with privacy=",
                phase="job",
            )
        if not multiplier and self._policy.budget_epsilon:
            raise JobNotApproved(
                "this owner has a privacy budget, and a job without noise has no bound on what it costs: ask with privacy=",
                phase="job",
            )
        return (multiplier,) if multiplier else None

    def _must_fit(self, before: float, price: float, what: str) -> None:
        epsilon, delta = self._policy.budget_epsilon, self._policy.budget_delta
        if epsilon and before + price > cost_of(epsilon, delta) * _DIGITS:
            raise BudgetExceeded(
                f"{what} would bring what this owner has given to ε = {epsilon_of(before + price, delta):.3g} at δ = {delta:g} "
                f"({epsilon_of(before, delta):.3g} so far), past its budget of {epsilon:g}: ask for fewer rounds or a larger "
                "noise_multiplier",
                phase="job",
            )


def _costs(records: list[tuple[str, bytes]]) -> dict[Key, float]:
    debits = [msgspec.msgpack.decode(data, type=Debit) for _, data in records]
    return {(each.run, each.round): each.cost for each in debits}


def _times(job: Job) -> tuple[int]:
    return (releases(job, job.rounds if isinstance(job, TrainJob) else 1),)


def _what(job: Job) -> str:
    (times,) = _times(job)
    return f"all {times} sums of this job" if times > 1 else "this job"


# --- for people ---


def price(job: Job) -> str:
    """What a job asks, in words: its noise, and what all of it costs."""
    privacy: Privacy | None = job.privacy
    if isinstance(job, TrainJob) and job.local.privacy is not None:
        return price_of_records(job)
    if privacy is None or privacy.noise_multiplier is None:
        return "none"
    (times,) = _times(job)
    epsilon = epsilon_of(cost(privacy.noise_multiplier, times), privacy.delta)
    return (
        f"noise multiplier {privacy.noise_multiplier:g} in each of {times} sums, which cost ε = {epsilon:.3g} at δ = "
        f"{privacy.delta:g} together, for each {privacy.unit}"
    )


def balance(policy: OwnerPolicy, home: Path, job: Job) -> str:
    """What the owner has given so far, and would have given with this job, read from the journal of a node that may be
    running. Raises `ConfigInvalid`."""
    before, delta = sum(_costs(_past(home, STREAM)).values()), policy.budget_delta
    said = f"ε = {epsilon_of(before, delta):.3g} at δ = {delta:g} given so far"
    if job.privacy is not None and job.privacy.noise_multiplier is not None:
        after = before + cost(job.privacy.noise_multiplier, *_times(job))
        said += f", {epsilon_of(after, delta):.3g} with all of this job"
    return (
        said
        + (f"; the budget is {policy.budget_epsilon:g}" if policy.budget_epsilon else "; there is no budget")
        + (balance_of_records(policy, _past(home, RECORDS), job))
    )


def _past(home: Path, stream: str) -> list[tuple[str, bytes]]:
    path = home / JOURNAL
    if not path.is_file():
        return []
    try:
        with reading(path) as db:
            rows = db.execute("SELECT kind, data FROM records WHERE stream = ? ORDER BY id", (stream,))
            return [(str(kind), bytes(data)) for kind, data in rows]
    except sqlite3.Error as error:
        raise ConfigInvalid(f"{path} cannot be read: {error}") from None
