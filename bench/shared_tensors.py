"""What shared tensors cost in processor time, by role, without network: python -m bench.shared_tensors [WORD ...]; with
--live, between real processes (`shared_live.py`)

All parties and the crypto provider take turns in this process, on one core. `party`: CPU seconds of the slowest party with
its part of hashing and encoding; `provider`: those of dealing; bytes are payload. Words choose the rows that contain one.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median
from time import process_time

import torch
from torch import nn

from smpc_fl.nodes.memory import keep_freed_memory
from smpc_fl.shared_tensors import order
from smpc_fl.shared_tensors.cost import Cost, cost
from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.functions import activations
from smpc_fl.shared_tensors.in_process import Room
from smpc_fl.shared_tensors.optimizers import SGD
from smpc_fl.shared_tensors.party import Broadcast, Command, Openings
from smpc_fl.shared_tensors.training import Loss, TrainingStep
from smpc_fl.shared_tensors.words import encode

REPEATS = 5


@dataclass(frozen=True)
class Figures:
    """CPU seconds of the slowest party and of the provider: medians."""

    party: float
    provider: float
    cost: Cost


def measure(draft: Draft, output: Value, parties: int, repeats: int = REPEATS) -> Figures:
    """Inputs are random numbers in [-1, 1)."""
    inputs = {
        str(step.parameters["name"]): encode(torch.rand(step.type.shape, dtype=torch.float64) * 2 - 1, step.type.scale)
        for step in draft.steps
        if step.operation == "input"
    }
    runs = []
    for _ in range(repeats):
        room = Room.of(draft, [output], inputs, entropy=os.urandom, parties=parties)
        spent = [0.0] * parties
        queue: deque[tuple[int, Command]] = deque()

        def timed(party: int, work: Callable[[], list[Command]], spent: list[float] = spent) -> None:
            start = process_time()
            commands = work()
            spent[party] += process_time() - start
            queue.extend((party, command) for command in commands)  # noqa: B023

        start = process_time()
        corrections = list(room.corrections())
        provider = process_time() - start
        for party, correction in corrections:
            timed(party, partial(room.machines[party].receive, correction))
        for party, machine in enumerate(room.machines):
            timed(party, machine.start)
        while queue:
            sender, command = queue.popleft()
            if isinstance(command, Broadcast):
                for party, machine in enumerate(room.machines):
                    if party != sender:
                        timed(party, partial(machine.receive, Openings(sender, command.round, command.data)))
        runs.append((max(spent), provider))
    return Figures(median(run[0] for run in runs), median(run[1] for run in runs), cost(draft.program(output), parties))


def _mlp(draft: Draft) -> Value:
    x = draft.input("x", (128, 784))
    sizes = (784, 128, 128, 10)
    for layer, (rows, columns) in enumerate(pairwise(sizes)):
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
    "sigmoid 10^5": lambda d: activations.sigmoid(d.input("x", (100_000,))),
    "exact truncation 10^6": lambda d: d.step("truncate_exactly", d.input("x", (1_000_000,), 36), drop=18),
    "MLP 784-128-128-10, batch 128": _mlp,
}


def _alone(write: Callable[[Draft], Value]) -> tuple[Draft, list[Value]]:
    draft = Draft()
    return draft, [write(draft)]


def _training_step(loss: Loss) -> tuple[Draft, list[Value]]:
    """SGD on 10-100-10, batch 32."""
    net = nn.Sequential(nn.Linear(10, 100), nn.ReLU(), nn.Linear(100, 10))
    step = TrainingStep.of(net, loss, SGD(0.1), (32, 10), (32, 10))
    return step.draft, list(step.outputs.values())


def main(words: list[str]) -> None:
    if "--live" in words:
        from bench.shared_live import live

        cases = {name: partial(_alone, write) for name, write in CASES.items()}
        cases["SGD step, MSE"] = partial(_training_step, nn.functional.mse_loss)
        cases["SGD step, cross-entropy"] = partial(_training_step, nn.functional.cross_entropy)
        live(cases, [word for word in words if word != "--live"])
        return
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
