"""An owner's tensors as a plan expects them, checked before anything is computed on them. No message tells a value."""

from __future__ import annotations

import torch

from smpc_fl.errors import BadInput, ShapeMismatch
from smpc_fl.plans.document import PlanDocument
from smpc_fl.plans.tensors import Data, conform


def prepare(document: PlanDocument, x: Data, y: Data) -> tuple[torch.Tensor, torch.Tensor]:
    """(inputs, targets) of the plan's types, with the same number of rows, one at least.

    Raises `ShapeMismatch` (columns, types, rows), `BadInput` (no rows, labels that the loss cannot take)."""
    inputs = conform("x", x, document.inputs)
    targets = conform("y", y, document.targets)
    if len(inputs) != len(targets):
        raise ShapeMismatch("inputs and targets have different numbers of rows: publish them from the same table")
    if len(inputs) == 0:
        raise BadInput("there are no rows to compute on: publish some, or leave this owner out of the cohort")
    if document.loss == "cross_entropy":
        classes = document.prediction[0]
        if not bool(((targets >= 0) & (targets < classes)).all()):
            raise BadInput(
                f"some targets are not classes 0..{classes - 1} of the plan: relabel them, or widen the network's output"
            )
    elif document.loss == "bce_with_logits" and not bool(((targets >= 0) & (targets <= 1)).all()):
        raise BadInput("some targets are not in 0..1, as bce_with_logits needs them: relabel them")
    return inputs, targets
