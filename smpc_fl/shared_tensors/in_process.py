"""A whole program in one process, without network: the first file to read, and the machines' test bed.

values -> words -> shares -> masks, products, openings round by round -> shares of the outputs -> values
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch

from smpc_fl.entropy import Entropy
from smpc_fl.prg import SEED_SIZE
from smpc_fl.shared_tensors.dealing import deal
from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.party import Broadcast, Command, Correction, Finished, Openings, PartyRun
from smpc_fl.shared_tensors.program import Program
from smpc_fl.shared_tensors.sharing import join, split
from smpc_fl.shared_tensors.words import Words, decode, encode


def evaluate(
    draft: Draft,
    outputs: Sequence[Value],
    inputs: Mapping[str, torch.Tensor],
    *,
    entropy: Entropy,
    parties: int = 3,
) -> list[torch.Tensor]:
    """float64 values of `outputs` on `inputs`, by name, computed by `parties` parties on shares."""
    scales = {str(step.parameters["name"]): step.type.scale for step in draft.steps if step.operation == "input"}
    words = {name: encode(values, scales[name]) for name, values in inputs.items()}
    found = evaluate_words(draft, outputs, words, entropy=entropy, parties=parties)
    return [decode(each, output.scale) for each, output in zip(found, outputs, strict=True)]


def evaluate_words(
    draft: Draft, outputs: Sequence[Value], inputs: Mapping[str, Words], *, entropy: Entropy, parties: int = 3
) -> list[Words]:
    """The same on integers as they are, from the whole ring."""
    room = Room.of(draft, outputs, inputs, entropy=entropy, parties=parties)
    shares = converse(room.machines, room.corrections())
    return [join([mine[step] for mine in shares]) for step in room.program.outputs]


def converse(
    machines: Sequence[PartyRun],
    corrections: Iterable[tuple[int, Correction]],
    watch: Callable[[int, Broadcast], None] = lambda sender, said: None,
) -> list[dict[int, Words]]:
    """Until all have finished: each party's shares of the outputs, by step. `watch` sees what parties say."""
    shares: dict[int, dict[int, Words]] = {}
    queue: deque[tuple[int, Command]] = deque()

    def say(party: int, commands: list[Command]) -> None:
        queue.extend((party, command) for command in commands)

    for party, machine in enumerate(machines):
        say(party, machine.start())
    for party, correction in corrections:
        say(party, machines[party].receive(correction))
    while queue:
        sender, command = queue.popleft()
        if isinstance(command, Finished):
            shares[sender] = command.outputs
            continue
        watch(sender, command)
        for party, machine in enumerate(machines):
            if party != sender:
                say(party, machine.receive(Openings(sender, command.round, command.data)))
    return [shares[party] for party in range(len(machines))]


class Room:
    """The parties' machines with what each is `given`, by step, and the provider's seeds, before anything was said."""

    def __init__(
        self, program: Program, names: tuple[str, ...], given: Sequence[Mapping[int, Words]], entropy: Entropy
    ) -> None:
        self.program, self.names, self.given = program, names, given
        self.run = entropy(32)
        self.seeds = [entropy(SEED_SIZE) for _ in names]
        self.machines = [self.machine(party) for party in range(len(names))]

    @classmethod
    def of(
        cls, draft: Draft, outputs: Sequence[Value], inputs: Mapping[str, Words], *, entropy: Entropy, parties: int
    ) -> Room:
        """With shares of `inputs`, by name."""
        program = draft.program(*outputs)
        given: list[dict[int, Words]] = [dict(draft.public_words(program)) for _ in range(parties)]
        for number, step in enumerate(program.steps):
            if step.operation == "input":
                words = inputs[str(step.parameters["name"])]
                for mine, share in zip(given, split(words, parties, entropy), strict=True):
                    mine[number] = share
        return cls(program, tuple(f"party-{number}" for number in range(parties)), given, entropy)

    def machine(self, party: int) -> PartyRun:
        """A new one."""
        return PartyRun(self.program, party, self.names, self.run, self.seeds[party], self.given[party])

    def corrections(self) -> Iterator[tuple[int, Correction]]:
        """What the provider sends, and to which party."""
        for step, party, data in deal(self.program, self.run, self.seeds):
            yield party, Correction(step, data)
