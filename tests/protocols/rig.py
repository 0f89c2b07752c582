"""The test bed of the three machines: a simulation that records, can die between any two commands, and can be stopped.

Each owner's first slot is a power of four units of the scale, so that the base-4 digits of the sum say how often each owner
was counted: a "2" would show a report that counted twice.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from smpc_fl.errors import SmpcError, from_code
from smpc_fl.protocols import codec
from smpc_fl.protocols.aggregator import AggregatorRound
from smpc_fl.protocols.aggregator import State as AggregatorState
from smpc_fl.protocols.commands import Command, Compute, Event, Persist, Received, Send, Start
from smpc_fl.protocols.coordinator import CoordinatorRound, GivenUp, Released
from smpc_fl.protocols.manifest import choose_numbers, manifest_hash, set_hash
from smpc_fl.protocols.messages import (
    AbortRequest,
    AttemptAborted,
    Endorsement,
    Manifest,
    Message,
    PartialSum,
    Prekey,
    Refusal,
    RoundClosed,
    RoundOffer,
    Signed,
    VectorReport,
)
from smpc_fl.protocols.owner import OwnerRound
from smpc_fl.protocols.owner import State as OwnerState
from smpc_fl.protocols.party import Party
from smpc_fl.protocols.records import Record
from smpc_fl.protocols.simulate import COORDINATOR, Simulation

OWNERS = ("alice", "bob", "carol", "dave")


class Draws:
    """A seeded `Entropy` that never repeats: SHAKE-256 of (seed, number of the draw)."""

    def __init__(self, seed: object) -> None:
        self.seed, self.number = repr(seed).encode(), 0

    def __call__(self, n: int, /) -> bytes:
        self.number += 1
        return hashlib.shake_256(self.seed + b"/" + str(self.number).encode()).digest(n)


def powers(owners: Sequence[str] = OWNERS, dimension: int = 4, **numbers: Any) -> dict[str, NDArray[np.float64]]:
    """Each owner's vector: 4^i units of the scale that these owners get, then values in ±1."""
    settings: dict[str, Any] = {"clip": 1.0, "max_samples": 128, "k_min": 3, "tolerance": 1e-3, "ring_bits": None}
    unit = 2.0 ** -choose_numbers(owners=len(owners), **{**settings, **numbers}).fractional_bits
    rest = np.random.default_rng(len(owners)).uniform(-1, 1, (len(owners), dimension - 1))
    return {owner: np.concatenate([[4**i * unit], rest[i]]) for i, owner in enumerate(sorted(owners))}


def label(event: Event) -> str:
    """The name of an event in the tables of transitions: its message's, where it carries one."""
    return type(event.message if isinstance(event, Received) else event).__name__


@dataclass(frozen=True)
class Seen:
    """One event at one machine, and what became of it."""

    machine: type
    before: Any
    event: str
    after: Any


class Rig(Simulation):
    """`seen`: every event at every machine; `received` and `written`: every message and record by node, also the erased
    ones; `bulks`: every bulk with the record that it came with; `said`: every message that a node sent; `computed`: how
    often each owner did; `dies(node, command)`: whether it crashes just before that command."""

    def __init__(
        self, vectors: Mapping[str, NDArray[np.float64]] | None = None, *, seed: object = 0, **more: Any
    ) -> None:
        more = {"max_samples": 128, "entropy": Draws(seed), **more}
        super().__init__(vectors if vectors is not None else powers(), **more)
        self.seen: list[Seen] = []
        self.received: dict[str, list[Received]] = defaultdict(list)
        self.written: dict[str, list[Record]] = defaultdict(list)
        self.bulks: dict[str, list[tuple[Record, bytes]]] = defaultdict(list)
        self.said: list[tuple[str, Send, Message]] = []
        self.computed: Counter[str] = Counter()
        self.dies: Callable[[str, Command], bool] = lambda by, command: False

    def deliver(self, to: str, event: Event) -> None:
        if to in self.down:
            return
        if isinstance(event, Received):
            self.received[to].append(event)
        machine = self.nodes[to].machine
        before = machine.state
        commands = machine.receive(event, self.now)
        self.seen.append(Seen(type(machine), before, label(event), machine.state))
        for command in commands:
            if self.dies(to, command):
                self.crash(to)
                return
            self.carry_out(to, command)

    def carry_out(self, by: str, command: Command) -> None:
        record = getattr(command, "record", None)
        if record is not None:
            self.written[by].append(record)
        if isinstance(command, Compute):
            self.computed[by] += 1
        if isinstance(command, Send):
            self.said.append((by, command, codec.decode_message(command.signed.body)))
        super().carry_out(by, command)
        if isinstance(command, Persist) and command.bulk is not None:
            self.bulks[by].append((command.record, bytes(self.nodes[by].bulk or b"")))

    def crash_and_lose(self, id_: str) -> None:
        """A crash after which the node's bulk is not there any more."""
        self.nodes[id_].bulk = None
        self.crash(id_)

    # --- stopping and looking ---

    def begin(self) -> None:
        self.queue.extend((id_, Start()) for id_ in self.nodes)

    def until(self, kind: type[Message], to: str | None = None) -> tuple[str, Received]:
        """Run until the next event is a message of this kind (for that node); take it out of the queue undelivered."""
        while True:
            if not self.queue:
                self.pass_time()
            who, event = self.queue.popleft()
            if isinstance(event, Received) and isinstance(event.message, kind) and to in (None, who):
                return who, event
            self.deliver(who, event)

    def finish(self) -> Released | GivenUp:
        """As `run`, from where it stands."""
        while self.outcome is None:
            if not self.queue:
                self.pass_time()
            self.deliver(*self.queue.popleft())
        self.settle()
        return self.outcome

    def settle(self) -> None:
        """Deliver what is under way, without time passing."""
        while self.queue:
            self.deliver(*self.queue.popleft())

    def owner(self, id_: str = "alice") -> OwnerRound:
        machine = self.nodes[id_].machine
        assert isinstance(machine, OwnerRound)
        return machine

    def aggregator(self, number: int = 0) -> AggregatorRound:
        machine = self.nodes[f"aggregator-{number}"].machine
        assert isinstance(machine, AggregatorRound)
        return machine

    @property
    def coordinator(self) -> CoordinatorRound:
        machine = self.nodes[COORDINATOR].machine
        assert isinstance(machine, CoordinatorRound)
        return machine

    def from_(self, sender: str, message: Message, attachment: Any = None) -> Received:
        """`message` as it comes from `sender`, under its signature."""
        return Received(sender, message, self.parties[sender].sign(message), attachment)

    def tell(self, to: str, sender: str, message: Message, attachment: Any = None) -> list[Command]:
        """What the machine of `to` makes of a message, which is not carried out."""
        return self.nodes[to].machine.receive(self.from_(sender, message, attachment), self.now)

    def sent_by(self, id_: str, kind: type[Message]) -> list[Any]:
        return [message for by, _, message in self.said if by == id_ and isinstance(message, kind)]

    # --- what must hold after every round ---

    def check(self, outcome: Released | GivenUp, k_min: int = 3) -> None:
        """The sum is exact over the agreed set, each of it counted once, and no other set was ever released."""
        released = {message.set_hash for _, _, message in self.said if isinstance(message, PartialSum)}
        if isinstance(outcome, GivenUp):
            assert not (outcome.aborts and released), "an aggregator both released and signed an abort"
            return
        machine = self.coordinator
        assert released == {set_hash(machine.manifest_hash, outcome.agreed)}
        owners = [entry.owner for entry in outcome.agreed]
        assert owners == sorted(set(owners))
        assert set(owners) <= set(self.plan.cohort)
        assert len(owners) >= k_min
        fixed = self.plan.numbers.fixed_point
        encoded = [fixed.encode(self.vectors[owner]) for owner in owners]
        modulus = 1 << fixed.ring.bits
        expected = [sum(int(vector[j]) for vector in encoded) % modulus for j in range(self.plan.dimension)]
        assert [int(value) % modulus for value in outcome.total] == expected
        counted = {owner: int(outcome.total[0]) >> 2 * i & 3 for i, owner in enumerate(self.plan.cohort)}
        assert counted == {owner: int(owner in owners) for owner in self.plan.cohort}


# --- making what a dishonest member could make ---


def endorsed(rig: Rig, manifest: Manifest, coordinator: Party | None = None) -> RoundOffer:
    """An offer of `manifest` with every aggregator's endorsement, properly signed."""
    signed = (coordinator or rig.parties[COORDINATOR]).sign(manifest)
    hash_ = manifest_hash(signed)
    return RoundOffer(signed, [rig.parties[a].sign(Endorsement(hash_)) for a in rig.plan.aggregators])


def offered(rig: Rig, to: str = "alice") -> tuple[Manifest, Received]:
    """The manifest and the offer that are about to reach an owner."""
    rig.begin()
    _, event = rig.until(RoundOffer, to)
    assert isinstance(event.message, RoundOffer)
    return codec.decode(event.message.manifest.body, Manifest), event


def changed(manifest: Manifest, **fields: Any) -> Manifest:
    return msgspec.structs.replace(manifest, **fields)


def prekeys(rig: Rig, **fields: Any) -> list[Signed]:
    """Freshly signed prekeys of all aggregators, with these fields changed."""
    plan = rig.plan
    made = Prekey(plan.run, plan.round, plan.attempt, KEY)
    return [rig.parties[a].sign(msgspec.structs.replace(made, **fields)) for a in plan.aggregators]


KEY = bytes([9]) + bytes(31)
"""The base point of X25519: as good a public key as any."""
LOW_ORDER = bytes(32)


def refusal(commands: list[Command]) -> SmpcError:
    """The one refusal that commands consist of: nothing else leaves, and nothing is kept."""
    (command,) = commands
    assert isinstance(command, Send), command
    assert command.attachment is None
    message = codec.decode_message(command.signed.body)
    assert isinstance(message, Refusal), message
    return from_code(message.code, message.text, phase=message.phase)


def told(commands: Sequence[Command]) -> list[Message]:
    """The messages that commands send."""
    return [codec.decode_message(command.signed.body) for command in commands if isinstance(command, Send)]


def with_membership(party: Party, **fields: Any) -> Party:
    return replace(party, membership=replace(party.membership, **fields))


# --- machines in a given state ---


def owner_at(state: OwnerState, **more: Any) -> Rig:
    """A round in which alice has just come to this state."""
    rig = Rig(**more)
    rig.begin()
    stop = {OwnerState.REFUSED: OwnerState.CARRYING, OwnerState.CLOSED: OwnerState.DONE}.get(state, state)
    while rig.owner().state is not stop:
        rig.deliver(*rig.queue.popleft())
    if state is OwnerState.REFUSED:
        about = rig.owner().manifest_hash
        rig.deliver("alice", rig.from_("aggregator-1", Refusal("ReportTooLate", "too late", "report", about)))
    if state is OwnerState.CLOSED:
        rig.deliver("alice", rig.from_(COORDINATOR, RoundClosed(rig.owner().manifest_hash, True)))
    assert rig.owner().state is state
    return rig


def aggregator_at(state: AggregatorState, **more: Any) -> Rig:
    """A round in which the first aggregator has just come to this state."""
    rig = Rig(**more)
    rig.begin()
    stop = AggregatorState.OPEN if state is AggregatorState.ABORTED else state
    while rig.aggregator().state is not stop:
        if not rig.queue:
            rig.pass_time()
        rig.deliver(*rig.queue.popleft())
    if state is AggregatorState.ABORTED:
        rig.deliver("aggregator-0", rig.from_(COORDINATOR, AbortRequest(*rig.aggregator().key)))
    assert rig.aggregator().state is state
    return rig


def carrying(**more: Any) -> Rig:
    """A round in which the first aggregator, still open, has just added the first vector that it carries."""
    rig = aggregator_at(AggregatorState.OPEN, **more)
    while not rig.nodes["aggregator-0"].bulk:
        rig.deliver(*rig.queue.popleft())
    assert rig.aggregator().state is AggregatorState.OPEN
    return rig


def arriving() -> tuple[Rig, Received, VectorReport, bytes]:
    """A round, and the first vector's report, with the sealed vector, that is about to reach the first aggregator."""
    rig = Rig()
    rig.begin()
    _, event = rig.until(VectorReport, "aggregator-0")
    assert isinstance(event.message, VectorReport)
    return rig, event, event.message, bytes(event.attachment)


def aborts(rig: Rig, attempt: int = 0, **fields: Any) -> list[Signed]:
    """Every aggregator's signed abort of an attempt."""
    said = msgspec.structs.replace(AttemptAborted(rig.plan.run, rig.plan.round, attempt, "given up"), **fields)
    return [rig.parties[a].sign(said) for a in rig.plan.aggregators]


def next_offer(rig: Rig, **fields: Any) -> Received:
    """The offer of a further attempt at the round whose manifest alice holds, as an honest coordinator makes it."""
    last = rig.owner().manifest
    assert last is not None
    attempt = last.attempt + 1
    earlier = [signed for before in range(attempt) for signed in aborts(rig, before)]
    carried = {"attempt": attempt, "aggregators": prekeys(rig, attempt=attempt), "aborts": earlier}
    manifest = changed(last, **{**carried, **fields})
    return rig.from_(COORDINATOR, endorsed(rig, manifest), rig.plan.model)
