"""The harness's own figures: AUC as scikit-learn has it, statistics as NumPy has them, plain FedAvg as the paper has it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from smpc_fl.jobs import LocalTraining, TrainJob
from smpc_fl.nodes.demo.heart import FEATURES, HeartModel, load_hospitals, split
from smpc_fl.nodes.demo.tables import Table, concatenate
from smpc_fl.nodes.demo.yardsticks import PlainFedAvg, auc, auc_of, statistics, train_centrally
from smpc_fl.plans.plan import Plan


@pytest.fixture(scope="module")
def tables() -> dict[str, Table]:
    return {owner: divided.train for owner, divided in split(load_hospitals(), 0).items()}


def job_for(plan: bytes, *, rounds: int, batch_size: int) -> TrainJob:
    local = LocalTraining(epochs=1, batch_size=batch_size, lr=0.1)
    return TrainJob(plan=plan, inputs="x", targets="y", rounds=rounds, local=local)


def test_auc_is_that_of_scikit_learn_ties_included() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    scores = np.round(rng.normal(size=200) + labels, 1)
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    assert auc(np.zeros(4), np.array([0, 1, 0, 1])) == 0.5


def test_statistics_skip_what_is_missing() -> None:
    x = np.array([[1.0, np.nan, 2.0], [3.0, np.nan, 2.0], [np.nan, np.nan, 2.0]], dtype=np.float32)
    mean, scale = statistics(x)
    assert mean.tolist() == [2.0, 0.0, 2.0]
    assert scale.tolist() == [1.0, 1.0, 1.0]


def test_central_training_learns(tables: dict[str, Table]) -> None:
    job = job_for(b"", rounds=10, batch_size=32)
    everybody = concatenate(list(tables.values()))
    assert len(everybody.y) == sum(len(table.y) for table in tables.values())
    assert auc_of(train_centrally(everybody, job, seed=0), everybody) > 0.85
    assert auc_of(train_centrally(tables["switzerland"], job, seed=0), everybody) < 0.85


def test_plain_fedavg_with_whole_batches_is_gradient_descent_on_all_rows(tables: dict[str, Table]) -> None:
    """One step of a full batch at each owner, averaged by rows, is one step on the pooled rows."""
    everybody = concatenate(list(tables.values()))
    net = HeartModel(*statistics(everybody.x))
    example = (torch.zeros(4, len(FEATURES)), torch.zeros(4, dtype=torch.int64))
    plan = Plan.from_module(net, loss="cross_entropy", example=example)
    plain = PlainFedAvg(plan, job_for(plan.to_bytes(), rounds=3, batch_size=10_000), tables)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        model = plain.advance()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(torch.from_numpy(everybody.x)), torch.from_numpy(everybody.y))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        expected = plan.layout.flatten({name: value.detach().numpy() for name, value in net.state_dict().items()})
        np.testing.assert_allclose(model, expected, atol=1e-6)
