"""Networks that are trained on shares, beside the same training in clear:   python examples/encrypted_training.py

Weights, data and gradients are with nobody: the parties and the crypto provider, machines in this process, see masks. The same
first weights, batches and steps in clear say what that changes. Data: scikit-learn's digits (ten principal components), diabetes
and breast cancer.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional

from smpc_fl.shared_tensors.optimizers import SGD
from smpc_fl.shared_tensors.session import LocalParties
from smpc_fl.shared_tensors.tensor import Desk
from smpc_fl.shared_tensors.trainer import Trainer

Arrays = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Rows to train on, their targets, and those to judge by."""
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
BATCH = 32
LOGISTIC = functional.binary_cross_entropy_with_logits


def split(x: np.ndarray, y: np.ndarray) -> Arrays:
    parts = train_test_split(x.astype(np.float32), y.astype(np.float32), test_size=0.25, random_state=0)
    train_x, test_x, train_y, test_y = map(torch.from_numpy, parts)
    return train_x, train_y, test_x, test_y


def digits() -> Arrays:
    x, y = load_digits(return_X_y=True)
    x = PCA(10, whiten=True, random_state=0).fit_transform(x)
    return split(x, np.eye(10)[y])


def diabetes() -> Arrays:
    x, y = load_diabetes(return_X_y=True)
    return split((x - x.mean(0)) / x.std(0), ((y - y.mean()) / y.std())[:, None])


def cancer() -> Arrays:
    x, y = load_breast_cancer(return_X_y=True)
    return split((x - x.mean(0)) / x.std(0), y[:, None])


def right(prediction: torch.Tensor, y: torch.Tensor) -> float:
    """Percent of rows in the right class."""
    if y.shape[1] == 1:
        return 100 * float(((prediction > 0) == (y > 0.5)).float().mean())
    return 100 * float((prediction.argmax(1) == y.argmax(1)).float().mean())


def explained(prediction: torch.Tensor, y: torch.Tensor) -> float:
    """Percent of the variance."""
    return 100 * float(1 - ((prediction - y) ** 2).mean() / y.var(correction=0))


@dataclass(frozen=True)
class Task:
    name: str
    data: Callable[[], Arrays]
    network: Callable[[], nn.Module]
    loss: Loss
    lr: float
    epochs: int
    score: Callable[[torch.Tensor, torch.Tensor], float]


def dense(*sizes: int) -> nn.Sequential:
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


TASKS = [
    Task("10-100-10, squared error, digits", digits, lambda: dense(10, 100, 10), functional.mse_loss, 0.5, 3, right),
    Task("10-100-10, cross-entropy, digits", digits, lambda: dense(10, 100, 10), functional.cross_entropy, 0.1, 3, right),
    Task("10-10-1, squared error, diabetes", diabetes, lambda: dense(10, 10, 1), functional.mse_loss, 0.05, 3, explained),
    Task("logistic regression, breast cancer", cancer, lambda: dense(30, 1), LOGISTIC, 0.1, 10, right),
]  # fmt: skip


def batches(rows: int, epochs: int) -> list[torch.Tensor]:
    """The same for both; the last rows of an epoch that fill no batch are left out."""
    order = torch.Generator().manual_seed(1)
    return [
        part for _ in range(epochs) for part in torch.randperm(rows, generator=order).split(BATCH) if len(part) == BATCH
    ]


def compare(task: Task, parties: int) -> tuple[float, float, int, float, float, int]:
    """(score on shares, score in clear, steps, seconds a step, MB a step between the parties, rounds a step)."""
    x, y, test_x, test_y = task.data()
    torch.manual_seed(0)
    clear = task.network()
    said: list[int] = []
    desk = Desk(LocalParties(os.urandom, parties, lambda _, message: said.append(len(message.data))))
    trainer = Trainer(desk, clear, task.loss, SGD(task.lr))
    optimizer = torch.optim.SGD(clear.parameters(), lr=task.lr)
    chosen = batches(len(x), task.epochs)
    rounds = trainer.cost(desk.share(x[:BATCH]), desk.share(y[:BATCH])).rounds
    began = time.perf_counter()
    for rows in chosen:
        trainer.step(desk.share(x[rows]), desk.share(y[rows]))
    seconds = (time.perf_counter() - began) / len(chosen)
    for rows in chosen:
        optimizer.zero_grad()
        task.loss(clear(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    opened = task.network()
    opened.load_state_dict({name: tensor.get().float() for name, tensor in trainer.tensors.items()})
    with torch.no_grad():
        scores = task.score(opened(test_x), test_y), task.score(clear(test_x), test_y)
    return *scores, len(chosen), seconds, sum(said) * (parties - 1) / 1e6 / len(chosen), rounds


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Encrypted training")
    parser.add_argument("--parties", type=int, default=2, help="that hold the shares (default: %(default)s)")
    parser.add_argument("--tasks", type=int, nargs="*", help="only these, from 0")
    chosen = parser.parse_args(arguments)
    grid = Grid(box=SIMPLE_HEAD)
    for name in ("", "on shares", "in clear", "steps", "ms a step", "MB", "rounds"):
        grid.add_column(name, justify="right" if name else "left", no_wrap=bool(name))
    for task in TASKS if chosen.tasks is None else [TASKS[number] for number in chosen.tasks]:
        shared, clear, steps, seconds, megabytes, rounds = compare(task, chosen.parties)
        grid.add_row(
            task.name, f"{shared:.1f}", f"{clear:.1f}", str(steps), f"{1e3 * seconds:.0f}", f"{megabytes:.2f}", str(rounds)
        )  # fmt: skip
    console = Console()
    console.print(grid)
    console.print("Percent of rows in the right class, of variance for diabetes; rows that were not trained on.")


if __name__ == "__main__":
    main()
