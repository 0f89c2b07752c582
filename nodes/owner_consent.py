"""What an owner's node says to a job: reads it, holds it against the owner's own policy, and asks the ledger.

Nothing is decided by the coordinator's word: the job's bytes are the ones that the researcher signed, the digest is made
here, and the ledger's approval is of that digest. Weightings and cohorts of secure aggregates are remembered, because
several of them over one dataset can be subtracted from each other. What a person has approved of a training is the owners
that its summary named as well: it goes on over fewer of them, and not over others.
"""

from __future__ import annotations

import asyncio

import msgspec

from smpc_fl.errors import (
    BadInput,
    CohortTooSmall,
    IsolationRefused,
    JobNotApproved,
    ManifestRefused,
    SmpcError,
    Unavailable,
    WrongRole,
)
from smpc_fl.jobs import AggregateJob, Job, TrainJob, decode_job, encode_job, job_digest
from smpc_fl.nodes.home.config import OwnerPolicy
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.ledger.base import Ledger
from smpc_fl.nodes.owner_budget import Budget, price
from smpc_fl.nodes.owner_data import Holdings
from smpc_fl.plans.update_document import update_of
from smpc_fl.pointers.lineage import decode_expression, describe
from smpc_fl.pointers.policy import check_history, weighting
from smpc_fl.privacy.adaptive import adaptive_of
from smpc_fl.protocols.codec import decode, encode
from smpc_fl.protocols.messages import JobAnswer, Signed, StartRun
from smpc_fl.protocols.party import Party

HISTORY = "aggregates"
"""Journal stream of the aggregates that this owner's tensors have gone into."""


MAX_PENDING = 256
"""Requests of one researcher that wait for the owner's people."""


class Past(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An approved aggregate: the job's bytes and its cohort, sorted ids."""

    job: bytes
    cohort: list[str]


class Consent:
    """One owner's answer to jobs. `approved` jobs are kept, so that rounds go on after a restart."""

    def __init__(self, owner: str, policy: OwnerPolicy, ledger: Ledger, holdings: Holdings, journal: Journal) -> None:
        self._owner, self._policy, self._ledger = owner, policy, ledger
        self._holdings, self._journal = holdings, journal
        self.budget = Budget(policy, journal)
        self._deciding = asyncio.Lock()

    async def offered(self, run: bytes, signed: Signed, party: Party) -> JobAnswer:
        """The answer to a researcher's signed `StartRun`; refusals carry their class and a sentence."""
        start = decode(signed.body, StartRun, peer=signed.sender)
        digest = job_digest(start.job)
        try:
            party.open(signed, StartRun, "researcher", phase="job")
            if start.run != run:
                raise ManifestRefused("the job was signed for another run", peer=signed.sender, phase="job")
            job = decode_job(start.job)
            async with self._deciding:  # one after another, so that each is held against those before it
                await self._bind(job, start)
                # In a thread: Syft's folders take their time, and links must not wait.
                await asyncio.to_thread(self._submit, job, start, signed.sender)
                await self._name(run, signed)
                return await self._answer(run, start, job)
        except SmpcError as error:
            return JobAnswer(run, digest, "rejected", error.code, error.message[:4000])

    async def _name(self, run: bytes, signed: Signed) -> None:
        """A run is one researcher's one job for good: with two, owners of one round could be made to compute different
        things, and a sum over them would show what one of them has."""
        known = self.known(run)
        if known is None:
            await self._journal.put(f"job/{run.hex()}", encode(signed))
        elif known != signed:
            raise ManifestRefused("another job was offered under this run's id: begin a new run", phase="job")

    async def _bind(self, job: Job, start: StartRun) -> None:
        """A training's digest does not cover its owners; whoever decided read their names. Raises `JobNotApproved`."""
        if not isinstance(job, TrainJob):
            return
        digest = job_digest(start.job).hex()
        key = f"consent/{digest}"
        named = self._journal.get(key)
        if named is None or await asyncio.to_thread(self._ledger.request, digest) is None:
            # Before the ledger has it: nobody can have decided yet.
            await self._journal.put(key, msgspec.msgpack.encode(sorted(start.cohort)))
        elif self._policy.approve == "ask" and not set(start.cohort) <= set(
            msgspec.msgpack.decode(named, type=list[str])
        ):
            raise JobNotApproved(
                "this owner was asked for this very training with other owners, and a decision holds for those that it "
                "named: change the job (its seed, say) to ask anew",
                phase="job",
            )

    def _submit(self, job: Job, start: StartRun, researcher: str) -> None:
        """Policy first, then the ledger; automatic approval where the policy says so."""
        if self._owner not in start.cohort:
            raise WrongRole("this owner is not in the run's cohort", phase="job")
        if len(start.cohort) < self._policy.k_min:
            raise CohortTooSmall(
                f"a cohort of {len(start.cohort)} is below this owner's k_min of {self._policy.k_min}: add owners",
                phase="job",
            )
        self.budget.check(job, start.run)
        digest = job_digest(start.job).hex()
        warning = self._check(job, sorted(start.cohort))
        text = summary(job, start, warning)
        if warning:
            before = self._ledger.request(digest)
            if self._policy.approve == "auto":
                raise IsolationRefused(warning, phase="job")
            if before is not None and before.summary != text:
                # The digest does not cover the owners: what was approved is what its reader was told.
                raise IsolationRefused(
                    f"{warning}; this very job was asked for over other owners: change it (its tolerance, say) to ask anew",
                    phase="job",
                )
        if self._policy.approve == "ask" and self._ledger.request(digest) is None:
            waiting = [
                each for each in self._ledger.requests() if (each.researcher, each.status) == (researcher, "pending")
            ]
            if len(waiting) >= MAX_PENDING:
                raise Unavailable(
                    f"{MAX_PENDING} requests of this researcher wait for this owner's people: let them decide",
                    phase="job",
                )
        kind = "train" if isinstance(job, TrainJob) else "aggregate"
        request = self._ledger.submit(digest, kind, researcher, text, start.job)
        if request.status == "pending" and self._policy.approve == "auto":
            self._ledger.decide(digest, True, "approved by the node: policy approve = auto")

    def _check(self, job: Job, cohort: list[str]) -> str:
        """Raises what no approval can allow; returns a warning for what only an explicit one can."""
        if isinstance(job, TrainJob):
            if job.rounds > self._policy.max_rounds:
                raise JobNotApproved(
                    f"the job asks for {job.rounds} rounds, this owner takes part in {self._policy.max_rounds} at most",
                    phase="job",
                )
            self._holdings.check_training(job)
            if job.weighting:
                # Rows are what they are; an expression may be one that is large at a single owner.
                return "owners are weighed by a computation on their data, which could single one of them out"
            return ""
        self._holdings.check_aggregate(job, cohort, self._policy.k_min)
        past = self._history()
        if (job, cohort) in past:
            return ""  # the same release again
        try:
            check_history(job, cohort, past, k_min=self._policy.k_min, weightings=self._policy.weightings)
        except IsolationRefused as error:
            return error.message
        return ""

    def _history(self) -> list[tuple[AggregateJob, list[str]]]:
        past = [msgspec.msgpack.decode(data, type=Past) for _, data in self._journal.read(HISTORY)]
        return [(job, each.cohort) for each in past if isinstance(job := decode_job(each.job), AggregateJob)]

    async def _answer(self, run: bytes, start: StartRun, job: Job) -> JobAnswer:
        digest = job_digest(start.job)
        request = await asyncio.to_thread(self._ledger.request, digest.hex())
        status = request.status if request else "unknown"
        if status == "approved":
            if isinstance(job, AggregateJob):
                await self._remember(job, sorted(start.cohort))
            return JobAnswer(run, digest, "approved")
        if status == "pending":
            return JobAnswer(run, digest, "pending", reason=f"waits for `smpc-fl requests approve {digest.hex()[:16]}`")
        because = f": {request.reason}" if request and request.reason else ""
        return JobAnswer(run, digest, "rejected", JobNotApproved.__name__, f"the owner rejected the job{because}")

    async def _remember(self, job: AggregateJob, cohort: list[str]) -> None:
        if (job, cohort) not in self._history():
            past = msgspec.msgpack.encode(Past(encode_job(job), cohort))
            await self._journal.append(HISTORY, "past", past)

    def known(self, run: bytes) -> Signed | None:
        """The signed `StartRun` that this owner was offered under `run`."""
        data = self._journal.get(f"job/{run.hex()}")
        return decode(data, Signed) if data else None

    async def again(self, run: bytes, party: Party) -> JobAnswer | None:
        """The answer as it stands now, after a decision may have been made."""
        signed = self.known(run)
        return await self.offered(run, signed, party) if signed else None

    def approved_job(self, run: bytes, party: Party) -> tuple[StartRun, bytes]:
        """(the run as signed, the job's bytes as the ledger approved them). Raises `JobNotApproved`."""
        signed = self.known(run)
        if signed is None:
            raise JobNotApproved("this owner was never offered the job of this run", phase="offer")
        start = party.open(signed, StartRun, "researcher", phase="job")
        digest = job_digest(start.job).hex()
        if self._ledger.status(digest) != "approved":
            raise JobNotApproved(
                f"this owner has not approved job {digest[:16]}…: `smpc-fl requests approve {digest[:16]}` does",
                phase="offer",
            )
        job = decode_job(start.job)
        if isinstance(job, AggregateJob) and (job, sorted(start.cohort)) not in self._history():
            raise JobNotApproved("this owner has not agreed to this aggregate over these owners", phase="offer")
        payload = self._ledger.payload(digest)
        if payload != start.job:
            raise BadInput("the ledger holds other bytes than were offered", phase="offer")
        return start, payload


def summary(job: Job, start: StartRun, warning: str) -> str:
    """What the owner reads before deciding."""
    lines = [f"WARNING: {warning}."] if warning else []
    if isinstance(job, TrainJob):
        strategy, local, update = type(job.strategy).__name__, job.local, update_of(job.plan)
        what = f"Train a model on {job.inputs} and {job.targets}"
        or_less = ", or less from round to round" if adaptive_of(job.privacy) else ""
        how = f"Local: {local.epochs} epochs of {local.optimizer}, batches of {local.batch_size}, lr {local.lr:g}."
        if update is not None:
            what = f"Run this owner's own update function {update.update!r} on {', '.join(update.tensors)}"
            options = ", ".join(f"{name} = {value!r}" for name, value in sorted(update.options.items()))
            how = f"Its options: {options or 'none'}. Its code is this node's (extensions); the job carries none."
        weighed = describe(decode_expression(job.weighting)) if job.weighting else job.strategy.weights
        lines += [
            f"{what} by {strategy}, at most {job.rounds} rounds, "
            f"with {len(start.cohort)} owners ({', '.join(sorted(start.cohort))}).",
            "A yes holds for these owners or fewer of them (at least k_min), as often as this very job is run.",
            f"{how} Update clipped to L2 norm {job.clip:g}{or_less}; at most {job.max_samples} rows weighed; "
            f"weights: {weighed}. Noise for differential privacy: {price(job)}.",
            *([f"Stays here: your own {', '.join(job.private)}."] if job.private else []),
            f"Leaves: the sum over at least k_min owners of the weighed update ({len(job.plan)} bytes of plan).",
        ]
        if job.evaluation is not None:
            held = job.evaluation.inputs or f"{job.evaluation.fraction:.0%} of the rows, held out"
            lines.append(f"Evaluated on {held}; the metrics leave as one sum over all owners.")
    else:
        given = zip(sorted(start.cohort), job.weights or [], strict=False)
        shown = ", ".join(f"{owner}: {weight:g}" for owner, weight in given)
        lines += [
            f"Secure {job.reduce} of {describe(decode_expression(job.expression))} over {len(start.cohort)} owners "
            f"({', '.join(sorted(start.cohort))}), weights: {shown or weighting(job)}.",
            (
                f"What is longer than {job.bound:g} (L2 norm) is scaled down to it."
                if job.norm
                else f"Values beyond ±{job.bound:g} saturate."
            )
            + f" What leaves is the {job.reduce} over all of them together.",
            f"Noise for differential privacy: {price(job)}.",
        ]
    return "\n".join(lines)
