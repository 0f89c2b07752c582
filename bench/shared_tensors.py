"""What shared tensors cost in processor time, by role, without network: python -m bench.shared_tensors [WORD ...]

All parties and the crypto provider take turns in this process, on one core. `party`: CPU seconds of the slowest party with
its part of hashing and encoding; `provider`: those of dealing; bytes are payload. Words choose the rows that contain one.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import process_time

import torch

from smpc_fl.nodes.memory import keep_freed_memory
from smpc_fl.prg import SEED_SIZE
from smpc_fl.shared_tensors import order
from smpc_fl.shared_tensors.cost import Cost, cost
from smpc_fl.shared_tensors.dealing import deal
from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.party import Broadcast, Command, Correction, Openings, PartyRun
from smpc_fl.shared_tensors.sharing import split
from smpc_fl.shared_tensors.words import Words, encode

REPEATS = 5


@dataclass(frozen=True)
class Figures:
    """CPU seconds of the slowest party and of the provider: medians."""

    party: float
    provider: float
    cost: Cost


def measure(draft: Draft, output: Value, parties: int, repeats: int = REPEATS) -> Figures:
    """Inputs are random numbers in [-1, 1)."""
    program = draft.program(output)
    names = tuple(f"party-{number}" for number in range(parties))
    public = draft.public_words(program)
    given: list[dict[int, Words]] = [dict(public) for _ in names]
    for number, step in enumerate(program.steps):
        if step.operation == "input":
            words = encode(torch.rand(step.type.shape, dtype=torch.float64) * 2 - 1, step.type.scale)
            for mine, share in zip(given, split(words, parties, os.urandom), strict=True):
                mine[number] = share
    runs = []
    for _ in range(repeats):
        run, seeds = os.urandom(32), [os.urandom(SEED_SIZE) for _ in names]
        spent = [0.0] * parties
        queue: deque[tuple[int, Command]] = deque()

        def timed(party: int, work: Callable[[], list[Command]], spent: list[float] = spent) -> None:
            start = process_time()
            commands = work()
            spent[party] += process_time() - start
            queue.extend((party, command) for command in commands)  # noqa: B023

        start = process_time()
        corrections = list(deal(program, run, seeds))
        provider = process_time() - start
        machines = [PartyRun(program, i, names, run, seeds[i], given[i]) for i in range(parties)]
        for step_number, party, data in corrections:
            timed(party, lambda: machines[party].receive(Correction(step_number, data)))  # noqa: B023
        for i, machine in enumerate(machines):
            timed(i, machine.start)
        while queue:
            sender, command = queue.popleft()
            if isinstance(command, Broadcast):
                for i, machine in enumerate(machines):
                    if i != sender:
                        event = Openings(sender, command.round, command.data)
                        timed(i, lambda: machine.receive(event))  # noqa: B023
        runs.append((max(spent), provider))
    return Figures(median(run[0] for run in runs), median(run[1] for run in runs), cost(program, parties))


def _mlp(draft: Draft) -> Value:
    x = draft.input("x", (128, 784))
    sizes = (784, 128, 128, 10)
    for layer, (rows, columns) in enumerate(zip(sizes, sizes[1:], strict=False)):
        x = x @ draft.input(f"w{layer}", (rows, columns)) + draft.input(f"b{layer}", (columns,))
        if columns != sizes[-1]:
            x = order.relu(x)
    return draft.narrow(x)


CASES: dict[str, Callable[[Draft], Value]] = {
    "multiply 10^6": lambda d: d.narrow(d.input("x", (1_000_000,)) * d.input("y", (1_000_000,))),
    "matmul 128x784x128": lambda d: d.narrow(d.input("x", (128, 784)) @ d.input("y", (784, 128))),
    "matmul 512^3": lambda d: d.narrow(d.input("x", (512, 512)) @ d.input("y", (512, 512))),
    "less 10^6": lambda d: order.negative(d.input("x", (1_000_000,))),
    "ReLU 10^6": lambda d: order.relu(d.input("x", (1_000_000,))),
    "ReLU of a product 10^6": lambda d: order.relu(d.input("x", (1_000_000,), 36)),
    "exact truncation 10^6": lambda d: d.step("truncate_exactly", d.input("x", (1_000_000,), 36), drop=18),
    "MLP 784-128-128-10, batch 128": _mlp,
}


def main(words: list[str]) -> None:
    keep_freed_memory()  # as every node does
    print(f"{'':<32}{'parties':>8}{'party s':>10}{'provider s':>12}{'online MB':>11}{'dealt MB':>10}{'rounds':>8}")
    for name, write in CASES.items():
        if not words or any(word in name for word in words):
            for parties in (2, 3):
                draft = Draft()
                figures = measure(draft, write(draft), parties)
                sizes = f"{figures.cost.online / 1e6:>11.2f}{figures.cost.dealt / 1e6:>10.2f}{figures.cost.rounds:>8}"
                print(f"{name:<32}{parties:>8}{figures.party:>10.4f}{figures.provider:>12.4f}{sizes}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
