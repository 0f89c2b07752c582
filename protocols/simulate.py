"""A whole secure round in one process, without network, on one page: the first file to read, and the machines' test bed.

    update -> clip, weigh -> fixed point -> shares -> seal -> aggregator adds -> agree -> release -> partial sums
    -> reconstruct -> weighted mean

The very machines that the nodes run pass their messages through one queue here. A test may lose, double, delay or
reorder messages by `Simulation.deliver`, and crash a node between any two steps by `Simulation.crash`: it comes back from
what it had made durable, and nothing else.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from smpc_fl.encryption import Cipher
from smpc_fl.entropy import Entropy
from smpc_fl.identity import Identity
from smpc_fl.jobs import RingBits
from smpc_fl.privacy.mechanism import Mechanism
from smpc_fl.protocols.aggregator import AggregatorRound
from smpc_fl.protocols.commands import (
    Command,
    Compute,
    Computed,
    EraseSecrets,
    Event,
    Finished,
    PeerUp,
    Persist,
    Received,
    Send,
    Start,
    Tick,
    WakeAt,
)
from smpc_fl.protocols.coordinator import CoordinatorRound, GivenUp, Released, RoundPlan
from smpc_fl.protocols.decryption import Decryption
from smpc_fl.protocols.manifest import Expected, Rules, choose_numbers
from smpc_fl.protocols.messages import RoundClosed, Signed
from smpc_fl.protocols.owner import OwnerRound
from smpc_fl.protocols.party import Party
from smpc_fl.protocols.records import ERASED, Record
from smpc_fl.protocols.releases import Releases
from smpc_fl.roster import Member, Membership, Roster

COORDINATOR = "coordinator"
JOB = bytes(32)
SUBJECT = bytes(32)


def federation(owners: list[str], aggregators: list[str], entropy: Entropy) -> dict[str, Party]:
    """Fresh identities for everybody, and the roster that they all hold."""
    roles = {COORDINATOR: "coordinator"} | dict.fromkeys(owners, "owner") | dict.fromkeys(aggregators, "aggregator")
    identities = {id_: Identity.generate(entropy) for id_ in roles}
    members = [
        Member(id_, role, identities[id_].public.key, "ws://127.0.0.1:1" if role[0] in "ac" else "")  # type: ignore[arg-type]
        for id_, role in roles.items()
    ]
    membership = Membership(Roster.of("simulation", 1, members), Identity.generate(entropy).public)
    return {id_: Party(id_, identities[id_], membership) for id_ in roles}


@dataclass
class Node:
    """One machine and its journal."""

    machine: AggregatorRound | OwnerRound | CoordinatorRound | Decryption
    journal: list[Record]
    bulk: bytearray | None = None


class Book(Releases):
    """An aggregator's book with the ledgers behind it, which outlive rounds and crashes."""

    def __init__(self) -> None:
        self.ledgers: defaultdict[bytes, list[Record]] = defaultdict(list)
        super().__init__(self.ledgers.__getitem__)


class Simulation:
    """N owners, m aggregators and a coordinator at one attempt of one round.

    `vectors`: each owner's secure vector, float64[d], every element in ±clip and already weighed; `now` is seconds.
    With a `mechanism` every aggregator adds its noise. With the owners' `cipher` there is one aggregator, which adds
    ciphertexts."""

    def __init__(
        self,
        vectors: Mapping[str, NDArray[np.float64]],
        *,
        aggregators: int = 3,
        ring_bits: RingBits | None = None,
        update_bits: int | None = None,
        tolerance: float = 1e-3,
        clip: float = 1.0,
        max_samples: int = 100,
        k_min: int = 3,
        round_number: int = 0,
        seconds: float = 60.0,
        mechanism: Mechanism | None = None,
        entropy: Entropy,
        parties: Mapping[str, Party] | None = None,
        cipher: Cipher | None = None,
    ) -> None:
        owners, names = sorted(vectors), [f"aggregator-{i}" for i in range(aggregators if cipher is None else 1)]
        self.vectors, self.entropy, self.now = vectors, entropy, 1_000.0
        self.parties = parties or federation(owners, names, entropy)
        self.cipher = cipher
        self._summed: tuple[CoordinatorRound, Released] | None = None
        self.rules = Rules(min(k_min, len(owners)), protection="shares" if cipher is None else "ckks")
        dimension = next(iter(vectors.values())).size
        numbers = choose_numbers(
            owners=len(owners), clip=clip, max_samples=max_samples, k_min=k_min, tolerance=tolerance, ring_bits=ring_bits,
            update_bits=update_bits, mechanism=mechanism, aggregators=aggregators,
        )  # fmt: skip
        self.plan = RoundPlan(
            entropy(16), round_number, 0, "train", tuple(owners), tuple(names), dimension, numbers, clip, max_samples,
            k_min, seconds, 30.0, JOB, SUBJECT, b"", encryption=b"" if cipher is None else cipher.id,
        )  # fmt: skip
        self.expected = Expected(
            "train", JOB, dimension, clip, max_samples, tolerance, tuple(owners), SUBJECT, mechanism=mechanism
        )
        self.queue: deque[tuple[str, Event]] = deque()
        self.outcome: Released | GivenUp | None = None
        self.down: set[str] = set()
        self.books = {id_: Book() for id_ in names}
        self.nodes = {id_: Node(self._machine(id_, []), []) for id_ in [COORDINATOR, *owners, *names]}

    def _machine(
        self, id_: str, journal: list[Record], bulk: bytearray | None = None
    ) -> AggregatorRound | OwnerRound | CoordinatorRound | Decryption:
        party, entropy, plan = self.parties[id_], self.entropy, self.plan
        if id_ == COORDINATOR and self._summed is not None:
            machine, outcome = self._summed
            owners = [entry.owner for entry in outcome.agreed]
            return Decryption.restore(machine, outcome, owners, plan.patience, journal, bulk)
        if id_ == COORDINATOR:
            return CoordinatorRound.restore(party, plan, journal, bulk, entropy=entropy)
        if id_ in plan.aggregators:
            key = (plan.run, plan.round, plan.attempt)
            return AggregatorRound.restore(
                party,
                self.rules,
                key,
                journal,
                bulk,
                coordinator=COORDINATOR,
                entropy=entropy,
                releases=self.books[id_],
            )
        rules, round_key = replace(self.rules, aggregators=frozenset(plan.aggregators)), (plan.run, plan.round)
        return OwnerRound.restore(
            party, rules, round_key, self.expected, journal, bulk, coordinator=COORDINATOR, entropy=entropy,
            cipher=self.cipher,
        )  # fmt: skip

    # --- running ---

    def run(self) -> Released | GivenUp:
        """Deliver everything in order, let time pass when nothing is under way, until the coordinator has its outcome."""
        for id_ in self.nodes:
            self.queue.append((id_, Start()))
        while self.outcome is None:
            if not self.queue:
                self.pass_time()
            self.deliver(*self.queue.popleft())
        while self.queue:
            self.deliver(*self.queue.popleft())
        return self.outcome

    def pass_time(self, seconds: float = 10.0) -> None:
        self.now += seconds
        self.queue.extend((id_, Tick()) for id_ in self.nodes)

    def deliver(self, to: str, event: Event) -> None:
        """One event at one node, and its commands in order. An event for a node that is down is lost."""
        if to not in self.down:
            for command in self.nodes[to].machine.receive(event, self.now):
                self.carry_out(to, command)

    def carry_out(self, by: str, command: Command) -> None:
        node = self.nodes[by]
        match command:
            case Persist(record=record, bulk=bulk, ledger=ledger):
                node.journal.append(record)
                node.bulk = bytearray(bulk()) if bulk is not None else node.bulk
                if ledger is not None:
                    self.books[by].ledgers[ledger[0]].append(ledger[1])
            case EraseSecrets():
                node.journal[:] = [record for record in node.journal if type(record).__name__ not in ERASED]
                node.bulk = None
            case Send(to=to, signed=signed, attachment=attachment):
                message = self.parties[to].read(signed)
                self.queue.append((to, Received(by, message, signed, attachment)))
            case Compute():
                self.queue.append((by, Computed(self.vectors[by])))
            case Finished(outcome=outcome) if by == COORDINATOR:
                if isinstance(node.machine, CoordinatorRound) and isinstance(outcome, Released) and outcome.signed:
                    self._summed = node.machine, outcome  # of ciphertexts: its other half goes on
                    self.nodes[by] = Node(self._machine(by, []), [])
                    self.queue.append((by, Start()))
                else:
                    self.outcome = outcome
            case _:
                assert isinstance(command, Finished | WakeAt)  # an owner's end; time passes by itself here

    def next_attempt(self, aborts: tuple[Signed, ...]) -> None:
        """Begin another attempt at the same round: the owners' machines go on, the others are new. Then `run` again."""
        self.plan = replace(self.plan, attempt=self.plan.attempt + 1, aborts=aborts)
        self.outcome = self._summed = None
        for id_ in (COORDINATOR, *self.plan.aggregators):
            self.nodes[id_] = Node(self._machine(id_, []), [])

    def close(self, released: bool) -> None:
        """Tell the owners that the round is over, as the coordinator does when no attempt follows."""
        machine = self.nodes[COORDINATOR].machine
        message = RoundClosed(machine.manifest_hash, released)
        for owner in self.plan.cohort:
            self.deliver(owner, Received(COORDINATOR, message, self.parties[COORDINATOR].sign(message)))

    def crash(self, id_: str) -> None:
        """Kill a node and start it again from its journal; what was on the way to it is lost, its peers reconnect."""
        self.queue = deque((to, event) for to, event in self.queue if to != id_)
        node = self.nodes[id_]
        bulk = node.bulk and bytearray(node.bulk)  # a machine adds to the very bytes that it is given
        node.machine = self._machine(id_, node.journal, bulk)
        self.queue.append((id_, Start()))
        for peer in self.nodes:
            self.queue += [(peer, PeerUp(id_)), (id_, PeerUp(peer))]


def decoded(simulation: Simulation, outcome: Released) -> NDArray[np.float64]:
    """The sum over the agreed set, float64[d]: Σ partial sums mod 2^b -> signed -> float."""
    return simulation.plan.numbers.fixed_point.decode(outcome.total)
