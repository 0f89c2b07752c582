"""From a network to the two graphs of a plan, by `torch.export` of the network and its loss in both modes.

The researcher's side: the network is trusted here. Batch size stays free; in-place steps are written as plain ones where
that is the same; the counters `num_batches_tracked` stay with whoever counts and are left out of the graph.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.parameter import is_lazy

from smpc_fl.errors import PlanRejected
from smpc_fl.plans import operators
from smpc_fl.plans.document import Argument, Atom, Graph, Loss, Node, Part

_LOSSES: Mapping[str, operators.Function] = {
    "cross_entropy": functional.cross_entropy,
    "mse": torch.ops.aten.mse_loss.default,  # without functional's broadcasting, which no target should need
    "bce_with_logits": functional.binary_cross_entropy_with_logits,
}

_PREFIX = "net."
_DROPPED = {"aten._assert_tensor_metadata.default"}
_DEFAULTS = {"device", "layout", "pin_memory", "memory_format"}
"""Arguments about where numbers lie; they change none."""
_SPELLED = {f"aten.{long}.Tensor": f"aten.{short}.Tensor" for long, short in
            (("subtract", "sub"), ("multiply", "mul"), ("divide", "div"))}  # fmt: skip
"""Other names of one operator."""
_LIFTED = {"aten.lift_fresh_copy.default", "aten.detach_.default"}
"""What torch.tensor(0.5) leaves in a graph."""
_TO = {"aten.to.dtype", "aten.to.dtype_layout"}

_FRESH = {
    f"aten.{name}"
    for name in (
        "linear.default", "matmul.default", "conv1d.default", "conv1d.padding", "conv2d.default", "conv2d.padding",
        "batch_norm.default", "layer_norm.default", "group_norm.default", "max_pool2d.default", "avg_pool2d.default",
        "relu.default", "gelu.default", "silu.default", "tanh.default", "sigmoid.default",
        "add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor",
    )
}  # fmt: skip
"""Operators whose result shares memory with nothing."""

_INTEGERS = {function: name for name, function in operators.INTEGER_OPERATORS.items()}


Penalty = Callable[[nn.Module], torch.Tensor]
"""What is added to a network's loss in training, of its weights: one number."""


class _WithLoss(nn.Module):
    """(x, y) -> (loss, prediction). One score a row may stand as [rows, 1] against targets [rows]."""

    def __init__(self, net: nn.Module, loss: Loss, penalty: Penalty | None) -> None:
        super().__init__()
        self.net = net
        self.loss = loss
        self.penalty = penalty

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        prediction = self.net(x)
        if not isinstance(prediction, torch.Tensor):
            raise PlanRejected("the network returns something other than one tensor: return the prediction alone")
        if self.loss != "cross_entropy" and prediction.dim() == y.dim() + 1 and prediction.shape[-1] == 1:
            prediction = prediction.squeeze(-1)
        loss: torch.Tensor = _LOSSES[self.loss](prediction, y)
        return loss if self.penalty is None else loss + self.penalty(self.net), prediction


def layout_parts(net: nn.Module) -> list[Part]:
    """The float32 tensors of a network: parameters, then buffers; frozen parameters count as buffers.

    Whole-number buffers are left out. Raises `PlanRejected` for any other type."""
    parts = []
    for name, parameter in net.named_parameters():
        if is_lazy(parameter):
            raise PlanRejected(f"parameter {name!r} has no shape yet: run the network once on an example")
        _check_float(name, parameter)
        parts.append(Part(name, list(parameter.shape), "parameter" if parameter.requires_grad else "buffer"))
    for name, buffer in net.named_buffers():
        if buffer.is_floating_point() or buffer.is_complex():
            _check_float(name, buffer)
            parts.append(Part(name, list(buffer.shape), "buffer"))
    if not any(part.kind == "parameter" for part in parts):
        raise PlanRejected("the network has no parameter to train")
    return parts


def _check_float(name: str, tensor: torch.Tensor) -> None:
    if tensor.dtype != torch.float32:
        raise PlanRejected(f"tensor {name!r} of the network is {tensor.dtype}: convert the network with net.float()")


def export_graph(
    net: nn.Module, loss: Loss, x: torch.Tensor, y: torch.Tensor, *, training: bool, penalty: Penalty | None = None
) -> tuple[Graph, list[int]]:
    """The graph of `net` (left as it is) and its loss, and the shape of one row of its prediction.

    Raises `PlanRejected` where torch.export cannot follow, or where an operator is not allow-listed."""
    module = _WithLoss(copy.deepcopy(net), loss, penalty).train(training)
    batch = torch.export.Dim("batch", min=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own deprecations while it exports
        try:
            program = torch.export.export(module, (x, y), dynamic_shapes=({0: batch}, {0: batch}))
        except PlanRejected:
            raise
        except Exception as error:
            raise PlanRejected(f"torch.export cannot follow the network: {_reason(error)}") from error
    return _Translation(program, module.net).result()


def _reason(error: Exception) -> str:
    text = str(error)
    if "specialized it to be a constant" in text:
        return "it fixes the number of rows; use x.shape[0] or -1 where it writes the size of the batch"
    if "data-dependent" in text:
        return (
            "a step depends on values, such as `if x.sum() > 0` or BatchNorm(momentum=None); compute with torch.where, "
            "and give batch norm a momentum"
        )
    return (text.strip().splitlines() or [type(error).__name__])[0][:300]


class _Translation:
    """One walk over an exported graph: torch's nodes to ours."""

    def __init__(self, program: torch.export.ExportedProgram, net: nn.Module) -> None:
        self.program = program
        self.words: dict[str, Atom] = {}
        """What each node of torch's graph is called in ours; a constant of one number is that number."""
        self.local: set[str] = set()
        """Placeholders of whole-number buffers."""
        self.fresh: set[str] = set()
        self.nodes: list[Node] = []
        self.refused: dict[str, str] = {}
        """Operators that are not allow-listed, each with the first node that has it."""
        self.names = _canonical_names(net)

    def result(self) -> tuple[Graph, list[int]]:
        """The graph, and the shape of one row of its prediction."""
        *steps, output = self.program.graph.nodes
        self._placeholders()
        for node in steps:
            if node.op == "call_function":
                self._call(node)
            elif node.op != "placeholder":
                raise PlanRejected(
                    f"the network holds a nested graph at {node.name!r}: leave out torch.no_grad and cond"
                )
        if self.refused:
            raise PlanRejected(
                "; ".join(
                    f"operator {name} at node {node!r} is not allow-listed: {operators.remedy(name)}"
                    for name, node in self.refused.items()
                )
            )
        loss, prediction = output.args[0]
        row = list(prediction.meta["val"].shape[1:])
        if not all(isinstance(size, int) for size in row):
            raise PlanRejected("the prediction has the number of rows in another dimension than its first")
        return Graph(self.nodes, self._result(loss), self._result(prediction)), row

    def _placeholders(self) -> None:
        signature = self.program.graph_signature
        tensors = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        for placeholder, target in tensors.items():
            name = target.removeprefix(_PREFIX)
            if name in self.names:
                self.words[placeholder] = "@" + self.names[name]
            else:
                self.local.add(placeholder)
        self.words |= zip(signature.user_inputs, ("$x", "$y"), strict=True)
        for placeholder, target in signature.inputs_to_lifted_tensor_constants.items():
            constant = self.program.constants[target]
            if constant.dim() == 0:
                self.words[placeholder] = constant.item()

    def _call(self, node: fx.Node) -> None:
        name = _INTEGERS.get(node.target) or str(node.target)  # type: ignore[arg-type]
        name, args, kwargs = _SPELLED.get(name, name), list(node.args), dict(node.kwargs)
        target = node.args[0] if node.args else None
        if name in _DROPPED or (isinstance(target, fx.Node) and target.name in self.local and not node.users):
            return  # a counter of batches counts at its owner
        if isinstance(target, fx.Node) and self._unchanged(name, node, target):
            if target.name in self.local:
                self.local.add(node.name)
            else:
                self.words[node.name] = self._word(target, node.name)
            return
        if name in _TO and "dtype" in kwargs:
            name, args, kwargs = "aten.to.dtype", [target, kwargs["dtype"]], {}
        if isinstance(target, fx.Node) and _in_place(name):
            name = self._plain(name, node, target)
            self.fresh.add(node.name)
        if name not in operators.ALLOWED:
            self.refused.setdefault(name, node.name)
        if name in _FRESH:
            self.fresh.add(node.name)
        named = {key: self._argument(value, node) for key, value in kwargs.items() if key not in _DEFAULTS}
        self.nodes.append(Node(node.name, name, [self._argument(value, node) for value in args], named))
        self.words[node.name] = "%" + node.name

    def _unchanged(self, name: str, node: fx.Node, target: fx.Node) -> bool:
        """Is the node the very tensor that it is given, or the same plain number?"""
        if not isinstance(self.words.get(target.name, ""), str):
            return name in _LIFTED | _TO
        return name in _TO and node.meta["val"].dtype == target.meta["val"].dtype

    def _plain(self, name: str, node: fx.Node, target: fx.Node) -> str:
        """The operator that makes a new tensor instead: the same, if nobody else sees the changed one."""
        _, packet, overload = name.split(".")
        if target.name in self.fresh and len(target.users) == 1:
            return f"aten.{packet[:-1]}.{overload}"
        raise PlanRejected(
            f"operator {name} at node {node.name!r} changes {target.name!r} in place: use inplace=False, or x = x + y "
            "instead of x += y (buffers may only be changed by batch norm)"
        )

    def _argument(self, value: Any, node: fx.Node) -> Argument:
        if isinstance(value, list | tuple):
            return [self._atom(item, node) for item in value]
        return self._atom(value, node)

    def _atom(self, value: Any, node: fx.Node) -> Atom:
        if isinstance(value, fx.Node):
            return self._word(value, node.name)
        if isinstance(value, torch.dtype):
            return ":" + str(value).removeprefix("torch.")
        if isinstance(value, str):
            return "=" + value
        if isinstance(value, float) and not math.isfinite(value):
            raise PlanRejected(f"node {node.name!r} ({node.target}) uses the number {value}: use a large finite one")
        if value is None or isinstance(value, bool | int | float):
            return value
        raise PlanRejected(f"node {node.name!r} ({node.target}) uses an argument of type {type(value).__name__}")

    def _result(self, node: fx.Node) -> str:
        word = self._word(node, "the output")
        if not isinstance(word, str):
            raise PlanRejected("the network's result is a constant: let it compute with its input")
        return word

    def _word(self, node: fx.Node, user: str) -> Atom:
        if node.name in self.words:
            return self.words[node.name]
        if node.name in self.local:
            raise PlanRejected(f"node {user!r} computes with the whole-number buffer {node.name!r}: make it float32")
        raise PlanRejected(f"node {user!r} uses {node.name!r}, a constant: {operators.remedy('lift_fresh')}")


def _in_place(name: str) -> bool:
    packet = name.split(".")[1] if name.startswith("aten.") else ""
    return packet.endswith("_") and not packet.endswith("__")


def _canonical_names(net: nn.Module) -> dict[str, str]:
    """Every name of a float tensor -> the first of its names (tied weights have several)."""
    first: dict[int, str] = {}
    names = {}
    for name, tensor in (*net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False)):
        if tensor.is_floating_point():
            names[name] = first.setdefault(id(tensor), name)
    return names
