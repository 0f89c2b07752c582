"""Helper: one real owner process and one real aggregator process; everybody else is the test, with real keys.

The test is the coordinator that the owner dials and the aggregator listens to, the second aggregator, the other owners
and all researchers: it can say anything that any of them could sign, and it hears all that the owner says to anybody.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch
from processes_on_disk import AGGREGATORS, OnDisk

from smpc_fl.errors import SmpcError, from_code
from smpc_fl.jobs import Job, encode_job
from smpc_fl.nodes.net.dialer import Dialer
from smpc_fl.nodes.net.handshake import LocalMember
from smpc_fl.nodes.net.link import Link
from smpc_fl.nodes.net.server import Listener, serve
from smpc_fl.pointers.session import AnyRequest, Renew, Response, encode_request, open_response
from smpc_fl.protocols import relay
from smpc_fl.protocols.codec import decode_message
from smpc_fl.protocols.manifest import choose_numbers, model_digest
from smpc_fl.protocols.messages import (
    PROTOCOL_VERSION,
    Endorsement,
    JobAnswer,
    JobOffer,
    Manifest,
    Message,
    Prekey,
    PrekeyRequest,
    Refusal,
    Relay,
    Signed,
    StartRun,
)
from smpc_fl.protocols.work import expected_of, purpose_of, work_of
from smpc_fl.roster import Role
from smpc_fl.sealing import KeyPair

OWNER, AGGREGATOR, ACCOMPLICE = "alice", *AGGREGATORS
COHORT = ["alice", "bob", "carol"]
ROLES: dict[str, Role] = {
    "alice": "owner", "bob": "owner", "carol": "owner", "dave": "owner", "aggregator-1": "aggregator",
    "aggregator-2": "aggregator", "aggregator-3": "aggregator", "coordinator": "coordinator",
    "researcher": "researcher", "rival": "researcher",
}  # fmt: skip

M = TypeVar("M", bound=Message)


def session() -> bytes:
    """A new session's id."""
    return relay.session_id(time.time(), os.urandom)


class Hostile:
    """Made by `open`. `heard[member]`: what the real nodes said to that member, in order."""

    def __init__(self, folder: Path, real: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        self.disk = OnDisk(folder, ROLES)
        self.real = real
        self.heard: dict[str, list[tuple[str, Signed, Message]]] = {id_: [] for id_ in ROLES}
        self.links: dict[tuple[str, str], Link] = {}
        self._changed = asyncio.Condition()
        self._listeners: list[Listener] = []
        self._dialers: list[Dialer] = []
        self._sequence = 0
        self.session = session()

    async def open(self) -> Hostile:
        for id_ in set(self.disk.sockets) - set(self.real):
            listener = await serve(self._hear_as(id_), self.member(id_), self.disk.sockets[id_].dup())
            self._listeners.append(listener)
        await asyncio.to_thread(self.disk.start, list(self.real), self.real)
        if AGGREGATOR in self.real:
            for id_ in ("coordinator", "bob"):
                address = f"ws://{self.disk.address(AGGREGATOR)}"
                dialer = Dialer(address, AGGREGATOR, self.member(id_), self._hear_as(id_))
                dialer.start()
                self._dialers.append(dialer)
            await self.linked("coordinator", AGGREGATOR)
            await self.linked("bob", AGGREGATOR)
        if OWNER in self.real:
            await self.linked("coordinator", OWNER)
        return self

    async def close(self) -> None:
        for dialer in self._dialers:
            await dialer.stop()
        for listener in self._listeners:
            await listener.close()
        await asyncio.to_thread(self.disk.stop)

    def member(self, id_: str) -> LocalMember:
        return LocalMember(id_, ROLES[id_], self.disk.keys[id_], self.disk.party(id_).membership)

    # --- talking ---

    def _hear_as(self, me: str) -> Any:
        async def hear(link: Link) -> None:
            self.links[me, link.peer] = link
            await self._notify()
            try:
                while True:
                    signed, _ = await link.receive()
                    self.heard[me].append((link.peer, signed, decode_message(signed.body)))
                    await self._notify()
            except SmpcError:
                return

        return hear

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def linked(self, me: str, peer: str) -> Link:
        async with asyncio.timeout(60.0), self._changed:
            await self._changed.wait_for(lambda: (me, peer) in self.links)
        return self.links[me, peer]

    async def say(self, me: str, to: str, message: Message, attachment: bytes | None = None) -> None:
        await self.links[me, to].send(self.disk.party(me).sign(message), attachment)

    async def answer(self, me: str, kind: type[M], since: int) -> tuple[Signed, M]:
        """The first message of this kind that `me` hears, from number `since` on; a refusal instead is raised."""

        def found() -> tuple[Signed, Message] | None:
            for _, signed, message in self.heard[me][since:]:
                if isinstance(message, kind | Refusal):
                    return signed, message
            return None

        async with asyncio.timeout(30.0), self._changed:
            await self._changed.wait_for(lambda: found() is not None)
        heard = found()
        assert heard is not None
        signed, message = heard
        if isinstance(message, Refusal) and kind is not Refusal:
            raise from_code(message.code, message.text)
        assert isinstance(message, kind)
        return signed, message

    async def answers(self, me: str, kind: type[M], since: int, count: int) -> list[M]:
        """So many messages of this kind that `me` hears, from number `since` on."""

        def found() -> list[M]:
            return [message for _, _, message in self.heard[me][since:] if isinstance(message, kind)]

        async with asyncio.timeout(30.0), self._changed:
            await self._changed.wait_for(lambda: len(found()) >= count)
        return found()

    async def ask(
        self, me: str, to: str, message: Message, kind: type[M], attachment: bytes | None = None
    ) -> tuple[Signed, M]:
        """Say something, and wait for the answer of this kind; raises what it is refused with."""
        since = len(self.heard[me])
        await self.say(me, to, message, attachment)
        return await self.answer(me, kind, since)

    # --- runs ---

    def start(self, job: Job, model: bytes = b"", cohort: list[str] | None = None, by: str = "researcher") -> Signed:
        run, members = os.urandom(16), COHORT if cohort is None else cohort
        return self.disk.party(by).sign(StartRun(run, encode_job(job), members, model_digest(model)))

    async def offer(self, start: Signed) -> JobAnswer:
        """The owner's answer to a researcher's job."""
        message = decode_message(start.body)
        assert isinstance(message, StartRun)
        _, answer = await self.ask("coordinator", OWNER, JobOffer(message.run, start), JobAnswer)
        return answer

    async def prekeys(self, run: bytes, attempt: int = 0, accomplice: str = ACCOMPLICE) -> list[Signed]:
        """One of the real aggregator's making, one of ours."""
        real, _ = await self.ask("coordinator", AGGREGATOR, PrekeyRequest(run, 0, attempt), Prekey)
        ours = self.disk.party(accomplice).sign(Prekey(run, 0, attempt, KeyPair.generate(os.urandom).public))
        return [real, ours]

    async def manifest(
        self, start: Signed, job: Job, model: bytes, *, clock: float, accomplice: str = ACCOMPLICE, **changes: Any
    ) -> Signed:
        """An honest manifest of the job's first round, with these fields changed, signed by the coordinator."""
        message = decode_message(start.body)
        assert isinstance(message, StartRun)
        work = work_of(job, purpose_of(job, 0))
        expected = expected_of(message.job, job, 0, message.cohort)
        numbers = choose_numbers(
            owners=len(COHORT), clip=work.clip, max_samples=work.max_samples, k_min=3, tolerance=work.tolerance,
            ring_bits=work.ring_bits,
        )  # fmt: skip
        party = self.disk.party("coordinator")
        manifest = Manifest(
            version=PROTOCOL_VERSION,
            federation=party.federation,
            roster_hash=party.membership.roster_hash,
            run=message.run,
            round=0,
            attempt=0,
            purpose=work.purpose,
            coordinator="coordinator",
            coordinator_key=KeyPair.generate(os.urandom).public,
            cohort=COHORT,
            aggregators=await self.prekeys(message.run, accomplice=accomplice),
            dimension=expected.dimension,
            ring_bits=numbers.ring_bits,
            fractional_bits=numbers.fractional_bits,
            clip=expected.clip,
            max_samples=expected.max_samples,
            k_min=3,
            deadline=clock + 60.0,
            job_digest=expected.job_digest,
            subject=expected.subject,
            model_digest=model_digest(model),
            privacy=None,
            worst_error=numbers.worst_error,
        )
        return party.sign(msgspec.structs.replace(manifest, **changes))

    def endorse(self, hash_: bytes, *who: str) -> list[Signed]:
        return [self.disk.party(id_).sign(Endorsement(hash_)) for id_ in who]

    # --- pointers ---

    async def command(self, request: AnyRequest | bytes, *, by: str = "researcher", session: bytes = b"") -> Response:
        """The owner's response to a researcher's command; raises what it fails with."""
        self._sequence += 1
        data = request if isinstance(request, bytes) else encode_request(request)
        party = self.disk.party(by)
        asked = relay.ask(party, OWNER, session or self.session, self._sequence, data, os.urandom)
        _, message = await self.ask("coordinator", OWNER, Relay(OWNER, asked.signed), Relay)
        said = asked.read(message.inner, party)
        if isinstance(said, SmpcError):
            raise said
        return open_response(said, owner=OWNER)

    async def said_to(self, envelope: Signed) -> list[Message]:
        """What the owner says to a relayed envelope, before it answers the good command that comes behind it."""
        since = len(self.heard["coordinator"])
        await self.say("coordinator", OWNER, Relay(OWNER, envelope))
        last = self.disk.party("rival")
        asked = relay.ask(last, OWNER, session(), 1, encode_request(Renew()), os.urandom)
        await self.say("coordinator", OWNER, Relay(OWNER, asked.signed))

        def said() -> list[Message]:
            return [message for _, _, message in self.heard["coordinator"][since:]]

        async with asyncio.timeout(30.0), self._changed:
            await self._changed.wait_for(lambda: any(isinstance(m, Relay) and m.to == "rival" for m in said()))
        return [message for message in said() if not (isinstance(message, Relay) and message.to == "rival")]
