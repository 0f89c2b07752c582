"""What a node makes sure of before it runs a stranger's plan: every word means something harmless, every shape fits.

`document.py` has checked types and caps. Here: each operator is allow-listed, each name defined before it is used, no
operator writes into anything but a buffer of the model. Then both graphs run on torch's meta device, which knows shapes
and no numbers, at two numbers of rows: types and shapes must fit, no tensor may grow out of hand, the loss must be one
number that depends on a parameter.
"""

from __future__ import annotations

from typing import Any

import torch

from smpc_fl.errors import BadInput, PlanRejected
from smpc_fl.plans import operators
from smpc_fl.plans.document import Argument, Dtype, Graph, Node, Part, PlanDocument, TensorType, decode_document
from smpc_fl.plans.interpreter import run

MAX_ELEMENTS = 1 << 28
"""Elements of the largest tensor on the way."""
MAX_TOTAL = 1 << 30
"""Elements of all tensors on the way together: autograd keeps them until the gradient is there."""

_ROWS = (7, 11)


def read_plan(data: bytes) -> PlanDocument:
    """A plan from an untrusted researcher's bytes, checked in full. Raises `PlanRejected`."""
    document = decode_document(data)
    check_document(document)
    return document


def check_document(document: PlanDocument) -> None:
    """Raises `PlanRejected`, naming node and operator and what to use instead."""
    _check_loss(document)
    for graph in (document.train, document.evaluate):
        _check_words(graph, document.layout)
    for rows in _ROWS:
        for graph, training in ((document.train, True), (document.evaluate, False)):
            _check_shapes(document, graph, rows, training=training)


def check_room(document: PlanDocument, graph: Graph, rows: int) -> None:
    """Raises `BadInput` when a batch of `rows` rows would need tensors over the caps. The message does not tell `rows`."""
    try:
        _propagate(document, graph, rows, training=False)
    except PlanRejected:
        raise BadInput("a batch of this size does not fit the plan or its memory: use a smaller batch_size") from None


def _check_loss(document: PlanDocument) -> None:
    if document.loss == "cross_entropy":
        if len(document.prediction) != 1 or document.prediction[0] < 2:
            raise PlanRejected(
                f"cross_entropy needs a score for each class, [rows, classes], not [rows, {document.prediction}]: let the "
                "network end in a linear layer with one output for each class (or use bce_with_logits for one)"
            )
        if document.targets != TensorType("int64", []):
            raise PlanRejected("cross_entropy needs whole numbers as targets, int64[rows]: give the class of each row")
    elif document.targets != TensorType("float32", document.prediction):
        raise PlanRejected(
            f"{document.loss} needs targets of the prediction's shape, float32[rows, {document.prediction}], not "
            f"{document.targets.dtype}[rows, {document.targets.shape}]: reshape one of them"
        )


def _check_words(graph: Graph, layout: list[Part]) -> None:
    defined = {"$x", "$y", *("@" + part.name for part in layout)}
    buffers = {"@" + part.name for part in layout if part.kind == "buffer"}
    for node in graph.nodes:
        if node.operator not in operators.ALLOWED:
            raise PlanRejected(
                f"operator {node.operator} at node {node.name!r} is not allow-listed: {operators.remedy(node.operator)}"
            )
        for argument in (*node.args, *node.kwargs.values()):
            for atom in argument if isinstance(argument, list) else [argument]:
                _check_atom(atom, node, defined)
        _check_arguments(node, buffers)
        if "%" + node.name in defined:
            raise PlanRejected(f"two nodes are called {node.name!r}")
        defined.add("%" + node.name)
    for output in (graph.loss, graph.prediction):
        if output[0] != "%" or output not in defined:
            raise PlanRejected(f"the graph's result {output!r} is not one of its nodes")


def _check_atom(atom: Argument, node: Node, defined: set[str]) -> None:
    if not isinstance(atom, str):
        return
    sort, word = atom[0], atom[1:]
    known = word in operators.DTYPES if sort == ":" else word in operators.WORDS if sort == "=" else atom in defined
    if not known:
        raise PlanRejected(f"node {node.name!r} ({node.operator}) uses {atom!r}, which is not known at that place")


def _check_arguments(node: Node, buffers: set[str]) -> None:
    if node.operator in operators.BUFFERS_ONLY:
        changed = [node.args[place] for place in operators.BUFFERS_ONLY[node.operator] if place < len(node.args)]
        if node.kwargs or not all(
            argument is None or (isinstance(argument, str) and argument in buffers) for argument in changed
        ):
            raise PlanRejected(
                f"node {node.name!r} ({node.operator}) would change something that is not a buffer of the model: "
                "running statistics must be registered buffers"
            )
    for (name, place, keyword), reason in operators.FORBIDDEN.items():
        if node.operator == name and (node.args[place : place + 1] not in ([], [False]) or node.kwargs.get(keyword)):
            raise PlanRejected(f"node {node.name!r} ({node.operator}): {reason}")


def _check_shapes(document: PlanDocument, graph: Graph, rows: int, *, training: bool) -> None:
    loss, prediction = _propagate(document, graph, rows, training=training)
    if not _is(loss, torch.float32, ()):
        raise PlanRejected("the loss is not one float32 number: average it over the rows")
    if not _is(prediction, torch.float32, (rows, *document.prediction)):
        raise PlanRejected(f"the prediction is not float32[rows, {document.prediction}] for every number of rows")
    if training and not loss.requires_grad:
        raise PlanRejected("the loss does not depend on any parameter: nothing could be trained")


def _is(value: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == dtype and value.shape == shape


def _propagate(document: PlanDocument, graph: Graph, rows: int, *, training: bool) -> tuple[Any, Any]:
    """Loss and prediction on the meta device: shapes and types without a number."""
    x, y = document.inputs, document.targets
    values = {"$x": _meta([rows, *x.shape], x.dtype), "$y": _meta([rows, *y.shape], y.dtype)}
    for part in document.layout:
        values["@" + part.name] = _meta(part.shape).requires_grad_(training and part.kind == "parameter")
    total = 0

    def watch(node: Node, result: Any) -> None:
        nonlocal total
        if isinstance(result, torch.Tensor):
            total += result.numel()
            if result.numel() > MAX_ELEMENTS or total > MAX_TOTAL:
                raise PlanRejected(f"node {node.name!r} ({node.operator}) needs too much memory: use smaller layers")

    with torch.set_grad_enabled(training):
        return run(graph, values, operators.table(), failure=_rejected, watch=watch)


def _meta(shape: list[int], dtype: Dtype = "float32") -> torch.Tensor:
    try:
        return torch.empty(shape, dtype=operators.DTYPES[dtype], device="meta")
    except RuntimeError:  # sizes or strides that do not fit 63 bits, also of a tensor without elements
        raise PlanRejected("a tensor of this plan is larger than any can be: use smaller shapes") from None


def _rejected(node: Node, error: Exception) -> PlanRejected:
    # There are no values on the meta device that torch's message could quote.
    reason = (str(error).splitlines() or [""])[0][:200]
    return PlanRejected(
        f"node {node.name!r} ({node.operator}) does not fit its arguments: {type(error).__name__}: {reason}"
    )
