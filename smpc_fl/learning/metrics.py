"""What an evaluation round sums up, slot by slot, and how to read the mean. No torch here: the coordinator reads it.

Every slot is an average over an owner's rows, so that the mean weighted by rows is the average over all rows:

    [loss / METRIC_BOUND]                                          for mse
    [loss / METRIC_BOUND, accuracy]                                for several classes, or several answers a row
    [loss / METRIC_BOUND, accuracy, positive[bins], negative[bins]]   for two classes

and where owners have models of their own (Ditto, fine-tuning), the same slots again for those: "personal_loss", ….

The histograms hold the share of rows that are positive (negative) and whose score, a probability, lies in the bin. The
ROC-AUC is the chance that a positive row scores above a negative one (Hanley and McNeil 1982), ties counting one half;
pairs within one bin count as ties, so the AUC is off by at most half of the mass of such pairs, which is stated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from smpc_fl.errors import BadInput, ShapeMismatch
from smpc_fl.jobs import TrainJob
from smpc_fl.learning.update import METRIC_BOUND
from smpc_fl.plans.document import PlanDocument, decode_document
from smpc_fl.plans.update_document import update_of

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EvaluationLayout:
    """Which slots an evaluation has."""

    accuracy: bool
    bins: int
    """Bins of each histogram; 0 without histograms."""
    personal: bool = False
    """Are there models of the owners' own beside the global one?"""

    @property
    def length(self) -> int:
        """v, the slots."""
        return self.of_one * (1 + self.personal)

    @property
    def of_one(self) -> int:
        """Slots of one model."""
        return 1 + self.accuracy + 2 * self.bins


def layout_for(document: PlanDocument, bins: int, personal: bool = False) -> EvaluationLayout:
    """The slots of a plan's evaluation with `bins` score bins (unused unless there are two classes)."""
    scores = document.prediction
    if document.loss == "cross_entropy":
        return EvaluationLayout(True, bins if scores == [2] else 0, personal)
    if document.loss == "bce_with_logits":
        return EvaluationLayout(True, bins if scores in ([], [1]) else 0, personal)
    return EvaluationLayout(False, 0, personal)


def evaluation_layout(job: TrainJob) -> EvaluationLayout:
    """The slots of a job's evaluation. Raises `PlanRejected` unless its plan decodes, `BadInput` where it has no graph."""
    assert job.evaluation is not None
    update = update_of(job.plan)
    if update is not None:
        raise BadInput(
            f"the update function {update.update!r} brings no graph that could be evaluated: leave evaluation= out, and let the "
            "function return metrics (UpdatePlan(metrics=[…]))"
        )
    personal = job.strategy.PERSONAL or job.evaluation.finetune is not None
    return layout_for(decode_document(job.plan), job.evaluation.bins, personal)


def read_evaluation(mean: Floats, layout: EvaluationLayout) -> dict[str, float]:
    """Metrics in the weighted mean float64[v]: "val_loss", and where there is one "val_accuracy", "val_auc" and
    "val_auc_error" (largest binning error; both are missing while all rows are of one class); with models of the owners'
    own the same with "personal_"."""
    if mean.shape != (layout.length,):
        raise ShapeMismatch(f"an evaluation has {layout.length} slots, not shape {mean.shape}")
    metrics = _read(mean[: layout.of_one], layout, "val")
    return metrics | _read(mean[layout.of_one :], layout, "personal") if layout.personal else metrics


def _read(mean: Floats, layout: EvaluationLayout, prefix: str) -> dict[str, float]:
    metrics = {f"{prefix}_loss": float(mean[0]) * METRIC_BOUND}
    if layout.accuracy:
        metrics[f"{prefix}_accuracy"] = float(mean[1])
    if layout.bins:
        # Rounding in fixed point may leave a share a little below nothing.
        positive, negative = np.maximum(mean[2:], 0.0).reshape(2, layout.bins)
        pairs = float(positive.sum() * negative.sum())
        if pairs > 0:
            tied = float(positive @ negative)
            below = np.cumsum(negative) - negative
            metrics[f"{prefix}_auc"] = (float(positive @ below) + tied / 2) / pairs
            metrics[f"{prefix}_auc_error"] = tied / 2 / pairs
    return metrics
