"""Ten owners, each with digits of its own: what is written here?   python examples/images/train.py [--simulate]

MNIST, of which each owner sees a few digits often and others never: Dirichlet(0.5) label skew. All are judged on the
published test images.
"""

import numpy as np
import torch
from data import digits_of_owners, load_mnist
from torch import nn

import smpc_fl as sf
from smpc_fl.nodes.demo.comparison import Task
from smpc_fl.nodes.demo.example import run_example
from smpc_fl.nodes.demo.tables import Table

OWNERS, ALPHA, ROWS = 10, 0.5, 6_000


def network() -> nn.Module:
    """float32[n, 1, 28, 28] -> ten logits; 6,000 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 10),
    )


TASK = Task(
    title=f"Handwritten digits, {OWNERS} owners",
    network=network,
    settings=[sf.LocalTraining(epochs=1, batch_size=32, lr=lr) for lr in (0.1, 0.03, 0.3)],
    rounds=20,
    clip=20.0,
    max_samples=ROWS,
)


def main(arguments: list[str] | None = None) -> None:
    torch.set_num_threads(1)
    train, test = load_mnist()

    def owners(number: int) -> dict[str, Table]:
        return digits_of_owners(train, OWNERS, alpha=ALPHA, rng=np.random.default_rng([number, OWNERS]), rows=ROWS)

    run_example(TASK, owners, names={}, splits=3, test=test, arguments=arguments)


if __name__ == "__main__":
    main()
