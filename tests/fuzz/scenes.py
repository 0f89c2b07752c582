"""A machine in each of its states, in the midst of a round; what it has in mind, to be compared and put back."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from rig import OWNERS, Draws, Rig, aggregator_at, owner_at, powers

from smpc_fl.protocols import aggregator, codec, coordinator, owner
from smpc_fl.protocols.aggregator import AggregatorRound
from smpc_fl.protocols.aggregator import State as AggregatorState
from smpc_fl.protocols.commands import Command, Persist, Send, Tick
from smpc_fl.protocols.coordinator import CoordinatorRound
from smpc_fl.protocols.decryption import Decryption
from smpc_fl.protocols.messages import AbortRequest, Message, Refusal, ReleaseReceipt
from smpc_fl.protocols.owner import OwnerRound
from smpc_fl.protocols.owner import State as OwnerState
from smpc_fl.protocols.records import Reporting
from smpc_fl.protocols.simulate import COORDINATOR, federation
from smpc_fl.sealing import KeyPair

AGGREGATORS = tuple(f"aggregator-{number}" for number in range(3))
STRANGERS = ("eve", "aggregator-9", "nobody")
"""An owner outside the cohort, an aggregator outside the round, and one whom the roster does not know."""

Machine = AggregatorRound | OwnerRound | CoordinatorRound | Decryption
MODULES: dict[type[Any], Any] = {OwnerRound: owner, AggregatorRound: aggregator, CoordinatorRound: coordinator}

_CACHES = frozenset({"_entropy", "_prekeys", "_copy", "_round_offer", "_unconfirmed"})


@cache
def parties() -> Any:
    """The roster of all rounds here: the same keys for each of them."""
    return federation([*OWNERS, "eve"], [*AGGREGATORS, "aggregator-9"], Draws("parties"))


def rig(seed: object = "fuzz", **more: Any) -> Rig:
    return Rig(powers(), seed=seed, parties=parties(), **more)


# --- what a machine has in mind ---


def mind(machine: Machine) -> dict[str, Any]:
    """A copy of all that may change."""
    return {name: _copied(value) for name, value in vars(machine).items()}


def _copied(value: Any) -> Any:
    match value:
        case dict():
            return {key: _copied(item) for key, item in value.items()}
        case list() | set() | bytearray() | deque():
            return value.copy()
        case np.ndarray():
            return value.copy()
        case _ if type(value).__name__ in ("Releases", "Book"):
            return copy.deepcopy(value)
        case _:
            return value


def same_mind(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(_same(one[name], other.get(name)) for name in one if name not in _CACHES)


def _same(one: Any, other: Any) -> bool:
    match one:
        case np.ndarray():
            return isinstance(other, np.ndarray) and one.tobytes() == other.tobytes()
        case dict():
            return isinstance(other, dict) and one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
        case _ if type(one).__name__ in ("Releases", "Book"):
            return _same(vars(one), vars(other))
        case _:
            return bool(one == other)


def secrets_of(machine: Machine) -> set[bytes]:
    """What must never be in anything that a machine says in the clear."""
    found = {machine.party.identity.seed.reveal()}
    for value in vars(machine).values():
        match value:
            case KeyPair():
                found.add(value.private.reveal())
            case Reporting():
                found |= {*value.seeds.values(), *value.blinders, value.ephemeral, value.vector_key}
            case np.ndarray() if value.nbytes >= 16:
                found.add(value.tobytes())
    return found | set(getattr(machine, "_seeds", {}).values())


# --- a round that is stopped ---


@dataclass
class Scene:
    """A round in which `who` has just come to `state`. `reset` puts all of it back."""

    who: str
    state: Any
    rig: Rig
    before: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self._saved = self._save()
        self.before = mind(self.machine)

    def __str__(self) -> str:
        return f"{type(self.machine).__name__} {self.state.name}"

    @property
    def machine(self) -> Machine:
        machine: Machine = self.rig.nodes[self.who].machine
        return machine

    def _save(self) -> dict[str, Any]:
        rig = self.rig
        minds = {
            id_: (node.machine, mind(node.machine), list(node.journal), node.bulk and bytes(node.bulk))
            for id_, node in rig.nodes.items()
        }
        return {
            "minds": minds, "queue": list(rig.queue), "now": rig.now, "outcome": rig.outcome, "said": len(rig.said),
            "books": copy.deepcopy(rig.books), "drawn": rig.entropy.number,  # type: ignore[attr-defined]
        }  # fmt: skip

    def reset(self, *, whole: bool = True) -> None:
        """`whole`: the round went on; otherwise only the machine itself has heard of something."""
        rig, saved = self.rig, self._saved
        for id_ in saved["minds"] if whole else [self.who]:
            machine, then, journal, bulk = saved["minds"][id_]
            node = rig.nodes[id_]
            vars(machine).clear()
            vars(machine).update({name: _copied(value) for name, value in then.items()})
            node.machine, node.journal[:], node.bulk = machine, journal, bulk and bytearray(bulk)
            if isinstance(machine, AggregatorRound):  # the machine and the disk have one book
                rig.books[id_] = machine.releases = copy.deepcopy(saved["books"][id_])
        rig.entropy.number = saved["drawn"]  # type: ignore[attr-defined]
        if not whole:
            return
        rig.queue, rig.now, rig.outcome = deque(saved["queue"]), saved["now"], saved["outcome"]
        del rig.said[saved["said"] :]

    def carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            self.rig.carry_out(self.who, command)

    def finish(self) -> Any:
        """The rest of the round, which every honest node goes on with; checked for exactness."""
        for _ in range(20_000):
            if self.rig.outcome is not None:
                break
            if not self.rig.queue:
                self.rig.pass_time()
            self.rig.deliver(*self.rig.queue.popleft())
        else:
            raise AssertionError("the round does not end")
        self.rig.settle()
        self.rig.check(self.rig.outcome)
        return self.rig.outcome


def coordinator_at(state: coordinator.State) -> Rig:
    made = rig()
    made.begin()
    stop = {
        coordinator.State.ABORTING: coordinator.State.AGREEING,
        coordinator.State.GIVEN_UP: coordinator.State.COLLECTING,
    }
    while made.coordinator.state is not stop.get(state, state):
        if not made.queue:
            made.pass_time()
        made.deliver(*made.queue.popleft())
    if state is coordinator.State.ABORTING:
        made.now += 1000.0
        made.deliver(COORDINATOR, Tick())
    if state is coordinator.State.GIVEN_UP:
        for aggregator_ in AGGREGATORS:
            made.deliver(aggregator_, made.from_(COORDINATOR, AbortRequest(*made.aggregator().key)))
        while made.coordinator.state is not state:
            made.deliver(*made.queue.popleft())
    assert made.coordinator.state is state
    return made


def _owner(state: OwnerState) -> Rig:
    if state is OwnerState.IDLE:
        made = rig()
        made.begin()
        return made
    return owner_at(state, vectors=powers(), seed="fuzz", parties=parties())


def _aggregator(state: AggregatorState) -> Rig:
    if state is AggregatorState.EMPTY:
        made = rig()
        made.begin()
        return made
    if state.name == "OUTDATED":
        made = aggregator_at(AggregatorState.FROZEN, vectors=powers(), seed="fuzz", parties=parties())
        made.deliver(AGGREGATORS[0], made.from_(COORDINATOR, ReleaseReceipt(made.aggregator().manifest_hash)))
        assert made.aggregator().state is state
        return made
    return aggregator_at(state, vectors=powers(), seed="fuzz", parties=parties())


_BUILT: list[tuple[str, type[Any], Callable[[Any], Rig]]] = [
    ("alice", OwnerState, _owner),
    (AGGREGATORS[0], AggregatorState, _aggregator),
    (COORDINATOR, coordinator.State, coordinator_at),
]


@cache
def scenes() -> list[Scene]:
    """Every state of the three machines; a state that nobody can bring about here is an error."""
    return [Scene(who, state, build(state)) for who, states, build in _BUILT for state in states]


# --- what a machine does about one event ---


def said_in(commands: list[Command]) -> Iterator[tuple[Message, Send]]:
    for command in commands:
        if isinstance(command, Send):
            yield codec.decode_message(command.signed.body), command


def only_refuses(commands: list[Command]) -> bool:
    """Whether nothing was kept, and nothing but refusals is said."""
    return not any(isinstance(command, Persist) for command in commands) and all(
        isinstance(message, Refusal) and send.attachment is None for message, send in said_in(commands)
    )


def reachable(module: Any, machine: Machine, before: Any, event: str) -> set[Any]:
    """The states that the table allows after one event. A coordinator may take several of its steps at once."""
    table = module.TRANSITIONS
    if not isinstance(machine, CoordinatorRound):
        return {
            before,
            *(after for (state, name), after in table.items() if state is before and name.split(":")[0] == event),
        }
    found = {before}
    while more := {after for (state, _), after in table.items() if state in found} - found:
        found |= more
    return found
