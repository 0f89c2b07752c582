"""Every allow-listed operator, in a network: the plan computes what the network computes, and so does its gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional

from smpc_fl.errors import PlanRejected
from smpc_fl.plans.interpreter import bind, run
from smpc_fl.plans.operators import ALLOWED, INTEGER_OPERATORS, remedy, table
from smpc_fl.plans.plan import Plan

Step = Callable[[nn.Module, torch.Tensor], torch.Tensor]


class Network(nn.Module):
    """`step` between the inputs [rows, 4] and a linear layer; `parts` are what it may use, as self.parts[i]."""

    def __init__(self, step: Step, *parts: nn.Module) -> None:
        super().__init__()
        self.step = step
        self.parts = nn.ModuleList(parts)
        self.scale = nn.Parameter(torch.full((4,), 0.7))
        self.last = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.last(self.step(self, x * self.scale))
        return scores


def part(network: nn.Module, x: torch.Tensor, number: int = 0) -> torch.Tensor:
    module = network.get_submodule(f"parts.{number}")
    result: torch.Tensor = module(x)
    return result


def image(x: torch.Tensor) -> torch.Tensor:
    return x.unsqueeze(1).unsqueeze(1) * torch.ones_like(x).unsqueeze(2).unsqueeze(1)  # [rows, 1, 4, 4]


NETWORKS: dict[str, Network] = {
    "activations": Network(
        lambda n, x: (
            functional.relu(x)
            + functional.leaky_relu(x)
            + functional.elu(x)
            + functional.selu(x)
            + functional.relu6(x)
            + functional.hardsigmoid(x)
            + functional.gelu(x, approximate="tanh")
            + functional.gelu(x)
            + functional.silu(x)
            + functional.softplus(x)
            + functional.hardtanh(x)
            + torch.tanh(x)
            + torch.sigmoid(x)
        )
    ),
    "softmax": Network(lambda n, x: torch.softmax(x, 1) + torch.log_softmax(x, 1)),
    "matrices": Network(
        lambda n, x: (
            torch.matmul(x, x.t() @ x)
            + torch.mm(x, torch.addmm(x.t() @ x, x.T, x))
            + torch.bmm(x.unsqueeze(1), x.unsqueeze(2)).squeeze(2)
        )
    ),
    "conv1d": Network(
        lambda n, x: torch.flatten(
            functional.avg_pool1d(functional.max_pool1d(part(n, part(n, x.unsqueeze(1)), 1), 3, 1), 3, 1, 1)
            + functional.adaptive_avg_pool1d(x.unsqueeze(1), 1),
            1,
        ),
        nn.Conv1d(1, 2, 3, padding=2),
        nn.Conv1d(2, 1, 3, padding="same"),
    ),
    "conv2d": Network(
        lambda n, x: torch.flatten(
            functional.avg_pool2d(functional.max_pool2d(part(n, part(n, image(x)), 1), 2, 1), 2, 2)
            + functional.adaptive_avg_pool2d(image(x), 1),
            1,
        ),
        nn.Conv2d(1, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding="same"),
    ),
    "norms": Network(
        lambda n, x: part(n, part(n, part(n, x), 1), 2),
        nn.BatchNorm1d(4),
        nn.LayerNorm(4),
        nn.GroupNorm(2, 4),
    ),
    "dropout": Network(lambda n, x: part(n, part(n, image(x), 0)[:, 0, 0], 1), nn.Dropout2d(0.0), nn.Dropout(0.0)),
    "shapes": Network(
        lambda n, x: (
            x.view(x.size(0), 2, 2).permute(0, 2, 1).contiguous().transpose(1, 2).reshape(x.shape[0] * 2, 2).view(-1, 4)
            + torch.unflatten(x, 1, (2, 2)).flatten(1)
            + torch.cat([x[:, 2:], x[:, :2]], 1)
            + torch.stack([x[:, 0], x[:, 1], x[:, 2], x[:, 3]], 1)
            + x[:, :1].expand(-1, 4)
            + functional.pad(x, (1, 1))[:, 1:-1]
            + x.unsqueeze(2).squeeze()
            + x.unsqueeze(2).unsqueeze(3).squeeze((2, 3))
        )
    ),
    "sizes": Network(
        lambda n, x: x.view((x.shape[0] * 4 + 4 - x.shape[0] * 2) // 2 - 2, 4).clone().detach() + x.view(x.shape[0], -1),
    ),
    "arithmetic": Network(
        lambda n, x: (
            torch.add(x, x, alpha=2)
            + torch.sub(x, x.abs(), alpha=2)
            + (1 - x)
            - (-x) * 2 / 3
            + x.square()
            + x**3
            + torch.sqrt(x.abs() + 1)
            + torch.rsqrt(x.abs() + 1)
            + torch.exp(x)
            + torch.log(x.abs() + 1)
            + torch.log1p(x.abs())
            + x / (x.abs() + 1)
            + torch.reciprocal(x.abs() + 1)
            + x.clamp(-1, 1)
            + x.clamp_min(0.5)
            + torch.maximum(x, x.square())
            + torch.minimum(x, x.square())
        )
    ),
    "missing values": Network(
        lambda n, x: (
            torch.where(torch.isnan(x), torch.zeros_like(x), x)
            + torch.nan_to_num(x)
            + x.masked_fill(x > 0.5, 0.25)
            + (x < 0.0).to(torch.float32)
            + torch.logical_not(torch.isnan(x)).float()
        )
    ),
    "reductions": Network(
        lambda n, x: x - x.mean() + x.mean(1, keepdim=True) * x.sum(1, keepdim=True) / x.var(1, keepdim=True)
        + x.var(1, correction=0, keepdim=True)
        + x.amax(1, keepdim=True) + x.sum() / 100
    ),
}  # fmt: skip

WITHOUT_A_NETWORK = {
    "aten.add.Scalar", "aten.sub.Scalar", "aten.mul.Scalar", "aten.div.Scalar", "aten.embedding.default",
    "aten.nll_loss_nd.default", "aten.mse_loss.default", "aten.binary_cross_entropy_with_logits.default",
}  # fmt: skip
"""Tried by `test_the_other_operators`, on their own."""

X = torch.linspace(-1.5, 2.0, 28).reshape(4, 7).T.contiguous()
Y = torch.tensor([0, 1, 2, 0, 1, 2, 0])


@cache
def plan_of(name: str) -> Plan:
    return Plan.from_module(NETWORKS[name], example=(X, Y))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_plan_computes_what_its_network_computes(name: str) -> None:
    plan = plan_of(name)
    again = Plan.from_bytes(plan.to_bytes())
    for graph, training in ((again.document.train, True), (again.document.evaluate, False)):
        module = plan.module_with(plan.initial).train(training)
        expected = module(X)
        expected_loss = functional.cross_entropy(expected, Y)
        tensors = bind(again.layout, plan.initial, trainable=True)
        loss, prediction = run(graph, {**tensors, "$x": X, "$y": Y}, table())
        torch.testing.assert_close(prediction, expected)
        torch.testing.assert_close(loss, expected_loss)
        expected_loss.backward()  # type: ignore[no-untyped-call]
        loss.backward()
        for key, parameter in module.named_parameters():
            torch.testing.assert_close(tensors["@" + key].grad, parameter.grad)
        for key, buffer in module.named_buffers():
            if key != "parts.0.num_batches_tracked":
                torch.testing.assert_close(tensors["@" + key], buffer)


def test_the_networks_above_use_the_whole_list() -> None:
    seen = {node.operator for name in NETWORKS for node in plan_of(name).document.train.nodes}
    assert seen | WITHOUT_A_NETWORK == set(ALLOWED), (seen | WITHOUT_A_NETWORK) ^ set(ALLOWED)
    assert not seen & WITHOUT_A_NETWORK


def test_the_other_operators() -> None:
    functions = table()
    x = torch.tensor([[0.5, -1.0, 2.0]])
    y = torch.tensor([[1.0, 0.0, 1.0]])
    for name, expected in (("add", x + 2), ("sub", x - 2), ("mul", x * 2), ("div", x / 2)):
        torch.testing.assert_close(functions[f"aten.{name}.Scalar"](x, 2), expected)
    rows = functions["aten.embedding.default"](x.T, torch.tensor([2, 0]))
    torch.testing.assert_close(rows, x.T[[2, 0]])
    torch.testing.assert_close(functions["aten.nll_loss_nd.default"](x, torch.tensor([1])), torch.tensor(1.0))
    torch.testing.assert_close(functions["aten.mse_loss.default"](x, y), (x - y).square().mean())
    loss = functions["aten.binary_cross_entropy_with_logits.default"](x, y)
    torch.testing.assert_close(loss, functional.binary_cross_entropy(torch.sigmoid(x), y))


def test_every_name_has_a_function_and_a_line() -> None:
    assert table().keys() == ALLOWED.keys()
    assert all(callable(function) for function in table().values())
    assert all(ALLOWED.values())
    assert set(INTEGER_OPERATORS) <= set(ALLOWED)


def test_nothing_says_that_it_writes_into_its_arguments() -> None:
    schemas = [function._schema for function in table().values() if isinstance(function, torch._ops.OpOverload)]
    assert len(schemas) == len(ALLOWED) - len(INTEGER_OPERATORS)
    assert not [schema.name for schema in schemas if schema.is_mutable]


@pytest.mark.parametrize("name", INTEGER_OPERATORS)
def test_sizes_are_whole_numbers_with_an_end(name: str) -> None:
    function = table()[name]
    assert function(12, 5) == INTEGER_OPERATORS[name](12, 5)
    for left in ([1], 1.0, torch.ones(2), "a"):
        with pytest.raises(TypeError):
            function(left, 2)
        with pytest.raises(TypeError):
            function(2, left)
    with pytest.raises(ValueError, match="large"):
        table()["int.mul"](1 << 30, 1 << 30)


@pytest.mark.parametrize(
    ("layer", "advice"),
    [
        ("aten.lstm.input", "recurrent"),
        ("aten.scaled_dot_product_attention.default", "attention"),
        ("aten.rand_like.default", "random"),
        ("aten.item.default", "depend on values"),
        ("aten.zeros.default", "register_buffer"),
        ("aten.topk.default", "amax"),
        ("aten.fft_fft.default", "build it from"),
    ],
)
def test_what_is_not_allowed_comes_with_advice(layer: str, advice: str) -> None:
    assert layer not in ALLOWED
    assert advice in remedy(layer)


def test_a_network_with_another_operator_is_refused_by_name() -> None:
    with pytest.raises(PlanRejected, match=r"aten\.cumsum\.default at node 'cumsum'"):
        Plan.from_module(
            Network(lambda n, x: x.cumsum(1)), example=(torch.ones(2, 4), torch.zeros(2)[:, None].long()[:, 0])
        )
