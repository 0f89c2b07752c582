"""Models of an owner's own. They never leave; what comes out of them is how good they are, summed over owners."""

from __future__ import annotations

from collections.abc import Mapping

from smpc_fl.jobs import TrainJob
from smpc_fl.learning.local import Local
from smpc_fl.learning.names import PERSONAL
from smpc_fl.learning.rows import prepare
from smpc_fl.learning.shared import shared_of
from smpc_fl.plans.layout import Vector
from smpc_fl.plans.plan import Plan
from smpc_fl.plans.tensors import Data


def finetuned(plan: Plan, model: Vector, x: Data, y: Data, job: TrainJob, *, round_number: int, owner: str) -> Vector:
    """float32[d]: the global model after `job.evaluation.finetune` on the owner's training rows (FedAvg and fine-tuning:
    Cheng et al. 2021; McMahan et al. 2017 with a last step at home). Raises as `train_locally`."""
    assert job.evaluation is not None
    inputs, targets = prepare(plan.document, x, y)
    shared = shared_of(job.plan, job.strategy, job.private)
    here = Local(plan, job, round_number, owner, shared, model, {}, inputs, targets, {})
    return here.train(local=job.evaluation.finetune, use="finetune").model


def personal_model(model: Vector, kept: Mapping[str, Vector]) -> Vector:
    """float32[d]: the model that the owner keeps (Ditto); the global one before it has any."""
    return kept.get(PERSONAL, model)
