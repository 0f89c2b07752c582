"""Runs the graph of a plan, node by node, over a table of functions.

The table decides what the words mean: torch's operators under autograd at an owner (`operators.table`), the same on the
meta device for shapes alone (`check.py`), and later other arithmetic. No name of a graph is ever looked up elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from smpc_fl.errors import BadInput, SmpcError
from smpc_fl.plans.document import Argument, Graph, Node
from smpc_fl.plans.layout import Layout, Vector
from smpc_fl.plans.operators import DTYPES, Function

Failure = Callable[[Node, Exception], SmpcError]


def run(
    graph: Graph,
    values: Mapping[str, Any],
    functions: Mapping[str, Function],
    *,
    failure: Failure | None = None,
    watch: Callable[[Node, Any], None] | None = None,
) -> tuple[Any, Any]:
    """(loss, prediction) of a checked graph.

    `values`: "$x", "$y" and every part of the layout as "@name"; `functions`: by operator name; `watch` sees each
    node's result. An operator that fails raises `BadInput` naming the node, and nothing of torch's own message, which
    may quote values; or what `failure` makes of it."""
    known = dict(values)
    for node in graph.nodes:
        try:
            args = [_value(argument, known) for argument in node.args]
            kwargs = {name: _value(argument, known) for name, argument in node.kwargs.items()}
            result = functions[node.operator](*args, **kwargs)
        except Exception as error:
            raise (failure or _silent)(node, error) from None
        if watch is not None:
            watch(node, result)
        known["%" + node.name] = result
    return known[graph.loss], known[graph.prediction]


def _silent(node: Node, error: Exception) -> SmpcError:
    return BadInput(
        f"the plan's node {node.name!r} ({node.operator}) cannot run on these tensors: their shapes, or whole numbers "
        "outside an embedding's table, do not fit the network"
    )


def _value(argument: Argument, known: Mapping[str, Any]) -> Any:
    if isinstance(argument, list):
        return [_value(item, known) for item in argument]
    if not isinstance(argument, str):
        return argument
    sort, word = argument[0], argument[1:]
    if sort == ":":
        return DTYPES[word]
    return word if sort == "=" else known[argument]


def bind(layout: Layout, model: Vector, *, trainable: bool) -> dict[str, torch.Tensor]:
    """The model's tensors by "@name", float32 copies of their own; parameters collect gradients if `trainable`.

    Raises `ShapeMismatch` unless `model` is float32[d]."""
    kinds = {part.name: part.kind for part in layout.parts}
    return {
        "@" + name: torch.from_numpy(array).requires_grad_(trainable and kinds[name] == "parameter")
        for name, array in layout.unflatten(model).items()
    }
