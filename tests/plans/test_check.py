"""Hostile plans: what a node refuses before it runs anything."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch

from smpc_fl.errors import BadInput, PlanRejected
from smpc_fl.plans import check
from smpc_fl.plans.check import check_room, read_plan
from smpc_fl.plans.document import PlanDocument

LINEAR = ["scores", "aten.linear.default", ["$x", "@weight"], {}]
LOSS = ["loss", "aten.cross_entropy_loss.default", ["%scores", "$y"], {}]
GRAPH = {"nodes": [LINEAR, LOSS], "loss": "%loss", "prediction": "%scores"}
HONEST: dict[str, Any] = {
    "version": 1,
    "loss": "cross_entropy",
    "layout": [
        {"name": "weight", "shape": [3, 2], "kind": "parameter"},
        {"name": "mean", "shape": [2], "kind": "buffer"},
        {"name": "variance", "shape": [2], "kind": "buffer"},
    ],
    "inputs": {"dtype": "float32", "shape": [2]},
    "targets": {"dtype": "int64", "shape": []},
    "prediction": [3],
    "train": GRAPH,
    "evaluate": GRAPH,
}
NORM = [True, 0.1, 0.001, False]


def spelled(**fields: Any) -> bytes:
    document = msgspec.convert({**HONEST, **fields}, PlanDocument)
    return msgspec.json.Encoder(order="deterministic").encode(document)


def train(*nodes: Any, loss: str = "%loss", prediction: str = "%scores") -> dict[str, Any]:
    return {"nodes": list(nodes), "loss": loss, "prediction": prediction}


def test_an_honest_plan_passes_and_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    dropped = ["dropped", "aten.dropout.default", ["%scores", 0.5, True], {}]
    document = read_plan(spelled(train=train(LINEAR, dropped, [LOSS[0], LOSS[1], ["%dropped", "$y"], {}])))
    assert document.prediction == [3]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (train(["a", "aten.cumsum.default", ["$x", 1], {}], LINEAR, LOSS), "aten.cumsum.default at node 'a'"),
        (train(["a", "os.system", [], {}], LINEAR, LOSS), "not allow-listed"),
        (train(["a", "torch.load", [], {}], LINEAR, LOSS), "not allow-listed"),
        (train(["a", "aten.from_file.default", ["=tanh"], {}], LINEAR, LOSS), "not allow-listed"),
        (train(["a", "aten.relu_.default", ["$x"], {}], LINEAR, LOSS), "not allow-listed"),
        (train(["a", "aten.set_.source_Tensor", ["@mean", "$x"], {}], LINEAR, LOSS), "not allow-listed"),
        (train(["a", "aten.resize_.default", ["$x", [9]], {}], LINEAR, LOSS), "not allow-listed"),
        (train(["a", "aten.as_strided.default", ["$x", [9], [1]], {}], LINEAR, LOSS), "not allow-listed"),
        (train(LOSS, LINEAR), "'%scores', which is not known"),
        (train(["a", "aten.neg.default", ["%a"], {}], LINEAR, LOSS), "'%a', which is not known"),
        (train(["a", "aten.neg.default", ["@bias"], {}], LINEAR, LOSS), "'@bias', which is not known"),
        (train(["a", "aten.neg.default", ["$z"], {}], LINEAR, LOSS), r"'\$z', which is not known"),
        (train(["a", "aten.cat.default", [["$x", "%z"]], {}], LINEAR, LOSS), "'%z', which is not known"),
        (train(["a", "aten.to.dtype", ["$x", ":qint8"], {}], LINEAR, LOSS), "':qint8', which is not known"),
        (train(["a", "aten.gelu.default", ["$x"], {"approximate": "=exact"}], LINEAR, LOSS), "'=exact', which is not"),
        (train(LINEAR, LINEAR, LOSS), "two nodes are called 'scores'"),
        (train(LINEAR, LOSS, loss="%gone"), "'%gone' is not one of its nodes"),
        (train(LINEAR, LOSS, prediction="$x"), r"'\$x' is not one of its nodes"),
        (train(LINEAR, LOSS, loss="%scores"), "not one float32 number"),
        (train(LINEAR, LOSS, prediction="%loss"), "not float32"),
        (train(["n", "aten.sym_size.int", ["$x", 0], {}], LINEAR, LOSS, loss="%n"), "not one float32 number"),
        (train(LINEAR, [*LOSS[:2], ["%scores", "$y", "$y"], {}]), "does not fit its arguments"),
        (train(["a", "aten.view.default", ["$x", [7, 2]], {}], LINEAR, LOSS), "does not fit its arguments"),
        (train(["a", "aten.relu.default", [], {}], LINEAR, LOSS), "does not fit its arguments"),
        (train(["a", "aten.relu.default", ["$x"], {"out": "@mean"}], LINEAR, LOSS), "does not fit its arguments"),
        (
            train(LINEAR, ["d", "aten.detach.default", ["%scores"], {}], [*LOSS[:2], ["%d", "$y"], {}]),
            "does not depend on any parameter",
        ),
    ],
)
def test_a_hostile_graph_is_refused(graph: dict[str, Any], reason: str) -> None:
    data = spelled(train=graph)
    with pytest.raises(PlanRejected, match=reason):
        read_plan(data)


def test_the_evaluation_graph_is_checked_as_well() -> None:
    with pytest.raises(PlanRejected, match="cumsum"):
        read_plan(spelled(evaluate=train(["a", "aten.cumsum.default", ["$x", 1], {}], LINEAR, LOSS)))


@pytest.mark.parametrize("changed", ["$x", "@weight", "%view", 1.0, ["@mean"]])
def test_batch_norm_writes_into_buffers_only(changed: Any) -> None:
    view = ["view", "aten.select.int", ["$x", 0, 0], {}]
    for places in ([changed, "@variance"], ["@mean", changed]):
        norm = ["norm", "aten.batch_norm.default", ["$x", None, None, *places, *NORM], {}]
        with pytest.raises(PlanRejected, match="not a buffer"):
            read_plan(spelled(train=train(view, norm, LINEAR, LOSS)))


def test_batch_norm_takes_no_arguments_by_name() -> None:
    by_name = {"running_mean": "$x", "running_var": "$x", "training": True}
    norm = ["norm", "aten.batch_norm.default", ["$x", None, None], by_name]
    with pytest.raises(PlanRejected, match="not a buffer"):
        read_plan(spelled(train=train(norm, LINEAR, LOSS)))


def test_batch_norm_with_buffers_or_without_statistics_passes() -> None:
    for places in (["@mean", "@variance"], [None, None]):
        norm = ["norm", "aten.batch_norm.default", ["$x", None, None, *places, *NORM], {}]
        read_plan(spelled(train=train(norm, LINEAR, LOSS)))


@pytest.mark.parametrize("more", [([-1, False, True], {}), ([-1, False, "$x"], {}), ([], {"sparse": True})])
def test_no_sparse_gradients(more: tuple[list[Any], dict[str, Any]]) -> None:
    rows = ["rows", "aten.embedding.default", ["@weight", "$y", *more[0]], more[1]]
    with pytest.raises(PlanRejected, match="sparse"):
        read_plan(spelled(train=train(rows, LINEAR, LOSS)))


def test_dense_gradients_pass() -> None:
    for more in ([], [-1, False, False]):
        rows = ["rows", "aten.embedding.default", ["@weight", "$y", *more], {}]
        read_plan(spelled(train=train(rows, LINEAR, LOSS)))


def test_a_tensor_that_grows_without_end_is_refused_before_it_exists() -> None:
    doubling = [
        [f"n{number}", "aten.cat.default", [["%n" + str(number - 1) if number else "$x"] * 2, 1], {}]
        for number in range(60)
    ]
    with pytest.raises(PlanRejected, match="too much memory"):
        read_plan(spelled(train=train(*doubling, LINEAR, LOSS)))
    wide = ["wide", "aten.expand.default", ["@mean", [1 << 40, 2]], {}]
    with pytest.raises(PlanRejected, match="node 'wide'"):
        read_plan(spelled(train=train(wide, LINEAR, LOSS)))


def test_many_large_tensors_are_refused_together() -> None:
    fair = [[f"n{number}", "aten.expand.default", ["@mean", [1 << 26, 2]], {}] for number in range(9)]
    with pytest.raises(PlanRejected, match="node 'n8'"):
        read_plan(spelled(train=train(*fair, LINEAR, LOSS)))
    read_plan(spelled(train=train(*fair[:7], LINEAR, LOSS)))


def test_numbers_without_end_are_refused() -> None:
    size = ["n0", "aten.sym_size.int", ["$x", 0], {}]
    squares = [[f"n{number}", "int.mul", [f"%n{number - 1}", f"%n{number - 1}"], {}] for number in range(1, 4000)]
    with pytest.raises(PlanRejected, match="a size is too large"):
        read_plan(spelled(train=train(size, *squares, LINEAR, LOSS)))
    with pytest.raises(PlanRejected, match="whole numbers"):
        read_plan(spelled(train=train(["n", "int.mul", [[1, 2], 1 << 40], {}], LINEAR, LOSS)))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"prediction": []}, "a score for each class"),
        ({"prediction": [1]}, "a score for each class"),
        ({"prediction": [3, 4]}, "a score for each class"),
        ({"targets": {"dtype": "float32", "shape": []}}, "whole numbers as targets"),
        ({"targets": {"dtype": "int64", "shape": [1]}}, "whole numbers as targets"),
        ({"loss": "mse"}, "mse needs targets"),
        ({"loss": "mse", "targets": {"dtype": "float32", "shape": []}}, "mse needs targets"),
        ({"loss": "bce_with_logits", "targets": {"dtype": "int64", "shape": [3]}}, "bce_with_logits needs targets"),
        ({"prediction": [4]}, "not float32"),
    ],
)
def test_loss_targets_and_prediction_must_fit(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(PlanRejected, match=reason):
        read_plan(spelled(**fields))


def test_a_batch_beyond_the_caps_is_refused_without_telling_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    document = read_plan(spelled())
    check_room(document, document.train, 123_456)
    monkeypatch.setattr(check, "MAX_ELEMENTS", 300_000)
    with pytest.raises(BadInput, match="smaller batch_size") as caught:
        check_room(document, document.train, 123_456)
    assert "123" not in str(caught.value)


HUGE = [0, 1 << 32, 1 << 32, 1 << 32]


@pytest.mark.parametrize(
    "fields",
    [
        {"inputs": {"dtype": "float32", "shape": [1 << 31, 1 << 31, 1 << 30]}},
        {"loss": "mse", "targets": {"dtype": "float32", "shape": HUGE}, "prediction": HUGE},
        {"layout": [*HONEST["layout"], {"name": "none", "shape": HUGE, "kind": "buffer"}]},
    ],
)
def test_a_tensor_that_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(PlanRejected, match="larger than any can be"):
        read_plan(spelled(**fields))
