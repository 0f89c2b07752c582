"""What a strategy has at an owner in one round: the model, the owner's rows, what it kept, and ways to train.

The same job, round, owner, model, rows and kept vectors give the same numbers: shuffles and dropout come from streams of
their own. But for a job with privacy for each record: its lots and noise come from fresh entropy, and no two runs are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from smpc_fl.entropy import Entropy
from smpc_fl.errors import BadInput, InternalError, NotFinite
from smpc_fl.jobs import LocalTraining, TrainJob
from smpc_fl.learning.dropout import training_functions
from smpc_fl.learning.noisy_steps import NoisySteps
from smpc_fl.learning.shared import Shared
from smpc_fl.learning.shuffle import permutation, stream
from smpc_fl.plans.interpreter import bind, run
from smpc_fl.plans.layout import Vector
from smpc_fl.plans.operators import Function, table
from smpc_fl.plans.plan import Plan

Tensors = Mapping[str, torch.Tensor]
Correct = Callable[[torch.Tensor, torch.Tensor, slice], None]
"""Changes a parameter's gradient, in place, before each step: (gradient, parameter, its place in the model)."""

_CHUNK = 1024
"""Rows of which the loss is computed at once."""


@dataclass(frozen=True, eq=False, repr=False)
class Trained:
    """After local training: the whole model float32[d], what changed in the shared tensors float32[s], the mean loss of a
    row (0 with privacy for each record: it would tell of them), and how many steps were taken. All of it is private."""

    model: Vector
    delta: Vector
    loss: float
    steps: int


@dataclass(eq=False, repr=False)
class Local:
    """`model`: float32[d], the global model with the owner's own private tensors; `shown`: what the server shows beside it,
    float32[s] each; `kept`: what this owner kept in the last round that it was in; `keep`: what it will have kept after
    this one, if its report counts. `mask`: float32[s], 1 in the slots that the global model may change in."""

    plan: Plan
    job: TrainJob
    round_number: int
    owner: str
    shared: Shared
    model: Vector
    shown: Mapping[str, Vector]
    x: torch.Tensor
    y: torch.Tensor
    kept: Mapping[str, Vector]
    keep: dict[str, Vector] = field(default_factory=dict)
    mask: Vector | None = None
    entropy: Entropy | None = None
    trained: Trained | None = None
    """The first training of this round: its loss is told, and its private tensors stay."""

    @property
    def rows(self) -> int:
        return len(self.x)

    def train(
        self,
        *,
        start: Vector | None = None,
        pull: float = 0.0,
        correct: Correct | None = None,
        local: LocalTraining | None = None,
        use: str = "",
    ) -> Trained:
        """Epochs of mini-batch descent from `start`, or from the model (McMahan et al. 2017, Algorithm 1, ClientUpdate).

        `pull`: mu of a proximal term mu / 2 · ‖w - model‖². `correct`: as above. `local`: other than the job's. `use`: names
        streams of shuffles and dropout of their own for a second training in one round. Raises `BadInput`, `NotFinite`.

        With privacy for each record the gradients are those of DP-SGD (`noisy_steps.py`), and there is one training a round."""
        first, local = self.model if start is None else start, local or self.job.local
        tensors, functions = bind(self.plan.layout, first, trainable=True), self._functions(use)
        places = [
            (tensors["@" + part.name], place) for part, place in self.plan.layout.slices() if part.kind == "parameter"
        ]
        mask = self._mask() if start is None else None  # a model of the owner's own changes everywhere
        anchors = [self.tensor(self.model[place]).view_as(tensor) for tensor, place in places] if pull else []
        optimizer = _optimizer([tensor for tensor, _ in places], local)
        noisy = self._noisy(local, functions)
        batches = list(self._batches(local, use) if noisy is None else noisy.lots(self.rows))
        if noisy is None:
            for size in {len(batch) for batch in batches}:
                self._check_batch(size)
        total = 0.0
        with torch.enable_grad():
            for step, batch in enumerate(batches):
                optimizer.zero_grad()
                if noisy is None:
                    values = {**tensors, "$x": self.x[batch], "$y": self.y[batch]}
                    loss, _ = run(self.plan.document.train, values, functions)
                    _backward(loss)
                    total += float(loss.detach()) * len(batch)
                else:
                    noisy.take(step, tensors, self.x[batch], self.y[batch])
                with torch.no_grad():
                    for number, (tensor, place) in enumerate(places):
                        if tensor.grad is None:
                            continue  # the graph leaves it out
                        if pull:
                            tensor.grad.add_(tensor - anchors[number], alpha=pull)
                        if correct is not None:
                            correct(tensor.grad, tensor, place)
                        if mask is not None:
                            tensor.grad.mul_(mask[place].view_as(tensor))
                optimizer.step()
        model = self._values(tensors)
        delta = self.shared.gather(model) - self.shared.gather(first)
        if mask is not None and self.mask is not None:
            delta *= self.mask  # weight decay and running statistics know no mask
        mean = total / sum(len(batch) for batch in batches) if noisy is None else 0.0
        return self._note(Trained(model, delta, mean, len(batches)))

    def gradient(self) -> Trained:
        """One gradient over all rows, in the parameters' slots; in the buffers', what changed in them."""
        self._check_public("gradient")
        self._check_batch(self.rows)
        tensors = bind(self.plan.layout, self.model, trainable=True)
        with torch.enable_grad():
            values = {**tensors, "$x": self.x, "$y": self.y}
            loss, _ = run(self.plan.document.train, values, self._functions(""))
            _backward(loss)
        change = self._values(tensors) - self.model  # of the buffers; parameters have not moved
        for part, place in self.plan.layout.slices():
            gradient = tensors["@" + part.name].grad
            if gradient is not None:  # a buffer has none, nor has a parameter that the graph leaves out
                change[place] = gradient.reshape(-1).numpy()
        return self._note(Trained(self.model, self.shared.gather(change), float(loss.detach()), 1))

    def loss(self) -> float:
        """The mean loss of the model over this owner's rows, as the plan's evaluation has it."""
        self._check_public("loss")
        tensors, total = bind(self.plan.layout, self.model, trainable=False), 0.0
        self.plan.check_room(min(_CHUNK, self.rows), training=False)
        with torch.no_grad():
            for start in range(0, self.rows, _CHUNK):
                rows = {"$x": self.x[start : start + _CHUNK], "$y": self.y[start : start + _CHUNK]}
                loss, _ = run(self.plan.document.evaluate, {**tensors, **rows}, table())
                total += float(loss) * len(rows["$x"])
        return total / self.rows

    # --- vectors ---

    def tensor(self, vector: Vector) -> torch.Tensor:
        return torch.from_numpy(np.array(vector))  # a copy: what came over the wire cannot be written to

    def whole(self, shared: Vector) -> Vector:
        """float32[d] of float32[s]: zeros where nothing travels."""
        return self.shared.scatter(shared, np.zeros(self.shared.model.size, np.float32))

    def parameters_of(self, shared: Vector) -> Vector:
        """float32[s] with zeros in the slots of buffers."""
        out = shared.copy()
        for trained, place in self.shared.layout.stretches():
            if not trained:
                out[place] = 0
        return out

    # --- inside ---

    def _check_public(self, what: str) -> None:
        if self.job.local.privacy is not None:
            raise BadInput(f"a strategy that asks for the {what} of its rows cannot keep them private: use FedAvg")

    def _noisy(self, local: LocalTraining, functions: Mapping[str, Function]) -> NoisySteps | None:
        if self.job.local.privacy is None:
            return None
        if self.trained is not None or local is not self.job.local:
            raise BadInput("privacy pays for one training a round, the job's: use a strategy such as FedAvg")
        if self.entropy is None:
            raise InternalError("local training with privacy needs entropy")
        return NoisySteps(self.plan, local, functions, self.entropy(32))

    def _note(self, trained: Trained) -> Trained:
        if not (np.isfinite(trained.model).all() and np.isfinite(trained.delta).all() and np.isfinite(trained.loss)):
            raise NotFinite(
                "the update or its loss holds NaN or infinity: lower the learning rate, or fill in missing values in the model"
            )
        self.trained = self.trained or trained
        return trained

    def _mask(self) -> torch.Tensor | None:
        """float32[d], 1 also in the owner's own tensors."""
        if self.mask is None:
            return None
        return torch.from_numpy(self.shared.scatter(self.mask, np.ones(self.shared.model.size, np.float32)))

    def _functions(self, use: str) -> Mapping[str, Function]:
        return training_functions(stream(self.job.seed, use + "dropout", self.owner, self.round_number))

    def _values(self, tensors: Tensors) -> Vector:
        """float32[d], what the tensors have become."""
        values: Vector = np.empty(self.plan.layout.size, np.float32)
        for part, place in self.plan.layout.slices():
            values[place] = tensors["@" + part.name].detach().numpy().reshape(-1)
        return values

    def _batches(self, local: LocalTraining, use: str) -> Iterator[torch.Tensor]:
        """Row numbers of each batch, epoch by epoch, every row once an epoch. The last batch of an epoch may be smaller; a
        single row left over joins the batch before it where batch norm, which has no variance of one row, would fail."""
        numbers = stream(self.job.seed, use + "shuffle", self.owner, self.round_number)
        rows, size = self.rows, local.batch_size
        lonely = size > 1 and rows % size == 1 and self._has_batch_norm
        for epoch in range(local.epochs):
            order = torch.from_numpy(permutation(numbers, rows, epoch))
            yield from order.tensor_split(list(range(size, rows - 1 if lonely else rows, size)))

    @property
    def _has_batch_norm(self) -> bool:
        return any(node.operator == "aten.batch_norm.default" for node in self.plan.document.train.nodes)

    def _check_batch(self, size: int) -> None:
        if size == 1 and self._has_batch_norm:
            raise BadInput("batch norm needs two rows in a batch, at least: use a larger batch_size, or group norm")
        self.plan.check_room(size, training=True)


def _backward(loss: torch.Tensor) -> None:
    try:
        loss.backward()  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise BadInput(
            "the plan has no gradient on these tensors: it uses a buffer that batch norm then changes"
        ) from None


def _optimizer(parameters: list[torch.Tensor], local: LocalTraining) -> torch.optim.Optimizer:
    if local.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=local.lr, weight_decay=local.weight_decay)
    return torch.optim.SGD(parameters, lr=local.lr, momentum=local.momentum, weight_decay=local.weight_decay)
