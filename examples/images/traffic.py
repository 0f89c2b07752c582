"""Accuracy against bytes: what may an owner save?   python examples/images/traffic.py

The ten owners of train.py, secure rounds all the way; bytes are those of an owner's uploads in all rounds, as counted. They are
held against float32 FedAvg in the clear, 4 d bytes a round, whose models are those of the first line but for its rounding.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from data import load_mnist
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from runs import accuracy, deal, first_plan
from torch import nn
from torch.nn import functional
from train import ALPHA, OWNERS, ROWS, network

import smpc_fl as sf
from smpc_fl.nodes.demo.tables import Table

ROUNDS = 20


class LowRank(nn.Module):
    """A layer whose weights stay as they were first; what is trained is added to them, a product of rank r (Hu et al. 2022,
    "LoRA", section 4.1), and the bias."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        rows, columns = layer.weight.flatten(1).shape
        self.first = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(rows))
        self.down = nn.Parameter(torch.randn(rank, columns) / columns**0.5)
        self.up = nn.Parameter(torch.zeros(rows, rank))
        self.stride = layer.stride if isinstance(layer, nn.Conv2d) else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.first + (self.up @ self.down).view(self.first.shape)
        if self.stride is None:
            return functional.linear(x, weight, self.bias)
        return functional.conv2d(x, weight, self.bias, self.stride)


def adapted(rank: int = 4) -> nn.Module:
    """The network of train.py with all but the first layer adapted."""
    layers = list(network().children())
    return nn.Sequential(
        layers[0],
        *(LowRank(layer, rank) if isinstance(layer, nn.Linear | nn.Conv2d) else layer for layer in layers[1:]),
    )


@dataclass(frozen=True)
class Way:
    """`part`: of the usual number of rounds; `epochs`: in each of them."""

    name: str
    lr: float = 0.3
    epochs: int = 1
    part: float = 1.0
    clip: float = 20.0
    network: Callable[[], nn.Module] = network
    options: dict[str, object] = field(default_factory=dict)


def few(bits: int, keep: float = 1.0, train_kept: bool = False) -> dict[str, object]:
    return {"compression": sf.Compression(bits=bits, keep=keep, train_kept=train_kept)}


WAYS = [  # learning rates and clips were found on another draw, 100
    Way("default, 32 bits"),
    Way("update_bits=16", clip=8.0, options={"update_bits": 16, "tolerance": 1.0}),
    Way("4 epochs, 8 rounds", lr=0.1, epochs=4, part=0.4),
    Way("adapters of rank 4", lr=0.2, network=adapted),
    Way("bits=4", clip=4.0, options=few(4)),
    Way("bits=4, keep=0.25", clip=4.0, options=few(4, 0.25)),
    Way("bits=4, keep=0.5, train_kept", lr=0.6, clip=5.0, options=few(4, 0.5, True)),
    Way("bits=4, keep=0.25, train_kept", lr=1.0, clip=5.0, options=few(4, 0.25, True)),
    Way("the same, keep=0.21, 5 epochs, 8 rounds", lr=0.6, epochs=5, part=0.4, clip=7.0, options=few(4, 0.21, True)),
]  # fmt: skip


@cache
def images() -> tuple[Table, Table]:
    return load_mnist()


def run(way: Way, rounds: int, seed: int) -> tuple[float, int, int]:
    """(accuracy on the test images, bytes that an owner uploads in all rounds, owners' clipped updates)."""
    train, test = images()
    owners, _ = deal(train, OWNERS, alpha=ALPHA, rows=ROWS, unseen=0, seed=seed)
    plan = first_plan(way.network, train, seed)
    most = 1 << max(len(table["y"]) for table in owners.values()).bit_length()  # rows, rounded up: a public cap
    result = sf.simulate(
        plan, owners, rounds=max(1, round(rounds * way.part)), clip=way.clip, max_samples=most, seed=seed,
        local=sf.LocalTraining(epochs=way.epochs, batch_size=32, lr=way.lr), **way.options,  # type: ignore[arg-type]
    ).wait()  # fmt: skip
    sent = np.mean([list(item.traffic.uploaded.values()) for item in result.rounds], axis=1).sum()
    model = plan.module_with(result.rounds[-1].model)
    return accuracy(model, test), round(sent), sum(item.clipped for item in result.rounds)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Accuracy against bytes")
    parser.add_argument("--simulate", action="store_true", help="as always: a comparison of many runs, in this process")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of the usual way (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="draws of owners and weights (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--ways", type=int, nargs="*", help="only these lines of the table, from 0")
    parser.add_argument("--output", type=Path, default=Path("example-output"), help="folder (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console()
    grid = Grid(box=SIMPLE_HEAD)
    for name in ("", "kB", "fewer", "accuracy", "points lost", "range"):
        grid.add_column(name, justify="right" if name else "left", no_wrap=bool(name))
    weights = sum(parameter.numel() for parameter in network().parameters())
    plain, usual, found = 4 * weights * chosen.rounds, list[float](), {}
    grid.add_row("float32 FedAvg, no protection", f"{plain / 1e3:.1f}", "1.0 x", "", "", "")
    with console.status("starting") as status:
        for way in WAYS if chosen.ways is None else [WAYS[number] for number in chosen.ways]:
            status.update(way.name)
            runs = [run(way, chosen.rounds, chosen.first_seed + number) for number in range(chosen.seeds)]
            scores, sent = [score for score, _, _ in runs], float(np.mean([sent for _, sent, _ in runs]))
            usual = usual or scores
            lost = [100 * (first - score) for first, score in zip(usual, scores, strict=True)]
            found[way.name] = {"accuracy": scores, "bytes": sent, "lost": lost, "clipped": [cut for _, _, cut in runs]}
            grid.add_row(
                way.name, f"{sent / 1e3:.1f}", f"{plain / sent:.1f} x", f"{np.mean(scores):.3f}", f"{np.mean(lost):+.1f}",
                f"{min(lost):+.1f}…{max(lost):+.1f}",
            )  # fmt: skip
    console.print(grid)
    chosen.output.mkdir(parents=True, exist_ok=True)
    (chosen.output / "traffic.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
