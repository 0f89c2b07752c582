"""What all three kinds of node share: identity, roster, journal, live links, and the way in for every message.

A message is believed when its envelope verifies under the roster's key of its sender, and its sender is the member at
the other end of the link (relayed statements are verified where they are used). What a peer gets wrong is answered with
a signed `Refusal` that says why; our own bugs are logged by type, never with a value.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import structlog

from smpc_fl.entropy import Entropy
from smpc_fl.errors import (
    BadSignature,
    LimitExceeded,
    MalformedMessage,
    PeerMisbehaviour,
    SmpcError,
    Unavailable,
    WrongRole,
)
from smpc_fl.hashing import Buffer
from smpc_fl.nodes import faults
from smpc_fl.nodes.extensions import load_extensions
from smpc_fl.nodes.hardening import harden_node
from smpc_fl.nodes.home import files
from smpc_fl.nodes.home.config import NodeConfig
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.home.membership import LiveMembership
from smpc_fl.nodes.logs import configure
from smpc_fl.nodes.memory import give_back, keep_freed_memory, settle
from smpc_fl.nodes.metrics import NodeMetrics
from smpc_fl.nodes.net import sizes
from smpc_fl.nodes.net.attachment import Collected, Sink, abandon
from smpc_fl.nodes.net.link import POLICY, Link
from smpc_fl.nodes.net.pace import CONNECTING, REFUSED, Paces, cost_of
from smpc_fl.nodes.net.peers import Peers
from smpc_fl.nodes.net.pump import pump, report_bug
from smpc_fl.nodes.net.room import Room
from smpc_fl.nodes.own_keys import OwnKeys
from smpc_fl.protocols.codec import decode_message, verify
from smpc_fl.protocols.commands import Received, Send
from smpc_fl.protocols.manifest import subject_of
from smpc_fl.protocols.messages import Message, Refusal, RosterOffer, Signed
from smpc_fl.protocols.party import Party

log = structlog.get_logger()

MOST_PATIENCE = 10.0
"""Seconds that a message waits because its sender has said too much before: less than a ping's, or it would be dropped."""
GIVE_BACK = 300.0
"""Seconds between two looks at freed memory that nobody has used since."""


class Node:
    """Base of the nodes. Subclasses implement `handle`, `peer_up`, `open` and `run`."""

    role = ""
    entropy: Entropy = staticmethod(os.urandom)

    def __init__(self, config: NodeConfig) -> None:
        load_extensions(config.extensions)
        self.home: Path = files.private_folder(config.home)
        files.refuse_links(self.home)
        files.leave_out_of_backups(self.home)
        self.members = LiveMembership(config)
        self.me = OwnKeys(config, self.role, self.members)
        self.journal = Journal.open(self.home / "journal.db")
        self.metrics = NodeMetrics(config.id, self.role)
        self.peers = Peers(on_up=self._link_up, on_down=self._link_down)
        self.limits = config.limits.limits()
        self.room = Room(self.limits.collected, self.limits)
        self.paces = Paces(self.limits)
        self.listen_fd: int | None = None
        self.with_parent = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping = asyncio.Event()
        self._failure: SmpcError | None = None

    @property
    def id(self) -> str:
        return self.me.id

    @property
    def party(self) -> Party:
        """This node with the roster as it stands now; rounds that are under way keep the one they began with."""
        return self.me.party

    # --- speaking ---

    async def send(self, command: Send) -> int:
        """Deliver a machine's message; the bytes that it took on the socket. Raises `Unavailable`."""
        written = await self.peers.send(command.to, command.signed, command.attachment, piece=command.piece)
        self.metrics.sent(type_of(command), written)
        return written

    async def tell(self, member: str, message: Message, attachment: Buffer | None = None) -> bool:
        """Send a message of our own, if the member is there; whoever needs it again is served by `peer_up`."""
        try:
            await self.send(Send(member, self.me.sign(message), attachment))
        except Unavailable:
            return False
        return True

    def connected(self, member: str) -> bool:
        return member in self.peers

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run in the background; an error that gets out is our own bug and is logged by its type."""
        task = asyncio.get_running_loop().create_task(self._guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except SmpcError as error:
            log.error("background work failed", error=error.code, message=error.message)
        except Exception as error:
            report_bug(error, "in the background")

    # --- listening ---

    async def converse(self, link: Link) -> None:
        """Everything that comes over one authenticated link, until it closes."""
        counted = link.bytes_received

        async def incoming(link: Link, signed: Signed, attachment: memoryview | Sink | None) -> None:
            nonlocal counted
            self.metrics.received(link.role, link.bytes_received - counted)
            counted = link.bytes_received
            await self._incoming(link, signed, attachment)

        link.sizes, link.room = self._sizes(link.role), self.room
        if self.paces.of(link.peer).owed > MOST_PATIENCE:
            self._cut_off(link, LimitExceeded("too many connections and messages: come back later", peer=link.peer))
            await link.close("too many connections and messages: come back later", code=POLICY)
            return
        self.paces.of(link.peer).spend(CONNECTING)
        self.peers.add(link)
        try:
            error = await pump(link, incoming, open_sink=self.open_sink, on_refused=self._refuse)
        finally:
            self.peers.remove(link)
        if isinstance(error, PeerMisbehaviour | LimitExceeded):
            self._cut_off(link, error)

    def _cut_off(self, link: Link, error: SmpcError) -> None:
        """A peer broke the format or a limit, and has been told by the connection's closing."""
        log.warning("cut off", peer=link.peer, error=error.code, message=error.message)
        self.metrics.refused(error.code)

    def _sizes(self, role: str) -> sizes.Sizes:
        """What a member of this role may say to us, and how long, by the roster as it stands."""

        def most(kind: str) -> int:
            current = self.members.current
            return sizes.allowed(role, self.role, len(current.members), len(current.aggregators)).get(kind, 0)

        return most

    async def _in_time(self, link: Link, signed: Signed, attachment: memoryview | Sink | None) -> None:
        """Wait before a message of a peer that says too much is looked at: it is read more slowly, and nobody else is."""
        pace = self.paces.of(link.peer)
        pace.spend(self.price(link, signed, attachment))
        if pace.owed <= 0.0:
            return
        if pace.tell():
            self._cut_off(link, LimitExceeded("it says too much: it is read more slowly from now on", peer=link.peer))
            await self.tell(link.peer, Refusal(LimitExceeded.__name__, "too many messages: they are read more slowly"))
        await asyncio.sleep(min(pace.owed, MOST_PATIENCE))

    def price(self, link: Link, signed: Signed, attachment: object) -> float:
        """How many messages this one counts for."""
        return cost_of(signed, attachment)

    async def open_sink(self, link: Link, signed: Signed, size: int) -> Sink | None:
        """Where a long attachment goes (`net.attachment.Accept`): into memory, once there is some."""
        message = self._verified(link, signed)
        if type(message).__name__ not in sizes.ATTACHED:
            raise MalformedMessage(f"nothing of {size} bytes comes with a {type(message).__name__}", peer=link.peer)
        return Collected(await self.room.begin(size, link.cut))

    async def _incoming(self, link: Link, signed: Signed, attachment: memoryview | Sink | None) -> None:
        try:
            await self._in_time(link, signed, attachment)
            message = self._verified(link, signed)
        except BaseException:
            abandon(attachment)
            raise
        if not isinstance(attachment, Collected):
            await self._handle(link, Received(link.peer, message, signed, attachment))
            return
        try:
            await self._handle(link, Received(link.peer, message, signed, attachment.data))
        finally:
            attachment.close()

    async def _handle(self, link: Link, event: Received) -> None:
        if isinstance(event.message, RosterOffer):
            await self.offered_roster(event.message.roster)
        else:
            await self.handle(link, event)

    def _verified(self, link: Link, signed: Signed) -> Message:
        if signed.sender != link.peer:
            raise BadSignature(
                "a message in another member's name; relayed statements travel inside messages", peer=link.peer
            )
        kind = sizes.type_of(signed.body)  # before the signature is: that costs more
        if link.sizes is not None and not link.sizes(kind):
            raise WrongRole(f"{link.role} nodes say nothing of that type to {self.role} nodes", peer=link.peer)
        return verify(signed, self.members.key_of(link.peer), federation=self.members.federation)

    async def _refuse(self, link: Link, error: SmpcError, signed: Signed | None) -> None:
        """Answer a message that was refused: why, and what it was about."""
        log.warning("refused", peer=link.peer, error=error.code, message=error.message)
        self.metrics.refused(error.code)
        self.paces.of(link.peer).spend(REFUSED)
        about = b""
        if signed is not None and signed.sender == link.peer:
            with contextlib.suppress(SmpcError):
                about = subject_of(decode_message(signed.body))
        await self.tell(link.peer, Refusal(error.code, error.message[:4000], error.phase or "", about))

    async def handle(self, link: Link, event: Received) -> None:
        """One verified message from the member at the other end."""
        raise MalformedMessage(f"{self.role} nodes take no such message", peer=link.peer)

    async def peer_up(self, peer: str, role: str) -> None:
        """A member has a new link."""

    def _link_up(self, link: Link) -> None:
        log.info("connected", peer=link.peer, role=link.role)
        self.metrics.connected(len(self.peers))
        self.spawn(self._greet(link))

    async def _greet(self, link: Link) -> None:
        if link.roster_version < self.members.roster_version:
            await self.tell(link.peer, RosterOffer(self.members.signed))
        await self.peer_up(link.peer, link.role)

    def _link_down(self, link: Link) -> None:
        log.info("disconnected", peer=link.peer, role=link.role)
        self.metrics.connected(len(self.peers))

    # --- roster ---

    async def offered_roster(self, signed: bytes) -> None:
        if self.members.offer(signed):
            await self._spread_roster()

    async def _spread_roster(self) -> None:
        """A newer roster counts from now on: revoked members are cut off, everybody connected hears of it."""
        log.info("roster", version=self.members.roster_version)
        for peer in self.peers:
            try:
                self.members.lookup(peer)
            except SmpcError as error:
                self.peers.drop(peer, f"{error.code}: {error.message}"[:120])
            else:
                await self.tell(peer, RosterOffer(self.members.signed))
        await self.roster_changed()

    async def roster_changed(self) -> None:
        """The membership is another one now."""

    async def _watch_roster_file(self) -> None:
        """Take up what the operator puts in the configured place (`smpc-fl roster accept`), without a restart."""
        while True:
            await asyncio.sleep(1.0)
            try:
                changed = self.members.refresh()
            except SmpcError as error:
                log.error("roster file", error=error.code, message=error.message)  # it may be half copied: look again
                continue
            if changed:
                await self._spread_roster()

    async def _give_memory_back(self) -> None:
        while True:
            await asyncio.sleep(GIVE_BACK)
            await asyncio.to_thread(give_back)

    # --- life ---

    async def open(self) -> None:
        """Start listening and dialling."""

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.peers.close()
        self.journal.close()

    async def run(self) -> None:
        """Until SIGINT or SIGTERM, or until the node gives up: then its error is raised."""
        stop = self._stopping
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        if self.with_parent:
            # Standard input is a pipe from the process that started us: when it closes, that process is gone.
            loop.add_reader(sys.stdin.fileno(), _gone(stop))
        try:
            await self.open()
            self.spawn(self._watch_roster_file())
            log.info("ready", id=self.id, role=self.role)
            settle()
            self.spawn(self._give_memory_back())
            await stop.wait()
        finally:
            await self.stop()
        if self._failure is not None:
            raise self._failure

    def give_up(self, error: SmpcError) -> None:
        """End the process with an error that its operator has to mend: it would be connected and never answer."""
        self._failure = error
        self._stopping.set()


def _gone(stop: asyncio.Event) -> Callable[[], None]:
    def look() -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            stop.set()

    return look


def run_node(node: Callable[[], Node], level: str, *, listen_fd: int | None, with_parent: bool) -> None:
    """A node process's whole life. The node is made inside the event loop, which its locks belong to."""

    async def live() -> None:
        made = node()
        made.listen_fd, made.with_parent = listen_fd, with_parent
        await made.run()

    configure(level)
    faults.arm_from_environment()
    harden_node()  # before any key is loaded
    keep_freed_memory()
    asyncio.run(live())


def type_of(command: Send) -> str:
    """What a sent envelope is called in the metrics: its role of receiver is not known here, so its size class."""
    return "attached" if command.attachment else "plain"
