"""The researcher's end of the line: one connection to the coordinator, kept alive in a thread of its own.

Python sessions are synchronous; the connection is not. `Channel` runs an event loop in a daemon thread and offers plain
blocking calls that are safe from any thread, and from the garbage collector (`release`).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

from smpc_fl.errors import BadSignature, PeerMisbehaviour, Refused, SmpcError, Unavailable, from_code
from smpc_fl.nodes.hardening import harden
from smpc_fl.nodes.home.config import ResearcherConfig
from smpc_fl.nodes.home.membership import LiveMembership
from smpc_fl.nodes.net import web
from smpc_fl.nodes.net.dialer import Dialer
from smpc_fl.nodes.net.link import Link
from smpc_fl.nodes.net.pump import pump
from smpc_fl.nodes.own_keys import OwnKeys
from smpc_fl.nodes.training_run import LOST
from smpc_fl.protocols import relay
from smpc_fl.protocols.codec import verify
from smpc_fl.protocols.manifest import model_digest
from smpc_fl.protocols.messages import (
    Message,
    Refusal,
    Relay,
    RosterOffer,
    RoundResult,
    RunState,
    Signed,
    Status,
    StatusRequest,
)
from smpc_fl.protocols.party import Party

log = structlog.get_logger()

T = TypeVar("T")
OnRun = Callable[[RoundResult | RunState, bytes], None]
COMMAND_TIMEOUT = 120.0
"""Seconds until an owner that is connected and silent is given up; its first command may import torch."""


class Channel:
    """A researcher's connection. `runs`: by run id, who wants to hear of it."""

    def __init__(self, config: ResearcherConfig) -> None:
        harden()  # the caller's process: it holds the researcher's key from here on
        self.members = LiveMembership(config)
        self.me = OwnKeys(config, "researcher", self.members)
        self.config = config
        self.session = relay.session_id(time.time(), os.urandom)
        self._sequence = 0
        self._waiting: dict[bytes, tuple[relay.Asked, asyncio.Future[bytes]]] = {}
        self._status: list[asyncio.Future[Status]] = []
        self._runs: dict[bytes, OnRun] = {}
        self._resubscribe: dict[bytes, Callable[[], tuple[Message, bytes | None]]] = {}
        self._released: deque[Callable[[], None]] = deque()
        self.watch: Callable[[], None] = lambda: None
        """Asked while a run is waited for; raises when it is in vain."""
        self._roster_current = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="smpc-fl-channel", daemon=True)
        self._thread.start()
        self._dialer: Dialer = self.call(self._open())

    @property
    def party(self) -> Party:
        return self.me.party

    @property
    def connected(self) -> bool:
        return self._dialer.connected.is_set()

    def check(self) -> None:
        """Raises what makes waiting useless: the coordinator refuses us, or what `watch` knows of."""
        self._check_refusal()
        self.watch()

    def _check_refusal(self) -> None:
        if isinstance(self._dialer.error, Refused | PeerMisbehaviour):
            raise self._dialer.error

    def call(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine in the channel's thread, and wait for it here."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except concurrent.futures.TimeoutError:
            if future.done():
                raise  # the coroutine's own
            future.cancel()
            raise Unavailable("no answer in time") from None

    def soon(self, work: Callable[[], object]) -> None:
        """In the channel's thread, from any thread and from the garbage collector; not at all once it is closed."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(work)

    async def _open(self) -> Dialer:
        coordinator = self.members.current.coordinator
        return web.dial(self.config, self.me, coordinator.id, coordinator.address, self._converse)

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self.call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        self._loop.close()

    async def _converse(self, link: Link) -> None:
        if link.roster_version < self.members.roster_version:
            # Its operator may be slower than ours: what we ask for next can be about a member that is new.
            await link.send(self.me.sign(RosterOffer(self.members.signed)))
        if link.roster_version <= self.members.roster_version:
            self._roster_current.set()
        else:
            self._roster_current.clear()  # the coordinator has a newer one, and says so at once
        for again in list(self._resubscribe.values()):
            message, attachment = again()
            await link.send(self.party.sign(message), attachment)
        await pump(link, self._on_message, on_refused=self._on_refused)

    async def _on_refused(self, link: Link, error: SmpcError, signed: Signed | None) -> None:
        log.warning("a message of the coordinator was refused", error=error.code, message=error.message)
        if isinstance(error, BadSignature):
            raise error  # the connection is somebody else's: on the next one, what was missed is asked for again

    async def _stop(self) -> None:
        await self._dialer.stop()
        for _, future in self._waiting.values():
            future.cancel()

    def wait_connected(self, timeout: float) -> None:
        """Until the coordinator is there, and has handed over its roster if that is newer than ours. Raises what it
        refuses us with, or `Unavailable` with its address, and why it could not be reached."""
        coordinator = self.members.current.coordinator
        try:
            self.call(self._wait_connected(timeout))
        except TimeoutError:
            why = f" ({self._dialer.error.message})" if self._dialer.error is not None else ""
            raise Unavailable(
                f"the coordinator {coordinator.id} at {coordinator.address} does not answer{why}: is it running?"
            ) from None

    async def _wait_connected(self, timeout: float) -> None:
        async with asyncio.timeout(timeout):
            while not self._dialer.connected.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._dialer.connected.wait(), 0.2)
                self._check_refusal()
            await self._roster_current.wait()

    # --- sending ---

    async def _tell(self, message: Message, attachment: bytes | None = None) -> int:
        self._check_refusal()
        return await self._dialer.send(self.party.sign(message), attachment)

    def tell(self, message: Message, attachment: bytes | None = None) -> None:
        self.call(self._tell(message, attachment))

    def ask_owner(self, owner: str, request: bytes, timeout: float = COMMAND_TIMEOUT) -> bytes:
        """An owner's sealed response to one request, opened."""
        return self.call(self._ask(owner, request, timeout))

    async def _ask(self, owner: str, request: bytes, timeout: float) -> bytes:
        self._sequence += 1
        asked = relay.ask(self.party, owner, self.session, self._sequence, request, os.urandom)
        about = self.session + self._sequence.to_bytes(8, "little")
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting[about] = (asked, future)
        try:
            await self._tell(Relay(owner, asked.signed))
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise Unavailable(f"{owner} did not answer within {timeout:.0f} s", peer=owner) from None
        finally:
            self._waiting.pop(about, None)

    def tell_owner_later(self, owner: str, request: Callable[[], bytes]) -> None:
        """From the garbage collector: no lock, no wait, no error."""
        self._released.append(lambda: self._spawn_ask(owner, request()))
        try:
            self._loop.call_soon_threadsafe(self._drain)
        except RuntimeError:
            self._released.clear()  # closed: the owner's leases end by themselves

    def _drain(self) -> None:
        while self._released:
            self._released.popleft()()

    def _spawn_ask(self, owner: str, request: bytes) -> None:
        task = self._loop.create_task(self._quietly(owner, request))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _quietly(self, owner: str, request: bytes) -> None:
        try:
            await self._ask(owner, request, 30.0)
        except SmpcError:
            log.debug("a release did not arrive; the lease will end", owner=owner)

    def status(self, timeout: float = 10.0) -> Status:
        return self.call(self._ask_status(), timeout)

    async def _ask_status(self) -> Status:
        future: asyncio.Future[Status] = self._loop.create_future()
        self._status.append(future)
        await self._tell(StatusRequest())
        return await future

    # --- runs ---

    def follow(self, run: bytes, on_run: OnRun, again: Callable[[], tuple[Message, bytes | None]]) -> None:
        """Hear of a run; `again()` is what is said whenever the connection is (back) up."""
        self._runs[run], self._resubscribe[run] = on_run, again

    def unfollow(self, run: bytes) -> None:
        self._runs.pop(run, None)
        self._resubscribe.pop(run, None)

    # --- receiving ---

    async def _on_message(self, link: Link, signed: Signed, attachment: memoryview | None) -> None:
        message = verify(signed, self.members.key_of(link.peer), federation=self.members.federation)
        match message:
            case RosterOffer(roster=roster):
                try:
                    self.members.offer(roster)
                finally:
                    self._roster_current.set()
            case Relay(inner=inner):
                self._answered(inner)
            case RoundResult(run=run) | RunState(run=run):
                value = bytes(attachment or b"")
                if message.value != (model_digest(value) if value else b""):
                    raise BadSignature("what is attached is not what the coordinator has signed", peer=link.peer)
                if run in self._runs:
                    self._runs[run](message, value)
            case Status():
                for future in self._status:
                    if not future.done():
                        future.set_result(message)
                self._status.clear()
            case Refusal():
                self._refused(message, link.peer)
            case _:
                raise PeerMisbehaviour(f"a researcher takes no {type(message).__name__}", peer=link.peer)

    def _answered(self, inner: Signed) -> None:
        for asked, future in list(self._waiting.values()):
            if asked.owner == inner.sender and not future.done():
                try:
                    said = asked.read(inner, self.party)
                except PeerMisbehaviour:
                    continue  # the answer to another of this owner's commands
                if isinstance(said, SmpcError):
                    future.set_exception(said)
                else:
                    future.set_result(said)
                return

    def _refused(self, refusal: Refusal, peer: str) -> None:
        error = from_code(refusal.code, refusal.text, peer=peer, phase=refusal.phase)
        if refusal.about in self._waiting:
            future = self._waiting[refusal.about][1]
            if not future.done():
                # A coordinator can carry a command or not; what an owner says to it, the owner signs.
                future.set_exception(Unavailable(refusal.text, peer=peer, phase=refusal.phase))
        elif refusal.about in self._runs:
            again = self._resubscribe.get(refusal.about)
            if again is not None and refusal.code == "Unavailable":
                state = RunState(refusal.about, "waiting", 0, LOST, refusal.text)
                self._runs[refusal.about](state, b"")
        else:
            log.warning("the coordinator refused", error=error.code, message=error.message)
