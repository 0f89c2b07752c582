"""What the demonstration's harness computes in the clear, to compare the secure run with.

Only a harness that owns every hospital's file can do this; no party of a federation can. `PlainFedAvg` walks the same
rounds without any cryptography; `pooled` trains on all rows at once; `alone` on one hospital's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from smpc_fl.jobs import TrainJob
from smpc_fl.learning.shared import shared_of
from smpc_fl.learning.training import train_locally
from smpc_fl.nodes.demo.heart import HeartModel
from smpc_fl.nodes.demo.tables import Labels, Table
from smpc_fl.plans.plan import Plan
from smpc_fl.protocols.work import train_round

Model = npt.NDArray[np.float32]


def auc(scores: npt.NDArray[np.floating], labels: Labels) -> float:
    """Area under the ROC curve: the chance that an ill patient scores above a healthy one, ties counting one half."""
    ill, healthy = scores[labels == 1], np.sort(scores[labels == 0])
    below = np.searchsorted(healthy, ill, side="left") + np.searchsorted(healthy, ill, side="right")
    return float(below.mean() / 2 / len(healthy))


def auc_of(net: nn.Module, table: Table) -> float:
    """AUC of a two-logit model over a table."""
    with torch.no_grad():
        logits = net(torch.from_numpy(table.x))
    return auc((logits[:, 1] - logits[:, 0]).numpy(), table.y)


def statistics(x: npt.NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each column's present values; 0 and 1 for a column that is absent or constant."""
    present = ~np.isnan(x)
    count = np.maximum(present.sum(0), 1)
    mean = np.where(present, x, 0).sum(0, dtype=np.float64) / count
    variance = np.where(present, (x - mean) ** 2, 0).sum(0, dtype=np.float64) / count
    scale = np.where(variance > 0, np.sqrt(variance), 1)
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(scale, dtype=torch.float32)


def train_centrally(table: Table, job: TrainJob, *, seed: int) -> HeartModel:
    """The demo's model after as many passes over `table` as the federated job makes, by an ordinary training loop."""
    net = HeartModel(*statistics(table.x))
    x, y = torch.from_numpy(table.x), torch.from_numpy(table.y)
    shuffles = np.random.default_rng(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=job.local.lr)
    for _ in range(job.rounds * job.local.epochs):
        order = torch.from_numpy(shuffles.permutation(len(y)))
        for start in range(0, len(order), job.local.batch_size):
            batch = order[start : start + job.local.batch_size]
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net


class PlainFedAvg:
    """FedAvg (McMahan et al. 2017, Algorithm 1) in the clear, from the same first model, rows and shuffles.

    `advance()` makes one round: each owner's update on its own rows, the mean weighted by rows in float64."""

    def __init__(self, plan: Plan, job: TrainJob, tables: Mapping[str, Table]) -> None:
        self.plan, self.job, self.tables = plan, job, tables
        self.model: Model = plan.initial.copy()
        self.rounds = 0

    def advance(self) -> Model:
        """float32[d], the model after one more round."""
        self.rounds += 1
        shared = shared_of(self.job.plan, self.job.strategy)
        total = np.zeros(shared.size, dtype=np.float64)
        for owner, table in self.tables.items():
            result = train_locally(
                self.plan,
                self.model,
                torch.from_numpy(table.x),
                torch.from_numpy(table.y),
                self.job,
                round_number=train_round(self.rounds),
                owner=owner,
            )
            total += result.delta.astype(np.float64) * len(table.y)
        rows = sum(len(table.y) for table in self.tables.values())
        following = (shared.gather(self.model) + total / rows).astype(np.float32)
        self.model = shared.scatter(following, self.model)
        return self.model
