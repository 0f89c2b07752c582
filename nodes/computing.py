"""Runs on shared tensors at one node: one machine and one queue each, kept in memory alone.

What is heavy runs in a thread; messages of a run are handled one after another, and are waited for by nobody else. Only
that a run id is used up is durable, before the node's key for it is said.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from smpc_fl.errors import ComputationRefused, LimitExceeded, SmpcError, Unavailable
from smpc_fl.nodes.home.config import AggregatorConfig
from smpc_fl.nodes.net.attachment import Collected
from smpc_fl.nodes.net.link import Link
from smpc_fl.nodes.net.pump import report_bug
from smpc_fl.nodes.node import Node
from smpc_fl.nodes.rounds import insist
from smpc_fl.protocols.codec import decode
from smpc_fl.protocols.commands import Finished, PeerGone, PeerUp, Persist, Received, Send, Start, Tick, WakeAt
from smpc_fl.protocols.computing import PHASE, Command, Continue, Event, GoOn
from smpc_fl.protocols.messages import (
    Computation,
    ComputationFailed,
    ComputationOffer,
    ComputingKeyRequest,
    Dealt,
    Message,
    Openings,
)
from smpc_fl.roster import Member, Membership

log = structlog.get_logger()

MOST_RUNS = 256
"""Runs that have not ended, at a node."""
_ENDED = 4096
"""Runs that are remembered as ended: what still comes for them is dropped in silence."""
_AHEAD = 2
"""Parts that a provider deals ahead of the network."""
HEAVY = 1 << 24
"""Bytes of a program's values from which on it runs in a thread: below, a round takes a millisecond or two."""


def computing_peers(config: AggregatorConfig, membership: Membership) -> list[Member]:
    """Whom an aggregator that computes dials: its providers, and the aggregators whose ids come after its own."""
    if not config.computing.providers:
        return []
    providers = [member for member in membership.providers if member.id in config.computing.providers]
    return providers + [member for member in membership.aggregators if member.id > config.id]


class Machine(Protocol):
    """A party's or a provider's part in one run."""

    @property
    def size(self) -> int: ...

    @property
    def accepted(self) -> bool: ...

    def receive(self, event: Event, now: float) -> list[Command]: ...


class _Run:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.queue: asyncio.Queue[tuple[Event, Link | None]] = asyncio.Queue()
        self.settled = asyncio.Event()  # accepted, or over
        self.over = False
        self.timers: set[asyncio.TimerHandle] = set()
        self.sending: set[asyncio.Task[None]] = set()


class Computing:
    """`make(run, researcher)`: the machine for a new run."""

    def __init__(self, node: Node, make: Callable[[bytes, str], Machine]) -> None:
        self._node, self._make = node, make
        self._runs: dict[bytes, _Run] = {}
        self._ended: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._runs)

    # --- what comes ---

    async def handle(self, link: Link, event: Received) -> None:
        message = event.message
        run = run_of(message)
        if isinstance(message, ComputingKeyRequest):
            await self._begin(run, link)
            return
        found = self._runs.get(run)
        if found is not None:
            found.queue.put_nowait((event, link))
        elif isinstance(message, ComputationOffer):
            why = ComputationRefused(
                f"{self._node.id} has no key for this run: the run is over, or the node was restarted since it gave one. "
                "Begin a new run",
                peer=self._node.id,
            )
            await self._node.tell(link.peer, ComputationFailed(run, why.code, why.message, self._node.id))
        elif run not in self._ended and not isinstance(message, ComputationFailed):
            raise ComputationRefused("this node has no part in such a run", peer=link.peer, phase=PHASE)

    async def _begin(self, run: bytes, link: Link) -> None:
        if len(self._runs) >= MOST_RUNS:
            raise LimitExceeded(f"{MOST_RUNS} runs are open at this node: end some first", peer=link.peer, phase=PHASE)
        if run in self._runs or self._node.journal.get(_name(run)) is not None:
            raise ComputationRefused(
                f"{self._node.id} has given a key for this run id before, and gives no other: begin a new run",
                phase=PHASE,
            )
        made = self._runs[run] = _Run(self._make(run, link.peer))
        made.queue.put_nowait((Start(), None))
        self._node.spawn(self._work(run, made))

    async def open_sink(self, link: Link, message: Message, size: int) -> Collected:
        """Room for what is attached to a message of a run, once it is known whether it belongs there."""
        found = self._runs.get(run_of(message))
        if found is None:
            raise ComputationRefused("this node has no part in such a run", peer=link.peer, phase=PHASE)
        if isinstance(message, Openings | Dealt):
            await found.settled.wait()
            expects: Any = getattr(found.machine, "expects", None)
            if found.over or expects is None:
                raise ComputationRefused("the run is over", peer=link.peer, phase=PHASE)
            expects(link.peer, message, size)
        return Collected(await self._node.room.begin(size, link.cut))

    def linked(self, peer: str) -> None:
        """A new connection: what was on its way on an older one is lost."""
        for run in self._runs.values():
            run.queue.put_nowait((PeerUp(peer), None))

    def lost(self, peer: str) -> None:
        for run in self._runs.values():
            run.queue.put_nowait((PeerGone(peer, Unavailable(f"{peer} is not connected", peer=peer)), None))

    def close(self) -> None:
        for run in self._runs.values():
            self._settle(run)

    # --- one run ---

    async def _work(self, id: bytes, run: _Run) -> None:
        try:
            while not run.over:
                event, link = await run.queue.get()
                try:
                    commands = await self._decide(run.machine, event)
                except SmpcError as error:
                    if link is not None and isinstance(event, Received):
                        await self._node._refuse(link, error, event.signed)
                    continue
                await self._carry_out(id, run, commands)
                if run.machine.accepted:
                    run.settled.set()
        except Exception as error:
            report_bug(error, "in a run on shared tensors")
        finally:
            self._settle(run)
            del self._runs[id]
            self._ended[id] = None
            if len(self._ended) > _ENDED:
                self._ended.popitem(last=False)

    @staticmethod
    async def _decide(machine: Machine, event: Event) -> list[Command]:
        if (isinstance(event, Received) and isinstance(event.message, ComputationOffer)) or machine.size > HEAVY:
            return await asyncio.to_thread(machine.receive, event, time.time())
        return machine.receive(event, time.time())

    async def _carry_out(self, id: bytes, run: _Run, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Persist():
                    await insist(lambda: self._node.journal.put(_name(id), b"\x01"), until=lambda: run.over)
                case Send():
                    task = asyncio.get_running_loop().create_task(self._send(run, command))
                    run.sending.add(task)
                    task.add_done_callback(run.sending.discard)
                case WakeAt(time=at):
                    self._wake(run, at)
                case GoOn():
                    while len(run.sending) > _AHEAD:
                        await asyncio.wait(run.sending, return_when=asyncio.FIRST_COMPLETED)
                    run.queue.put_nowait((Continue(), None))
                case Finished(outcome=outcome):
                    run.over = True
                    if isinstance(outcome, SmpcError):
                        log.warning("a run failed", run=id.hex(), error=outcome.code, message=outcome.message)

    async def _send(self, run: _Run, command: Send) -> None:
        try:
            await self._node.send(command)
        except Unavailable as error:
            run.queue.put_nowait((PeerGone(command.to, error), None))
        except Exception as error:
            report_bug(error, "while sending what belongs to a run")

    @staticmethod
    def _wake(run: _Run, at: float) -> None:
        loop = asyncio.get_running_loop()
        run.timers.add(loop.call_later(max(0.0, at - time.time()), run.queue.put_nowait, (Tick(), None)))

    @staticmethod
    def _settle(run: _Run) -> None:
        run.over = True
        run.settled.set()
        for timer in run.timers:
            timer.cancel()
        run.timers.clear()


def run_of(message: Message) -> bytes:
    """Which run a message belongs to."""
    if isinstance(message, ComputationOffer):
        return decode(message.computation.body, Computation).run
    run: bytes = getattr(message, "run", b"")
    return run


def _name(run: bytes) -> str:
    return f"computation/{run.hex()}"
