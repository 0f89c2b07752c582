"""Training a network whose weights, data and gradients are with nobody: step after step, all of it on shares.

trainer = Trainer(desk, net, torch.nn.functional.cross_entropy, SGD(lr=0.1))
for x, y in batches:                       # shared tensors; y one-hot for cross_entropy
    trainer.step(x, y)
trainer.tensors["0.weight"].get()          # or stay with the parties, for encrypted inference
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from smpc_fl.shared_tensors.cost import Cost, cost
from smpc_fl.shared_tensors.optimizers import Optimizer
from smpc_fl.shared_tensors.program import Program
from smpc_fl.shared_tensors.tensor import Desk, SharedTensor
from smpc_fl.shared_tensors.training import Loss, TrainingStep

Shapes = tuple[torch.Size, torch.Size]


class Trainer:
    """`net` gives the form and the first weights, and stays as it is. A program is written once for each shape of batch."""

    def __init__(self, desk: Desk, net: nn.Module, loss: Loss, optimizer: Optimizer) -> None:
        """Raises as `TrainingStep.of`, at the first step."""
        self._desk, self._net, self._loss, self._optimizer = desk, net, loss, optimizer
        self._programs: dict[tuple[Shapes, bool], tuple[TrainingStep, Program]] = {}
        tensors = dict(net.named_parameters()) | dict(net.named_buffers())
        self._kept = {f"weight {name}": desk.share(tensor.detach()) for name, tensor in tensors.items()}

    @property
    def tensors(self) -> Mapping[str, SharedTensor]:
        """The network's tensors as they are now, by name."""
        return {name.removeprefix("weight "): kept for name, kept in self._kept.items() if name.startswith("weight ")}

    def cost(self, x: SharedTensor, y: SharedTensor, *, tell_loss: bool = False) -> Cost:
        """Of one step on such a batch."""
        return cost(self._program((x.shape, y.shape), tell_loss)[1], len(self._desk.session.parties))

    def step(self, x: SharedTensor, y: SharedTensor, *, tell_loss: bool = False) -> SharedTensor | None:
        """One step of the optimizer on a batch: stored tensors. With `tell_loss`, the loss before it, a shared number."""
        step, program = self._program((x.shape, y.shape), tell_loss)
        for name, shape in step.inputs.items():
            if name.startswith("memory ") and name not in self._kept:
                self._kept[name] = self._desk.share(torch.zeros(shape))
        made = self._desk.run(program, step.draft, self._kept | {"x": x, "y": y})
        outputs = dict(zip(step.outputs, made, strict=True))
        self._kept |= {name: tensor for name, tensor in outputs.items() if name != "loss"}
        return outputs.get("loss")

    def _program(self, shapes: Shapes, tell_loss: bool) -> tuple[TrainingStep, Program]:
        key = shapes, tell_loss
        if key not in self._programs:
            step = TrainingStep.of(self._net, self._loss, self._optimizer, *shapes, tell_loss=tell_loss)
            self._programs[key] = step, step.draft.program(*step.outputs.values())
        return self._programs[key]
