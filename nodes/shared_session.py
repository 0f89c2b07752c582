"""A researcher's session with the parties that compute on shared tensors, and the crypto provider that deals for them.

It speaks with each of them directly: the coordinator has no part in it. What was shared, and what runs leave behind, stays
with the parties until it is forgotten, or the session is over for ten minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import structlog

from smpc_fl.errors import BadInput, SmpcError, Unavailable
from smpc_fl.nodes.channel import Channel
from smpc_fl.nodes.net import web
from smpc_fl.nodes.net.dialer import Dialer
from smpc_fl.nodes.net.link import Link
from smpc_fl.nodes.net.pump import pump, report_bug
from smpc_fl.protocols.codec import verify
from smpc_fl.protocols.commands import Command, Finished, PeerGone, PeerUp, Received, Send, Start, Tick, WakeAt
from smpc_fl.protocols.computing_client import ComputingClient, Run, Share
from smpc_fl.protocols.computing_program import read, write
from smpc_fl.protocols.messages import ForgetTensors, Refusal, RosterOffer, Signed, TensorRef
from smpc_fl.shared_tensors.program import Program, Step, Type
from smpc_fl.shared_tensors.words import Words, to_bytes

log = structlog.get_logger()

FRESH = 300.0
"""Seconds that keys which were asked for ahead are used; their givers keep them longer."""
CLOSING = 2.0
"""Seconds that members have to take the news that a session is over."""
LONG = 1 << 18
"""Elements from which on a step of the researcher's own runs in a thread."""


class SharedSession:
    """Made by `Federation.shared_tensors`: the session of a `Desk`. A context manager; calls may come from any thread."""

    def __init__(self, channel: Channel, parties: Sequence[str], provider: str | None, deadline: float) -> None:
        providers = [member.id for member in channel.members.current.providers]
        if provider is None and len(providers) != 1:
            raise BadInput(f"say which crypto provider deals: the federation has {', '.join(providers) or 'none'}")
        self.parties, self.provider = tuple(sorted(set(parties))), provider or providers[0]
        if len(self.parties) < 2:
            raise BadInput("tensors are shared over two or more parties")
        self.deadline = deadline
        self._channel = channel
        self._dialers: dict[str, Dialer] = {}
        self._runs: dict[bytes, _Going] = {}
        self._spare: tuple[float, _Going] | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._forgotten: deque[TensorRef] = deque()
        self._telling: set[asyncio.Task[None]] = set()
        self._channel.call(self._open())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.call(self._close())

    def wait_connected(self, timeout: float) -> Self:
        """Until all members are there (again). Raises `Unavailable` naming who is not."""
        self._channel.call(self._connected(timeout))
        return self

    # --- the Session that shared tensors call ---

    def store(self, words: Words) -> str:
        """int64[shape], from the whole ring: m - 1 parties are sent a seed, one the words less what seeds stand for."""
        run, _ = self._channel.call(self._work(Share(words, time.time() + self.deadline)))
        return self._named(run, 0, tuple(words.shape))

    def run(self, program: Program, public: Mapping[int, Words], inputs: Mapping[str, str]) -> list[str]:
        """Raises what the run failed with, naming the member at whom it did."""
        return self._run(program, public, inputs, ())[0]

    def open(self, name: str) -> Words:
        program = Program((Step("input", (), {"name": "x"}, Type(self._shape(name))),), (0,))
        names, (words,) = self._run(program, {}, {"x": name}, (0,))
        self.forget(names[0])
        return words

    def forget(self, name: str) -> None:
        """Soon: this may be called from the garbage collector, in any thread."""
        if self._shapes.pop(name, None) is not None:
            self._forgotten.append(_ref(name))
            self._channel.soon(self._forget)

    def _run(
        self, program: Program, public: Mapping[int, Words], inputs: Mapping[str, str], revealed: Sequence[int]
    ) -> tuple[list[str], list[Words]]:
        checked = read(write(program))
        wanted = [str(program.steps[number].parameters["name"]) for number in checked.inputs]
        for name in wanted:
            if name not in inputs:
                raise BadInput(f"the program's input {name!r} is not given")
            self._shape(inputs[name])
        publics = b"".join(to_bytes(public[number]) for number in checked.publics)
        refs = [_ref(inputs[name]) for name in wanted]
        run, words = self._channel.call(self._work(Run(checked, publics, refs, revealed, time.time() + self.deadline)))
        shapes = [program.steps[output].type.shape for output in program.outputs]
        return [self._named(run, number, shape) for number, shape in enumerate(shapes)], words

    def _named(self, run: bytes, output: int, shape: tuple[int, ...]) -> str:
        name = f"{run.hex()}/{output}"
        self._shapes[name] = shape
        return name

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self._shapes:
            raise BadInput(f"no shared tensor {name!r} is stored: it was forgotten, or belongs to another session")
        return self._shapes[name]

    @property
    def bytes_sent(self) -> int:
        """On the session's sockets, by us."""
        return sum(dialer.link.bytes_sent for dialer in self._dialers.values() if dialer.link is not None)

    # --- inside the channel's thread ---

    @property
    def _members(self) -> tuple[str, ...]:
        return (*self.parties, self.provider)

    async def _open(self) -> None:
        members = self._channel.members.current
        for id in self._members:
            address = members.member(id).address
            self._dialers[id] = web.dial(self._channel.config, self._channel.me, id, address, self._converse)
        try:
            await self._connected(self.deadline)
        except Unavailable:
            await self._close()
            raise

    async def _connected(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                for dialer in self._dialers.values():
                    await dialer.connected.wait()
        except TimeoutError:
            away = {id: dialer.error for id, dialer in self._dialers.items() if not dialer.connected.is_set()}
            why = "; ".join(error.message for error in away.values() if error is not None)
            raise Unavailable(
                f"no connection for shared tensors to {', '.join(away)}" + (f": {why}" if why else ""),
                peer=next(iter(away), None),
            ) from None

    async def _close(self) -> None:
        """Runs end here, and with the members, who are told before the connections close."""
        ending = [going.give_up() for going in list(self._runs.values())]
        if ending:
            await asyncio.wait(ending, timeout=CLOSING)
        for dialer in self._dialers.values():
            await dialer.stop()

    async def _converse(self, link: Link) -> None:
        if link.roster_version < self._channel.members.roster_version:
            await link.send(self._channel.me.sign(RosterOffer(self._channel.members.signed)))
        self._tell_all(PeerUp(link.peer))
        try:
            await pump(link, self._on_message, on_refused=self._on_refused)
        finally:
            self._tell_all(PeerGone(link.peer, Unavailable("gone", peer=link.peer)))

    def _tell_all(self, event: PeerUp | PeerGone) -> None:
        for going in list(self._runs.values()):
            going.queue.put_nowait(event)

    async def _on_message(self, link: Link, signed: Signed, attachment: memoryview | None) -> None:
        members = self._channel.members
        message = verify(signed, members.key_of(link.peer), federation=members.federation)
        if isinstance(message, RosterOffer):
            members.offer(message.roster)
            return
        run = message.about if isinstance(message, Refusal) else getattr(message, "run", b"")
        going = self._runs.get(run)
        if going is not None:
            going.queue.put_nowait(Received(link.peer, message, signed, attachment))
        elif isinstance(message, Refusal):
            log.warning("refusal", peer=link.peer, error=message.code, message=message.text)

    async def _on_refused(self, link: Link, error: SmpcError, signed: Signed | None) -> None:
        log.warning("a message was refused", peer=link.peer, error=error.code, message=error.message)

    async def _work(self, work: Share | Run) -> tuple[bytes, Any]:
        going = self._ahead()
        going.queue.put_nowait(work)
        self._spare = (time.time(), self._begin())  # its keys come while this one runs
        outcome = await going.outcome
        if isinstance(outcome, SmpcError):
            raise outcome
        return going.machine.run, outcome or []

    def _ahead(self) -> _Going:
        """A run whose keys were asked for, or are on their way."""
        spare, self._spare = self._spare, None
        if spare is not None and time.time() - spare[0] < FRESH and not spare[1].outcome.done():
            return spare[1]
        return self._begin()

    def _begin(self) -> _Going:
        party = self._channel.party
        going = _Going(ComputingClient(party, os.urandom(16), self.parties, self.provider, os.urandom), self)
        self._runs[going.machine.run] = going
        return going

    def _forget(self) -> None:
        """Tells the parties to drop shares."""
        task = asyncio.get_running_loop().create_task(self._tell_forgotten())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell_forgotten(self) -> None:
        refs = [self._forgotten.popleft() for _ in range(min(len(self._forgotten), 4096))]
        if refs:
            signed = self._channel.party.sign(ForgetTensors(refs))
            for party in self.parties:
                with contextlib.suppress(Unavailable):  # it forgets by itself
                    await self._dialers[party].send(signed)

    async def send(self, command: Send) -> None:
        await self._dialers[command.to].send(command.signed, command.attachment)

    def over(self, going: _Going) -> None:
        self._runs.pop(going.machine.run, None)


class _Going:
    """One run's machine, and what it waits for."""

    def __init__(self, machine: ComputingClient, session: SharedSession) -> None:
        self.machine, self._session = machine, session
        loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.outcome: asyncio.Future[Any] = loop.create_future()
        self._timers: list[asyncio.TimerHandle] = []
        self._sending: set[asyncio.Task[None]] = set()
        self.queue.put_nowait(Start())
        self._task = loop.create_task(self._live())

    def give_up(self) -> asyncio.Task[None]:
        """Ends it, if it goes on still; done when the members were told."""
        error = Unavailable("the session was closed", peer=self.machine.provider)
        self.queue.put_nowait(PeerGone(self.machine.provider, error))
        return self._task

    async def _live(self) -> None:
        try:
            while not self.outcome.done():
                event = await self.queue.get()
                self._carry_out(await self._decide(event))
            if self._sending:
                await asyncio.wait(self._sending)
        except Exception as error:
            report_bug(error, "in a researcher's run")
            self.end(Unavailable("the run cannot go on, by our own fault"))
        finally:
            for timer in self._timers:
                timer.cancel()
            self._session.over(self)

    async def _decide(self, event: Any) -> list[Command]:
        size = event.words.numel() if isinstance(event, Share) else 0
        if isinstance(event, Received) and event.attachment is not None:
            size = len(event.attachment)
        if size > LONG:
            return await asyncio.to_thread(self.machine.receive, event, time.time())
        return self.machine.receive(event, time.time())

    def _carry_out(self, commands: Sequence[Command]) -> None:
        loop = asyncio.get_running_loop()
        for command in commands:
            match command:
                case Send():
                    task = loop.create_task(self._send(command))
                    self._sending.add(task)
                    task.add_done_callback(self._sending.discard)
                case WakeAt(time=at):
                    delay = max(0.0, at - time.time())
                    self._timers.append(loop.call_later(delay, self.queue.put_nowait, Tick()))
                case Finished(outcome=outcome):
                    self.end(outcome)

    async def _send(self, command: Send) -> None:
        try:
            await self._session.send(command)
        except Unavailable as error:
            self.queue.put_nowait(PeerGone(command.to, error))

    def end(self, outcome: Any) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)
            self.queue.put_nowait(Tick())  # whoever waits for the queue looks


def _ref(name: str) -> TensorRef:
    run, _, output = name.partition("/")
    return TensorRef(bytes.fromhex(run), int(output))
