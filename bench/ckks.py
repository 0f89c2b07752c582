"""Secret sharing beside homomorphic encryption, in one run: time, bytes, error. `python -m bench.ckks [NUMBERS …]`.

First one round over vectors of so many numbers, the very machines that the nodes run, in one process and one thread, without
sockets and disks: what each role computes, what an owner uploads, how far the mean is off the exact one. Then the same
training twice between real processes: the same model?
"""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch

import smpc_fl as sf
from bench import machine
from smpc_fl.encryption import Cipher
from smpc_fl.nodes.encryption import CkksKey
from smpc_fl.protocols.codec import encode
from smpc_fl.protocols.commands import Command, Event, Send
from smpc_fl.protocols.coordinator import Released
from smpc_fl.protocols.simulate import COORDINATOR, Simulation, decoded

OWNERS = [f"owner-{number}" for number in range(5)]
AGGREGATORS = 3
NUMBERS = (1_000, 100_000, 1_000_000)
TIMES = 3
ROUNDS, SEED = 3, 1
LAYERS = (64, 96, 10)


class Timed(Simulation):
    """`seconds`: of processor time, and `uploaded`: bytes said, by node."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.uploaded: defaultdict[str, int] = defaultdict(int)

    def deliver(self, to: str, event: Event) -> None:
        began = time.process_time()
        super().deliver(to, event)
        self.seconds[to] += time.process_time() - began

    def carry_out(self, by: str, command: Command) -> None:
        if isinstance(command, Send):
            attached = memoryview(command.attachment).nbytes if command.attachment is not None else 0
            self.uploaded[by] += len(encode(command.signed)) + attached
        super().carry_out(by, command)


@dataclass(frozen=True)
class Figures:
    """Of one round: seconds of one owner (the middle one), of all aggregators, of the coordinator, of the owner who decrypts
    over the middle one; bytes that the middle owner uploads; largest error of a number of the mean."""

    owner: float
    aggregators: float
    coordinator: float
    decrypting: float
    uploaded: int
    error: float


def measure(numbers: int, cipher: Cipher | None) -> Figures:
    draws = np.random.default_rng(numbers)
    vectors = {owner: draws.uniform(-1, 1, numbers) for owner in OWNERS}
    round_ = Timed(vectors, aggregators=AGGREGATORS, entropy=os.urandom, cipher=cipher)
    outcome = round_.run()
    assert isinstance(outcome, Released)
    off = (decoded(round_, outcome) - sum(vectors.values())) / len(OWNERS)
    own = sorted(round_.seconds[owner] for owner in OWNERS)
    return Figures(
        owner=median(own),
        aggregators=sum(round_.seconds[aggregator] for aggregator in round_.plan.aggregators),
        coordinator=round_.seconds[COORDINATOR],
        decrypting=own[-1] - median(own) if cipher is not None else 0.0,
        uploaded=int(median(round_.uploaded[owner] for owner in OWNERS)),
        error=float(np.max(np.abs(off))),
    )


def rounds(numbers: int, key: CkksKey) -> None:
    measure(min(numbers, 1_000), key)  # what is imported for the first one is not counted
    for name, cipher in (("shares", None), ("ckks", key)):
        found = [measure(numbers, cipher) for _ in range(TIMES)]

        def middle(which: str, found: list[Figures] = found) -> float:
            return float(median(getattr(each, which) for each in found))

        times = [1000 * middle(which) for which in ("owner", "aggregators", "coordinator", "decrypting")]
        print(
            f"| {numbers:,} | {name} | {' | '.join(f'{each:,.1f}' for each in times)} | {middle('uploaded'):,.0f} | "
            f"{middle('uploaded') / 4 / numbers:.2f} | {max(each.error for each in found):.1e} |",
            flush=True,
        )


def tables() -> dict[str, dict[str, torch.Tensor]]:
    """Five owners' rows of a rule of 64 columns and ten classes."""
    draws = torch.Generator().manual_seed(7)
    rule = torch.randn(LAYERS[0], LAYERS[-1], generator=draws)
    made = {}
    for number, owner in enumerate(OWNERS):
        x = torch.randn(150 + 30 * number, LAYERS[0], generator=draws)
        made[owner] = {"x": x, "y": (x @ rule).argmax(1)}
    return made


def train(data: dict[str, dict[str, torch.Tensor]], plan: sf.Plan, **settings: Any) -> sf.Run:
    with sf.LocalFederation(data, ledger="own", **settings) as federation:
        return federation.train(plan, inputs="x", targets="y", rounds=ROUNDS, max_samples=512, seed=SEED).wait()


def live() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(*LAYERS[:2]), torch.nn.ReLU(), torch.nn.Linear(*LAYERS[1:]))
    data = tables()
    plan = sf.Plan.from_module(net, loss="cross_entropy", example=(data[OWNERS[0]]["x"][:4], data[OWNERS[0]]["y"][:4]))
    shared = train(data, plan, aggregators=AGGREGATORS)
    encrypted = train(data, plan, protection="ckks")
    for name, run in (("shares", shared), ("ckks", encrypted)):
        seconds = median(each.seconds for each in run.rounds[1:])
        sent = median(bytes_ for each in run.rounds for bytes_ in each.traffic.uploaded.values())
        print(f"| {name} | {seconds:.2f} | {sent:,.0f} | {run.rounds[-1].metrics['loss']:.6f} |")
    off = np.max(np.abs(encrypted.vector - shared.vector))
    print(f"\nlargest difference of the two models after {ROUNDS} rounds, of {plan.layout.size:,} weights: {off:.1e}")


def main(arguments: list[str]) -> int:
    print(f"{machine.line()}; {len(OWNERS)} owners; shares: {AGGREGATORS} aggregators, ckks: 1; ms of processor time\n")
    print(
        "| numbers | protection | an owner | all aggregators | coordinator | decrypting | bytes up | / float32 | error |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    key = CkksKey(CkksKey.make())
    for numbers in map(int, arguments or NUMBERS):
        rounds(numbers, key)
    print("\nThe same training between processes, on this machine:\n")
    print("| protection | s a round | bytes up, an owner a round | loss |")
    print("|---|---|---|---|")
    live()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
