"""One party's run of a program, sans I/O: corrections and openings come in, openings go out, shares of the outputs are left.

    WAITING    a correction is missing         WAITING
               nothing is                      OPENING    -> Broadcast (all openings that are ready, in one message)
    OPENING    all parties' openings           WAITING    (steps go on)
               nothing is left to open         CLOSING    -> Broadcast (hash of all that was opened)
    CLOSING    all parties' hashes are alike   DONE       -> Finished (shares of the outputs)
    any        what may not be said            FAILED     an error; nothing more is said, or given out

All parties run as early as they can what is ready, so all open the same values in the same round, in the order of the steps:
messages need no names, and their sizes are public. A party that shows different values to different peers is found out
before any output is opened, for the hashes differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from heapq import heappop, heappush
from types import GeneratorType
from typing import Any

from smpc_fl.errors import BadInput, Equivocation, MalformedMessage, PeerMisbehaviour, SmpcError
from smpc_fl.shared_tensors.opening import Opening, Running
from smpc_fl.shared_tensors.primitives import GIVEN, TABLE, input_types
from smpc_fl.shared_tensors.program import Program
from smpc_fl.shared_tensors.randomness import Once, Taking
from smpc_fl.shared_tensors.words import Words

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True, repr=False)
class Correction:
    """From the crypto provider, for one step."""

    step: int
    data: Buffer


@dataclass(frozen=True, slots=True, repr=False)
class Openings:
    """From party number `sender`, all that is opened in a round."""

    sender: int
    round: int
    data: Buffer


@dataclass(frozen=True, slots=True, repr=False)
class Broadcast:
    """To every other party."""

    round: int
    data: bytes


@dataclass(frozen=True, slots=True, repr=False)
class Finished:
    """This party's shares of the outputs, by step."""

    outputs: dict[int, Words]


Event = Correction | Openings
Command = Broadcast | Finished


class State(Enum):
    WAITING = auto()
    OPENING = auto()
    CLOSING = auto()
    DONE = auto()
    FAILED = auto()


@dataclass(slots=True, eq=False, repr=False)
class _Paused:
    """A step in mid-run, and what it opens in this round."""

    step: int
    running: Running
    openings: list[Opening]


@dataclass(eq=False, repr=False)
class PartyRun:
    """Party number `index` of `parties` (the sorted ids). `given`: its words of every step whose value is given."""

    program: Program
    index: int
    parties: tuple[str, ...]
    run: bytes
    seed: bytes = field(repr=False)
    given: Mapping[int, Words] = field(repr=False)

    def __post_init__(self) -> None:
        steps = self.program.steps
        if not 0 <= self.index < len(self.parties) or len(self.parties) < 2:
            raise BadInput("a program is run by two parties or more, of which this is one")
        if any(steps[output].type.sort != "share" for output in self.program.outputs):
            raise BadInput("an output of a program is a share")
        self.state, self.round = State.WAITING, 0
        self._values: dict[int, Any] = {}
        self._waits = [len(set(step.inputs)) for step in steps]
        self._users: list[list[int]] = [[] for _ in steps]
        self._uses = [0] * len(steps)
        for number, step in enumerate(steps):
            for value in set(step.inputs):
                self._users[value].append(number)
                self._uses[value] += 1
        for value in self.program.outputs:
            self._uses[value] += 1
        self._ready = [number for number, waits in enumerate(self._waits) if not waits]  # sorted, so a heap
        self._lacking: set[int] = set()
        self._corrections: dict[int, Buffer] = {}
        self._seen: set[int] = set()
        self._once = Once()
        self._paused: list[_Paused] = []
        self._heard: dict[int, dict[int, memoryview]] = {}
        self._transcript = hashlib.blake2b(self.program.digest + self.run, digest_size=32)
        for number, step in enumerate(steps):
            if step.operation in GIVEN and (
                number not in self.given or tuple(self.given[number].shape) != step.type.shape
            ):
                raise BadInput(f"step {number} of the program has no value of shape {step.type.shape}")

    def start(self) -> list[Command]:
        """What can be done before anything is heard."""
        return self._go_on()

    def receive(self, event: Event) -> list[Command]:
        """Raises `PeerMisbehaviour` naming the party that sent what it may not."""
        if self.state in (State.DONE, State.FAILED):
            raise PeerMisbehaviour("a message to a run that is over", phase=self.state.name.lower())
        try:
            return self._corrected(event) if isinstance(event, Correction) else self._opened(event)
        except SmpcError:
            self.state = State.FAILED
            self._values.clear()
            raise

    # --- corrections ---

    def _corrected(self, event: Correction) -> list[Command]:
        step = event.step
        if not 0 <= step < len(self.program.steps) or not self._is_corrected(step) or step in self._seen:
            raise PeerMisbehaviour(f"a correction that step {step} does not take", phase="dealing")
        self._seen.add(step)
        self._corrections[step] = event.data
        if step in self._lacking:
            self._lacking.remove(step)
            heappush(self._ready, step)
            return self._go_on()
        return []

    def _is_corrected(self, step: int) -> bool:
        primitive = TABLE.get(self.program.steps[step].operation)
        return primitive is not None and primitive.corrected and step % len(self.parties) == self.index

    # --- steps ---

    def _go_on(self) -> list[Command]:
        """Starts what can be started; opens once nothing more can."""
        while self._ready:
            number = heappop(self._ready)
            if self._is_corrected(number) and number not in self._corrections:
                self._lacking.add(number)
                continue
            self._begin(number)
        if self._lacking:  # what they open belongs to this round's message
            return []
        if self._paused:
            self._paused.sort(key=lambda paused: paused.step)
            self.state = State.OPENING
            parts = [opening.encode() for paused in self._paused for opening in paused.openings]
            return self._say(b"".join(parts))
        self.state = State.CLOSING
        return self._say(self._transcript.digest())

    def _begin(self, number: int) -> None:
        step = self.program.steps[number]
        if step.operation in GIVEN:
            self._end(number, self.given[number])
            return
        primitive = TABLE[step.operation]
        self._once.take(number)
        source = Taking(self.seed, self.run, number, self._corrections.pop(number, None))
        types = input_types(self.program.steps, step)
        dealt = primitive.deal(source, types, step.parameters, [None] * len(types))
        source.finish()
        inputs = [self._values[value] for value in step.inputs]
        result = primitive.run(self.index == 0, dealt, inputs, step.parameters)
        if isinstance(result, GeneratorType):
            self._step(number, result, None)
        else:
            self._end(number, result)

    def _step(self, number: int, running: Running, opened: list[Any] | None) -> None:
        try:
            openings = next(running) if opened is None else running.send(opened)
        except StopIteration as end:
            self._end(number, end.value)
        else:
            self._paused.append(_Paused(number, running, openings))

    def _end(self, number: int, value: Any) -> None:
        if self._uses[number]:
            self._values[number] = value
        for used in set(self.program.steps[number].inputs):
            self._uses[used] -= 1
            if not self._uses[used]:
                del self._values[used]
        for user in self._users[number]:
            self._waits[user] -= 1
            if not self._waits[user]:
                heappush(self._ready, user)

    # --- openings ---

    def _say(self, data: bytes) -> list[Command]:
        self._size = len(data)
        self._own = data
        return [Broadcast(self.round, data), *self._all_heard()]

    def _opened(self, event: Openings) -> list[Command]:
        if not 0 <= event.sender < len(self.parties) or event.sender == self.index:
            raise PeerMisbehaviour("openings of nobody who takes part", phase="opening")
        peer = self.parties[event.sender]
        heard = self._heard.setdefault(event.round, {})
        # A peer is at most one round ahead: it needs this party's message to go further.
        if event.round not in (self.round, self.round + 1) or event.sender in heard:
            raise PeerMisbehaviour("openings of a round that is not now", peer=peer, phase="opening")
        heard[event.sender] = memoryview(event.data).cast("B")
        return self._all_heard() if self.state in (State.OPENING, State.CLOSING) else []

    def _all_heard(self) -> list[Command]:
        heard = self._heard.get(self.round, {})
        if len(heard) < len(self.parties) - 1:
            return []
        del self._heard[self.round]
        for sender, data in heard.items():
            if data.nbytes != self._size:
                raise MalformedMessage(
                    f"openings of {data.nbytes} bytes instead of {self._size}",
                    peer=self.parties[sender],
                    phase="opening",
                )
        self.round += 1
        if self.state is State.CLOSING:
            return self._close(heard)
        self.state = State.WAITING
        paused, self._paused = self._paused, []
        at = 0
        for one in paused:
            opened = []
            for opening in one.openings:
                value = opening.join([data[at : at + opening.size] for data in heard.values()])
                self._transcript.update(Opening(value).encode())
                opened.append(value)
                at += opening.size
            self._step(one.step, one.running, opened)
        return self._go_on()

    def _close(self, heard: Mapping[int, memoryview]) -> list[Command]:
        if any(bytes(data) != self._own for data in heard.values()):
            raise Equivocation(
                "the parties did not open the same values: one of them showed different shares to different peers, or "
                "they did not run the same program; nothing was given out",
                phase="closing",
            )
        self.state = State.DONE
        return [Finished({step: self._values[step] for step in self.program.outputs})]
