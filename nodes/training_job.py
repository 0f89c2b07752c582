"""A training job from what a researcher says: the same for a federation of processes and for a simulated one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from smpc_fl.errors import BadInput
from smpc_fl.hashing import digest
from smpc_fl.jobs import Evaluation, FedAvg, FedSGD, LocalTraining, RingBits, Stop, TrainJob, UpdateBits

if TYPE_CHECKING:
    from smpc_fl.plans.plan import Plan


def training_job(
    plan: Plan,
    *,
    inputs: str,
    targets: str,
    rounds: int,
    local: LocalTraining | None,
    strategy: FedAvg | FedSGD | None,
    evaluation: Evaluation | None,
    stop: Stop | None,
    clip: float,
    max_samples: int,
    tolerance: float,
    ring_bits: RingBits | None,
    update_bits: int | None,
    seed: int | None,
) -> TrainJob:
    """The job of `Federation.train` and of `simulate`. Raises `BadInput`."""
    _check_bits(ring_bits, update_bits)
    return TrainJob(
        plan=plan.to_bytes(),
        inputs=inputs,
        targets=targets,
        rounds=rounds,
        local=local or LocalTraining(),
        strategy=strategy or FedAvg(),
        evaluation=evaluation,
        stop=stop,
        clip=clip,
        max_samples=max_samples,
        tolerance=tolerance,
        ring_bits=ring_bits,
        update_bits=update_bits,
        seed=run_seed(seed),
    )


def run_seed(seed: int | None) -> bytes:
    """16 bytes that a job's shuffles and dropout derive from; drawn by the system for None."""
    return os.urandom(16) if seed is None else digest("smpc-fl/1 run seed", str(seed).encode(), size=16)


class _Bits(msgspec.Struct):
    ring_bits: RingBits | None
    update_bits: UpdateBits | None


def _check_bits(ring_bits: object, update_bits: object) -> None:
    try:
        msgspec.convert({"ring_bits": ring_bits, "update_bits": update_bits}, _Bits)
    except msgspec.ValidationError as error:
        raise BadInput(f"the bits do not fit: {error}") from None
