"""A plan's graph read on shares, forward; and what cannot be read is named before anything runs."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
import torch
from rooms_of_parties import seeded
from torch import nn

import smpc_fl as sf
from smpc_fl.errors import BadInput, PlanRejected, ShapeMismatch
from smpc_fl.plans.document import Node
from smpc_fl.plans.operators import table
from smpc_fl.shared_tensors import aten
from smpc_fl.shared_tensors.cost import cost
from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.in_process import evaluate
from smpc_fl.shared_tensors.reading import predict

G = torch.Generator().manual_seed(3)
X = torch.rand(5, 1, 8, 8, generator=G)
Y = torch.randint(0, 4, (5,), generator=G)


def network() -> nn.Sequential:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 12), nn.Tanh(),
        nn.LayerNorm(12), nn.Dropout(0.5), nn.Linear(12, 4),
    )  # fmt: skip
    net(torch.rand(20, 1, 8, 8, generator=G))  # running statistics that are none of the first ones
    return net.eval()


NET = network()
PLAN = sf.Plan.from_module(NET, example=(X, Y))
TENSORS = {
    name: tensor.detach()
    for name, tensor in (*NET.named_parameters(), *NET.named_buffers())
    if tensor.is_floating_point()
}


def shared(names: set[str], rows: int = 5) -> tuple[Draft, Value | torch.Tensor, dict[str, Value | torch.Tensor]]:
    draft = Draft()
    tensors: dict[str, Value | torch.Tensor] = {
        name: draft.input(name, tensor.shape) if name in names else tensor for name, tensor in TENSORS.items()
    }
    return draft, draft.input("x", X[:rows].shape) if "x" in names else X[:rows], tensors


def outcome(names: set[str], parties: int) -> torch.Tensor:
    draft, x, tensors = shared(names)
    given: Mapping[str, torch.Tensor] = {"x": X} | TENSORS
    result = draft.narrow(predict(PLAN, x, tensors))
    (found,) = evaluate(draft, [result], {n: given[n] for n in names}, entropy=seeded(parties), parties=parties)
    return found


@pytest.mark.parametrize(
    ("names", "parties"),
    [({"x"}, 2), ({"x"} | set(TENSORS), 3), ({name for name in TENSORS if "weight" in name}, 2)],
    ids=["the query", "both", "the model"],
)
def test_the_network_on_shares_is_the_network(names: set[str], parties: int) -> None:
    with torch.no_grad():
        torch.testing.assert_close(outcome(names, parties), NET(X).double(), atol=2e-3, rtol=0)


def test_a_public_model_costs_less() -> None:
    prices = []
    for names in ({"x"}, {"x"} | set(TENSORS)):
        draft, x, tensors = shared(names)
        prices.append(cost(draft.program(draft.narrow(predict(PLAN, x, tensors))), 2))
    assert prices[0].online < prices[1].online
    assert prices[0].rounds <= prices[1].rounds


def test_what_is_given_must_fit_the_plan() -> None:
    _, x, tensors = shared({"x"})
    with pytest.raises(ShapeMismatch, match=r"differ in '9\.bias': give exactly"):
        predict(PLAN, x, {name: tensor for name, tensor in tensors.items() if name != "9.bias"})
    with pytest.raises(ShapeMismatch, match=r"tensor '9\.bias' has the shape \(5,\), not \[4\]"):
        predict(PLAN, x, tensors | {"9.bias": torch.zeros(5)})
    with pytest.raises(ShapeMismatch, match=r"a row of the input has the shape \(1, 8, 7\)"):
        predict(PLAN, X[..., :7], tensors)
    with pytest.raises(BadInput, match="evaluate it in clear"):
        predict(PLAN, X, TENSORS)


def test_an_operator_that_is_not_there_is_named_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ELU())
    plan = sf.Plan.from_module(net, example=(torch.rand(3, 4), torch.zeros(3).long()))
    monkeypatch.setattr(Draft, "step", lambda *_, **__: pytest.fail("a step was written"))
    draft = Draft()
    with pytest.raises(PlanRejected, match=r"node 'elu': aten\.elu\.default.*use relu, gelu, silu or softplus"):
        predict(plan, draft.input("x", (3, 4)), dict(net.named_parameters()))


def test_errors_name_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    _, x, tensors = shared({"x"})
    name = next(node.name for node in PLAN.document.evaluate.nodes if "relu" in node.operator)

    def refused(*_: object) -> None:
        raise BadInput("too large")

    monkeypatch.setattr(aten, "FUNCTIONS", {**aten.FUNCTIONS, "relu": refused})
    with pytest.raises(BadInput, match=rf"node '{name}' \(aten\.relu\.default\): too large"):
        predict(PLAN, x, tensors)
    monkeypatch.setattr(aten, "FUNCTIONS", {**aten.FUNCTIONS, "relu": lambda: None})
    with pytest.raises(BadInput, match=rf"node '{name}' .*does not take these arguments on shared tensors"):
        predict(PLAN, x, tensors)


def test_a_prediction_that_needs_its_target_is_refused() -> None:
    graph = PLAN.document.evaluate
    leaking = Node("sum", "aten.add.Tensor", ["$y", graph.prediction], {})
    wrong = msgspec.structs.replace(graph, nodes=[*graph.nodes, leaking], prediction="%sum")
    plan = sf.Plan(msgspec.structs.replace(PLAN.document, evaluate=wrong), PLAN.data)
    _, x, tensors = shared({"x"})
    with pytest.raises(PlanRejected, match="depends on the targets"):
        predict(plan, x, tensors)


def test_a_public_part_of_a_graph_is_computed_by_torch() -> None:
    relu = aten.function("aten.relu.default", table()["aten.relu.default"])
    assert torch.equal(relu(torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0]))
