"""A whole program in one process, without network: the first file to read, and the machines' test bed.

values -> words -> shares -> masks, products, openings round by round -> shares of the outputs -> values
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import torch

from smpc_fl.entropy import Entropy
from smpc_fl.prg import SEED_SIZE
from smpc_fl.shared_tensors.dealing import deal
from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.party import Broadcast, Command, Correction, Finished, Openings, PartyRun
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
    program = draft.program(*outputs)
    names = tuple(f"party-{number}" for number in range(parties))
    run = entropy(32)
    seeds = [entropy(SEED_SIZE) for _ in names]
    given: list[dict[int, Words]] = [dict(draft.public_words(program)) for _ in names]
    for number, step in enumerate(program.steps):
        if step.operation == "input":
            words = encode(inputs[str(step.parameters["name"])], step.type.scale)
            for mine, share in zip(given, split(words, parties, entropy), strict=True):
                mine[number] = share
    machines = [PartyRun(program, i, names, run, seeds[i], given[i]) for i in range(parties)]
    shares: dict[int, dict[int, Words]] = {}
    queue: deque[tuple[int, Command]] = deque()

    def say(party: int, commands: list[Command]) -> None:
        queue.extend((party, command) for command in commands)

    for i, machine in enumerate(machines):
        say(i, machine.start())
    for step_number, party, data in deal(program, run, seeds):
        say(party, machines[party].receive(Correction(step_number, data)))
    while queue:
        sender, command = queue.popleft()
        match command:
            case Broadcast(round=round_, data=data):
                for i, machine in enumerate(machines):
                    if i != sender:
                        say(i, machine.receive(Openings(sender, round_, data)))
            case Finished(outputs=mine):
                shares[sender] = mine
    return [
        decode(join([shares[i][step] for i in range(parties)]), program.steps[step].type.scale)
        for step in program.outputs
    ]
