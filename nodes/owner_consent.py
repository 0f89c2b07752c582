"""What an owner's node says to a job: reads it, holds it against the owner's own policy, and asks the ledger.

Nothing is decided by the coordinator's word: the job's bytes are the ones that the researcher signed, the digest is made
here, and the ledger's approval is of that digest. Weightings and cohorts of secure aggregates are remembered, because
several of them over one dataset can be subtracted from each other.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec

from smpc_fl.errors import (
    BadInput,
    CohortTooSmall,
    IsolationRefused,
    JobNotApproved,
    ManifestRefused,
    SmpcError,
    WrongRole,
)
from smpc_fl.jobs import AggregateJob, Job, TrainJob, decode_job, job_digest
from smpc_fl.nodes.config import OwnerPolicy
from smpc_fl.nodes.journal import Journal
from smpc_fl.nodes.ledger.base import Ledger
from smpc_fl.nodes.owner_data import Holdings
from smpc_fl.pointers.lineage import decode_expression, describe, lineage_digest, names
from smpc_fl.protocols.codec import decode, encode
from smpc_fl.protocols.messages import JobAnswer, Signed, StartRun
from smpc_fl.protocols.party import Party
from smpc_fl.protocols.work import check_weights

MAX_REMEMBERED = 1024


class Past(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which aggregates one dataset has gone into. `vectors`: by kind ("rows", "equal", "given"), the weights by owner;
    `cohorts`: sorted ids; `bounds`: by lineage digest."""

    vectors: dict[str, dict[str, float]] = {}
    cohorts: Annotated[list[list[str]], msgspec.Meta(max_length=MAX_REMEMBERED)] = []
    bounds: dict[str, float] = {}


def weighting_of(job: AggregateJob, cohort: list[str]) -> tuple[str, dict[str, float]]:
    """(kind, weights by owner where they were given)."""
    if job.weights is not None:
        return "given", dict(zip(cohort, job.weights, strict=True))
    return ("rows" if job.reduce == "mean" else "equal"), {}


class Consent:
    """One owner's answer to jobs. `approved` jobs are kept, so that rounds go on after a restart."""

    def __init__(self, owner: str, policy: OwnerPolicy, ledger: Ledger, holdings: Holdings, journal: Journal) -> None:
        self._owner, self._policy, self._ledger = owner, policy, ledger
        self._holdings, self._journal = holdings, journal

    async def offered(self, run: bytes, signed: Signed, party: Party) -> JobAnswer:
        """The answer to a researcher's signed `StartRun`; refusals carry their class and a sentence."""
        start = party.open(signed, StartRun, "researcher", phase="job")
        digest = job_digest(start.job)
        try:
            if start.run != run:
                raise ManifestRefused("the job was signed for another run", peer=signed.sender, phase="job")
            job = decode_job(start.job)
            # In a thread: Syft's folders take their time, and links must not wait.
            await asyncio.to_thread(self._submit, job, start, signed.sender)
            await self._journal.put(f"job/{run.hex()}", encode(signed))
            return await self._answer(run, start, job)
        except SmpcError as error:
            return JobAnswer(run, digest, "rejected", error.code, error.message[:4000])

    def _submit(self, job: Job, start: StartRun, researcher: str) -> None:
        """Policy first, then the ledger; automatic approval where the policy says so."""
        if self._owner not in start.cohort:
            raise WrongRole("this owner is not in the run's cohort", phase="job")
        if len(start.cohort) < self._policy.k_min:
            raise CohortTooSmall(
                f"a cohort of {len(start.cohort)} is below this owner's k_min of {self._policy.k_min}: add owners",
                phase="job",
            )
        digest = job_digest(start.job).hex()
        warning = self._check(job, sorted(start.cohort))
        if warning and self._policy.approve == "auto" and self._ledger.status(digest) != "approved":
            raise IsolationRefused(f"{warning}: only the owner's explicit approval allows it", phase="job")
        kind = "train" if isinstance(job, TrainJob) else "aggregate"
        request = self._ledger.submit(digest, kind, researcher, summary(job, start, warning), start.job)
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
            return ""
        expression = decode_expression(job.expression)
        self._holdings.check_expression(expression, job, cohort, self._policy.k_min)
        check_weights(job.weights, cohort)
        return self._weighed_before(job, cohort)

    def _weighed_before(self, job: AggregateJob, cohort: list[str]) -> str:
        """What an earlier aggregate over the same dataset makes of this one: several weight vectors, cohorts that differ
        by fewer than k_min owners, or several bounds over one lineage could be subtracted to tell on one owner."""
        kind, weights = weighting_of(job, cohort)
        lineage = lineage_digest(job.expression).hex()
        for dataset in self._datasets(job):
            past = self._past(dataset)
            others = [known for known in past.vectors if known != kind]
            if past.vectors.get(kind, weights) != weights:
                return f"dataset {dataset!r} has gone into another weight vector before"
            if others and kind not in past.vectors and self._policy.weightings == "one":
                return f"dataset {dataset!r} has been weighed otherwise before ({', '.join(sorted(others))})"
            if past.bounds.get(lineage, job.bound) != job.bound:
                return f"this value of dataset {dataset!r} was released with another bound before"
            for before in past.cohorts:
                apart = (set(before) - set(cohort), set(cohort) - set(before))
                if any(0 < len(part) < self._policy.k_min for part in apart):
                    return (
                        f"dataset {dataset!r} was summed before over a cohort that differs by fewer than k_min owners"
                    )
        return ""

    def _datasets(self, job: AggregateJob) -> list[str]:
        return sorted({self._holdings.dataset_of(name) for name in names(decode_expression(job.expression))})

    def _past(self, dataset: str) -> Past:
        data = self._journal.get(f"aggregates/{dataset}")
        return msgspec.msgpack.decode(data, type=Past) if data else Past()

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
        kind, weights = weighting_of(job, cohort)
        for dataset in self._datasets(job):
            past = self._past(dataset)
            cohorts = past.cohorts if cohort in past.cohorts else [*past.cohorts, cohort][-MAX_REMEMBERED:]
            now = Past(
                past.vectors | {kind: weights}, cohorts,
                past.bounds | {lineage_digest(job.expression).hex(): job.bound},
            )  # fmt: skip
            if now != past:
                await self._journal.put(f"aggregates/{dataset}", msgspec.msgpack.encode(now))

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
        payload = self._ledger.payload(digest)
        if payload != start.job:
            raise BadInput("the ledger holds other bytes than were offered", phase="offer")
        return start, payload


def summary(job: Job, start: StartRun, warning: str) -> str:
    """What the owner reads before deciding."""
    lines = [f"WARNING: {warning}."] if warning else []
    if isinstance(job, TrainJob):
        strategy = type(job.strategy).__name__
        lines += [
            f"Train a model on {job.inputs} and {job.targets} by {strategy}, at most {job.rounds} rounds, "
            f"with {len(start.cohort)} owners ({', '.join(sorted(start.cohort))}).",
            f"Local: {job.local.epochs} epochs of {job.local.optimizer}, batches of {job.local.batch_size}, "
            f"lr {job.local.lr:g}. Update clipped to L2 norm {job.clip:g}; at most {job.max_samples} rows weighed; "
            f"weights: {job.strategy.weights}. Noise for differential privacy: none.",
            f"Leaves: the sum over at least k_min owners of the weighed update ({len(job.plan)} bytes of plan).",
        ]
        if job.evaluation is not None:
            held = job.evaluation.inputs or f"{job.evaluation.fraction:.0%} of the rows, held out"
            lines.append(f"Evaluated on {held}; the metrics leave as one sum over all owners.")
    else:
        kind, weights = weighting_of(job, sorted(start.cohort))
        shown = ", ".join(f"{owner}: {weight:g}" for owner, weight in weights.items())
        lines += [
            f"Secure {job.reduce} of {describe(decode_expression(job.expression))} over {len(start.cohort)} owners "
            f"({', '.join(sorted(start.cohort))}), weighed by {shown or kind}.",
            f"Values beyond ±{job.bound:g} saturate. Leaves: the {job.reduce} of {(len(job.shape) and job.shape) or 1} "
            f"numbers over all of these owners, and nothing of one.",
        ]
    return "\n".join(lines)
