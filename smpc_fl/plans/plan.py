"""A plan: a network and its loss as data. Inspectable, content-addressed, and run by the owner's node, never unpickled."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import torch
from torch import nn

from smpc_fl.errors import BadInput, PlanRejected, ShapeMismatch
from smpc_fl.hashing import digest
from smpc_fl.plans.check import check_document, check_room, read_plan
from smpc_fl.plans.document import Loss, PlanDocument, TensorType, encode_document
from smpc_fl.plans.export import Penalty, export_graph, layout_parts
from smpc_fl.plans.layout import Layout, Vector
from smpc_fl.plans.tensors import Data, convert


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """`data` is what travels, what owners approve as part of a job, and what runs. The researcher's own plan also knows
    the network it was made from (a copy of it, weights included); a plan from bytes does not."""

    document: PlanDocument
    data: bytes
    network: nn.Module | None = None

    @classmethod
    def from_module(
        cls,
        net: nn.Module,
        loss: Loss = "cross_entropy",
        *,
        example: tuple[Data, Data],
        penalty: Penalty | None = None,
    ) -> Plan:
        """The plan of `net`, which stays as it is, trained by `loss` on rows like those of `example` = (x, y).

        `penalty`: of the network's weights, added to the loss in training: `lambda net: 0.01 * net.fc.weight.square().sum()`.

        Only types and shapes of the example go into the plan; the number of rows stays free. Raises `PlanRejected`,
        which says what to use instead, or `ShapeMismatch` for an example that is none."""
        x, y = _example(loss, *example)
        network = copy.deepcopy(net).cpu()
        parts = layout_parts(network)
        train, prediction = export_graph(network, loss, x, y, training=True, penalty=penalty)
        evaluate, _ = export_graph(network, loss, x, y, training=False)
        document = PlanDocument(
            version=1,
            loss=loss,
            layout=parts,
            inputs=TensorType("float32" if x.is_floating_point() else "int64", list(x.shape[1:])),
            targets=TensorType("float32" if y.is_floating_point() else "int64", list(y.shape[1:])),
            prediction=prediction,
            train=train,
            evaluate=evaluate,
        )
        data = encode_document(document)
        check_document(document)
        return cls(document, data, network)

    @classmethod
    def from_keras(cls, model: Any, loss: Loss | None = None, *, example: tuple[Data, Data]) -> Plan:
        """The plan of a Keras 3 model on the torch backend (extra `keras`), its regularizers included, which stays as it is;
        it is built where it is not. `loss`: that which it was compiled with, else. Tensors go by their Keras paths,
        "dense.kernel"; `sf.load_keras(model, run.tensors)` puts trained ones into the model. Raises as `from_module`."""
        from smpc_fl.frameworks.keras_models import as_module, check_logits, loss_of, penalty_of

        x, _ = _example("mse", *example)  # any loss: only x counts here
        net = as_module(model, x)
        known = loss or loss_of(model)
        check_logits(model, known)
        return cls.from_module(net, known, example=example, penalty=penalty_of(net))

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """A plan from an untrusted researcher's bytes, checked in full (`check.py`). Raises `PlanRejected`."""
        return cls(read_plan(data), data)

    def __repr__(self) -> str:
        return f"Plan({self.document.loss}, {self.layout.size} elements, digest {self.digest.hex()[:16]})"

    def to_bytes(self) -> bytes:
        """The canonical JSON."""
        return self.data

    @property
    def digest(self) -> bytes:
        """32 bytes that name the plan."""
        return digest("smpc-fl/1 plan", self.data)

    @cached_property
    def layout(self) -> Layout:
        """Where each tensor lies in the model's vector."""
        return Layout(tuple(self.document.layout))

    def check_room(self, rows: int, *, training: bool) -> None:
        """Raises `BadInput` when a batch of `rows` rows needs tensors over the caps (`check.py`). Worked out once a size:
        it costs more than a batch of a small network."""
        if (rows, training) not in self._fitting:
            check_room(self.document, self.document.train if training else self.document.evaluate, rows)
            self._fitting.add((rows, training))

    @cached_property
    def _fitting(self) -> set[tuple[int, bool]]:
        return set()

    @property
    def initial(self) -> Vector:
        """float32[d], the weights that the network had when the plan was made."""
        tensors = _tensors(self._own())
        return self.layout.flatten({part.name: tensors[part.name].detach().numpy() for part in self.layout.parts})

    def module_with(self, model: Vector) -> nn.Module:
        """A copy of the network with the weights and statistics of `model`, float32[d]."""
        module = copy.deepcopy(self._own())
        tensors = _tensors(module)
        with torch.no_grad():
            for name, array in self.layout.unflatten(model).items():
                tensors[name].copy_(torch.from_numpy(array))
        return module

    def _own(self) -> nn.Module:
        if self.network is None:
            raise BadInput("a plan that was read from bytes knows no network: make it with Plan.from_module")
        return self.network


def _tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    return dict(net.named_parameters()) | dict(net.named_buffers())


def _example(loss: Loss, x: Data, y: Data) -> tuple[torch.Tensor, torch.Tensor]:
    """The example as the plan's types, two rows at least: torch.export takes one row for a constant."""
    if loss not in get_args(Loss):
        raise PlanRejected(f"the loss {loss!r} is not known: use one of {', '.join(get_args(Loss))}")
    inputs = convert("x", x, "float32" if torch.as_tensor(x).is_floating_point() else "int64")
    targets = convert("y", y, "int64" if loss == "cross_entropy" else "float32")
    if inputs.dim() == 0 or targets.dim() == 0 or len(inputs) != len(targets) or len(inputs) == 0:
        raise ShapeMismatch("an example is (x, y) with the same number of rows in both, one at least")
    if len(inputs) == 1:
        inputs, targets = torch.cat([inputs, inputs]), torch.cat([targets, targets])
    return inputs, targets
