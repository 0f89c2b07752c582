"""DP-SGD in local training: what a record may do to a lot's sum, the noise, the lots, and the steps that come of them."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from torch.nn import functional

from smpc_fl.errors import BadInput, InternalError
from smpc_fl.jobs import LocalTraining, RecordPrivacy, TrainJob
from smpc_fl.learning import noisy_steps
from smpc_fl.learning.local_result import LocalResult
from smpc_fl.learning.noisy_steps import UNITS, NoisySteps, clipped_sum
from smpc_fl.learning.strategies import Ditto, FedAvg, FedSGD, QFedAvg, Scaffold
from smpc_fl.learning.training import train_locally
from smpc_fl.plans.operators import table
from smpc_fl.plans.plan import Plan

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(40) % 3
SECRET = bytes(range(32))
SILENT = 1e-8
"""A noise multiplier that is none."""


@cache
def plan_of(kind: str = "group") -> Plan:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        middle = {"group": nn.GroupNorm(2, 8), "dropout": nn.Dropout(0.5), "tanh": nn.Tanh()}[kind]
        return Plan.from_module(nn.Sequential(nn.Linear(6, 8), middle, nn.ReLU(), nn.Linear(8, 3)), example=(X, Y))


def local(*, rate: float = 0.5, noise: float = 1.0, norm: float = 1.0, **fields: Any) -> LocalTraining:
    privacy = RecordPrivacy(delta=1e-5, sampling_rate=rate, noise_multiplier=noise, max_grad_norm=norm)
    return LocalTraining(**{"batch_size": 20, "lr": 0.5, "privacy": privacy, **fields})


def trained(plan: Plan, how: LocalTraining, strategy: Any = None, entropy: Any = os.urandom) -> LocalResult:
    job = TrainJob(plan.to_bytes(), "x", "y", rounds=1, local=how)
    job = msgspec.structs.replace(job, strategy=strategy or FedAvg(weights="equal"))
    return train_locally(plan, plan.initial, X, Y, job, round_number=0, owner="alice", entropy=entropy)


# --- what a record may do ---

numbers = st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from(
    [0.0, np.nan, np.inf, -np.inf, 2.0**127, 2.0**-149]
)


@given(
    gradients=arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 7)), elements=numbers),
    norm=st.sampled_from([1e-6, 0.3, 1.0, 1e6]),
)
def test_a_record_moves_a_lots_sum_by_its_norm_at_most(gradients: Any, norm: float) -> None:
    """In whole numbers, with nothing rounded: also for gradients that are huge, tiny, or no numbers."""
    rows = torch.from_numpy(gradients)
    with_all = clipped_sum(rows.clone(), norm)
    for out in range(len(rows)):
        without = clipped_sum(rows[[i for i in range(len(rows)) if i != out]], norm)
        moved = [int(a) - int(b) for a, b in zip(with_all, without, strict=True)]
        assert sum(each * each for each in moved) <= UNITS**2


def test_a_short_gradient_stays_and_a_long_one_keeps_its_direction() -> None:
    rows = torch.tensor([[0.3, -0.4], [30.0, 40.0], [float("nan"), 1.0]])
    each = [clipped_sum(rows[i : i + 1], 1.0) / UNITS for i in range(3)]
    np.testing.assert_allclose(each, [[0.3, -0.4], [0.6, 0.8], [0.0, 0.0]], rtol=2e-6)


# --- noise and lots ---


class Still(NoisySteps):
    """Its records have no gradients: what is left is noise."""

    def _gradients(self, tensors: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), 1_000_000)


def test_noise_has_the_variance_that_is_stated() -> None:
    """However few rows there are; and the divisor is the job's."""
    plan = Plan.from_module(nn.Linear(999_999, 1), loss="mse", example=(torch.zeros(2, 999_999), torch.zeros(2, 1)))
    steps = Still(plan, local(noise=1.5, norm=0.2, batch_size=50), table(), SECRET)
    tensors = {"@weight": torch.zeros(1, 999_999), "@bias": torch.zeros(1)}
    steps.take(0, tensors, torch.zeros(0, 1), torch.zeros(0, 1))
    weight, bias = tensors["@weight"].grad, tensors["@bias"].grad
    assert weight is not None
    assert bias is not None
    noise = torch.cat([weight.reshape(-1), bias]).double()
    assert float(noise.var()) == pytest.approx((1.5 * 0.2 / 50) ** 2, rel=0.01)
    assert abs(float(noise.mean())) < 5 * 1.5 * 0.2 / 50 / 1000
    steps.take(1, tensors, torch.zeros(3, 1), torch.zeros(3, 1))
    again = tensors["@weight"].grad
    assert again is not None
    assert abs(float(torch.dot(again.reshape(-1), weight.reshape(-1)) / (again.norm() * weight.norm()))) < 0.005


def test_lots_are_poisson_samples() -> None:
    plan = plan_of()
    lots = list(NoisySteps(plan, local(rate=0.05, epochs=50), table(), SECRET).lots(400))
    assert len(lots) == 1000
    drawn = np.zeros((1000, 400))
    for row, lot in zip(drawn, lots, strict=True):
        row[lot.numpy()] = 1
    assert drawn.mean() == pytest.approx(0.05, abs=5 * (0.05 * 0.95 / 400_000) ** 0.5)
    assert drawn.sum(1).var() == pytest.approx(400 * 0.05 * 0.95, rel=0.25)  # a shuffle's batches would have none
    first, second = drawn[:, 0] - drawn[:, 0].mean(), drawn[:, 1] - drawn[:, 1].mean()
    assert abs(first @ second) < 0.15 * np.sqrt((first @ first) * (second @ second))
    assert all(len(lot) == 400 for lot in NoisySteps(plan, local(rate=1.0), table(), SECRET).lots(400))


def test_nothing_follows_from_the_jobs_seed() -> None:
    """The same job twice: other lots and other noise. With the same entropy, which nobody has, the same."""
    for how in (local(rate=1.0), local(noise=SILENT)):  # noise alone differs, or lots alone
        first, second = (trained(plan_of(), how).delta for _ in range(2))
        assert not np.allclose(first, second, atol=1e-6)
    same = [trained(plan_of(), local(), entropy=lambda n: SECRET).delta for _ in range(2)]
    np.testing.assert_array_equal(same[0], same[1])
    with pytest.raises(InternalError, match="needs entropy"):
        trained(plan_of(), local(), entropy=None)


# --- steps ---


@pytest.mark.parametrize("kind", ["group", "tanh"])
@pytest.mark.parametrize("together", [64, 3])
def test_a_step_is_that_of_the_paper(kind: str, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Algorithm 1 without its noise, in plain torch, record by record."""
    plan, how = plan_of(kind), local(rate=1.0, noise=SILENT, norm=0.05, epochs=3, lr=0.3, weight_decay=0.01)
    monkeypatch.setattr(noisy_steps, "_TOGETHER", together * plan.layout.size)
    result = trained(plan, how)
    net = plan.module_with(plan.initial).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3, weight_decay=0.01)
    for _ in range(3):
        total = [torch.zeros_like(parameter) for parameter in net.parameters()]
        for row in range(40):
            net.zero_grad()
            functional.cross_entropy(net(X[row : row + 1]), Y[row : row + 1]).backward()  # type: ignore[no-untyped-call]
            length = torch.sqrt(sum((p.grad.square().sum() for p in net.parameters()), torch.tensor(0.0)))  # type: ignore[union-attr]
            for one, parameter in zip(total, net.parameters(), strict=True):
                assert parameter.grad is not None
                one += parameter.grad * min(1.0, 0.05 / float(length))
        for one, parameter in zip(total, net.parameters(), strict=True):
            parameter.grad = one / 20  # the job's batch_size, not the 40 rows
        optimizer.step()
    expected = plan.layout.flatten({name: tensor.detach().numpy() for name, tensor in net.state_dict().items()})
    np.testing.assert_allclose(result.delta, expected - plan.initial, atol=2e-6)
    assert result.metrics == {"loss": 0.0}


def test_dropout_differs_from_record_to_record() -> None:
    """So it goes record by record; equal rows of one batch would share a mask otherwise."""
    plan, how = plan_of("dropout"), local()
    steps = NoisySteps(plan, how, table(), SECRET)
    assert steps._one_by_one
    assert np.isfinite(trained(plan, how).delta).all()


def test_what_knows_no_batches_goes_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = trained(plan_of(), local(), entropy=lambda n: SECRET).delta

    def unknown(*_: Any, **__: Any) -> Any:
        raise BadInput("no batching rule")

    monkeypatch.setattr(noisy_steps, "vmap", unknown)
    np.testing.assert_allclose(trained(plan_of(), local(), entropy=lambda n: SECRET).delta, expected, atol=1e-6)


def test_an_unused_parameter_gets_no_noise() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(6, 3), nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.used(x)
            return found

    plan = Plan.from_module(Idle(), example=(X, Y))
    delta = trained(plan, local()).delta
    for part, place in plan.layout.slices():
        assert bool(delta[place].any()) == part.name.startswith("used"), part.name


@pytest.mark.parametrize("strategy", [FedSGD(), QFedAvg(), Ditto(weights="equal")])
def test_strategies_cannot_ask_for_more_than_one_private_training(strategy: Any) -> None:
    with pytest.raises(BadInput, match=r"cannot keep them private|pays for one training"):
        trained(plan_of(), local(), strategy)


def test_scaffold_keeps_what_came_of_private_steps() -> None:
    job = TrainJob(plan_of().to_bytes(), "x", "y", rounds=1, local=local())
    job = msgspec.structs.replace(job, strategy=Scaffold())
    size = plan_of().layout.size
    model = np.concatenate([plan_of().initial, np.zeros(size, np.float32)])
    result = train_locally(plan_of(), model, X, Y, job, round_number=0, owner="alice", entropy=os.urandom)
    np.testing.assert_allclose(result.keep["control"], -result.delta[:size] / (2 * 0.5), atol=1e-6)
