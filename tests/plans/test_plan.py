"""Plans made from networks: what travels, what is refused and why, and that the network stays as it was."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from smpc_fl.errors import BadInput, PlanRejected, ShapeMismatch
from smpc_fl.hashing import digest
from smpc_fl.plans.document import Graph, PlanDocument
from smpc_fl.plans.interpreter import bind, run
from smpc_fl.plans.operators import table
from smpc_fl.plans.plan import Plan

X, Y = torch.randn(6, 4, generator=torch.Generator()), torch.tensor([0, 1, 2, 1, 0, 2])


class Net(nn.Module):
    """`forward` is a function of the test."""

    def __init__(self, step: Callable[[Any, torch.Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self.step = step
        for name, value in parts.items():
            if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)
        self.last = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.step(self, x)


def names(plan: Plan) -> list[tuple[str, str]]:
    return [(part.name, part.kind) for part in plan.document.layout]


def operators(plan: Plan) -> list[str]:
    return [node.operator for node in plan.document.train.nodes]


def test_the_first_articles_network() -> None:
    net = nn.Sequential(nn.Linear(10, 100), nn.ReLU(), nn.Linear(100, 10))
    plan = Plan.from_module(net, loss="cross_entropy", example=(torch.randn(5, 10), torch.arange(5)))
    assert operators(plan) == [
        "aten.linear.default",
        "aten.relu.default",
        "aten.linear.default",
        "aten.cross_entropy_loss.default",
    ]
    assert plan.layout.size == 2110
    assert plan.document.prediction == [10]
    assert json.loads(plan.to_bytes())["version"] == 1
    assert plan.digest == digest("smpc-fl/1 plan", plan.to_bytes())
    assert repr(plan) == f"Plan(cross_entropy, 2110 elements, digest {plan.digest.hex()[:16]})"


def test_the_same_network_gives_the_same_bytes_whatever_the_example() -> None:
    net = Net(lambda n, x: n.last(x))
    plan = Plan.from_module(net, example=(X, Y))
    assert Plan.from_module(net, example=(X.numpy(), Y.numpy())).data == plan.data
    assert Plan.from_module(net, example=(X[:1].double(), Y[:1].to(torch.uint8))).data == plan.data
    assert Plan.from_module(net, example=(torch.zeros(2, 4), Y[:2])).data == plan.data
    assert Plan.from_bytes(plan.data).digest == plan.digest


def test_the_network_and_torchs_generator_stay_as_they_were() -> None:
    net = Net(lambda n, x: n.last(n.drop(n.norm(x))), norm=nn.BatchNorm1d(4), drop=nn.Dropout(0.5))
    net.eval()
    before, random = {key: value.clone() for key, value in net.state_dict().items()}, torch.get_rng_state()
    hooks = list(warnings.filters)
    plan = Plan.from_module(net, example=(X, Y))
    assert torch.equal(torch.get_rng_state(), random)
    assert not net.training
    assert list(warnings.filters) == hooks
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])
    net.last.weight.data.zero_()
    assert torch.equal(plan.module_with(plan.initial).state_dict()["last.weight"], before["last.weight"])


def test_batch_norms_counter_stays_local_and_its_statistics_travel() -> None:
    plan = Plan.from_module(Net(lambda n, x: n.last(n.norm(x)), norm=nn.BatchNorm1d(4)), example=(X, Y))
    assert ("norm.running_mean", "buffer") in names(plan)
    assert "num_batches_tracked" not in plan.data.decode()
    assert [node.args[5] for node in plan.document.train.nodes if "batch_norm" in node.operator] == [True]
    assert [node.args[5] for node in plan.document.evaluate.nodes if "batch_norm" in node.operator] == [False]


def test_weights_go_into_the_module_and_come_back() -> None:
    plan = Plan.from_module(Net(lambda n, x: n.last(n.norm(x)), norm=nn.BatchNorm1d(4)), example=(X, Y))
    model = np.arange(plan.layout.size, dtype=np.float32)
    module = plan.module_with(model)
    state = {key: value.numpy() for key, value in module.state_dict().items() if "num_batches" not in key}
    np.testing.assert_array_equal(plan.layout.flatten(state), model)
    assert all(parameter.requires_grad for parameter in module.parameters())
    with pytest.raises(ShapeMismatch):
        plan.module_with(model[:-1])
    other = Plan.from_bytes(plan.to_bytes())
    for use in (lambda: other.initial, lambda: other.module_with(model)):
        with pytest.raises(BadInput, match="from_module"):
            use()


def test_frozen_weights_are_buffers() -> None:
    net = Net(lambda n, x: n.last(n.first(x)), first=nn.Linear(4, 4))
    net.get_submodule("first").requires_grad_(False)
    plan = Plan.from_module(net, example=(X, Y))
    assert names(plan) == [
        ("first.weight", "buffer"),
        ("first.bias", "buffer"),
        ("last.weight", "parameter"),
        ("last.bias", "parameter"),
    ]


def test_tied_weights_travel_once() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    net = Net(lambda n, x: n.last(n.second(torch.tanh(n.first(x)))), first=first, second=second)
    plan = Plan.from_module(net, example=(X, Y))
    assert [name for name, _ in names(plan)] == [
        "first.weight", "first.bias", "second.bias", "last.weight", "last.bias"
    ]  # fmt: skip
    module = plan.module_with(plan.initial + 1)
    assert module.get_parameter("first.weight") is module.get_parameter("second.weight")
    tensors = bind(plan.layout, plan.initial, trainable=True)
    _, prediction = run(plan.document.train, {**tensors, "$x": X, "$y": Y}, table())
    torch.testing.assert_close(prediction, net(X))


def test_buffers_outside_the_state_and_unused_parameters() -> None:
    net = Net(lambda n, x: n.last(x + n.shift), unused=nn.Linear(2, 2))
    net.register_buffer("shift", torch.ones(4), persistent=False)
    net.register_buffer("steps", torch.zeros((), dtype=torch.int64))
    plan = Plan.from_module(net, example=(X, Y))
    assert ("shift", "buffer") in names(plan)
    assert ("unused.weight", "parameter") in names(plan)
    assert "steps" not in plan.data.decode()


def test_steps_in_place_are_written_as_plain_ones() -> None:
    def step(n: Any, x: torch.Tensor) -> torch.Tensor:
        hidden = n.first(x)
        hidden += x
        hidden = n.norm(hidden)
        result: torch.Tensor = n.last(functional.relu(hidden, inplace=True) + hidden)
        return result

    net = Net(step, first=nn.Linear(4, 4), norm=nn.GroupNorm(2, 4))
    plan = Plan.from_module(net, example=(X, Y))
    assert operators(plan)[1:5] == [
        "aten.add.Tensor",
        "aten.group_norm.default",
        "aten.relu.default",
        "aten.add.Tensor",
    ]
    tensors = bind(plan.layout, plan.initial, trainable=False)
    _, prediction = run(plan.document.evaluate, {**tensors, "$x": X, "$y": Y}, table())
    torch.testing.assert_close(prediction, net(X))


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
@pytest.mark.parametrize("loss", ["mse", "bce_with_logits"])
def test_one_score_a_row_fits_targets_with_and_without_a_column(loss: Any, shape: tuple[int, ...]) -> None:
    net = Net(lambda n, x: n.one(x), one=nn.Linear(4, 1))
    plan = Plan.from_module(net, loss=loss, example=(X, (Y > 0).reshape(shape)))
    assert plan.document.prediction == list(shape[1:])
    assert plan.document.targets.dtype == "float32"


def test_whole_numbers_as_inputs() -> None:
    net = Net(lambda n, x: n.last(n.table(x).mean(1)), table=nn.Embedding(9, 4))
    plan = Plan.from_module(net, example=(torch.zeros((6, 5), dtype=torch.int32), Y))
    assert plan.document.inputs.dtype == "int64"
    assert plan.document.inputs.shape == [5]


def branch(n: Any, x: torch.Tensor) -> Any:
    return n.last(x) if x.sum() > 0 else n.last(-x)


def view_in_place(n: Any, x: torch.Tensor) -> Any:
    hidden = n.last(x)
    hidden[:, 0].relu_()
    return hidden


def seen_by_a_view(n: Any, x: torch.Tensor) -> Any:
    hidden = n.last(x)
    view = hidden.view(-1, 3)
    hidden.relu_()
    return view


def counted(n: Any, x: torch.Tensor) -> Any:
    n.steps += 1
    return n.last(x)


def no_grad(n: Any, x: torch.Tensor) -> Any:
    with torch.no_grad():
        shift = x.mean(0)
    return n.last(x - shift)


@pytest.mark.parametrize(
    ("step", "parts", "reason"),
    [
        (lambda n, x: n.last(x.view(6, 4)), {}, "fixes the number of rows"),
        (branch, {}, "depends on values"),
        (lambda n, x: n.last(n.norm(x)), {"norm": nn.BatchNorm1d(4, momentum=None)}, "depends on values"),
        (lambda n, x: n.last(x @ torch.ones(3, 3)), {}, "cannot follow the network"),
        (lambda n, x: n.last(x[x[:, 0] > 0]), {}, "cannot follow|not allow-listed"),
        (lambda n, x: (n.last(x), x), {}, "return the prediction alone"),
        (lambda n, x: n.last(n.first(x[:, None])[0][:, 0]), {"first": nn.LSTM(4, 4, batch_first=True)}, "recurrent"),
        (lambda n, x: n.last(x + torch.tensor([1.0, 2.0, 3.0, 4.0])), {}, "register_buffer"),
        (lambda n, x: n.last(x + torch.zeros(4)), {}, "register_buffer"),
        (lambda n, x: n.last(x + torch.rand_like(x)), {}, "no random numbers"),
        (lambda n, x: n.last(x.masked_fill(x > 0, float("-inf"))), {}, "uses the number -inf"),
        (lambda n, x: n.last((x * 1j).abs()), {}, "argument of type complex"),
        (lambda n, x: n.last(x.to(torch.complex64).real), {}, "complex64|not allow-listed"),
        (lambda n, x: n.last(x + n.steps), {"steps": torch.ones(4, dtype=torch.int64)}, "whole-number buffer"),
        (counted, {"steps": torch.ones(4)}, "in place"),
        (view_in_place, {}, "in place"),
        (seen_by_a_view, {}, "in place"),
        (no_grad, {}, "nested graph|not allow-listed"),
        (lambda n, x: n.last(x) @ n.last(x).T, {}, "number of rows in another dimension"),
        (lambda n, x: n.last(x).sum(0), {}, "does not fit|cannot follow|not float32"),
        (
            lambda n, x: n.last(x),
            {"narrow": torch.ones(1, dtype=torch.float16)},
            "'narrow' of the network is torch.float16",
        ),
        (lambda n, x: n.last(x), {"wide": nn.Parameter(torch.ones(1).double())}, "'wide' .*float64: convert"),
        (lambda n, x: n.last(n.lazy(x)), {"lazy": nn.LazyLinear(4)}, "run the network once"),
    ],
)
def test_what_cannot_be_a_plan_is_refused_with_advice(step: Any, parts: dict[str, Any], reason: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = Net(step, **parts)
    with pytest.raises(PlanRejected, match=reason):
        Plan.from_module(net, example=(X, Y))


def test_a_network_without_parameters_is_refused() -> None:
    with pytest.raises(PlanRejected, match="no parameter"):
        Plan.from_module(nn.ReLU(), example=(X, Y))


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(PlanRejected, match="cross_entropy, mse, bce_with_logits"):
        Plan.from_module(nn.Linear(4, 3), loss="hinge", example=(X, Y))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "example",
    [(X, Y[:3]), (X[:0], Y[:0]), (X[0, 0], Y), (X, Y[0]), (X, Y.float()), (X.to(torch.complex64), Y)],
)
def test_an_example_that_is_none_is_refused(example: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(ShapeMismatch):
        Plan.from_module(nn.Linear(4, 3), example=example)


def test_targets_of_another_shape_are_refused() -> None:
    with pytest.raises(PlanRejected):
        Plan.from_module(nn.Linear(4, 3), loss="mse", example=(X, Y))
    with pytest.raises(PlanRejected):
        Plan.from_module(nn.Linear(4, 3), example=(X, Y[:, None]))


def test_room_is_checked_once_a_size_and_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan.from_module(nn.Linear(4, 3), example=(X, Y))
    asked: list[tuple[bool, int]] = []

    def check_room(document: PlanDocument, graph: Graph, rows: int) -> None:
        asked.append((graph is document.train, rows))
        if rows > 99:
            raise BadInput("too many")

    monkeypatch.setattr("smpc_fl.plans.plan.check_room", check_room)
    for rows, training in [(7, True), (7, True), (7, False), (8, True), (7, False)]:
        plan.check_room(rows, training=training)
    assert asked == [(True, 7), (False, 7), (True, 8)]
    for _ in range(2):
        with pytest.raises(BadInput, match="too many"):
            plan.check_room(100, training=True)
