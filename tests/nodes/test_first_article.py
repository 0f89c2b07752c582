"""The first article's network and loop, on real data: 10-100-10, ReLU, cross-entropy, SGD, ten classes, five owners.

scikit-learn's handwritten digits, reduced to ten features; federated accuracy beside that of pooled training of the same
network for as many passes over the data, averaged over five seeds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional

import smpc_fl as sf

SEEDS, ROUNDS, EPOCHS, BATCH, LR = 5, 15, 5, 32, 0.2


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(10, 100)
        self.fc2 = nn.Linear(100, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.fc2(functional.relu(self.fc1(x)))
        return scores


def _data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    x, y = load_digits(return_X_y=True)
    x = PCA(10, random_state=0).fit_transform(x)
    x = (x - x.mean(0)) / x.std(0)
    split = train_test_split(x.astype(np.float32), y.astype(np.int64), test_size=0.25, random_state=0, stratify=y)
    x_train, x_test, y_train, y_test = (torch.from_numpy(part) for part in split)
    return x_train, x_test, y_train, y_test


def _accuracy(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return float((net(x).argmax(1) == y).float().mean())


def _pooled(net: nn.Module, x: torch.Tensor, y: torch.Tensor, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)
    for _ in range(ROUNDS * EPOCHS):
        for rows in torch.split(torch.randperm(len(x), generator=generator), BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(net(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_federated_accuracy_is_within_a_point_of_pooled() -> None:
    x, x_test, y, y_test = _data()
    borders = [0, 150, 400, 700, 1000, len(x)]  # five owners of uneven size
    owners = {f"owner-{k}": {"x": x[a:b], "y": y[a:b]} for k, (a, b) in enumerate(itertools.pairwise(borders))}
    secure, pooled = [], []
    with sf.LocalFederation(owners, aggregators=3, ledger="own") as fed:
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            net = Net()
            plan = sf.Plan.from_module(net, loss="cross_entropy", example=(x[:4], y[:4]))
            local = sf.LocalTraining(epochs=EPOCHS, batch_size=BATCH, lr=LR)
            run = fed.train(plan, inputs="x", targets="y", rounds=ROUNDS, local=local, seed=seed).wait()
            secure.append(_accuracy(run.model, x_test, y_test))
            pooled.append(_accuracy(_pooled(net, x, y, seed), x_test, y_test))
    print(f"accuracy over {SEEDS} seeds: federated {np.mean(secure):.4f}, pooled {np.mean(pooled):.4f}")
    assert np.mean(pooled) > 0.9
    assert np.mean(secure) >= np.mean(pooled) - 0.01, (secure, pooled)
