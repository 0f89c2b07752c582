"""Local training against an independent loop in plain torch; determinism; refusals that tell nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from serving import apply
from torch import nn
from torch.nn import functional

from smpc_fl.errors import BadInput, NotFinite, ShapeMismatch, SmpcError
from smpc_fl.jobs import LocalTraining, TrainJob
from smpc_fl.learning.local_result import LocalResult
from smpc_fl.learning.shared import shared_of
from smpc_fl.learning.shuffle import permutation, stream
from smpc_fl.learning.strategies import FedSGD
from smpc_fl.learning.training import train_locally
from smpc_fl.plans.interpreter import run
from smpc_fl.plans.operators import table
from smpc_fl.plans.plan import Plan

X = torch.randn(33, 4, generator=torch.Generator())
Y = torch.arange(33) % 3
SEED = bytes(range(16))


@cache
def plan_of(*, norm: bool = False, dropout: float = 0.0) -> Plan:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        middle = [nn.BatchNorm1d(8)] if norm else []
        net = nn.Sequential(nn.Linear(4, 8), *middle, nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))
    return Plan.from_module(net, example=(X, Y))


def a_job(plan: Plan, *, strategy: Any = None, **local: Any) -> TrainJob:
    job = TrainJob(plan.to_bytes(), "x", "y", rounds=1, local=LocalTraining(**local), seed=SEED)
    return msgspec.structs.replace(job, strategy=strategy) if strategy else job


def trained(plan: Plan, job: TrainJob, *, x: Any = X, y: Any = Y, owner: str = "alice", number: int = 1) -> LocalResult:
    return train_locally(plan, plan.initial, x, y, job, round_number=number, owner=owner)


def flat(plan: Plan, net: nn.Module) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    state = {key: value.detach().numpy() for key, value in net.state_dict().items() if "num_batches" not in key}
    return plan.layout.flatten(state)


def plain_loop(
    plan: Plan, batches: list[torch.Tensor], make: Callable[[Any], torch.optim.Optimizer]
) -> tuple[nn.Module, float]:
    """What the paper says, in ordinary torch: the network itself, its own forward, torch's own optimizer."""
    net = plan.module_with(plan.initial).train()
    optimizer = make(net.parameters())
    losses: list[float] = []
    for batch in batches:
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(X[batch]), Y[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses += [float(loss.detach())] * len(batch)
    return net, sum(losses) / len(losses)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    ("local", "make"),
    [
        ({"lr": 0.1}, lambda p: torch.optim.SGD(p, lr=0.1)),
        (
            {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
            lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
        ),
        (
            {"lr": 0.01, "optimizer": "adam", "weight_decay": 0.01},
            lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.01),
        ),
    ],
)
def test_fedavg_is_the_papers_client_update(norm: bool, local: dict[str, Any], make: Any) -> None:
    plan = plan_of(norm=norm)
    result = trained(plan, a_job(plan, epochs=3, batch_size=10, **local))
    random = stream(SEED, "shuffle", "alice", 1)
    orders = [torch.from_numpy(permutation(random, 33, epoch)) for epoch in range(3)]
    net, loss = plain_loop(plan, [batch for order in orders for batch in order.split(10)], make)  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(result.delta, flat(plan, net) - plan.initial, atol=2e-6)
    assert result.delta.dtype == np.float32
    assert result.rows == 33
    assert result.metrics == {"loss": pytest.approx(loss, abs=1e-5)}


def test_fedsgd_is_one_gradient_over_all_rows_and_what_changed_in_the_buffers() -> None:
    plan = plan_of(norm=True)
    result = trained(plan, a_job(plan, strategy=FedSGD(lr=0.3), batch_size=5, lr=99.0, epochs=7))
    net, loss = plain_loop(plan, [torch.arange(33)], lambda p: torch.optim.SGD(p, lr=0.3))
    following = apply(FedSGD(lr=0.3), plan.initial, result.delta.astype(np.float64), plan.layout)
    np.testing.assert_allclose(following, flat(plan, net), atol=1e-6)
    assert result.metrics == {"loss": pytest.approx(loss, abs=1e-6)}


@pytest.mark.parametrize("strategy", [None, FedSGD()])
def test_frozen_and_unused_weights_stay(strategy: Any) -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.unused, self.last = nn.Linear(4, 4), nn.Linear(2, 2), nn.Linear(4, 3)
            self.frozen.requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.last(self.frozen(x))
            return scores

    plan = Plan.from_module(Partly(), example=(X, Y))
    job = a_job(plan, strategy=strategy)
    travels = shared_of(job.plan, job.strategy).layout
    assert [part.name for part in travels.parts if part.name.startswith("frozen")] == []
    changed = travels.unflatten(trained(plan, job).delta)
    assert {name for name, change in changed.items() if change.any()} == {"last.weight", "last.bias"}


def test_the_same_job_gives_the_same_update_and_leaves_everything_else_alone() -> None:
    plan = plan_of(norm=True, dropout=0.5)
    job = a_job(plan, epochs=2, batch_size=8)
    model, x, random = plan.initial, X.clone(), torch.get_rng_state()
    first = trained(plan, job)
    torch.manual_seed(77)
    with torch.no_grad():
        second = (
            trained(Plan.from_bytes(plan.to_bytes()), job)
            if False
            else train_locally(
                Plan.from_bytes(plan.to_bytes()), model, X.numpy(), Y.numpy(), job, round_number=1, owner="alice"
            )
        )
    torch.set_rng_state(random)
    np.testing.assert_array_equal(first.delta, second.delta)
    assert first.metrics == second.metrics
    np.testing.assert_array_equal(model, plan.initial)
    assert torch.equal(X, x)
    trained(plan, job)
    assert torch.equal(torch.get_rng_state(), random)


def test_rounds_owners_and_seeds_shuffle_differently() -> None:
    plan = plan_of(dropout=0.5)
    job = a_job(plan, batch_size=8)
    other = msgspec.structs.replace(job, seed=bytes(16))
    deltas = [trained(plan, job), trained(plan, job, number=2), trained(plan, job, owner="bob"), trained(plan, other)]
    assert len({result.delta.tobytes() for result in deltas}) == 4


@pytest.mark.parametrize(("norm", "sizes"), [(True, [8, 8, 8, 9]), (False, [8, 8, 8, 8, 1])])
def test_a_single_row_left_over_joins_the_batch_before_it(
    norm: bool, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def watched(graph: Any, values: Any, functions: Any) -> Any:
        seen.append(len(values["$x"]))
        return run(graph, values, functions)

    monkeypatch.setattr("smpc_fl.learning.local.run", watched)
    plan = plan_of(norm=norm)
    trained(plan, a_job(plan, epochs=2, batch_size=8))
    assert seen == sizes * 2
    seen.clear()
    trained(plan, a_job(plan, batch_size=32))
    assert seen == ([33] if norm else [32, 1])


def test_one_row_trains_where_there_is_no_batch_norm() -> None:
    plan = plan_of()
    for job in (a_job(plan), a_job(plan, strategy=FedSGD()), a_job(plan, batch_size=1)):
        assert trained(plan, job, x=X[:1], y=Y[:1]).rows == 1


@pytest.mark.parametrize(
    ("rows", "options"), [(1, {}), (1, {"strategy": FedSGD()}), (33, {"batch_size": 1}), (1, {"batch_size": 1})]
)
def test_batch_norm_needs_two_rows(rows: int, options: dict[str, Any]) -> None:
    plan = plan_of(norm=True)
    with pytest.raises(BadInput, match="larger batch_size"):
        trained(plan, a_job(plan, **options), x=X[:rows], y=Y[:rows])


def test_missing_values_can_be_the_models_business() -> None:
    class Imputing(nn.Module):
        centre: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("centre", torch.zeros(4))
            self.last = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.last(torch.nan_to_num(x - self.centre, nan=0.0))
            return scores

    x = X.clone()
    x[::3, 1] = float("nan")
    plan = Plan.from_module(Imputing(), example=(X, Y))
    assert np.isfinite(trained(plan, a_job(plan), x=x).delta).all()


@pytest.mark.parametrize("strategy", [None, FedSGD()])
def test_nan_in_the_update_is_refused_without_a_value(strategy: Any) -> None:
    x = X.clone()
    x[3, 1] = float("nan")
    plan = plan_of()
    with pytest.raises(NotFinite, match="learning rate") as caught:
        trained(plan, a_job(plan, strategy=strategy), x=x)
    assert "3" not in str(caught.value)


def test_an_exploding_update_is_refused() -> None:
    plan = plan_of()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NotFinite):
            trained(plan, a_job(plan, lr=1e30, epochs=5))


def test_what_does_not_fit_is_refused() -> None:
    plan = plan_of()
    job = a_job(plan)
    with pytest.raises(ShapeMismatch, match="'x'"):
        trained(plan, job, x=X[:, :3])
    with pytest.raises(BadInput, match="no rows"):
        trained(plan, job, x=X[:0], y=Y[:0])
    with pytest.raises(BadInput, match="classes"):
        trained(plan, job, y=Y + 1)
    with pytest.raises(ShapeMismatch, match="float32"):
        train_locally(plan, plan.initial[1:], X, Y, job, round_number=1, owner="alice")


def test_a_whole_number_outside_a_table_is_refused_without_a_value() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.table(x).mean(1)
            return scores

    words = torch.full((33, 2), 4)
    plan = Plan.from_module(Words(), example=(words, Y))
    words[5, 1] = 31337
    with pytest.raises(BadInput, match="outside an embedding's table") as caught:
        trained(plan, a_job(plan), x=words)
    assert "31337" not in str(caught.value)


class Backwardless(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError("gradient 31337")


@pytest.mark.parametrize("strategy", [None, FedSGD()])
def test_a_gradient_that_fails_is_refused_without_a_value(strategy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of()
    functions = {**table(), "aten.relu.default": Backwardless.apply}
    monkeypatch.setattr("smpc_fl.learning.local.training_functions", lambda numbers: functions)
    with pytest.raises(BadInput, match="no gradient") as caught:
        trained(plan, a_job(plan, strategy=strategy))
    assert "31337" not in str(caught.value)


@pytest.mark.parametrize("strategy", [None, FedSGD()])
def test_a_batch_beyond_the_caps_is_refused(strategy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of.__wrapped__()  # one that has not taken a batch of this size
    monkeypatch.setattr("smpc_fl.plans.check.MAX_ELEMENTS", 64)
    with pytest.raises(SmpcError, match="batch_size") as caught:
        trained(plan, a_job(plan, strategy=strategy))
    assert "33" not in str(caught.value)


def test_a_result_shows_nothing_of_itself() -> None:
    plan = plan_of()
    assert repr(trained(plan, a_job(plan))) == "LocalResult()"
