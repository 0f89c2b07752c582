"""The third reading of a plan's graph: on shared values, forward. The very bytes that owners run in clear make the program.

What the graph asks for is checked whole before a step is written: an operator that shared tensors do not have is named,
with what to use instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import torch

from smpc_fl.errors import BadInput, PlanRejected, ShapeMismatch, SmpcError
from smpc_fl.plans.document import Graph, Node
from smpc_fl.plans.interpreter import run
from smpc_fl.plans.operators import table
from smpc_fl.plans.plan import Plan
from smpc_fl.shared_tensors import aten
from smpc_fl.shared_tensors.draft import Value


def predict(plan: Plan, x: Value | torch.Tensor, tensors: Mapping[str, Value | torch.Tensor]) -> Value:
    """The prediction of a plan's network, in evaluation mode, on `x` with the layout's `tensors` by name; whichever of them
    are shared, at least one. Raises `PlanRejected`, `ShapeMismatch`, `BadInput`."""
    names = [part.name for part in plan.document.layout]
    if tensors.keys() != set(names):
        different = sorted(tensors.keys() ^ set(names))[0]
        raise ShapeMismatch(f"the plan and the tensors differ in {different!r}: give exactly the plan's tensors")
    for part in plan.document.layout:
        if tuple(tensors[part.name].shape) != tuple(part.shape):
            raise ShapeMismatch(
                f"tensor {part.name!r} has the shape {tuple(tensors[part.name].shape)}, not {part.shape}"
            )
    if tuple(x.shape[1:]) != tuple(plan.document.inputs.shape):
        raise ShapeMismatch(f"a row of the input has the shape {tuple(x.shape[1:])}, not {plan.document.inputs.shape}")
    graph = _forward(plan.document.evaluate)
    for node in graph.nodes:
        aten.check(node.operator, node.name)
    public = table()
    functions = {node.operator: aten.function(node.operator, public[node.operator]) for node in graph.nodes}
    values: dict[str, Any] = {"$x": x} | {"@" + name: value for name, value in tensors.items()}
    _, prediction = run(graph, values, functions, failure=_said)
    if not isinstance(prediction, Value):
        raise BadInput("neither the input nor any tensor of the network is shared: evaluate it in clear")
    return prediction


def _forward(graph: Graph) -> Graph:
    """What the prediction needs, without the loss."""
    needed, kept = {graph.prediction}, []
    for node in reversed(graph.nodes):
        if "%" + node.name in needed:
            kept.append(node)
            for argument in (*node.args, *node.kwargs.values()):
                needed |= {
                    word for word in (argument if isinstance(argument, list) else [argument]) if isinstance(word, str)
                }
    if "$y" in needed:
        raise PlanRejected("the plan's prediction depends on the targets: it cannot be evaluated without them")
    return msgspec.structs.replace(graph, nodes=kept[::-1], loss=graph.prediction)


def _said(node: Node, error: Exception) -> SmpcError:
    """Nothing here holds private values, so an error may say what it is."""
    if isinstance(error, SmpcError):
        return BadInput(f"node {node.name!r} ({node.operator}): {error.message}")
    return BadInput(f"node {node.name!r} ({node.operator}) does not take these arguments on shared tensors: {error}")
