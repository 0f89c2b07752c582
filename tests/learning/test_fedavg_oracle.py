"""Whole rounds against the papers, written again in ordinary torch: no plan, no vector, no interpreter in the oracle."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch
from serving import apply
from torch import nn
from torch.nn import functional

from smpc_fl.jobs import LocalTraining, TrainJob
from smpc_fl.learning.shuffle import permutation, stream
from smpc_fl.learning.strategies import FedAvg, FedSGD
from smpc_fl.learning.training import train_locally
from smpc_fl.learning.update import TRAIN_METRICS, VectorLayout, assemble, disassemble, row_weight
from smpc_fl.plans.plan import Plan

State = dict[str, torch.Tensor]
SEED = bytes(range(16))
ROWS = {"alice": slice(0, 40), "bob": slice(40, 57), "carol": slice(57, 130)}


def first_article(*, norm: bool = False) -> nn.Module:
    """The first article's network, 10-100-10, with and without batch norm."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        middle = [nn.BatchNorm1d(100)] if norm else []
        return nn.Sequential(nn.Linear(10, 100), *middle, nn.ReLU(), nn.Linear(100, 10))


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator()
    generator.manual_seed(7)
    x = torch.randn(130, 10, generator=generator)
    return x, (x @ torch.randn(10, 10, generator=generator)).argmax(1)


def rounds_by_plan(plan: Plan, job: TrainJob, x: torch.Tensor, y: torch.Tensor) -> list[npt.NDArray[np.float32]]:
    """Our own rounds, all but the cryptography."""
    slots = VectorLayout(plan.layout.size, TRAIN_METRICS)
    model, models = plan.initial, []
    for number in range(1, job.rounds + 1):
        total = np.zeros(slots.length)
        for owner, rows in ROWS.items():
            result = train_locally(plan, model, x[rows], y[rows], job, round_number=number, owner=owner)
            weight = row_weight(result.rows, 1000) if job.strategy.weights == "rows" else 1.0
            total += assemble(result.delta, weight, result.metrics, layout=slots, clip=1e6, mode="norm").dense()
        aggregate = disassemble(total, slots)
        assert aggregate.clipped == 0
        model = apply(job.strategy, model, aggregate.sum, plan.layout, weight=aggregate.total_weight)
        models.append(model)
    return models


def mean_of(states: list[State], weights: list[float]) -> State:
    return {
        key: torch.stack([weight * state[key].double() for state, weight in zip(states, weights, strict=True)]).sum(0)
        for key in states[0]
    }


def floats(net: nn.Module) -> State:
    return {key: value.clone() for key, value in net.state_dict().items() if value.is_floating_point()}


def shares_of(weights: Literal["rows", "equal"]) -> list[float]:
    counts = [rows.stop - rows.start if weights == "rows" else 1 for rows in ROWS.values()]
    return [count / sum(counts) for count in counts]


def client_update(net: nn.Module, job: TrainJob, x: torch.Tensor, y: torch.Tensor, owner: str, number: int) -> State:
    """ClientUpdate(k, w) of McMahan et al. 2017, Algorithm 1. Only the shuffle is taken from the package."""
    optimizer = torch.optim.SGD(net.parameters(), lr=job.local.lr)
    random = stream(job.seed, "shuffle", owner, number)
    for epoch in range(job.local.epochs):
        order = torch.from_numpy(permutation(random, len(y), epoch))
        for batch in torch.tensor_split(order, list(range(job.local.batch_size, len(y), job.local.batch_size))):
            optimizer.zero_grad()
            functional.cross_entropy(net(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return floats(net)


def fedavg(net: nn.Module, job: TrainJob, x: torch.Tensor, y: torch.Tensor) -> list[State]:
    """The server of Algorithm 1: w <- Σ n_k / n · w_k. Batch norm's running statistics are averaged like the rest."""
    states = []
    for number in range(1, job.rounds + 1):
        start, locals_ = floats(net), []
        for owner, rows in ROWS.items():
            net.load_state_dict(start, strict=False)
            net.train()
            locals_.append(client_update(net, job, x[rows], y[rows], owner, number))
        net.load_state_dict(mean_of(locals_, shares_of(job.strategy.weights)), strict=False)
        states.append(floats(net))
    return states


def fedsgd(net: nn.Module, job: TrainJob, x: torch.Tensor, y: torch.Tensor, lr: float) -> list[State]:
    """Section 2: w <- w - η Σ n_k / n · g_k, one gradient of all local rows each; statistics averaged."""
    states = []
    for _ in range(job.rounds):
        start, after, gradients = floats(net), [], []
        for rows in ROWS.values():
            net.load_state_dict(start, strict=False)
            net.train()
            net.zero_grad()
            functional.cross_entropy(net(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            gradients.append(
                {key: value.grad.clone() for key, value in net.named_parameters() if value.grad is not None}
            )
            after.append(floats(net))
        mean, slope = (mean_of(each, shares_of(job.strategy.weights)) for each in (after, gradients))
        following = {key: start[key] - lr * slope[key] if key in slope else mean[key] for key in start}
        net.load_state_dict(following, strict=False)
        states.append(floats(net))
    return states


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    "strategy", [FedAvg(), FedAvg(weights="equal"), FedSGD(lr=0.5), FedSGD(lr=0.5, weights="equal")]
)
def test_every_weight_after_every_round(norm: bool, strategy: Any, data: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = data
    net = first_article(norm=norm)
    plan = Plan.from_module(net, example=(x, y))
    local = LocalTraining(epochs=2, batch_size=15, lr=0.2)
    job = TrainJob(plan.to_bytes(), "x", "y", rounds=4, local=local, strategy=strategy, seed=SEED)
    ours = rounds_by_plan(plan, job, x, y)
    theirs = fedsgd(net, job, x, y, strategy.lr) if isinstance(strategy, FedSGD) else fedavg(net, job, x, y)
    for model, state in zip(ours, theirs, strict=True):
        expected = plan.layout.flatten({key: value.numpy().astype(np.float32) for key, value in state.items()})
        np.testing.assert_allclose(model, expected, atol=5e-5)


def test_the_first_articles_network_learns(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = data
    net = first_article()
    plan = Plan.from_module(net, example=(x, y))
    job = TrainJob(plan.to_bytes(), "x", "y", rounds=40, local=LocalTraining(batch_size=10, lr=0.3), seed=SEED)
    trained = plan.module_with(rounds_by_plan(plan, job, x, y)[-1]).eval()
    assert float((trained(x).argmax(1) == y).float().mean()) > 0.9


def test_one_owner_and_one_epoch_of_one_batch_is_fedsgd(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    """The paper's limit: FedAvg with B = ∞ and E = 1 equals FedSGD (section 2)."""
    x, y = data
    plan = Plan.from_module(first_article(), example=(x, y))
    local = LocalTraining(epochs=1, batch_size=1 << 20, lr=0.25)
    averaging = TrainJob(plan.to_bytes(), "x", "y", rounds=3, local=local, seed=SEED)
    descending = msgspec.structs.replace(averaging, strategy=FedSGD(lr=0.25))
    for one, other in zip(rounds_by_plan(plan, averaging, x, y), rounds_by_plan(plan, descending, x, y), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
