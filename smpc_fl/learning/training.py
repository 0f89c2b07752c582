"""What one owner does in a training round: its update, from the global model and its own rows.

FedAvg (McMahan et al. 2017, Algorithm 1, ClientUpdate): epochs of mini-batch descent, Δ = what changed. FedSGD (section
2): one gradient over all rows. Either way batch norm's running statistics travel as what changed in them, because the
server averages buffers.

The same job, round, owner, model and rows give the same update: shuffles and dropout come from streams of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from smpc_fl.errors import BadInput, NotFinite
from smpc_fl.jobs import FedSGD, LocalTraining, TrainJob
from smpc_fl.learning.dropout import training_functions
from smpc_fl.learning.rows import prepare
from smpc_fl.learning.shuffle import permutation, stream
from smpc_fl.plans.interpreter import bind, run
from smpc_fl.plans.layout import Vector
from smpc_fl.plans.operators import Function
from smpc_fl.plans.plan import Plan
from smpc_fl.plans.tensors import Data

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class LocalResult:
    """`delta` float32[d], the number of rows behind it, and {"loss": mean training loss}. All of it is private."""

    delta: Vector = field(repr=False)
    rows: int = field(repr=False)
    metrics: dict[str, float] = field(repr=False)


def train_locally(
    plan: Plan, model: Vector, x: Data, y: Data, job: TrainJob, *, round_number: int, owner: str
) -> LocalResult:
    """One owner's part of one round. `model`: float32[d], left as it is.

    Raises `ShapeMismatch` (model, columns, types), `BadInput` (no rows, labels, batches that the plan cannot take),
    `NotFinite` (the update holds NaN or infinity)."""
    inputs, targets = prepare(plan.document, x, y)
    tensors = bind(plan.layout, model, trainable=True)
    functions = training_functions(stream(job.seed, "dropout", owner, round_number))
    with torch.enable_grad():
        if isinstance(job.strategy, FedSGD):
            delta, loss = _gradient(plan, model, tensors, functions, inputs, targets)
        else:
            batches = list(_batches(plan, job, len(inputs), owner, round_number))
            delta, loss = _descend(plan, model, tensors, functions, inputs, targets, batches, job.local)
    if not (np.isfinite(delta).all() and np.isfinite(loss)):
        raise NotFinite(
            "the update or its loss holds NaN or infinity: lower the learning rate, or fill in missing values in the model"
        )
    return LocalResult(delta, len(inputs), {"loss": loss})


def _gradient(
    plan: Plan, model: Vector, tensors: Tensors, functions: Mapping[str, Function], x: torch.Tensor, y: torch.Tensor
) -> tuple[Vector, float]:
    """(gradient over all rows in the parameters' slots and changes in the buffers', loss)."""
    _check_batch(plan, len(x))
    loss, _ = run(plan.document.train, {**tensors, "$x": x, "$y": y}, functions)
    _backward(loss)
    delta = _change(plan, model, tensors)  # of the buffers; parameters have not moved
    for part, place in plan.layout.slices():
        gradient = tensors["@" + part.name].grad
        if gradient is not None:  # a buffer has none, nor has a parameter that the graph leaves out
            delta[place] = gradient.reshape(-1).numpy()
    return delta, float(loss.detach())


def _descend(
    plan: Plan,
    model: Vector,
    tensors: Tensors,
    functions: Mapping[str, Function],
    x: torch.Tensor,
    y: torch.Tensor,
    batches: list[torch.Tensor],
    local: LocalTraining,
) -> tuple[Vector, float]:
    """(change of the model over all batches, mean loss of a row)."""
    optimizer = _optimizer([tensor for tensor in tensors.values() if tensor.requires_grad], local)
    for size in {len(batch) for batch in batches}:
        _check_batch(plan, size)
    total = 0.0
    for batch in batches:
        optimizer.zero_grad()
        loss, _ = run(plan.document.train, {**tensors, "$x": x[batch], "$y": y[batch]}, functions)
        _backward(loss)
        optimizer.step()
        total += float(loss.detach()) * len(batch)
    return _change(plan, model, tensors), total / sum(len(batch) for batch in batches)


def _backward(loss: torch.Tensor) -> None:
    try:
        loss.backward()  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise BadInput(
            "the plan has no gradient on these tensors: it uses a buffer that batch norm then changes"
        ) from None


def _change(plan: Plan, model: Vector, tensors: Tensors) -> Vector:
    """float32[d], what the tensors have become less what they were."""
    delta: Vector = np.empty(plan.layout.size, np.float32)
    for part, place in plan.layout.slices():
        np.subtract(tensors["@" + part.name].detach().numpy().reshape(-1), model[place], out=delta[place])
    return delta


def _optimizer(parameters: list[torch.Tensor], local: LocalTraining) -> torch.optim.Optimizer:
    if local.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=local.lr, weight_decay=local.weight_decay)
    return torch.optim.SGD(parameters, lr=local.lr, momentum=local.momentum, weight_decay=local.weight_decay)


def _batches(plan: Plan, job: TrainJob, rows: int, owner: str, round_number: int) -> Iterator[torch.Tensor]:
    """Row numbers of each batch, epoch by epoch, every row once an epoch. The last batch of an epoch may be smaller; a
    single row left over joins the batch before it where batch norm, which has no variance of one row, would fail."""
    numbers = stream(job.seed, "shuffle", owner, round_number)
    size = job.local.batch_size
    lonely = size > 1 and rows % size == 1 and _has_batch_norm(plan)
    for epoch in range(job.local.epochs):
        order = torch.from_numpy(permutation(numbers, rows, epoch))
        yield from order.tensor_split(list(range(size, rows - 1 if lonely else rows, size)))


def _has_batch_norm(plan: Plan) -> bool:
    return any(node.operator == "aten.batch_norm.default" for node in plan.document.train.nodes)


def _check_batch(plan: Plan, size: int) -> None:
    if size == 1 and _has_batch_norm(plan):
        raise BadInput("batch norm needs two rows in a batch, at least: use a larger batch_size, or group norm")
    plan.check_room(size, training=True)
