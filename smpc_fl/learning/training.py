"""What one owner does in a training round: the parts that its strategy sends, from the global model and its own rows.

Batch norm's running statistics travel as what changed in them, because the server averages buffers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from smpc_fl.entropy import Entropy
from smpc_fl.errors import BadInput, NotFinite
from smpc_fl.jobs import TrainJob
from smpc_fl.learning.compression import Compressor
from smpc_fl.learning.local import Local
from smpc_fl.learning.local_result import LocalResult
from smpc_fl.learning.names import OWN
from smpc_fl.learning.rows import prepare
from smpc_fl.learning.server import shown_of
from smpc_fl.learning.shared import Shared, shared_of
from smpc_fl.plans.layout import Vector
from smpc_fl.plans.plan import Plan
from smpc_fl.plans.tensors import Data


def train_locally(
    plan: Plan,
    model: Vector,
    x: Data,
    y: Data,
    job: TrainJob,
    *,
    round_number: int,
    owner: str,
    kept: Mapping[str, Vector] | None = None,
    entropy: Entropy | None = None,
) -> LocalResult:
    """One owner's part of one round. `model`: what came with the offer, left as it is: float32[d], and behind it what the
    server shows. `kept`: what this owner kept in the last round that counted. `entropy`: for a job with privacy
    for each record, whose lots and noise nobody may know.

    Raises `ShapeMismatch` (model, columns, types), `BadInput` (no rows, labels, batches that the plan cannot take),
    `NotFinite` (the update holds NaN or infinity)."""
    kept = kept or {}
    inputs, targets = prepare(plan.document, x, y)
    shared = shared_of(job.plan, job.strategy, job.private)
    received, shown = shown_of(job.strategy, shared, model)
    here = Local(
        plan, job, round_number, owner, shared, own_model(shared, received, kept), shown, inputs, targets, kept,
        mask=_mask(job, shared, round_number), entropy=entropy,
    )  # fmt: skip
    parts = job.strategy.local(here)
    sizes = job.strategy.parts(shared.size)
    if here.trained is None or {name: part.size for name, part in parts.items()} != sizes:
        raise BadInput(f"the strategy {type(job.strategy).__name__} does not send what it says that it sends: {sizes}")
    payload = np.concatenate([parts[name] for name in sizes]) if len(sizes) > 1 else parts["update"]
    if not np.isfinite(payload).all():
        raise NotFinite("what the strategy sends holds NaN or infinity: lower the learning rate")
    if shared.private:
        here.keep[OWN] = shared.own(here.trained.model)
    return LocalResult(payload, here.rows, {"loss": here.trained.loss}, here.keep)


def _mask(job: TrainJob, shared: Shared, round_number: int) -> Vector | None:
    """float32[s], 1 in the slots that owners train in this round; None for all of them."""
    if job.compression is None:
        return None
    return Compressor(job.compression, shared.size, job.clip, job.seed, round_number).mask


def own_model(shared: Shared, model: Vector, kept: Mapping[str, Vector]) -> Vector:
    """float32[d]: the global model, with the owner's own private tensors where it has any."""
    return shared.with_own(model, kept[OWN]) if shared.private and OWN in kept else model
