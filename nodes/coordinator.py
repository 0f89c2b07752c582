"""The coordinator process: takes runs from researchers, drives their rounds, carries pointers' commands, keeps the books.

It sees manifests, statuses, what was released, and sealed bytes. Imports neither torch nor syft.
"""

from __future__ import annotations

import asyncio
import shutil
from typing import Any, TypeVar

import msgspec
import structlog

from smpc_fl.errors import BadInput, LimitExceeded, MalformedMessage, SmpcError, Unavailable, UnknownMember, WrongRole
from smpc_fl.hashing import Buffer
from smpc_fl.nodes.ended_runs import Runs
from smpc_fl.nodes.home.config import CoordinatorConfig
from smpc_fl.nodes.net import web
from smpc_fl.nodes.net.dialer import Dialer
from smpc_fl.nodes.net.link import Link
from smpc_fl.nodes.node import Node, run_node
from smpc_fl.nodes.rounds import load_records
from smpc_fl.nodes.run import Run, run_of, run_stream
from smpc_fl.protocols.codec import decode_message
from smpc_fl.protocols.commands import Received
from smpc_fl.protocols.manifest import manifest_hash, model_digest
from smpc_fl.protocols.messages import (
    CancelRun,
    Command,
    JobAnswer,
    MemberStatus,
    Message,
    Refusal,
    Relay,
    Reported,
    ResumeRun,
    RoundClosed,
    RoundResult,
    RunState,
    StartRun,
    Status,
    StatusRequest,
    Subscribe,
)
from smpc_fl.protocols.records import Made
from smpc_fl.roster import Role

log = structlog.get_logger()


class Coordinator(Node):
    role = "coordinator"

    def __init__(self, config: CoordinatorConfig) -> None:
        super().__init__(config)
        self.config = config
        self._runs = Runs(lambda id_: Run.resume(self, config.policy, run_stream(id_), self._publish))
        self._lost: dict[bytes, SmpcError] = {}
        self._subscribers: dict[bytes, set[str]] = {}
        self._catching_up: dict[bytes, set[int]] = {}  # by run: what was asked for, after which number
        self._dialers: dict[str, Dialer] = {}

    async def open(self) -> None:
        for stream in self.journal.streams("run/"):
            try:
                run = Run.resume(self, self.config.policy, stream, self._publish)
            except Unavailable as error:
                log.error("run lost", stream=stream, error=error.code, message=error.message)
                self._lost[run_of(stream)] = error
            else:
                self._runs.add(run)
        await self.roster_changed()
        self.server = await web.listen(self, self.config, self._status, roles={"owner", "researcher"})
        for run in self._runs.here():
            self.spawn(self._drive(run))

    async def _drive(self, run: Run) -> None:
        await run.drive()
        for id_ in self._runs.retire():
            self._subscribers.pop(id_, None)

    async def stop(self) -> None:
        for dialer in self._dialers.values():
            await dialer.stop()
        if hasattr(self, "server"):
            await self.server.close()
        await super().stop()

    def _status(self) -> dict[str, Any]:
        running = [run for run in self._runs.here() if run.book.end is None]
        return {"runs": len(self._runs), "running": len(running), "connected": len(self.peers)}

    async def roster_changed(self) -> None:
        """Keep a connection to every aggregator of the roster, and to none that left it."""
        wanted = {member.id: member.address for member in self.members.current.aggregators}
        for id_ in [id_ for id_ in self._dialers if id_ not in wanted]:
            await self._dialers.pop(id_).stop()
        for id_, address in wanted.items():
            if id_ not in self._dialers:
                self._dialers[id_] = web.dial(self.config, self.me, id_, address, self.converse)
        for run in self._runs.here():
            await run.roster_changed()

    # --- messages ---

    async def handle(self, link: Link, event: Received) -> None:
        match link.role:
            case "researcher":
                await self._from_researcher(event)
            case "owner":
                await self._from_owner(event)
            case _:
                await self._to_runs(event)

    async def _to_runs(self, event: Received) -> None:
        for run in self._runs.here():
            await run.on_round_message(event)

    async def _from_owner(self, event: Received) -> None:
        match event.message:
            case JobAnswer(run=run_id):
                if (run := self._runs.get(run_id)) is not None:
                    await run.on_answer(event.sender, event.message)
            case Relay(to=to):
                await self._relay(event.message, to, "researcher", event.sender)
            case _:
                await self._to_runs(event)
                await self._close_what_is_over(event)

    async def _close_what_is_over(self, event: Received) -> None:
        """An owner that says how it stands in a round that is over has missed the end: it is told, and erases its report.

        Its own journal and the traffic would open that report for good."""
        match event.message:
            case Reported(manifest_hash=hash_) | Refusal(about=hash_) if len(hash_) == 32:
                if not any(run.tells(hash_) for run in self._runs.here()) and not self._under_way(hash_):
                    await self.tell(event.sender, RoundClosed(hash_, released=False))
            case _:
                pass

    def _under_way(self, hash_: bytes) -> bool:
        """Whether a run that has not ended may go on with this manifest's round; also one that waits for its disk."""
        for stream in self.journal.streams("round/"):
            for record in load_records(self.journal, stream):
                if isinstance(record, Made) and manifest_hash(record.manifest) == hash_:
                    return True
        return False

    async def _from_researcher(self, event: Received) -> None:
        match event.message:
            case StartRun(run=run_id):
                await self._start(event, run_id)
            case Subscribe(run=run_id, after=after):
                await self._subscribe(event.sender, run_id, after)
            case CancelRun(run=run_id):
                self._run_of(event.sender, run_id).cancel()
            case ResumeRun(run=run_id):
                await self._resume(event.sender, run_id)
            case StatusRequest():
                await self.tell(event.sender, self._report())
            case Relay(to=to):
                await self._relay(event.message, to, "owner", event.sender)
            case Refusal():
                log.warning("refusal", peer=event.sender, error=event.message.code)
            case _:
                raise MalformedMessage(
                    f"a coordinator takes no {type(event.message).__name__} from a researcher", peer=event.sender
                )

    async def _relay(self, relay: Relay, to: str, role: Role, sender: str) -> None:
        """Carry a signed command or answer. It must be its sender's own; what it says is between the two ends."""
        if relay.inner.sender != sender:
            raise WrongRole("a relayed message must be the sender's own", peer=sender)
        try:
            self.members.key_of(to, role)
            if not await self.tell(to, Relay(to, relay.inner)):
                raise UnknownMember(f"{to} is not connected: is its node running?", peer=to)
        except SmpcError as error:
            if role == "owner":
                await self.tell(sender, _unanswered(relay, error))

    # --- runs ---

    async def _start(self, event: Received, run_id: bytes) -> None:
        known = self._runs.find(run_id)
        if known is None:
            try:
                if run_id in self._lost:
                    raise self._lost[run_id]
                model = event.attachment or b""
                self._check_room(event.sender, memoryview(model).nbytes)
                run = await Run.begin(self, self.config.policy, event.signed, model, self._publish)
            except SmpcError as error:
                await self._tell_failed(event.sender, run_id, error)
                return
            self._runs.add(run)
            self._subscribers[run_id] = {event.sender}
            self.spawn(self._drive(run))
        elif known.book.start != event.signed:
            raise BadInput("another run has this id", peer=event.sender)

    async def _resume(self, researcher: str, run_id: bytes) -> None:
        """A run that was stopped goes on, durably; one that is under way does so anyhow, and one that has finished has."""
        run = self._run_of(researcher, run_id)
        if run.book.end is None or run.book.end.state == "finished":
            return
        try:
            self._check_room(researcher, 0)
            again = await run.reopened()
        except SmpcError as error:
            await self._tell_failed(researcher, run_id, error)
            return
        self._runs.add(again)
        self.spawn(self._drive(again))

    def _check_room(self, researcher: str, model: int) -> None:
        """Whether this node bears another run of a researcher. Raises `LimitExceeded`."""
        limits = self.limits
        under_way = sum(run.book.end is None for run in self._runs.here() if run.researcher == researcher)
        if under_way >= limits.runs:
            raise LimitExceeded(
                f"{under_way} runs of {researcher} have not ended, as many as this coordinator bears: cancel some",
                phase="run",
            )
        free = shutil.disk_usage(self.home).free
        if free - model < limits.free_disk:
            raise LimitExceeded(
                f"the coordinator's disk has {free >> 20} MiB left, and keeps {limits.free_disk >> 20} MiB free",
                phase="run",
            )

    async def _tell_failed(self, researcher: str, run: bytes, error: SmpcError) -> None:
        await self.tell(researcher, RunState(run, "failed", 0, error.code, error.message[:4000]))

    def _run_of(self, researcher: str, run_id: bytes) -> Run:
        if not researcher or self._runs.researcher(run_id) != researcher or (run := self._runs.find(run_id)) is None:
            raise BadInput("this coordinator knows no such run of yours", peer=researcher, phase="run")
        return run

    async def _subscribe(self, researcher: str, run_id: bytes, after: int) -> None:
        if not self._runs.researcher(run_id):
            # The coordinator was killed before the start of the run was durable: the researcher says it again.
            await self.tell(researcher, Refusal("Unavailable", "no such run here", "run", run_id))
            return
        run = self._run_of(researcher, run_id)
        if self._runs.get(run_id) is not None:
            self._subscribers.setdefault(run_id, set()).add(researcher)
        known = self._catching_up.get(run_id)
        if known is not None:
            known.add(after)  # one at a time: each holds a model
            return
        # In the background: whoever reads a link cannot wait until its peer has room.
        self._catching_up[run_id] = {after}
        self.spawn(self._catch_up_again(run, researcher))

    async def _catch_up_again(self, run: Run, researcher: str) -> None:
        """Answer what was asked for, and what was asked for meanwhile, from the earliest on."""
        asked = self._catching_up[run.id]
        try:
            while asked:
                after = min(asked)
                asked.clear()
                await self._catch_up(run, researcher, after)
        finally:
            del self._catching_up[run.id]

    async def _catch_up(self, run: Run, researcher: str, after: int) -> None:
        """All results so far, in order, whatever is published meanwhile; then how the run stands."""
        try:
            while after < len(run.book.results):
                async for result, value in run.history(after):
                    if not await self.tell(researcher, await bound(result, value), value):
                        return  # gone: it asks again when it is back
                    after = result.number
            last = await run.newest()
        except Unavailable as error:
            log.error("value lost", run=run.id.hex(), message=error.message)
            await self._tell_failed(researcher, run.id, error)
            return
        if run.book.end is not None:
            await self.tell(researcher, await bound(run.book.end, last), last)
        else:
            await self.tell(researcher, RunState(run.id, run.state, len(run.book.results), text=run.waits))

    async def _publish(self, run: Run, message: RoundResult | RunState, value: Buffer) -> None:
        if isinstance(message, RunState) and message.state in ("finished", "failed"):
            self.metrics.run_ended(message.state)
        signed = await bound(message, value)  # here: they go out in the order in which they are published
        for researcher in self._subscribers.get(run.id, set()):
            self.spawn(self._tell(researcher, signed, value))

    async def _tell(self, researcher: str, message: Message, value: Buffer) -> None:
        await self.tell(researcher, message, value)

    async def peer_up(self, peer: str, role: str) -> None:
        for run in self._runs.here():
            await run.on_peer_up(peer)

    def _report(self) -> Status:
        members = [
            MemberStatus(member.id, member.role, member.id in self.peers or member.id == self.id)
            for member in self.members.current.members
        ]
        return Status(self.members.roster_version, members, self._runs.status())


Value = TypeVar("Value", bound=RoundResult | RunState)


async def bound(message: Value, value: Buffer) -> Value:
    """The message with the digest of what is attached to it, so that its signature stands for both."""
    if not value:
        return message
    return msgspec.structs.replace(message, value=await asyncio.to_thread(model_digest, value))


def _unanswered(relay: Relay, error: SmpcError) -> Refusal:
    """Tells a researcher which command found nobody: (session, sequence) in `about`."""
    try:
        command = decode_message(relay.inner.body)
    except SmpcError:
        command = None
    about = command.session + command.sequence.to_bytes(8, "little") if isinstance(command, Command) else b""
    return Refusal("Unavailable", error.message, "pointer", about)


def main(config: CoordinatorConfig, *, listen_fd: int | None = None, with_parent: bool = False) -> None:
    """`smpc-fl coordinator`: until SIGINT or SIGTERM."""
    run_node(lambda: Coordinator(config), config.log, listen_fd=listen_fd, with_parent=with_parent)
