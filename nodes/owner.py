"""The data owner process: keeps tensors at home, dials out only, computes and shares under the owner's own policy.

coordinator ── JobOffer ──> consent (policy, ledger) ── JobAnswer ──>
coordinator ── RoundOffer ──> OwnerRound ── seeds, vector ──> aggregators
coordinator ── Relay(Command) ──> ObjectStore, the one place that lets a value out ── Relay(Answer, sealed) ──>
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from smpc_fl.errors import BadInput, InternalError, JobNotApproved, MalformedMessage, SmpcError, WrongRole
from smpc_fl.hashing import Buffer
from smpc_fl.jobs import decode_job, job_digest
from smpc_fl.nodes.home.config import OwnerConfig
from smpc_fl.nodes.ledger.base import Ledger, open_ledger
from smpc_fl.nodes.ledger.datasets import publish_configured
from smpc_fl.nodes.net import web
from smpc_fl.nodes.net.dialer import Dialer
from smpc_fl.nodes.net.link import Link
from smpc_fl.nodes.node import Node, run_node
from smpc_fl.nodes.owner_consent import Consent
from smpc_fl.nodes.owner_data import Holdings
from smpc_fl.nodes.rounds import RoundShell
from smpc_fl.protocols import relay
from smpc_fl.protocols.codec import decode
from smpc_fl.protocols.commands import Computed, ComputeFailed, PeerUp, Received
from smpc_fl.protocols.manifest import Expected, Rules
from smpc_fl.protocols.messages import JobOffer, Manifest, Refusal, Relay, RoundClosed, RoundOffer, Signed
from smpc_fl.protocols.owner import OwnerRound, State
from smpc_fl.protocols.records import Record
from smpc_fl.protocols.work import expected_of, purpose_of

if TYPE_CHECKING:
    from smpc_fl.nodes.objects import ObjectStore

log = structlog.get_logger()

Key = tuple[bytes, int]
LEDGER_POLL = 0.5
"""Seconds between looks at whether the owner has decided (`smpc-fl requests approve` runs in another process)."""


class Owner(Node):
    role = "owner"

    def __init__(self, config: OwnerConfig) -> None:
        super().__init__(config)
        self.config = config
        self._rounds: dict[Key, RoundShell] = {}
        self._dialers: dict[str, Dialer] = {}
        self._pending: set[bytes] = set()
        self._last_sequence: dict[tuple[str, bytes], int] = {}
        self._store: ObjectStore | None = None
        self._ready = asyncio.Event()
        self._computing = asyncio.Lock()
        self._answering = asyncio.Lock()
        self.ledger: Ledger
        self.holdings: Holdings
        self.consent: Consent

    async def open(self) -> None:
        """Durable reports are on their way again before the ledger is opened, and long before torch is imported."""
        for stream in self.journal.streams("round/"):
            run, round_number = stream.split("/")[1:]
            shell = await self._begin((bytes.fromhex(run), int(round_number)))
            if _machine(shell).state is State.CLOSED:
                self._forget(shell)
        await self.roster_changed()
        self.spawn(self._open_ledger())

    async def _open_ledger(self) -> None:
        def load() -> None:
            self.ledger = open_ledger(self.config.ledger, self.home, self.id)
            publish_configured(self.ledger, self.config.datasets)
            self.holdings = Holdings(self.ledger)

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
        if isinstance(event.message, JobOffer | RoundOffer | RoundClosed | Relay) and link.role != "coordinator":
            raise WrongRole(f"only the coordinator sends a {type(event.message).__name__}", peer=link.peer)
        match event.message:
            case JobOffer(run=run, start=start):
                self.spawn(self._job(link.peer, run, start))
            case RoundOffer():
                self.spawn(self._round_offer(event))
            case RoundClosed():
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
            await shell.feed(event)
            if before is not State.DONE and machine.state is State.DONE:
                run, round_number = machine.key
                log.info("reported", run=run.hex(), round=round_number, bytes=machine.uploaded)

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
        except SmpcError as error:
            await self._refuse_offer(event.sender, error)
            return
        shell = await self._begin((manifest.run, manifest.round))
        machine = _machine(shell)
        machine.party = self.party  # a new attempt goes by the roster as it stands now
        machine.expected = await asyncio.to_thread(self._expected, manifest)
        await shell.feed(event)

    async def _refuse_offer(self, peer: str, error: SmpcError) -> None:
        await self.tell(peer, Refusal(error.code, error.message, "offer"))

    def _expected(self, manifest: Manifest) -> Expected | None:
        """The approved job's reading of this round, or None: then the machine refuses."""
        try:
            start, payload = self.consent.approved_job(manifest.run, self.party)
            return expected_of(payload, decode_job(payload), manifest.round, start.cohort)
        except SmpcError as error:
            log.warning("no approved job", run=manifest.run.hex(), error=error.code, message=error.message)
            return None

    async def _begin(self, key: Key) -> RoundShell:
        if key not in self._rounds:
            rules = Rules(self.config.policy.k_min, frozenset(self.config.policy.aggregators))
            coordinator = self.members.current.coordinator.id

            def build(records: Sequence[Record], bulk: bytearray | None) -> OwnerRound:
                return OwnerRound.restore(
                    self.party, rules, key, None, records, bulk, coordinator=coordinator, entropy=self.entropy
                )

            async def finished(outcome: object) -> None:
                self.metrics.round_ended(released=bool(outcome))
                self._forget(self._rounds[key])

            def compute(model: Buffer) -> None:
                self.spawn(self._compute(key, model))

            def sent(count: int) -> None:
                _machine(self._rounds[key]).uploaded += count

            shell = RoundShell(
                stream=f"round/{key[0].hex()}/{key[1]}",
                journal=self.journal,
                build=build,
                send=self.send,
                finished=finished,
                compute=compute,
                sent=sent,
            )
            self._rounds[key] = shell
            await shell.start()
        return self._rounds[key]

    def _forget(self, shell: RoundShell) -> None:
        shell.close()
        self._rounds.pop(_machine(shell).key, None)

    async def _compute(self, key: Key, model: Buffer) -> None:
        """Run the approved bytes on the private tensors, in a thread; one at a time."""
        shell = self._rounds[key]
        run, round_number = key
        began = time.monotonic()
        log.info("computing", run=run.hex(), round=round_number)
        try:
            start, payload = await asyncio.to_thread(self.consent.approved_job, run, self.party)
            if (manifest := _machine(shell).manifest) is None or job_digest(payload) != manifest.job_digest:
                raise JobNotApproved("the round's manifest is of another job than the run", phase="offer")
            job = decode_job(payload)
            async with self._computing:
                vector = await asyncio.to_thread(
                    self.holdings.vector, job, purpose_of(job, round_number), round_number, model,
                    owner=self.id, cohort=sorted(start.cohort),
                )  # fmt: skip
        except SmpcError as error:
            await shell.feed(ComputeFailed(error))
        except Exception as error:
            # Its text may quote a value: only its type is told.
            log.error("computation failed", run=run.hex(), round=round_number, error=type(error).__name__)
            failure = InternalError(f"the computation failed at this owner ({type(error).__name__}): see its log")
            await shell.feed(ComputeFailed(failure))
        else:
            log.info("computed", run=run.hex(), round=round_number, seconds=round(time.monotonic() - began, 3))
            await shell.feed(Computed(vector))

    # --- pointers ---

    async def _command(self, coordinator: str, inner: Signed) -> None:
        await self._ready.wait()
        party = self.party
        command = relay.accept(party, inner)
        place = (inner.sender, command.session)
        if command.sequence <= self._last_sequence.get(place, -1):
            raise MalformedMessage("a command that came before, or out of order", peer=inner.sender, phase="pointer")
        self._last_sequence[place] = command.sequence
        async with self._answering:
            response = await asyncio.to_thread(self._respond, inner.sender, command.session, command.request)
        signed = relay.answer(party, inner, command, response, self.entropy)
        await self.tell(coordinator, Relay(inner.sender, signed))

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


def _machine(shell: RoundShell) -> OwnerRound:
    machine = shell.machine
    assert isinstance(machine, OwnerRound)
    return machine


def main(config: OwnerConfig, *, listen_fd: int | None = None, with_parent: bool = False) -> None:
    """`smpc-fl owner`: until SIGINT or SIGTERM."""
    run_node(lambda: Owner(config), config.log, listen_fd=listen_fd, with_parent=with_parent)
