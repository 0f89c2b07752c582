"""What a record of this owner's may still give away: a ledger of the noisy sums that were made of it, against its budget.

The unit is any one record, so there is one ledger for all datasets, jobs and researchers, beside that of the owner as a whole
(`owner_budget.py`), and it is kept in the same way: paid, durably, before a round is computed. Local training with privacy
pays for its noisy steps, whenever it is computed: once a round, for what was computed is durable before a byte of it leaves;
but a crash in its midst, or a disk that lost it, costs its noise anew. Noise of the aggregators hides all of an owner's
records, so it pays for each, once a round.

With a budget (`record_budget_epsilon` above 0) sums without either noise are refused, evaluations of a training among them:
their rows are an owner's records as well.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable

import msgspec

from smpc_fl.errors import BudgetExceeded, JobNotApproved, Unavailable
from smpc_fl.jobs import Job, TrainJob
from smpc_fl.nodes.home.config import OwnerPolicy
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.privacy import records
from smpc_fl.privacy.records import Noisy
from smpc_fl.protocols.work import purpose_of, releases

Key = tuple[bytes, int]
"""(run, round)."""
STREAM = "record-budget"
_DIGITS = 1 + 1e-6
"""An accountant's last digits: a job that was calibrated to a whole budget fits it."""


class Debit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One round's `times` sums over rows drawn with probability `rate`."""

    run: bytes
    round: int
    multiplier: float
    rate: float
    times: int


class RecordBudget:
    """One owner's ledger, durable in its journal."""

    def __init__(self, policy: OwnerPolicy, journal: Journal) -> None:
        self._policy, self._journal = policy, journal
        self._debiting = asyncio.Lock()

    def check(self, job: Job, run: bytes) -> None:
        """Can all of this run be paid for? Takes a second. Raises `JobNotApproved`, `BudgetExceeded`, `Unavailable`."""
        if self._policy.record_budget_epsilon:
            self._must_be_noisy(job)
            before = given(self._journal.read(STREAM), but=run)
            self._must_fit(before, whole_price(job), "this job")

    async def debit(self, key: Key, job: Job) -> None:
        """Pay for one round that is about to be computed: durable when it returns. Raises as `check`."""
        if self._policy.record_budget_epsilon:
            self._must_be_noisy(job)
        local = isinstance(job, TrainJob) and job.privacy is None
        price = Counter[Noisy]() if local and purpose_of(job, key[1]) != "train" else records.price(job)
        async with self._debiting:
            past = self._journal.read(STREAM)
            if not price or (not local and any((each.run, each.round) == key for each in _debits(past))):
                return
            if self._policy.record_budget_epsilon:
                await asyncio.to_thread(self._must_fit, given(past), price, "this round")
            for noisy, times in price.items():  # of one kind
                debit = Debit(*key, noisy.multiplier, noisy.rate, times)
                await self._journal.append(STREAM, "debit", msgspec.msgpack.encode(debit))

    def _must_be_noisy(self, job: Job) -> None:
        if not records.price(job):
            raise JobNotApproved(
                "this owner has a privacy budget for its records, and a job without noise has no bound on what it costs: ask "
                "with privacy=, or with LocalTraining(privacy=…)",
                phase="job",
            )
        if isinstance(job, TrainJob) and job.privacy is None and job.evaluation is not None:
            raise JobNotApproved(
                "this owner has a privacy budget for its records, and metrics carry no noise of LocalTraining(privacy=…): "
                "train without an evaluation",
                phase="job",
            )

    def _must_fit(self, before: Counter[Noisy], price: Counter[Noisy], what: str) -> None:
        most, delta = self._policy.record_budget_epsilon, self._policy.record_budget_delta
        if (after := records.epsilon(before + price, delta)) > most * _DIGITS:
            raise BudgetExceeded(
                f"{what} would bring what each record of this owner has given to ε = {after:.3g} at δ = {delta:g} "
                f"({records.epsilon(before, delta):.3g} so far), past its budget of {most:g}: ask for fewer rounds or epochs, or "
                "a larger noise_multiplier",
                phase="job",
            )


def given(past: Iterable[tuple[str, bytes]], but: bytes = b"") -> Counter[Noisy]:
    """All that the journal's entries have let out, `but` for one run's."""
    total: Counter[Noisy] = Counter()
    for each in _debits(past):
        if each.run != but:
            total[Noisy(each.multiplier, each.rate)] += each.times
    return total


def _debits(past: Iterable[tuple[str, bytes]]) -> list[Debit]:
    return [msgspec.msgpack.decode(data, type=Debit) for _, data in past]


def whole_price(job: Job) -> Counter[Noisy]:
    """What all of a job lets out of a record."""
    if isinstance(job, TrainJob) and job.privacy is None:
        return records.price(job, job.rounds)
    return records.price(job, releases(job, job.rounds if isinstance(job, TrainJob) else 1))


# --- for people ---


def price_of_records(job: TrainJob) -> str:
    """What a job with privacy for each record asks, in words."""
    privacy = job.local.privacy
    assert privacy is not None
    ((noisy, times),) = whole_price(job).items()
    return (
        f"at this owner, multiplier {noisy.multiplier:g} in each of {times} steps over rows drawn with probability "
        f"{noisy.rate:g}, gradients cut to L2 norm {privacy.max_grad_norm:g}; for each record they cost "
        f"{_cost(whole_price(job), privacy.delta)} together"
    )


def balance_of_records(policy: OwnerPolicy, past: Iterable[tuple[str, bytes]], job: Job) -> str:
    """What each record has given so far, and would have given with this job; nothing where neither job nor policy asks."""
    before, more, delta, most = given(past), whole_price(job), policy.record_budget_delta, policy.record_budget_epsilon
    if not (most or (isinstance(job, TrainJob) and job.local.privacy)):
        return ""
    said = f". Of each record: {_cost(before, delta)} given so far"
    if more:
        said += f", {_cost(before + more, delta)} with all of this job"
    return said + (f"; the budget is {most:g}" if most else "; there is no budget")


def _cost(times: Counter[Noisy], delta: float) -> str:
    try:
        return f"ε = {records.epsilon(times, delta):.3g} at δ = {delta:g}"
    except Unavailable as error:
        return f"an ε that is not known here ({error.message})"
