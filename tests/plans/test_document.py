"""Plans on the wire: one spelling each, and nothing over the caps."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest

from smpc_fl.errors import PlanRejected
from smpc_fl.plans import document as document_module
from smpc_fl.plans.document import MAX_BYTES, decode_document, encode_document
from smpc_fl.plans.layout import layout_of

LINEAR: dict[str, Any] = {
    "version": 1,
    "loss": "mse",
    "layout": [{"name": "weight", "shape": [1, 2], "kind": "parameter"}],
    "inputs": {"dtype": "float32", "shape": [2]},
    "targets": {"dtype": "float32", "shape": [1]},
    "prediction": [1],
    "train": {
        "nodes": [
            ["linear", "aten.linear.default", ["$x", "@weight"], {}],
            ["loss", "aten.mse_loss.default", ["%linear", "$y"], {}],
        ],
        "loss": "%loss",
        "prediction": "%linear",
    },
    "evaluate": {
        "nodes": [
            ["linear", "aten.linear.default", ["$x", "@weight"], {}],
            ["loss", "aten.mse_loss.default", ["%linear", "$y"], {}],
        ],
        "loss": "%loss",
        "prediction": "%linear",
    },
}


def changed(**fields: Any) -> bytes:
    return spelled({**LINEAR, **fields})


def spelled(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def graph(*nodes: Any) -> dict[str, Any]:
    return {"nodes": list(nodes), "loss": "%loss", "prediction": "%linear"}


def test_a_plan_is_read_back_as_it_was_written() -> None:
    document = decode_document(spelled(LINEAR))
    assert encode_document(document) == spelled(LINEAR)
    assert document.layout[0].size == 2
    assert layout_of(spelled(LINEAR)).size == 2


def test_every_kind_of_argument_keeps_its_type() -> None:
    arguments = [True, 3, 1.0, None, "$x", [1, 2.5, None, "%linear", False], -(1 << 63), "=same", ":float32"]
    data = changed(train=graph(["linear", "aten.linear.default", arguments, {"eps": 0.125}]))
    read = decode_document(data).train.nodes[0].args
    assert read == arguments
    assert [type(value) for value in read] == [type(value) for value in arguments]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"not json",
        spelled(LINEAR) + b" ",
        spelled(LINEAR) + b"{}",
        b" " + spelled(LINEAR),
        spelled(LINEAR).replace(b'"version":1', b'"version":1,"version":1'),
        spelled(LINEAR).replace(b'"mse"', b'"\\u006dse"'),
        spelled(dict(reversed(LINEAR.items()))),
        changed(version=2),
        changed(version=1.0),
        changed(loss="hinge"),
        changed(extra=1),
        changed(layout=[]),
        changed(layout=[{"name": "weight", "shape": [0], "kind": "parameter"}]),
        changed(layout=[{"name": "weight", "shape": [1 << 31], "kind": "parameter"}]),
        changed(layout=[{"name": "weight", "shape": [1] * 9, "kind": "parameter"}]),
        changed(layout=[{"name": "weight", "shape": [-1], "kind": "parameter"}]),
        changed(layout=[{"name": "weight", "shape": [1], "kind": "secret"}]),
        changed(layout=[{"name": "../weight", "shape": [1], "kind": "parameter"}]),
        changed(layout=[{"name": "weight\n", "shape": [1], "kind": "parameter"}]),
        changed(layout=LINEAR["layout"] * 2),
        changed(inputs={"dtype": "float16", "shape": [2]}),
        changed(train=graph()),
        changed(train=graph(*[["a", "aten.neg.default", ["$x"], {}]] * 4097)),
        changed(train=graph(["a b", "aten.neg.default", ["$x"], {}])),
        changed(train=graph(["a", "os.system", ["rm"], {}])),
        changed(train=graph(["a", "__class__", ["$x"], {}])),
        changed(train=graph(["a", "aten.neg.default", ["$x\n"], {}])),
        changed(train=graph(["a", "aten.neg.default", ["x"], {}])),
        changed(train=graph(["a", "aten.neg.default", ["%"], {}])),
        changed(train=graph(["a", "aten.neg.default", [["$x", "../x"]], {}])),
        changed(train=graph(["a", "aten.neg.default", ["$x"], {"a b": 1}])),
        changed(train=graph(["a", "aten.neg.default", ["$x"], {"a": "b"}])),
        changed(train={**LINEAR["train"], "loss": "loss"}),
        changed(evaluate={**LINEAR["train"], "prediction": "line ar"}),
        changed(train=graph(["a", "aten.neg.default", [[[1]]], {}])),
        changed(train=graph(["a", "aten.neg.default", [{"ref": "x"}], {}])),
        changed(train=graph(["a", "aten.neg.default", [1 << 63], {}])),
        changed(train=graph(["a", "aten.neg.default", ["$x"] * 33, {}])),
        changed(train=graph(["a", "aten.neg.default", [[1] * 257], {}])),
        changed(train=graph(["a", "aten.neg.default", ["$x"], {}, 1])),
        changed(train=graph(["a", "aten.neg.default", ["$x"]])),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(PlanRejected, match=r"plan|model"):
        decode_document(data)


def test_a_plan_over_the_size_cap_is_not_even_parsed() -> None:
    with pytest.raises(PlanRejected, match=str(MAX_BYTES)):
        decode_document(b"\xff" * (MAX_BYTES + 1))


def test_what_a_reader_would_refuse_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    document = decode_document(spelled(LINEAR))
    not_finite = msgspec.structs.replace(document.train.nodes[0], args=[[math.inf, 1] * 200])
    broken = msgspec.structs.replace(document, train=msgspec.structs.replace(document.train, nodes=[not_finite]))
    with pytest.raises(PlanRejected):
        encode_document(broken)
    monkeypatch.setattr(document_module, "MAX_BYTES", 10)
    with pytest.raises(PlanRejected, match="smaller"):
        encode_document(document)
