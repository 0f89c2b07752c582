"""A researcher, parties and a crypto provider that compute on shared tensors without network, and may be disturbed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from rig import Draws

from smpc_fl.errors import SmpcError
from smpc_fl.identity import Identity
from smpc_fl.protocols.codec import decode_message, encode
from smpc_fl.protocols.commands import Command, Finished, PeerGone, Persist, Received, Send, Start, Tick, WakeAt
from smpc_fl.protocols.computing import ComputingRules, Continue, GoOn
from smpc_fl.protocols.computing_client import ComputingClient, Run, Share
from smpc_fl.protocols.computing_party import ComputingParty
from smpc_fl.protocols.computing_program import Checked, read, write
from smpc_fl.protocols.computing_provider import ComputingProvider
from smpc_fl.protocols.computing_tensors import Tensors
from smpc_fl.protocols.messages import TensorRef
from smpc_fl.protocols.party import Party
from smpc_fl.roster import Member, Membership, Role, Roster
from smpc_fl.shared_tensors import order
from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.words import Words, to_bytes
from smpc_fl.shared_tensors.words import encode as to_words

RESEARCHER, PROVIDER = "researcher", "provider"
NOW = 1000.0
Machine = ComputingClient | ComputingParty | ComputingProvider
Delivery = tuple[str, str, Any, Any]
"""From whom, to whom, what."""


class World:
    """`tamper(delivery)`: what arrives instead, in that order."""

    def __init__(self, parties: int = 2, *, seed: object = 0, most: int = 8 << 30, held: int = 1 << 30) -> None:
        self.draw = Draws(seed)
        self.parties = tuple(f"aggregator-{number}" for number in range(1, parties + 1))
        roles: dict[str, Role] = {RESEARCHER: "researcher", "other": "researcher", PROVIDER: "provider"}
        roles |= dict.fromkeys((*self.parties, "aggregator-9"), "aggregator")
        self.identities = {id: Identity.generate(self.draw) for id in roles}
        members = [
            Member(id, role, self.identities[id].public.key, "ws://h:1" if role in ("aggregator", "provider") else "")
            for id, role in roles.items()
        ]
        self.membership = Membership(Roster.of("test", 1, members), Identity.generate(self.draw).public)
        self.rules = ComputingRules(frozenset({PROVIDER}), most)
        self.tensors = {id: Tensors(held) for id in self.parties}
        self.taken: dict[str, set[bytes]] = {id: set() for id in (*self.parties, PROVIDER)}
        self.tamper: Callable[[Delivery], Sequence[Delivery]] = lambda delivery: [delivery]
        self.said: list[Delivery] = []
        self.shared: dict[str, TensorRef] = {}
        self.now = NOW

    def party(self, id: str) -> Party:
        return Party(id, self.identities[id], self.membership)

    def machines(self, run: bytes, researcher: str = RESEARCHER) -> dict[str, Machine]:
        made: dict[str, Machine] = {
            id: ComputingParty(self.party(id), self.rules, run, researcher, self.tensors[id], self.draw)
            for id in self.parties
        }
        made[PROVIDER] = ComputingProvider(self.party(PROVIDER), self.rules, run, researcher, self.draw)
        made[researcher] = ComputingClient(self.party(researcher), run, self.parties, PROVIDER, self.draw)
        return made

    def share(self, name: str, values: torch.Tensor, scale: int = 18, *, researcher: str = RESEARCHER) -> Any:
        return self.share_words(name, to_words(values, scale), researcher=researcher)

    def share_words(self, name: str, words: Words, *, researcher: str = RESEARCHER) -> Any:
        going = Going(self, researcher)
        going.work(Share(words, self.now + 60))
        self.shared[name] = TensorRef(going.run, 0)
        return going.finish()[researcher]

    def run(self, draft: Draft, outputs: Sequence[Value], *, revealed: Sequence[int] | None = None) -> dict[str, Any]:
        """Outcomes by member."""
        going = Going(self)
        going.work(self.task(draft, outputs, revealed=revealed))
        return going.finish()

    def task(self, draft: Draft, outputs: Sequence[Value], *, revealed: Sequence[int] | None = None) -> Run:
        checked, publics = compiled(draft, outputs)
        inputs = [self.shared[str(checked.program.steps[step].parameters["name"])] for step in checked.inputs]
        wanted = range(len(outputs)) if revealed is None else revealed
        return Run(checked, publics, inputs, list(wanted), self.now + 60)


def compiled(draft: Draft, outputs: Sequence[Value]) -> tuple[Checked, bytes]:
    program = draft.program(*outputs)
    checked = read(write(program))
    words: Mapping[int, Words] = draft.public_words(program)
    return checked, b"".join(to_bytes(words[number]) for number in checked.publics)


class Going:
    """One run, message by message. `outcomes`: by member, of those that have ended."""

    def __init__(self, world: World, researcher: str = RESEARCHER) -> None:
        self.world, self.researcher = world, researcher
        self.run = world.draw(16)
        self.machines = world.machines(self.run, researcher)
        self.queue: deque[Delivery] = deque()
        self.outcomes: dict[str, Any] = {}
        self.wakes: list[float] = []
        self.refused: list[tuple[str, SmpcError]] = []
        self.dead: set[str] = set()
        self.feed(researcher, Start())

    def work(self, work: Share | Run) -> None:
        self.feed(self.researcher, work)

    def feed(self, member: str, event: Any) -> None:
        if member in self.dead:
            return
        machine: Any = self.machines[member]
        try:
            self.do(member, machine.receive(event, self.world.now))
        except SmpcError as error:
            self.refused.append((member, error))

    def do(self, member: str, commands: Sequence[Command | GoOn]) -> None:
        for command in commands:
            match command:
                case Persist():
                    self.world.taken[member].add(self.run)
                case Send(to=to, signed=signed):
                    self.queue.append((member, to, decode_message(signed.body), command))
                case GoOn():
                    self.queue.append((member, member, CONTINUE, NOTHING))
                case WakeAt(time=time):
                    self.wakes.append(time)
                case Finished(outcome=outcome):
                    assert member not in self.outcomes
                    self.outcomes[member] = outcome

    def step(self) -> None:
        """Delivers one message, or what stands for it."""
        delivery = self.queue.popleft()
        self.world.said.append(delivery)
        for arrived in self.world.tamper(delivery):
            self.deliver(arrived)

    def deliver(self, delivery: Delivery) -> None:
        sender, to, message, send = delivery
        if message is CONTINUE:
            self.feed(to, Continue())
            return
        if to in self.machines and not isinstance(self.machines[to], ComputingClient) and not self.begun(to):
            self.feed(to, Start())
            if to in self.dead or type(message).__name__ == "ComputingKeyRequest":
                return
        assert decode_message(encode(message)) == message
        self.feed(to, Received(sender, message, send.signed, send.attachment))

    def begun(self, member: str) -> bool:
        return self.machines[member].state.name != "ASKED"

    def finish(self) -> dict[str, Any]:
        while self.queue:
            self.step()
        return self.outcomes

    def kill(self, member: str) -> None:
        """The others see that its connection is gone."""
        self.dead.add(member)
        self.queue = deque(item for item in self.queue if item[0] != member)
        for other in self.machines:
            if other != member:
                self.feed(other, PeerGone(member, SmpcError("gone")))

    def late(self) -> dict[str, Any]:
        """Time passes, until nobody is to be woken any more."""
        self.finish()
        for wake in sorted(set(self.wakes)):
            self.world.now = max(self.world.now, wake)
            for member in self.machines:
                self.feed(member, Tick())
            self.finish()
        return self.outcomes


CONTINUE: Any = object()
NOTHING: Any = None

X = torch.tensor([[1.5, -2.0, 0.25], [0.0, 3.0, -1.0]], dtype=torch.float64)
Y = torch.tensor([[0.5], [1.0], [-4.0]], dtype=torch.float64)
EXPECTED = torch.relu(X @ Y + 0.5)


def network() -> tuple[Draft, list[Value]]:
    draft = Draft()
    return draft, [order.relu(draft.input("x", (2, 3)) @ draft.input("y", (3, 1)) + torch.full((1,), 0.5))]


def world(parties: int = 2, **more: Any) -> World:
    made = World(parties, **more)
    assert made.share("x", X) is None
    assert made.share("y", Y) is None
    return made


def going(made: World, **more: Any) -> Going:
    """A run that has been asked for, of which nothing is delivered."""
    run = Going(made)
    run.work(made.task(*network(), **more))
    return run


def until(run: Going, kind: type[Any]) -> None:
    """Until a message of this type is the next."""
    while not isinstance(run.queue[0][2], kind):
        run.step()


def assert_all_name(outcomes: dict[str, Any], culprit: str | None, *kinds: type[SmpcError]) -> None:
    assert {type(error) for error in outcomes.values()} <= set(kinds), outcomes
    assert {error.peer for error in outcomes.values()} == {culprit}
