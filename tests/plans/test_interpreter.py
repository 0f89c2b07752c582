"""The interpreter knows only the table that it is given, and says nothing of values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from smpc_fl.errors import BadInput, ShapeMismatch
from smpc_fl.plans.document import Graph, Node, Part
from smpc_fl.plans.interpreter import bind, run
from smpc_fl.plans.layout import Layout
from smpc_fl.plans.operators import table

LAYOUT = Layout((Part("w", [2], "parameter"), Part("m", [1], "buffer")))


def test_any_table_will_do() -> None:
    """The same graph over words instead of tensors: how shares will be computed on later."""
    graph = Graph(
        [
            Node("a", "aten.add.Tensor", ["$x", "@w"], {"alpha": 2}),
            Node("b", "aten.cat.default", [["%a", 3, None], ":float32"], {"how": "=same"}),
        ],
        "%b",
        "%a",
    )
    functions = {
        "aten.add.Tensor": lambda x, y, alpha: f"({x} + {alpha}·{y})",
        "aten.cat.default": lambda items, dtype, how: f"cat({items}, {dtype}, {how})",
    }
    watched: list[tuple[str, Any]] = []
    loss, prediction = run(
        graph, {"$x": "x", "@w": "w"}, functions, watch=lambda node, value: watched.append((node.name, value))
    )
    assert prediction == "(x + 2·w)"
    assert loss == "cat(['(x + 2·w)', 3, None], torch.float32, same)"
    assert watched == [("a", prediction), ("b", loss)]


def test_an_error_tells_the_node_and_no_value() -> None:
    graph = Graph([Node("rows", "aten.embedding.default", ["@w", "$x"], {})], "%rows", "%rows")
    with pytest.raises(BadInput, match="'rows'") as caught:
        run(graph, {"@w": torch.ones(3, 2), "$x": torch.tensor([31337])}, table())
    assert "31337" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_bind_makes_copies_that_train_or_do_not() -> None:
    model = np.array([1, 2, 3], dtype=np.float32)
    tensors = bind(LAYOUT, model, trainable=True)
    assert tensors["@w"].requires_grad
    assert not tensors["@m"].requires_grad
    with torch.no_grad():
        tensors["@w"].zero_()
        tensors["@m"].zero_()
    assert model.tolist() == [1, 2, 3]
    assert not bind(LAYOUT, model, trainable=False)["@w"].requires_grad
    with pytest.raises(ShapeMismatch):
        bind(LAYOUT, model.astype(np.float64), trainable=False)
