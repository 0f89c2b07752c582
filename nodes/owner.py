"""The data owner process: keeps tensors at home, dials out only, computes and shares under the owner's own policy.

coordinator ── JobOffer ──> consent (policy, ledger) ── JobAnswer ──>
coordinator ── RoundOffer ──> OwnerRound ── seeds, vector ──> aggregators
coordinator ── Relay(Command) ──> ObjectStore, the one place that lets a value out ── Relay(Answer, sealed) ──>
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from smpc_fl.encryption import Cipher
from smpc_fl.errors import BadInput, InternalError, JobNotApproved, MalformedMessage, SmpcError, Unavailable, WrongRole
from smpc_fl.hashing import Buffer
from smpc_fl.jobs import decode_job, job_digest
from smpc_fl.nodes.home.config import OwnerConfig
from smpc_fl.nodes.home.kept import Kept
from smpc_fl.nodes.ledger.base import Ledger, open_ledger
from smpc_fl.nodes.ledger.datasets import publish_configured
from smpc_fl.nodes.memory import settle
from smpc_fl.nodes.net import web
from smpc_fl.nodes.net.dialer import Dialer
from smpc_fl.nodes.net.link import Link
from smpc_fl.nodes.net.pump import report_bug
from smpc_fl.nodes.node import Node, run_node
from smpc_fl.nodes.owner_cadence import Cadence
from smpc_fl.nodes.owner_commands import Commands
from smpc_fl.nodes.owner_consent import Consent
from smpc_fl.nodes.owner_contributions import Contributions, Key
from smpc_fl.nodes.owner_data import Holdings, tensors_of
from smpc_fl.nodes.rounds import LONG, RoundShell, insist
from smpc_fl.protocols import relay
from smpc_fl.protocols.codec import decode
from smpc_fl.protocols.commands import Computed, ComputeFailed, PeerUp, Received, Send
from smpc_fl.protocols.manifest import Expected, Rules, subject_of
from smpc_fl.protocols.messages import (
    DecryptRequest,
    JobOffer,
    Manifest,
    Refusal,
    Relay,
    RoundClosed,
    RoundOffer,
    Signed,
)
from smpc_fl.protocols.owner import OwnerRound, State
from smpc_fl.protocols.party import Party
from smpc_fl.protocols.records import Record
from smpc_fl.protocols.releases import computation_of
from smpc_fl.protocols.work import expected_of, purpose_of

if TYPE_CHECKING:
    from smpc_fl.nodes.objects import ObjectStore

log = structlog.get_logger()

REPORTS_FIRST = 10.0
"""Seconds that an owner which comes back with a report that nobody has taken does nothing else, at most."""
LEDGER_POLL = 0.5
"""Seconds between looks at whether the owner has decided (`smpc-fl requests approve` runs in another process)."""
LONG_ENCRYPTED = 1 << 13
"""Elements of a vector that takes some milliseconds to encrypt."""
OPEN_ROUNDS = 256
"""Rounds under way at once; each holds a vector or two."""
FROM_COORDINATOR = (JobOffer, RoundOffer, RoundClosed, DecryptRequest, Relay)
WAITING, WAITING_BYTES = 256, 1 << 25
"""One researcher's commands that wait for their turn."""


@dataclass
class _Giving:
    """What a round under way is about to give: `offered`, digest of the data at the newest offer; `computed`, of those that
    its integers were computed on, None if that was before a restart; `noted`, the manifest whose contribution is durable."""

    offered: bytes = b""
    computed: bytes | None = None
    noted: bytes = b""


class Owner(Node):
    role = "owner"

    def __init__(self, config: OwnerConfig) -> None:
        super().__init__(config)
        self.config = config
        self._rounds: dict[Key, RoundShell] = {}
        self._dialers: dict[str, Dialer] = {}
        self._pending: set[bytes] = set()
        self._store: ObjectStore | None = None
        self._ready = asyncio.Event()
        self._offers = asyncio.Lock()
        self._computing = asyncio.Lock()
        self._answering = asyncio.Lock()
        self._waiting: Counter[str] = Counter()
        self._waiting_bytes: Counter[str] = Counter()
        self._giving: dict[Key, _Giving] = {}
        self._settled = False
        self._contributions = Contributions(self.journal)
        self._cadence = Cadence(config.policy, self.journal)
        self._commands = Commands(self.journal, time.time)
        self._cipher = _key(config)
        self.ledger: Ledger
        self.holdings: Holdings
        self.consent: Consent

    async def open(self) -> None:
        """Durable reports are on their way again before the ledger is opened, and long before torch is imported."""
        for stream in self.journal.streams("round/", without={"Closed"}):
            run, round_number = stream.split("/")[1:]
            await self._begin((bytes.fromhex(run), int(round_number)))
        await self.roster_changed()
        self.spawn(self._open_ledger())

    async def _open_ledger(self) -> None:
        def load() -> None:
            self.ledger = open_ledger(self.config.ledger, self.home, self.id)
            publish_configured(self.ledger, self.config.datasets)
            self.holdings = Holdings(self.ledger)

        await self._report_again()
        try:
            await asyncio.to_thread(load)
        except SmpcError as error:
            self.give_up(error)
            return
        if self.ledger.notice:
            log.warning("ledger", notice=self.ledger.notice)
        self.consent = Consent(self.id, self.config.policy, self.ledger, self.holdings, self.journal)
        log.info("datasets", count=len(self.holdings.datasets), ledger=self.ledger.kind)
        self._ready.set()
        await self._watch_ledger()

    async def _report_again(self) -> None:
        """What is durable is said, and taken, before the ledger, a job or torch take the processor; an aggregator that is
        away is not waited for long."""
        end = time.monotonic() + REPORTS_FIRST
        while time.monotonic() < end:
            if not any(_machine(shell).state in (State.SEEDING, State.CARRYING) for shell in self._rounds.values()):
                return
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        for dialer in self._dialers.values():
            await dialer.stop()
        for shell in self._rounds.values():
            shell.close()
        await super().stop()

    async def roster_changed(self) -> None:
        """Keep a connection to the coordinator and to every pinned aggregator; to nobody else."""
        current = self.members.current
        wanted = {current.coordinator.id: current.coordinator.address}
        wanted |= {m.id: m.address for m in current.aggregators if m.id in self.config.policy.aggregators}
        for id_ in [id_ for id_ in self._dialers if id_ not in wanted]:
            await self._dialers.pop(id_).stop()
        for id_, address in wanted.items():
            if id_ not in self._dialers:
                self._dialers[id_] = web.dial(self.config, self.me, id_, address, self.converse)

    async def peer_up(self, peer: str, role: str) -> None:
        for shell in list(self._rounds.values()):
            await shell.feed(PeerUp(peer))

    # --- messages ---

    async def handle(self, link: Link, event: Received) -> None:
        if isinstance(event.message, FROM_COORDINATOR) and link.role != "coordinator":
            raise WrongRole(f"only the coordinator sends a {type(event.message).__name__}", peer=link.peer)
        match event.message:
            case JobOffer(run=run, start=start):
                self.spawn(self._job(link.peer, run, start))
            case RoundOffer():
                self.spawn(self._round_offer(event))
            case RoundClosed() | DecryptRequest():
                await self._to_rounds(event)
            case Relay(to=to, inner=inner):
                if to != self.id:
                    raise BadInput("a command for another owner came here", peer=link.peer)
                self.spawn(self._command(link.peer, inner))
            case Refusal():
                log.warning("refusal", peer=link.peer, error=event.message.code, message=event.message.text)
                await self._to_rounds(event)
            case _ if link.role == "aggregator":
                await self._to_rounds(event)
            case _:
                raise MalformedMessage(f"an owner takes no {type(event.message).__name__}", peer=link.peer)

    async def _to_rounds(self, event: Received) -> None:
        for shell in list(self._rounds.values()):
            machine = _machine(shell)
            if getattr(event.message, "manifest_hash", machine.manifest_hash) != machine.manifest_hash:
                continue
            before = machine.state
            match event.message:
                # A report that was complete everywhere is in the sum, whoever says what.
                case RoundClosed(released=True, included=included) if included or before is State.DONE:
                    await self._keep(*machine.key)
            await shell.feed(event)
            if before is not State.DONE and machine.state is State.DONE:
                run, round_number = machine.key
                log.info("reported", run=run.hex(), round=round_number, bytes=machine.uploaded)

    async def _keep(self, run: bytes, round_number: int) -> None:
        """The round counts, with this owner in it."""
        kept = self._kept(run)
        await insist(lambda: asyncio.to_thread(kept.commit, round_number), run=run.hex())

    # --- jobs ---

    async def _job(self, coordinator: str, run: bytes, start: Signed) -> None:
        await self._ready.wait()
        answer = await self.consent.offered(run, start, self.party)
        (self._pending.add if answer.status == "pending" else self._pending.discard)(run)
        log.info("job", run=run.hex(), digest=answer.digest.hex()[:16], status=answer.status, error=answer.code)
        await self.tell(coordinator, answer)

    async def _watch_ledger(self) -> None:
        """New datasets and decisions count without a restart."""
        seen = self.ledger.changes()
        while True:
            await asyncio.sleep(LEDGER_POLL)
            now = await asyncio.to_thread(self.ledger.changes)
            if now == seen:
                continue
            seen = now
            await asyncio.to_thread(self.holdings.refresh)
            for run in list(self._pending):
                answer = await self.consent.again(run, self.party)
                if answer is not None and answer.status != "pending":
                    self._pending.discard(run)
                    await self.tell(self.members.current.coordinator.id, answer)

    # --- rounds ---

    async def _round_offer(self, event: Received) -> None:
        await self._ready.wait()
        assert isinstance(event.message, RoundOffer)
        try:
            manifest = decode(event.message.manifest.body, Manifest, peer=event.sender)
            async with self._offers:  # one after another, so that each is held against those before it
                await self._offered(event, manifest)
        except SmpcError as error:
            log.warning("offer refused", error=error.code, message=error.message)
            await self.tell(event.sender, Refusal(error.code, error.message, "offer", subject_of(event.message)))

    async def _offered(self, event: Received, manifest: Manifest) -> None:
        key = manifest.run, manifest.round
        if key not in self._rounds and len(self._rounds) >= OPEN_ROUNDS:
            raise Unavailable(f"this owner has {OPEN_ROUNDS} rounds under way: end some of them", phase="offer")
        shell = await self._begin(key)
        machine = _machine(shell)
        counted = None
        try:
            if machine.state is State.IDLE:
                counted = await self._cadence.take(*key, manifest.purpose, time.time())
            machine.party = self.party  # a new attempt goes by the roster as it stands now
            machine.expected = await asyncio.to_thread(self._expected, manifest)
            if machine.expected is not None:
                earlier = self._earlier(computation_of(manifest), key)
                machine.expected = replace(machine.expected, earlier=tuple(sorted(earlier, key=sorted)))
            await shell.feed(event)
        finally:
            if (state := _machine(shell).state) is State.IDLE:
                await self._cadence.give_back(counted)
            # One whose end is still being written forgets itself when it is: closed, its secrets would not be erased.
            if state is State.IDLE or (state is State.CLOSED and shell.at_rest):
                self._forget(shell)

    def _expected(self, manifest: Manifest) -> Expected | None:
        """The approved job's reading of this round, or None: then the machine refuses."""
        try:
            start, payload = self.consent.approved_job(manifest.run, self.party)
            job = decode_job(payload)
            used = tensors_of(job, purpose_of(job, manifest.round))
            self._giving[manifest.run, manifest.round].offered = self.holdings.digest(used)
            return expected_of(payload, job, manifest.round, start.cohort, manifest.clip)
        except SmpcError as error:
            log.warning("no approved job", run=manifest.run.hex(), error=error.code, message=error.message)
            return None

    def _earlier(self, computation: bytes, but: Key) -> set[frozenset[str]]:
        """The cohorts with which this owner has given a computation over these data, or may still, in rounds under way."""
        cohorts = self._contributions.earlier(computation, self._giving[but].offered, but)
        for key, shell in self._rounds.items():
            machine = _machine(shell)
            over = machine.state in (State.IDLE, State.REFUSED, State.CLOSED)
            if key != but and not over and machine.manifest and computation_of(machine.manifest) == computation:
                cohorts.add(frozenset(machine.manifest.cohort))
        return cohorts

    async def _begin(self, key: Key) -> RoundShell:
        if key not in self._rounds:
            policy = self.config.policy
            rules = Rules(
                policy.k_min,
                frozenset(policy.aggregators),
                least_noise=policy.least_noise,
                protection=policy.protection,
            )
            coordinator = self.members.current.coordinator.id

            def build(records: Sequence[Record], bulk: bytearray | None) -> OwnerRound:
                return OwnerRound.restore(
                    self.party, rules, key, None, records, bulk, coordinator=coordinator, entropy=self.entropy,
                    cipher=self._cipher,
                )  # fmt: skip

            async def finished(outcome: object) -> None:
                self.metrics.round_ended(released=bool(outcome))
                self._forget(self._rounds[key])

            def compute(model: Buffer) -> None:
                self.spawn(self._compute(key, model))

            def sent(count: int) -> None:
                _machine(shell).uploaded += count

            async def send(command: Send) -> int:
                if command.to != coordinator:
                    await self._give(key)
                return await self.send(command)

            shell = RoundShell(
                stream=f"round/{key[0].hex()}/{key[1]}",
                journal=self.journal,
                build=build,
                send=send,
                finished=finished,
                compute=compute,
                sent=sent,
                long=LONG if self._cipher is None else LONG_ENCRYPTED,
            )
            self._rounds[key], self._giving[key] = shell, _Giving()
            await shell.start()
            return shell  # which may have come to its end by now
        return self._rounds[key]

    def _forget(self, shell: RoundShell) -> None:
        shell.close()
        for kept in (self._rounds, self._giving):
            kept.pop(_machine(shell).key, None)

    async def _give(self, key: Key) -> None:
        """The contribution of the newest attempt is durable: from now on a report may leave. Raises `Unavailable`."""
        giving, shell = self._giving.get(key), self._rounds.get(key)
        machine = _machine(shell) if shell else None
        if giving is None or machine is None or machine.manifest is None:
            raise Unavailable("the round was closed")
        if giving.noted == machine.manifest_hash:
            return
        hash_, computation, cohort = machine.manifest_hash, computation_of(machine.manifest), machine.manifest.cohort
        await self._contributions.note(computation, giving.computed, key, cohort, self._rounds.keys())
        if self._rounds.get(key) is not shell:
            raise Unavailable("the round was closed")  # it pledges nothing any more: others may have been taken on
        giving.noted = hash_

    def _kept(self, run: bytes) -> Kept:
        return Kept(self.home / "kept" / run.hex())

    async def _compute(self, key: Key, model: Buffer) -> None:
        """Run the approved bytes on the private tensors, in a thread; one at a time."""
        shell, giving = self._rounds[key], self._giving[key]
        run, round_number = key
        began = time.monotonic()
        log.info("computing", run=run.hex(), round=round_number)
        try:
            start, payload = await asyncio.to_thread(self.consent.approved_job, run, self.party)
            if (manifest := _machine(shell).manifest) is None or job_digest(payload) != manifest.job_digest:
                raise JobNotApproved("the round's manifest is of another job than the run", phase="offer")
            job = decode_job(payload)
            purpose = purpose_of(job, round_number)
            await self.consent.budget.debit(key, job)
            async with self._computing:
                vector, data = await asyncio.to_thread(
                    self.holdings.dated_vector, job, purpose, round_number, model,
                    owner=self.id, cohort=sorted(start.cohort), kept=self._kept(run), clip=manifest.clip,
                )  # fmt: skip
            if data != giving.offered:
                raise Unavailable("this owner's data changed while it computed: try again")
            giving.computed = data
        except SmpcError as error:
            await shell.feed(ComputeFailed(error))
        except Exception as error:
            # Its text may quote a value: only its type is told.
            log.error("computation failed", run=run.hex(), round=round_number, error=type(error).__name__)
            failure = InternalError(f"the computation failed at this owner ({type(error).__name__}): see its log")
            await shell.feed(ComputeFailed(failure))
        else:
            if not self._settled:  # what was imported for the first computation stays
                self._settled = True
                settle()
            log.info("computed", run=run.hex(), round=round_number, seconds=round(time.monotonic() - began, 3))
            await shell.feed(Computed(vector))

    # --- pointers ---

    async def _command(self, coordinator: str, inner: Signed) -> None:
        """Whatever happens, its researcher hears of it; but for a command that came before, whose answer has gone out."""
        await self._ready.wait()
        party = self.party
        try:
            answer = await self._answer(party, inner)
        except SmpcError as error:
            log.warning("command refused", peer=inner.sender, error=error.code, message=error.message)
            answer = relay.refuse(party, inner, error)
        except Exception as error:
            report_bug(error, "in a command")
            failure = InternalError(f"this owner's node failed ({type(error).__name__}): see its log")
            answer = relay.refuse(party, inner, failure)
        if answer is not None:
            await self.tell(coordinator, Relay(inner.sender, answer))

    async def _answer(self, party: Party, inner: Signed) -> Signed | None:
        taken, who, size = relay.accept(party, inner, self.entropy), inner.sender, len(inner.body)
        if self._waiting[who] >= WAITING or self._waiting_bytes[who] + size > WAITING_BYTES:
            raise Unavailable("too many commands of this researcher wait here: send fewer at once", phase=relay.PHASE)
        self._waiting[who] += 1
        self._waiting_bytes[who] += size
        try:
            async with self._answering:
                command = taken.command
                if not await self._commands.take(who, command.session, command.sequence):
                    log.warning("a command that came before, or out of order", peer=who)
                    return None
                response = await asyncio.to_thread(self._respond, who, command.session, command.request)
        finally:
            self._waiting[who] -= 1
            self._waiting_bytes[who] -= size
        return taken.answer(response)

    def _respond(self, researcher: str, session: bytes, request: bytes) -> bytes:
        if self._store is None:
            from smpc_fl.nodes.objects import ObjectStore

            self._store = ObjectStore(
                self.holdings.registered,
                entropy=self.entropy,
                clock=time.monotonic,
                lease_seconds=self.config.lease_seconds,
            )
        return self._store.handle(researcher, session, request, self.ledger)


def _key(config: OwnerConfig) -> Cipher | None:
    """The owners' CKKS key, where this owner's vectors are encrypted."""
    if config.policy.protection == "shares":
        return None
    from smpc_fl.nodes.encryption import load_key_file

    assert config.ckks_key is not None
    return load_key_file(config.ckks_key)


def _machine(shell: RoundShell) -> OwnerRound:
    machine = shell.machine
    assert isinstance(machine, OwnerRound)
    return machine


def main(config: OwnerConfig, *, listen_fd: int | None = None, with_parent: bool = False) -> None:
    """`smpc-fl owner`: until SIGINT or SIGTERM."""
    run_node(lambda: Owner(config), config.log, listen_fd=listen_fd, with_parent=with_parent)
