"""What other frameworks write otherwise than torch: the same plan comes of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from smpc_fl.errors import PlanRejected
from smpc_fl.plans.interpreter import bind, run
from smpc_fl.plans.operators import table
from smpc_fl.plans.plan import Plan

X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.arange(6.0)
aten = torch.ops.aten


class Line(nn.Module):
    def __init__(self, step: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.line = nn.Linear(4, 1)
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64))
        self.step = step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        aten.to.dtype(self.count, torch.int64)
        scores: torch.Tensor = self.line(self.step(x))
        return scores


@pytest.mark.parametrize(
    ("step", "nodes"),
    [
        (lambda x: torch.subtract(x, x * 2), ["mul", "sub"]),
        (lambda x: torch.multiply(x, torch.divide(x, 2)), ["div", "mul"]),
        (lambda x: aten.to.dtype_layout(x, dtype=torch.float32, layout=torch.strided), []),
        (lambda x: aten.to.dtype(x, torch.float32), []),
        (lambda x: aten.to.dtype_layout((x > 0), dtype=torch.float32, layout=torch.strided), ["gt", "to"]),
        (lambda x: x * torch.tensor(0.5) + torch.tensor(2).float(), ["mul", "add"]),
    ],
)
def test_one_operator_has_one_name_and_what_changes_nothing_has_none(
    step: Callable[[torch.Tensor], torch.Tensor], nodes: list[str]
) -> None:
    net = Line(step)
    plan = Plan.from_bytes(Plan.from_module(net, "mse", example=(X, Y)).to_bytes())
    assert [node.operator.split(".")[1] for node in plan.document.train.nodes][: len(nodes) + 1] == [*nodes, "linear"]
    model = Plan.from_module(net, "mse", example=(X, Y)).initial
    values = {**bind(plan.layout, model, trainable=False), "$x": X, "$y": Y}
    loss, prediction = run(plan.document.train, values, table())
    torch.testing.assert_close(prediction, net(X).squeeze(-1))
    torch.testing.assert_close(loss, functional.mse_loss(net(X).squeeze(-1), Y))


def test_a_constant_of_many_numbers_is_refused() -> None:
    constant = torch.ones(4)
    with pytest.raises(PlanRejected, match="a constant: register constants with register_buffer"):
        Plan.from_module(Line(lambda x: x * constant), "mse", example=(X, Y))


def test_a_result_that_is_a_constant_is_refused() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor(1.0)

    with pytest.raises(PlanRejected, match="the network's result is a constant"):
        Plan.from_module(Idle(), "mse", example=(X, Y))


def test_a_penalty_is_a_part_of_the_training_loss_alone() -> None:
    net = Line(lambda x: x)
    plan = Plan.from_module(
        net, "mse", example=(X, Y), penalty=lambda net: 0.25 * net.get_parameter("line.weight").square().sum()
    )
    tensors = {**bind(plan.layout, plan.initial, trainable=False), "$x": X, "$y": Y}
    trained, evaluated = (
        float(run(graph, tensors, table())[0]) for graph in (plan.document.train, plan.document.evaluate)
    )
    assert trained - evaluated == pytest.approx(0.25 * float(net.line.weight.detach().square().sum()), rel=1e-4)
    assert np.array_equal(plan.initial[:4], net.line.weight.detach().numpy().ravel())
