"""One run at the coordinator: jobs offered, rounds and attempts in turn, results kept, until it ends.

Everything that the run depends on is in its journal stream (`_Book`) or in a file of its values before it is acted upon,
so that a coordinator that was killed goes on where it was: with the same manifest if an attempt was under way, with the
sum if it was released.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import numpy as np
import structlog

from smpc_fl.errors import (
    BadInput,
    CohortTooSmall,
    InternalError,
    JobNotApproved,
    MalformedMessage,
    RolledBack,
    RunFailed,
    SmpcError,
    SubtractionRefused,
    Unavailable,
    from_code,
)
from smpc_fl.hashing import Buffer
from smpc_fl.jobs import AggregateJob, Job, TrainJob, decode_job, job_digest
from smpc_fl.learning.stopping import Stopper
from smpc_fl.learning.update import Aggregate, disassemble
from smpc_fl.nodes.decryption import Decrypting, check_road
from smpc_fl.nodes.home.config import CoordinatorPolicy
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.home.values import Values
from smpc_fl.nodes.net.pump import report_bug
from smpc_fl.nodes.node import Node
from smpc_fl.nodes.rounds import RoundShell, insist
from smpc_fl.plans.layout import layout_of
from smpc_fl.protocols.codec import decode, encode
from smpc_fl.protocols.commands import PeerGone, PeerUp, Received
from smpc_fl.protocols.coordinator import CoordinatorRound, GivenUp, Released, RoundPlan
from smpc_fl.protocols.course import TrainingRound
from smpc_fl.protocols.manifest import Numbers, model_digest
from smpc_fl.protocols.messages import (
    JobAnswer,
    JobOffer,
    ReleaseReceipt,
    RoundClosed,
    RoundResult,
    RunState,
    Signed,
    StartRun,
)
from smpc_fl.protocols.records import SECRET
from smpc_fl.protocols.work import (
    Purpose,
    Work,
    evaluation_round,
    participants,
    public_weight,
    train_round,
    work_of,
)

log = structlog.get_logger()

Publish = Callable[["Run", RoundResult | RunState, Buffer], Awaitable[None]]
HOPELESS = (RolledBack, SubtractionRefused)
"""What another attempt would end with as well."""
LONGEST_WAIT_FOR_ABSENT = 15.0
"""Seconds that an owner which is not connected holds up the start of a run."""
TOLD_AGAIN = 8
"""Rounds of a run, the last ones, of whose end a member that was away is told when it is back."""
WAIT_AFTER_RESTART = 60.0
"""Seconds that a run under way waits for its owners when the coordinator comes back: they may have been killed as well."""


class Attempt(msgspec.Struct, frozen=True):
    """Written before an attempt begins; `cohort` as it stood in the roster then."""

    round: int
    attempt: int
    cohort: list[str]
    aggregators: list[str]
    aborts: list[Signed]


@dataclass
class _Book:
    """The run's durable state: what happened, in order."""

    start: Signed
    attempts: list[Attempt] = field(default_factory=list)
    results: list[RoundResult] = field(default_factory=list)
    end: RunState | None = None

    @classmethod
    def read(cls, journal: Journal, stream: str) -> _Book:
        """Raises `Unavailable` for a run of an earlier release, which kept its values here."""
        by_kind: dict[str, list[bytes]] = {}
        for kind, data in journal.read(stream):
            if kind == "resumed":
                by_kind.pop("end", None)
            else:
                by_kind.setdefault(kind, []).append(data)
        if "model" in by_kind:
            raise Unavailable("an earlier release kept this run, and this one cannot go on with it: start it anew")
        try:
            return cls(
                start=decode(by_kind["start"][0], Signed),
                attempts=[msgspec.msgpack.decode(data, type=Attempt) for data in by_kind.get("attempt", [])],
                results=[decode(data, RoundResult) for data in by_kind.get("result", [])],
                end=decode(by_kind["end"][0], RunState) if "end" in by_kind else None,
            )
        except MalformedMessage:
            raise Unavailable("another release kept this run, and this one cannot read it: start it anew") from None


def run_stream(run: bytes) -> str:
    return f"run/{run.hex()}"


def run_of(stream: str) -> bytes:
    return bytes.fromhex(stream.removeprefix("run/"))


class Run:
    """A run from `StartRun` to its `RunState`. `publish` sends what is new to whoever subscribed."""

    def __init__(self, node: Node, policy: CoordinatorPolicy, signed: Signed, publish: Publish) -> None:
        self.node, self.policy, self.publish = node, policy, publish
        self.start = decode(signed.body, StartRun)
        self.job: Job = decode_job(self.start.job)
        self.digest = job_digest(self.start.job)
        self.book = _Book(signed)
        self.cohort = sorted(self.start.cohort)
        self.state, self.waiting_for = "waiting", ""
        self.missing: dict[str, str] = {}
        self._cancelled = self.resumed = False
        self._answers: dict[str, JobAnswer] = {}
        self._answered = asyncio.Event()
        self._shell: RoundShell | None = None
        self._decrypting = Decrypting(node)
        self._closed: list[tuple[bytes, dict[str, RoundClosed]]] = []  # the last manifests that were released, by hash
        self._values = Values(node.home / "values" / self.id.hex())
        self._newest: Buffer | None = None  # in memory while the run goes on

    @property
    def id(self) -> bytes:
        return self.start.run

    @property
    def _k_min(self) -> int:
        """Fewest owners in a sum: the federation's, or more where the job wants more."""
        return max(self.policy.k_min, self.job.min_owners if isinstance(self.job, TrainJob) else 0)

    @property
    def researcher(self) -> str:
        return self.book.start.sender

    @property
    def waits(self) -> str:
        """What a researcher reads while it waits for owners' decisions; empty when it does not."""
        return f"approval by {self.waiting_for}" if self.waiting_for else ""

    @property
    def _stream(self) -> str:
        return run_stream(self.id)

    @classmethod
    async def begin(cls, node: Node, policy: CoordinatorPolicy, signed: Signed, model: Buffer, publish: Publish) -> Run:
        """A new run, durable before it is answered. Raises what is wrong with the request."""
        run = cls(node, policy, signed, publish)
        run._check(model)
        if isinstance(run.job, TrainJob):
            await asyncio.to_thread(run._values.write, 0, model)
        await node.journal.append(run._stream, "start", encode(signed))
        run._newest = model
        return run

    @classmethod
    def resume(cls, node: Node, policy: CoordinatorPolicy, stream: str, publish: Publish) -> Run:
        """A run from its journal stream and the files of its values. Raises `Unavailable`."""
        book = _Book.read(node.journal, stream)
        run = cls(node, policy, book.start, publish)
        run.book, run.resumed = book, True
        if book.end is not None:
            run.state = book.end.state
        else:
            run._newest = run._read_newest()
        return run

    async def reopened(self) -> Run:
        """The run again, as it was after its last result, durably under way. Raises `BadInput` where it cannot go on."""
        done = len(self.book.results)
        if not isinstance(self.job, TrainJob):
            raise BadInput("only a run of training can go on: ask for an aggregate again")
        if any(attempt.round >= train_round(done + 1) for attempt in self.book.attempts):
            # Owners and aggregators take one manifest of an attempt, ever, and its secrets are gone.
            raise BadInput(
                f"the run failed in the midst of round {done + 1}, which cannot be begun again: start a new run from its last "
                "model"
            )
        await self.node.journal.append(self._stream, "resumed", b"")
        return Run.resume(self.node, self.policy, self._stream, self.publish)

    def _check(self, model: Buffer) -> None:
        """What can be known to be wrong before any owner is asked."""
        start, job = self.start, self.job
        if model_digest(model) != start.model_digest:
            raise BadInput("the first model that came is not the one that was signed")
        if isinstance(job, TrainJob) and len(model) != 4 * layout_of(job.plan).size:
            raise BadInput("the first model does not have the plan's number of parameters")
        if self.cohort != sorted(set(start.cohort)):
            raise BadInput("the cohort names an owner twice")
        for owner in self.cohort:
            self.node.party.key_of(owner, "owner")
        if len(self.cohort) < self._k_min:
            raise CohortTooSmall(
                f"a cohort of {len(self.cohort)} owners is below k_min = {self._k_min} of this federation or job: add owners"
            )
        check_road(self.policy.protection, len(self._aggregators()))
        purposes: list[Purpose] = ["aggregate"] if isinstance(job, AggregateJob) else ["train"]
        if isinstance(job, TrainJob) and job.evaluation is not None:
            purposes.append("evaluate")
        for purpose in purposes:
            self._numbers(work_of(job, purpose))

    def _numbers(self, work: Work) -> Numbers:
        """Those of the newest attempt, or of the first one to come."""
        aggregators = self.book.attempts[-1].aggregators if self.book.attempts else self._aggregators()
        return work.numbers(
            owners=len(self.cohort),
            k_min=self.policy.k_min,
            aggregators=len(aggregators),
            ring_bits=self.policy.ring_bits,
            protection=self.policy.protection,
        )

    # --- events from the node ---

    async def on_answer(self, owner: str, answer: JobAnswer) -> None:
        if owner in self.cohort and answer.digest == self.digest:
            self._answers[owner] = answer
            self._answered.set()

    async def on_peer_up(self, peer: str) -> None:
        """Say again what a member may have missed."""
        if peer in self.cohort and self.book.end is None:
            if self.state == "waiting":
                self._answers.pop(peer, None)
            await self.node.tell(peer, JobOffer(self.id, self.book.start))
        for manifest_hash, said in self._closed:
            if peer in said:
                await self.node.tell(peer, said[peer])
            elif peer in self._aggregators():
                await self.node.tell(peer, ReleaseReceipt(manifest_hash))
        for shell in self._shells():
            await shell.feed(PeerUp(peer))
        self._answered.set()

    async def on_round_message(self, event: Received) -> None:
        for shell in self._shells():
            await shell.feed(event)

    def _shells(self) -> list[RoundShell]:
        return [shell for shell in (self._shell, self._decrypting.shell) if shell is not None]

    async def roster_changed(self) -> None:
        """A round that is under way does not wait for owners that were revoked."""
        for owner in self.cohort:
            try:
                self.node.party.key_of(owner, "owner")
            except SmpcError as error:
                if self._shell is not None:
                    await self._shell.feed(PeerGone(owner, error))

    # --- the run ---

    async def drive(self) -> None:
        """To the end, whatever it is; the end is durable and published."""
        if self.book.end is not None:
            await self.forget_rounds()  # a crash may have come between the end and that
            return
        await self._forget_finished()  # as between a result and that
        try:
            await self._approvals()
            self.state, self.waiting_for = "running", ""
            await self.publish(self, RunState(self.id, "running", len(self.book.results)), b"")
            await (self._aggregate() if isinstance(self.job, AggregateJob) else self._train(self.job))
            end = RunState(self.id, "finished", len(self.book.results))
        except SmpcError as error:
            log.warning("run failed", run=self.id.hex(), error=error.code)
            end = RunState(self.id, "failed", len(self.book.results), error.code, str(error)[:4000])
        except Exception as error:
            report_bug(error, "in a run")
            text = f"the coordinator failed ({type(error).__name__}): its log says where"
            end = RunState(self.id, "failed", len(self.book.results), InternalError.__name__, text)
        await self._finish(end)

    def cancel(self) -> None:
        """Stop before the next round; the one under way ends as it ends."""
        self._cancelled = True

    async def _finish(self, end: RunState) -> None:
        await self._insist(lambda: self.node.journal.append(self._stream, "end", encode(end)))
        self.book.end, self.state = end, end.state
        await self.forget_rounds()
        await self.publish(self, end, await self.newest())
        self._newest = None

    async def forget_rounds(self) -> None:
        """Erase what is left of the run's rounds, once its end is durable: of those that failed as well."""
        for stream in self.node.journal.streams(f"round/{self.id.hex()}/"):
            await self._insist(partial(self.node.journal.erase, stream))

    async def _insist(self, write: Callable[[], Awaitable[object]]) -> None:
        """A full disk holds a run up; it does not end it."""
        await insist(write, run=self.id.hex())

    def tells(self, manifest_hash: bytes) -> bool:
        """Whether owners hear from this run how that manifest's round ends, or has just ended."""
        if self._shell is not None:
            machine = self._shell.machine
            assert isinstance(machine, CoordinatorRound)
            if machine.manifest_hash == manifest_hash:
                return True
        return any(hash_ == manifest_hash for hash_, _ in self._closed)

    async def newest(self) -> Buffer:
        """The newest model (float32), or the aggregate (float64). Raises `Unavailable`."""
        return self._newest if self._newest is not None else await asyncio.to_thread(self._read_newest)

    def _read_newest(self) -> bytes:
        if isinstance(self.job, AggregateJob) and not self.book.results:
            return b""
        return self._values.read(len(self.book.results))

    async def history(self, after: int) -> AsyncIterator[tuple[RoundResult, bytes]]:
        """Results from number `after` + 1 on with their values, read back one at a time. Raises `Unavailable`."""
        for result in self.book.results[after:]:
            yield result, await asyncio.to_thread(self._values.read, result.number)

    async def _approvals(self) -> None:
        """Until every owner that is there has decided, or so many have refused that it cannot be; those that are absent
        are not waited for very long."""
        began = time.monotonic()
        patience = min(self.policy.round_deadline, LONGEST_WAIT_FOR_ABSENT)
        if self.resumed:
            patience = max(self.policy.round_deadline, WAIT_AFTER_RESTART)
        for owner in self.cohort:
            await self.node.tell(owner, JobOffer(self.id, self.book.start))
        while True:
            self._answered.clear()
            open_ = [o for o in self.cohort if self._status(o) not in ("approved", "rejected")]
            rejected = [self._answers[o] for o in self.cohort if self._status(o) == "rejected"]
            whole = isinstance(self.job, AggregateJob) and rejected  # an aggregate is over all that were asked for
            needed = len(self.cohort) if whole else self.policy.k_min
            absent = [o for o in open_ if not self.node.connected(o)]
            heard = all(o in self._answers or o in absent for o in open_)
            if not open_ or (heard and len(self.cohort) - len(rejected) < needed):
                break
            if len(absent) == len(open_) and time.monotonic() - began > patience:
                break
            self.waiting_for = ", ".join(o for o in open_ if self._status(o) == "pending")
            # Not with every answer: first all that are there are heard, unless that takes long.
            if self.waiting_for and (heard or time.monotonic() - began > 5.0):
                await self.publish(self, RunState(self.id, "waiting", 0, text=self.waits), b"")
            try:
                await asyncio.wait_for(self._answered.wait(), 0.5 if absent else 5.0)
            except TimeoutError:
                continue
        approved = [o for o in self.cohort if self._status(o) == "approved"]
        if len(approved) < needed:
            raise self._refused(approved, rejected)
        self.missing = {o: a.reason for o, a in self._answers.items() if a.status == "rejected"}
        self.missing |= {o: "not connected when the run began" for o in self.cohort if o not in self._answers}

    def _status(self, owner: str) -> str:
        return self._answers[owner].status if owner in self._answers else ""

    def _refused(self, approved: list[str], rejected: list[JobAnswer]) -> SmpcError:
        """One error for the researcher: the owners' own class when they agree, and each reason once."""
        owners: dict[str, list[str]] = {}
        for owner in self.cohort:
            if owner not in approved:
                reason = (
                    self._answers[owner].reason if owner in self._answers else "not connected: is its node running?"
                )
                owners.setdefault(reason, []).append(owner)
        said = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in owners.items())
        codes = {answer.code for answer in rejected}
        code = codes.pop() if len(codes) == 1 else (JobNotApproved.__name__ if rejected else Unavailable.__name__)
        return from_code(code, f"{len(approved)} of {len(self.cohort)} owners can take part. {said}")

    async def _train(self, job: TrainJob) -> None:
        stopper = Stopper(job.stop)
        value = await self.newest()
        while len(self.book.results) < job.rounds:
            number, began = len(self.book.results) + 1, time.time()
            if self._cancelled:
                raise RunFailed(f"cancelled by {self.researcher} after {number - 1} rounds")
            reason = stopper.should_stop([result.metrics for result in self.book.results])
            if reason is not None:
                log.info("stopped early", run=self.id.hex(), rounds=number - 1)
                return
            clip = self.book.results[-1].next_clip if self.book.results else None
            course = TrainingRound(job, number, np.frombuffer(value, np.float32), len(self.cohort), clip)
            uploaded: Counter[str] = Counter()
            rounds: list[tuple[Work, Released, int]] = []
            while (ask := course.ask) is not None:
                rounds.append(await self._round(ask.work, ask.round, ask.model.data.cast("B")))
                work, released, _ = rounds[-1]
                # In a thread: the arithmetic over a whole model would hold up every connection.
                aggregate = await asyncio.to_thread(self._read, work, released)
                await asyncio.to_thread(course.take, aggregate, len(released.agreed))
                uploaded.update(released.uploaded)
            value = course.vector.data.cast("B")
            work, released, _ = rounds[0]
            attempts = 1 + sum(taken - 1 for _, _, taken in rounds)
            assert course.trained is not None
            result = self._result(
                work, released, course.trained, number, course.metrics, dict(uploaded), time.time() - began, attempts,
                course.next_clip,
            )  # fmt: skip
            await self._keep(result, value)

    async def _aggregate(self) -> None:
        if self.book.results:
            return
        began = time.time()
        work, released, attempts = await self._round(work_of(self.job, "aggregate"), 0, b"")
        mean = self._read(work, released)
        assert isinstance(self.job, AggregateJob)
        value = mean.mean if self.job.reduce == "mean" else mean.sum
        result = self._result(
            work, released, mean, 1, {}, dict(released.uploaded), time.time() - began, attempts
        )  # fmt: skip
        await self._keep(result, np.asarray(value, np.float64).tobytes())

    def _read(self, work: Work, released: Released) -> Aggregate:
        fixed = self._numbers(work).fixed_point
        included = [entry.owner for entry in released.agreed]
        weight = public_weight(self.job, work.purpose, included, self.cohort)
        return disassemble(fixed.decode(released.total), work.layout, weight)

    def _result(
        self, work: Work, released: Released, mean: Aggregate, number: int, metrics: dict[str, float],
        uploaded: dict[str, int], seconds: float, attempts: int, next_clip: float = 0.0,
    ) -> RoundResult:  # fmt: skip
        included = [entry.owner for entry in released.agreed]
        missing = {o: self.missing.get(o) or self._why_absent(o) for o in self.cohort if o not in included}
        missing |= {owner: str(error) for owner, error in released.refusals.items()}
        numbers = self._numbers(work)
        return RoundResult(
            run=self.id,
            number=number,
            metrics=metrics,
            seconds=seconds,
            uploaded=uploaded,
            included=included,
            missing={o: why for o, why in missing.items() if o not in included},
            total_weight=mean.total_weight,
            clipped=mean.clipped,
            worst_error=numbers.worst_error,
            attempts=attempts,
            ring_bits=numbers.ring_bits,
            clip=work.clip,
            next_clip=next_clip,
        )

    def _why_absent(self, owner: str) -> str:
        try:
            self.node.party.key_of(owner, "owner")
        except SmpcError as error:  # revoked, or gone from the roster
            return error.message
        return "its report was not complete at the deadline"

    async def _keep(self, result: RoundResult, value: Buffer) -> None:
        """Result and value are durable; only then are the round's partial sums erased."""
        await self._insist(lambda: asyncio.to_thread(self._values.write, result.number, value))
        await self._insist(lambda: self.node.journal.append(self._stream, "result", encode(result)))
        self.book.results.append(result)
        self._newest = value
        await self._forget_finished()
        await self.publish(self, result, value)

    async def _forget_finished(self) -> None:
        """Erase keys and partial sums of the rounds that have their result."""
        done = {
            r for result in self.book.results for r in (train_round(result.number), evaluation_round(result.number))
        }
        streams = self.node.journal.streams(f"round/{self.id.hex()}/")
        over = [stream for stream in streams if int(stream.split("/")[2]) in done]
        await asyncio.gather(*(self._insist(partial(self.node.journal.erase, stream)) for stream in over))

    # --- one round, attempt after attempt ---

    async def _round(self, work: Work, round_number: int, model: Buffer) -> tuple[Work, Released, int]:
        """(its work, its release, the attempts that it took)."""
        while True:
            attempt = await self._attempt(round_number)
            outcome = await self._run_attempt(work, attempt, model)
            if isinstance(outcome, Released):
                await self._close()
                return work, outcome, attempt.attempt + 1
            if not outcome.aborts or attempt.attempt + 1 >= self.policy.attempts or isinstance(outcome.error, HOPELESS):
                await self._close()
                raise outcome.error
            log.warning("attempt given up", run=self.id.hex(), round=round_number, error=outcome.error.code)
            await self._note(Attempt(
                round_number, attempt.attempt + 1, self._present(round_number), self._aggregators(), list(outcome.aborts)
            ))  # fmt: skip
            # Its manifest stays until the round is over: owners may still ask about it.
            await self._insist(partial(self.node.journal.erase, self._round_stream(attempt), SECRET))

    async def _attempt(self, round_number: int) -> Attempt:
        """The attempt that is under way, or the first one."""
        of_round = [attempt for attempt in self.book.attempts if attempt.round == round_number]
        if not of_round:
            return await self._note(Attempt(round_number, 0, self._present(round_number), self._aggregators(), []))
        return of_round[-1]

    async def _note(self, attempt: Attempt) -> Attempt:
        await self._insist(lambda: self.node.journal.append(self._stream, "attempt", msgspec.msgpack.encode(attempt)))
        self.book.attempts.append(attempt)
        return attempt

    def _present(self, round_number: int) -> list[str]:
        """The approved owners that the roster still has, or those that are drawn of them: a revocation counts from the next
        attempt on."""
        members = {member.id for member in self.node.party.membership.owners}
        if isinstance(self.job, AggregateJob):
            return [o for o in self.cohort if o in members]  # the whole cohort, or owners refuse
        approved = [o for o in self.cohort if self._status(o) == "approved" and o in members]
        return participants(self.job, round_number, approved, self._k_min)

    def _aggregators(self) -> list[str]:
        return sorted(member.id for member in self.node.party.membership.aggregators)

    def _round_stream(self, attempt: Attempt) -> str:
        return f"round/{self.id.hex()}/{attempt.round}/{attempt.attempt}"

    async def _run_attempt(self, work: Work, attempt: Attempt, model: Buffer) -> Released | GivenUp:
        if len(attempt.cohort) < self._k_min:
            raise CohortTooSmall(f"{len(attempt.cohort)} owners are left, k_min is {self._k_min}: add owners")
        plan = RoundPlan(
            self.id, attempt.round, attempt.attempt, work.purpose, tuple(attempt.cohort), tuple(attempt.aggregators),
            work.layout.length, self._numbers(work), work.clip, work.max_samples, self._k_min,
            self.policy.round_deadline, max(self.policy.round_deadline, 30.0), self.digest, work.subject, model,
            tuple(attempt.aborts), bytes.fromhex(self.policy.ckks_key_id),
        )  # fmt: skip
        done: asyncio.Future[Released | GivenUp] = asyncio.get_running_loop().create_future()

        async def finished(outcome: Released | GivenUp) -> None:
            if not done.done():
                done.set_result(outcome)

        def build(records: Sequence[Any], bulk: bytearray | None) -> CoordinatorRound:
            return CoordinatorRound.restore(self.node.party, plan, records, bulk, entropy=self.node.entropy)

        shell = RoundShell(
            stream=self._round_stream(attempt),
            journal=self.node.journal,
            build=build,
            send=self.node.send,
            finished=finished,
        )
        self._shell = shell
        await shell.start()
        outcome = await done
        if isinstance(outcome, Released) and outcome.signed is not None:
            outcome = await self._decrypting.decrypted(shell.stream, shell.machine, outcome)
        if isinstance(outcome, GivenUp):
            shell.close()
        return outcome

    async def _close(self) -> None:
        """Owners may erase their upload; aggregators that were away get their receipt when they are back."""
        shell, self._shell = self._shell, None
        if shell is None:
            return
        machine = shell.machine
        assert isinstance(machine, CoordinatorRound)
        said = {owner: machine.closed(owner) for owner in machine.plan.cohort}
        for owner, closed in said.items():
            await self.node.tell(owner, closed)
        # Not the shell: a model and a total would stay in memory with it.
        shell.close()
        if any(closed.released for closed in said.values()):
            self._closed = [*self._closed, (machine.manifest_hash, said)][-TOLD_AGAIN:]
