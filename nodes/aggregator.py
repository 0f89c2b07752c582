"""The aggregator process: one `AggregatorRound` for each (run, round, attempt), rebuilt from the journal at start.

Imports neither torch nor syft: it adds integers. One that computes on shared tensors as well (`computing.py`) loads torch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import structlog

from smpc_fl.errors import MalformedMessage, ManifestRefused, SmpcError, WrongRole
from smpc_fl.nodes.computing import Computing, computing_peers
from smpc_fl.nodes.home.config import AggregatorConfig
from smpc_fl.nodes.net import sizes, web
from smpc_fl.nodes.net.attachment import Sink
from smpc_fl.nodes.net.dialer import Dialer
from smpc_fl.nodes.net.link import Link
from smpc_fl.nodes.node import Node, run_node
from smpc_fl.nodes.parallel import over_cores
from smpc_fl.nodes.rounds import RoundShell, ledger_stream, load_records
from smpc_fl.nodes.uploads import Upload, Uploads
from smpc_fl.protocols.aggregator import AggregatorRound
from smpc_fl.protocols.aggregator_states import ENDED
from smpc_fl.protocols.codec import verify
from smpc_fl.protocols.commands import Received
from smpc_fl.protocols.computing import ComputingRules
from smpc_fl.protocols.computing_party import ComputingParty
from smpc_fl.protocols.computing_tensors import Tensors
from smpc_fl.protocols.manifest import Rules, manifest_hash
from smpc_fl.protocols.messages import (
    AbortRequest,
    ForgetTensors,
    Manifest,
    ManifestOffer,
    Message,
    PrekeyRequest,
    Refusal,
    Signed,
    VectorReport,
)
from smpc_fl.protocols.records import Aborted, Claim, Closed, Outdated, Record, Released
from smpc_fl.protocols.releases import Releases

log = structlog.get_logger()

Key = tuple[bytes, int, int]
MAX_OPEN_ROUNDS = 256
"""Attempts whose secrets this aggregator keeps at a time; a coordinator that asks for more is refused."""
LITTLE = 0.05
"""Messages that one of another party of a run counts for: rounds follow one another as fast as the network allows."""
LEASE = 600.0
"""Seconds that a researcher's tensors are kept while it is away."""
_KEPT = 16
"""Attempts in memory from which on those that have ended are forgotten there."""
_RECENT = 64
"""Releases that are read at start: by far more than are made at once."""
_ENDS = frozenset(kind.__name__ for kind in (Aborted, Closed, Outdated))


class Aggregator(Node):
    role = "aggregator"

    def __init__(self, config: AggregatorConfig) -> None:
        super().__init__(config)
        self.config = config
        self._rounds: dict[Key, RoundShell] = {}
        self._by_manifest: dict[bytes, Key] = {}
        self._uploads = Uploads(config.policy.upload_memory << 20, self.limits)
        self._dialers: dict[str, Dialer] = {}
        self._tensors = Tensors(config.computing.tensors << 20)
        self._computing = Computing(self, self._party_of)
        self._forgetting: dict[str, asyncio.TimerHandle] = {}
        self._releases = Releases(lambda computation: load_records(self.journal, ledger_stream(computation)))

    async def open(self) -> None:
        for data in self.journal.newest(Claim.__name__, _RECENT):
            self._releases.learn(msgspec.msgpack.decode(data, type=Claim))
        for data in self.journal.newest(Released.__name__, _RECENT):
            self._releases.learn(msgspec.msgpack.decode(data, type=Released))
        for stream in self.journal.streams("round/", without=_ENDS):
            run, round_number, attempt = stream.split("/")[1:]
            await self._begin((bytes.fromhex(run), int(round_number), int(attempt)))
        roles = {"owner", "coordinator"}
        if self.config.computing.providers:
            import smpc_fl.shared_tensors.party  # noqa: F401  (torch, which takes its time: before the first run)

            roles |= {"aggregator", "researcher"}
            await self.roster_changed()
        self.server = await web.listen(self, self.config, self._status, roles=roles)

    async def roster_changed(self) -> None:
        """Keep a connection to everybody with whom this aggregator computes."""
        wanted = {member.id: member.address for member in computing_peers(self.config, self.members.current)}
        for id_ in [id_ for id_ in self._dialers if id_ not in wanted]:
            await self._dialers.pop(id_).stop()
        for id_, address in wanted.items():
            if id_ not in self._dialers:
                self._dialers[id_] = web.dial(self.config, self.me, id_, address, self.converse)

    async def stop(self) -> None:
        for dialer in self._dialers.values():
            await dialer.stop()
        self._computing.close()
        for timer in self._forgetting.values():
            timer.cancel()
        if hasattr(self, "server"):
            await self.server.close()
        for shell in self._rounds.values():
            shell.close()
        await super().stop()

    def _status(self) -> dict[str, Any]:
        return {"rounds": len(self._rounds), "connected": len(self.peers)}

    # --- shared tensors ---

    def _party_of(self, run: bytes, researcher: str) -> ComputingParty:
        policy = self.config.computing
        rules = ComputingRules(frozenset(policy.providers), policy.program << 20)
        return ComputingParty(self.party, rules, run, researcher, self._tensors, self.entropy)

    def price(self, link: Link, signed: Signed, attachment: object) -> float:
        return LITTLE if link.role in ("aggregator", "provider") else super().price(link, signed, attachment)

    def _link_up(self, link: Link) -> None:
        self._computing.linked(link.peer)
        if (timer := self._forgetting.pop(link.peer, None)) is not None:
            timer.cancel()
        super()._link_up(link)

    def _link_down(self, link: Link) -> None:
        self._computing.lost(link.peer)
        if link.role == "researcher":
            forget = asyncio.get_running_loop().call_later(LEASE, self._tensors.forget_all, link.peer)
            self._forgetting[link.peer] = forget
        super()._link_down(link)

    # --- rounds ---

    async def open_sink(self, link: Link, signed: Signed, size: int) -> Sink | None:
        """Room for an owner's vector, once there is some, if its report is in order: before a byte of it has come."""
        if sizes.type_of(signed.body) in sizes.COMPUTING:
            return await self._computing.open_sink(link, self._verified(link, signed), size)
        message = verify(signed, self.members.key_of(link.peer), federation=self.members.federation)
        if not isinstance(message, VectorReport):
            raise MalformedMessage("nothing but a vector report comes with so much attached", peer=link.peer)
        upload = await self._uploads.begin(size, link.cut)
        try:
            shell = await self._round_of(link, message)
            assert shell is not None
            upload.opener = await shell.ask(
                lambda machine: _machine(machine).expect(link.peer, message, size, upload.words)
            )
        except BaseException:
            upload.close()
            raise
        return upload

    async def handle(self, link: Link, event: Received) -> None:
        if link.role in ("researcher", "provider", "aggregator"):
            match event.message:
                case ForgetTensors(tensors=tensors):
                    for ref in tensors:
                        self._tensors.forget(ref, link.peer)
                case Refusal() as refusal:
                    log.warning("refusal", peer=link.peer, error=refusal.code, message=refusal.text)
                case _:
                    await self._computing.handle(link, event)
            return
        upload = event.attachment
        if isinstance(upload, Upload):
            event = replace(event, attachment=upload.opener)
        try:
            shell = await self._round_of(link, event.message)
            if shell is not None:
                await shell.feed(event)
                self._index(shell)
        finally:
            if isinstance(upload, Upload):
                upload.close()

    async def _round_of(self, link: Link, message: Message) -> RoundShell | None:
        match message:
            case (
                PrekeyRequest(run=run, round=round_number, attempt=attempt)
                | AbortRequest(run=run, round=round_number, attempt=attempt)
            ):
                if link.role != "coordinator":
                    raise WrongRole("only the coordinator says this", peer=link.peer)
                return await self._begin((run, round_number, attempt))
            case ManifestOffer(manifest=signed):
                key = self._by_manifest.get(manifest_hash(signed))
                if key is not None:
                    return self._rounds[key]
                return await self._new_manifest(signed, link)
            case Refusal():
                log.warning("refusal", peer=link.peer, error=message.code, message=message.text)
                return None
            case _:
                hash_ = getattr(message, "manifest_hash", None)
                if hash_ is None:
                    raise MalformedMessage(f"an aggregator takes no {type(message).__name__}", peer=link.peer)
                key = self._by_manifest.get(hash_)
                if key is None:
                    raise ManifestRefused("this aggregator has accepted no such manifest", peer=link.peer)
                return self._rounds[key]

    async def _new_manifest(self, signed: Signed, link: Link) -> RoundShell:
        manifest = self.party.open(signed, Manifest, "coordinator", phase="manifest")
        key = (manifest.run, manifest.round, manifest.attempt)
        if key not in self._rounds:
            raise ManifestRefused("no prekey of this aggregator was asked for under this attempt", peer=link.peer)
        return self._rounds[key]

    async def _begin(self, key: Key) -> RoundShell:
        if key not in self._rounds:
            if len(self._rounds) >= _KEPT:
                self._retire()
            if len(self._rounds) >= MAX_OPEN_ROUNDS:
                raise ManifestRefused(f"{MAX_OPEN_ROUNDS} attempts are open at this aggregator: end some first")
            coordinator = self.party.membership.coordinator.id

            def build(records: Sequence[Record], bulk: bytearray | None) -> AggregatorRound:
                return AggregatorRound.restore(
                    self.party, self._rules, key, records, bulk, coordinator=coordinator, entropy=self.entropy,
                    parallel=over_cores, releases=self._releases,
                )  # fmt: skip

            async def finished(outcome: object) -> None:
                self.metrics.round_ended(released=outcome is None)
                if isinstance(outcome, SmpcError):
                    log.warning(
                        "no release", run=key[0].hex(), round=key[1], error=outcome.code, message=outcome.message
                    )
                self._uploads.forget()

            shell = RoundShell(
                stream=f"round/{key[0].hex()}/{key[1]}/{key[2]}",
                journal=self.journal,
                build=build,
                send=self.send,
                finished=finished,
            )
            self._rounds[key] = shell
            await shell.start()
            self._index(shell)
        return self._rounds[key]

    @property
    def _rules(self) -> Rules:
        policy = self.config.policy
        return Rules(policy.k_min, least_noise=policy.least_noise, protection=policy.protection)

    def _index(self, shell: RoundShell) -> None:
        machine = _machine(shell.machine)
        if machine.manifest_hash and self._rounds.get(machine.key) is shell:
            self._by_manifest[machine.manifest_hash] = machine.key

    def _retire(self) -> None:
        """Forget the machines of ended rounds; their journal streams stay, so nothing of them can begin anew."""
        for key, shell in list(self._rounds.items()):
            machine = _machine(shell.machine)
            # One whose end is still being written stays: closed, it would not be, and another would begin where the journal is.
            if machine.state in ENDED and shell.at_rest:
                shell.close()
                self._releases.withdraw(key)  # the ledger has its claim, if that stands
                self._by_manifest.pop(machine.manifest_hash, None)
                del self._rounds[key]


def _machine(machine: object) -> AggregatorRound:
    assert isinstance(machine, AggregatorRound)
    return machine


def main(config: AggregatorConfig, *, listen_fd: int | None = None, with_parent: bool = False) -> None:
    """`smpc-fl aggregator`: until SIGINT or SIGTERM."""
    run_node(lambda: Aggregator(config), config.log, listen_fd=listen_fd, with_parent=with_parent)
