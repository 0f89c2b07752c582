"""Encrypted training: the joint graph of a network and its loss, forward and backward, read on shared values.

`torch.export` derives the gradients; there is no autograd here. A step is one program: weights, a batch and the optimizer's
memory go in as shares, the new weights and memory come out as shares, and nothing is opened but what is masked.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from smpc_fl.errors import BadInput, PlanRejected
from smpc_fl.shared_tensors import aten
from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.functions.softmax import log_softmax, softmax
from smpc_fl.shared_tensors.optimizers import Optimizer
from smpc_fl.shared_tensors.words import SCALE

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


_ASSERTION = "_assert_tensor_metadata"
"""Of types, which torch has checked."""


class _WithLoss(nn.Module):
    def __init__(self, net: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.net, self._loss = net, loss

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self._loss(self.net(x), y)


@dataclass(frozen=True, eq=False, repr=False)
class Gradients:
    """The joint graph of `net` under `loss` for batches of one shape. Targets of `cross_entropy` are one-hot rows of floats:
    an index could not be shared without saying which."""

    graph: fx.Graph
    inputs: Mapping[str, str]
    """By placeholder: "x", "y", or the name of a tensor of the network."""
    gradients: Mapping[str, str]
    """By node: the parameter whose gradient it is."""

    @classmethod
    def of(cls, net: nn.Module, loss: Loss, x: Sequence[int], y: Sequence[int]) -> Gradients:
        """Raises `PlanRejected`, naming an operator that shared tensors do not have and what to use instead."""
        from torch.export.experimental import _export_forward_backward

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own, about what is experimental there
            try:
                exported = torch.export.export(_WithLoss(net, loss), (torch.zeros(tuple(x)), torch.zeros(tuple(y))))
                joint = _export_forward_backward(exported)
            except RuntimeError as error:
                raise PlanRejected(f"torch finds no gradients of this network and loss: {error}") from None
        signature = joint.graph_signature
        named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        inputs = {placeholder: name.removeprefix("net.") for placeholder, name in named.items()}
        inputs |= dict(zip(signature.user_inputs, ("x", "y"), strict=True))
        backward = signature.backward_signature
        assert backward is not None
        gradients = {node: name.removeprefix("net.") for node, name in backward.gradients_to_parameters.items()}
        _check(joint.graph)
        return cls(joint.graph, inputs, gradients)

    def write(self, values: Mapping[str, Value | torch.Tensor]) -> tuple[Value, dict[str, Value]]:
        """(loss, {parameter: gradient}) of the batch "x", "y" and the network's tensors, by name."""
        known: dict[fx.Node, Any] = {}
        softmaxes: dict[int, tuple[Value, int]] = {}
        loss: Any = None
        for node in self.graph.nodes:
            if node.op == "placeholder":
                known[node] = values[self.inputs[node.name]]
            elif node.op == "output":
                loss = known[node.args[0][0]]
            else:
                args = fx.map_arg(node.args, known.__getitem__)
                kwargs = fx.map_arg(node.kwargs, known.__getitem__)
                known[node] = self._call(node, args, kwargs, softmaxes)
        found = {self.gradients[node.name]: known[node] for node in known if node.name in self.gradients}
        return loss, found

    def _call(self, node: fx.Node, args: Any, kwargs: Any, softmaxes: dict[int, tuple[Value, int]]) -> Any:
        name = _name(node)
        if name == _ASSERTION:
            return None
        if not aten.is_shared([*args, *kwargs.values()]):
            return node.target(*args, **kwargs)  # type: ignore[operator]
        try:
            if name == "_log_softmax":
                result = log_softmax(args[0], args[1])
                softmaxes[result.number] = (args[0], args[1])
                return result
            if name == "exp" and args[0].number in softmaxes:
                return softmax(*softmaxes[args[0].number])  # not e to the power of a logarithm
            return aten.FUNCTIONS[name](*args, **kwargs)
        except BadInput as error:
            raise BadInput(f"node {node.name!r} ({node.target}): {error.message}") from None


_LOCAL = {"_log_softmax", _ASSERTION}


def _check(graph: fx.Graph) -> None:
    """What depends on nothing that is given is computed by torch, whatever it is."""
    given: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or not given.isdisjoint(node.all_input_nodes):
            given.add(node)
            if node.op == "call_function" and node.target is not operator.getitem and _name(node) not in _LOCAL:
                aten.check(str(node.target), node.name)


def _name(node: fx.Node) -> str:
    return aten.packet(str(node.target))


@dataclass(frozen=True, eq=False, repr=False)
class TrainingStep:
    """One step of an encrypted optimizer as a program. `inputs`: "x", "y", "weight NAME" and "memory NAME"; `outputs`: the
    last two kinds, and "loss" where it is asked for, in the order in which the program gives them."""

    draft: Draft
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, Value]

    @classmethod
    def of(
        cls, net: nn.Module, loss: Loss, optimizer: Optimizer, x: Sequence[int], y: Sequence[int], *, tell_loss: bool = False
    ) -> TrainingStep:  # fmt: skip
        """For batches of these shapes; parameters with requires_grad are trained, the rest stay. Raises `PlanRejected`."""
        joint = Gradients.of(net, loss, x, y)
        draft = Draft()
        tensors = dict(net.named_parameters()) | dict(net.named_buffers())
        shapes = {"x": tuple(x), "y": tuple(y)} | {f"weight {name}": tuple(t.shape) for name, t in tensors.items()}
        values = {name: draft.input(name, shape) for name, shape in shapes.items()}
        told, gradients = joint.write(
            {"x": values["x"], "y": values["y"]} | {name: values[f"weight {name}"] for name in tensors}
        )
        outputs: dict[str, Value] = {}
        for name, gradient in gradients.items():
            memory = {
                kind: draft.input(f"memory {kind} {name}", tuple(tensors[name].shape)) for kind in optimizer.memory
            }
            shapes |= {f"memory {kind} {name}": tuple(tensors[name].shape) for kind in memory}
            weight, kept = optimizer.step(values[f"weight {name}"], gradient, memory)
            outputs[f"weight {name}"] = draft.narrow(weight, SCALE)
            outputs |= {f"memory {kind} {name}": draft.narrow(value, SCALE) for kind, value in kept.items()}
        if tell_loss:
            outputs["loss"] = draft.narrow(told, SCALE)
        return cls(draft, shapes, outputs)
