"""Evaluation of a model on one owner's held-out rows: averages that can be summed securely (`metrics.py`)."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from smpc_fl.errors import NotFinite
from smpc_fl.learning.metrics import Floats, layout_for
from smpc_fl.learning.rows import prepare
from smpc_fl.learning.update import METRIC_BOUND
from smpc_fl.plans.interpreter import bind, run
from smpc_fl.plans.layout import Vector
from smpc_fl.plans.operators import table
from smpc_fl.plans.plan import Plan
from smpc_fl.plans.tensors import Data

_CHUNK = 1024
"""Rows that are computed at once. The graph of evaluation treats rows one by one, so this changes no result."""


def evaluate(plan: Plan, model: Vector, x: Data, y: Data, bins: int) -> tuple[Floats, int]:
    """(float64[v], rows): an owner's averages for one model in the slots of `metrics.layout_for`, and the rows behind them.

    The loss is computed from the prediction here, row by row, not by the plan. A loss beyond METRIC_BOUND leaves its slot
    beyond 1: `update.assemble(…, clip=1.0, mode="saturate")` limits it, and counts it. Raises as `train_locally` does."""
    inputs, targets = prepare(plan.document, x, y)
    layout = layout_for(plan.document, bins)
    tensors = bind(plan.layout, model, trainable=False)
    plan.check_room(min(_CHUNK, len(inputs)), training=False)
    total = np.zeros(layout.length, dtype=np.float64)
    with torch.no_grad():
        for start in range(0, len(inputs), _CHUNK):
            chunk = {"$x": inputs[start : start + _CHUNK], "$y": targets[start : start + _CHUNK]}
            _, prediction = run(plan.document.evaluate, {**tensors, **chunk}, table())
            total += _sums(plan, prediction.double(), chunk["$y"], layout.bins)
    if not np.isfinite(total).all():
        raise NotFinite("the model's predictions hold NaN or infinity: fill in missing values in the model")
    return total / len(inputs), len(inputs)


def _sums(plan: Plan, prediction: torch.Tensor, y: torch.Tensor, bins: int) -> Floats:
    """float64[v], the slots summed over the rows of one chunk."""
    if not bool(torch.isfinite(prediction).all()):
        raise NotFinite("the model's predictions hold NaN or infinity: fill in missing values in the model")
    if plan.document.loss == "cross_entropy":
        losses = functional.cross_entropy(prediction, y, reduction="none")
        right = prediction.argmax(1) == y
        score = prediction[:, -1] - prediction[:, 0]
        positive = y == 1
    elif plan.document.loss == "bce_with_logits":
        losses = _each_row(functional.binary_cross_entropy_with_logits(prediction, y.double(), reduction="none"))
        right = _each_row(((prediction > 0) == (y > 0.5)).double())
        score, positive = prediction.reshape(len(y), -1)[:, 0], y.reshape(len(y), -1)[:, 0] > 0.5
    else:
        losses = _each_row((prediction - y) ** 2)
        return np.array([float(losses.sum()) / METRIC_BOUND])
    slots = [float(losses.sum()) / METRIC_BOUND, float(right.sum())]
    if bins:
        place = (torch.sigmoid(score) * bins).long().clamp(max=bins - 1)
        slots += torch.bincount(place[positive], minlength=bins).tolist()
        slots += torch.bincount(place[~positive], minlength=bins).tolist()
    return np.array(slots, dtype=np.float64)


def _each_row(values: torch.Tensor) -> torch.Tensor:
    """float64[rows], the mean over everything but the rows."""
    return values.reshape(len(values), -1).mean(1)
