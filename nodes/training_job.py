"""A training job from what a researcher says: the same for a federation of processes and for a simulated one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from smpc_fl.errors import BadInput
from smpc_fl.hashing import digest
from smpc_fl.jobs import Evaluation, LocalTraining, Privacy, RingBits, Stop, TrainJob, UpdateBits
from smpc_fl.learning.compression import Compression
from smpc_fl.learning.metrics import evaluation_layout
from smpc_fl.learning.shared import shared_of
from smpc_fl.learning.strategies import FedAvg, FedSGD
from smpc_fl.learning.strategy import Strategy, decode
from smpc_fl.plans.update_document import update_of
from smpc_fl.privacy.adaptive import check_adaptive
from smpc_fl.privacy.records import calibrated as calibrated_for_records
from smpc_fl.privacy.records import check_job
from smpc_fl.protocols.work import compressor_of, releases

if TYPE_CHECKING:
    from smpc_fl.plans.plan import Plan
    from smpc_fl.plans.update_plan import UpdatePlan
    from smpc_fl.pointers.pointer import PointerTensor


def training_job(
    plan: Plan | UpdatePlan,
    *,
    inputs: str | None,
    targets: str | None,
    rounds: int,
    local: LocalTraining | None,
    strategy: Strategy | None,
    weighting: PointerTensor | bytes | None = None,
    private: Sequence[str] = (),
    fraction: float = 1.0,
    min_owners: int = 0,
    evaluation: Evaluation | None,
    stop: Stop | None,
    clip: float,
    max_samples: int,
    tolerance: float,
    ring_bits: RingBits | None,
    update_bits: int | None,
    compression: Compression | None = None,
    seed: int | None,
    privacy: Privacy | None = None,
) -> TrainJob:
    """The job of `Federation.train` and of `simulate`; a plan with a graph reads "x" and "y" where nothing else is said.
    Raises `BadInput`."""
    if update_of(plan.data) is None:
        inputs, targets = "x" if inputs is None else inputs, "y" if targets is None else targets
    elif inputs is not None or targets is not None or local is not None:
        raise BadInput(
            "inputs=, targets= and local= go with networks: an update function reads UpdatePlan(tensors=[…], options={…})"
        )
    _check_bits(ring_bits, update_bits)
    strategy, local = strategy or FedAvg(), local or LocalTraining()
    strategy.check(local)
    local = calibrated_for_records(local, rounds)
    shared = shared_of(plan.data, strategy, tuple(private))
    if shared.private and isinstance(strategy, FedSGD):
        raise BadInput("FedSGD takes no step at an owner, so private tensors would never be trained: use FedAvg")
    job = _checked(TrainJob(
        plan=plan.to_bytes(),
        inputs=inputs or "",
        targets=targets or "",
        rounds=rounds,
        local=local,
        strategy=strategy,
        weighting=_expression(weighting, strategy),
        private=tuple(private),
        fraction=fraction,
        min_owners=min_owners,
        evaluation=evaluation,
        stop=stop,
        clip=clip,
        max_samples=max_samples,
        tolerance=tolerance,
        ring_bits=ring_bits,
        update_bits=update_bits,
        compression=compression,
        seed=run_seed(seed),
    ))  # fmt: skip
    if evaluation is not None:
        evaluation_layout(job)
    if compression is not None:
        compressor_of(job, 0)
    if privacy is not None:
        from smpc_fl.privacy.accounting import calibrated

        job = msgspec.structs.replace(job, privacy=calibrated(privacy, releases(job, rounds)))
    check_job(job)
    check_adaptive(job)
    return job


def run_seed(seed: int | None) -> bytes:
    """16 bytes that a job's shuffles and dropout derive from; drawn by the system for None."""
    return os.urandom(16) if seed is None else digest("smpc-fl/1 run seed", str(seed).encode(), size=16)


def _checked(job: TrainJob) -> TrainJob:
    """The job, whose numbers are in range: structs check what they decode, not what they are made of."""
    try:
        return msgspec.convert(msgspec.to_builtins(job, builtin_types=(bytes,)), TrainJob, dec_hook=decode)
    except msgspec.ValidationError as error:
        raise BadInput(f"the job has an option out of range: {error}") from None


def _expression(weighting: PointerTensor | bytes | None, strategy: Strategy) -> bytes:
    if weighting is None:
        return b""
    if strategy.weights != "rows":
        raise BadInput(
            f'weighting= takes the place of rows: use a strategy with weights="rows", not "{strategy.weights}"'
        )
    return weighting if isinstance(weighting, bytes) else weighting.expression


class _Bits(msgspec.Struct):
    ring_bits: RingBits | None
    update_bits: UpdateBits | None


def _check_bits(ring_bits: object, update_bits: object) -> None:
    try:
        msgspec.convert({"ring_bits": ring_bits, "update_bits": update_bits}, _Bits)
    except msgspec.ValidationError as error:
        raise BadInput(f"the bits do not fit: {error}") from None
