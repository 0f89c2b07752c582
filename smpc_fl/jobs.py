"""Jobs: what a researcher asks the federation to compute, as the exact bytes that owners approve by digest.

A job names everything that shapes what leaves an owner: the graph or expression, the local training, inputs, clip, caps
and the most rounds. An owner runs the very bytes that were hashed.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from smpc_fl.errors import BadInput, MalformedMessage
from smpc_fl.hashing import digest
from smpc_fl.learning.compression import Compression
from smpc_fl.learning.strategies import FedAvg
from smpc_fl.learning.strategy import Strategy, decode

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
RingBits = Annotated[int, Meta(ge=8, le=64)] | Literal["fit"]
"""Bits of the ring that sums are made in: so many, or "fit", the fewest that the tolerance and the capacity rule allow."""
UpdateBits = Annotated[int, Meta(ge=2, le=64)]
TensorName = Annotated[str, Meta(min_length=1, max_length=256)]
MAX_SIZE = 1 << 30
"""Elements of an aggregate, at most."""
LEAST_WEIGHT = 2.0**-39
"""Of a researcher's weights, the largest being 1: 1 / weight is a manifest's `max_samples`, which ends at 2^40."""


class _Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True): ...


class RecordPrivacy(_Value, frozen=True):
    """Differential privacy of every record, by noise at its owner: DP-SGD (Abadi et al. 2016, Algorithm 1; docs/privacy.md).

    In every step each row is drawn with probability `sampling_rate`, its gradient is scaled down to the L2 norm
    `max_grad_norm`, and their sum, with Gaussian noise of standard deviation `noise_multiplier` · `max_grad_norm`, is divided
    by `LocalTraining.batch_size`. In the place of the multiplier `epsilon`: what all rounds together may cost at `delta`.
    `unit`: neighbouring tables differ by one of these more. Raises `BadInput`."""

    delta: Annotated[float, Meta(gt=0, lt=1)]
    sampling_rate: Annotated[float, Meta(ge=1e-6, le=1)]
    max_grad_norm: Annotated[float, Meta(ge=1e-6, le=1e6)] = 1.0
    noise_multiplier: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    epsilon: Annotated[float, Meta(gt=0, le=1e3)] | None = None
    unit: Literal["record"] = "record"

    def __post_init__(self) -> None:
        _check_ranges(self)
        for name, least, most in (("sampling_rate", 1e-6, 1.0), ("max_grad_norm", 1e-6, 1e6)):
            if not least <= getattr(self, name) <= most:
                raise BadInput(f"privacy: {name} must be {least:g} to {most:g}")


class LocalTraining(_Value, frozen=True):
    """What one owner does between two models: `epochs` passes of mini-batch descent over its own rows.

    With `privacy` the rows of a step are drawn anew each time, an epoch is 1 / sampling_rate steps, and `batch_size` is the
    number that the sum of their gradients is divided by, however many they are."""

    epochs: Annotated[int, Meta(ge=1, le=10_000)] = 1
    batch_size: Annotated[int, Meta(ge=1, le=1 << 20)] = 32
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: Positive = 0.1
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    weight_decay: NotNegative = 0.0
    privacy: RecordPrivacy | None = None


class Evaluation(_Value, frozen=True):
    """Metrics of the global model on every owner's held-out rows, aggregated securely in a round of their own.

    Held-out rows are the tensors `inputs`/`targets`, or, when those are empty, a fraction of the training rows drawn
    from (run seed, owner). `bins`: score bins of the summed histograms behind the AUC, whose binning error is stated.
    `finetune`: each owner also trains the global model so on its training rows, and the metrics of what it then has, which
    it forgets again, come out as "personal_…", beside those of the global model."""

    inputs: Annotated[str, Meta(max_length=256)] = ""
    targets: Annotated[str, Meta(max_length=256)] = ""
    fraction: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    every: Annotated[int, Meta(ge=1, le=1 << 20)] = 1
    bins: Annotated[int, Meta(ge=2, le=1 << 16)] = 256
    finetune: LocalTraining | None = None


class Stop(_Value, frozen=True):
    """Stop before the last round: when `metric` reaches `target`, or has not improved by `min_delta` for `patience`
    evaluations. Metrics whose name ends in "loss" are better when lower, all others when higher. `restore_best`: the run's
    model is then the one with the best metric, not the last."""

    metric: Annotated[str, Meta(min_length=1, max_length=64)] = "val_loss"
    target: float | None = None
    patience: Annotated[int, Meta(ge=1)] | None = None
    min_delta: NotNegative = 0.0
    restore_best: bool = False


class AdaptiveClip(_Value, frozen=True):
    """A clip that follows a `quantile` of the norms of owners' updates (Andrew et al. 2021; `privacy.adaptive`).

    It begins at `initial`, never exceeds the job's `clip`, and moves by exp(±`rate`) a round at most, but for noise.
    `count_noise`: standard deviation, in owners, of one aggregator's noise in the count of clipped ones, at least; about a
    twentieth of the owners that take part is usual. Raises `BadInput`."""

    initial: Annotated[float, Meta(gt=0, le=1e9)]
    count_noise: Annotated[float, Meta(gt=0, le=1e9)]
    quantile: Annotated[float, Meta(ge=0, le=1)] = 0.5
    rate: Annotated[float, Meta(gt=0, le=10)] = 0.2

    def __post_init__(self) -> None:
        for name, most in (("initial", 1e9), ("count_noise", 1e9), ("rate", 10.0)):
            if not 0 < getattr(self, name) <= most:
                raise BadInput(f"adaptive clip: {name} must be above 0, and at most {most:g}")
        if not 0 <= self.quantile <= 1:
            raise BadInput("adaptive clip: quantile must be 0 to 1")


class Privacy(_Value, frozen=True):
    """Differential privacy of what leaves the federation, for each owner as a whole (docs/privacy.md). Every aggregator adds
    noise to every slot of its partial sum; one honest aggregator's is enough.

    `noise_multiplier`: standard deviation of one aggregator's noise over the largest L2 norm of an owner's vector. In its
    place `epsilon`: what all rounds together may cost at `delta`; the multiplier is then worked out before the job is sent
    (needs the extra `privacy`). `unit`: neighbouring federations differ in all data of one of these. `adaptive`: in training
    the clip follows the updates, and costs no more. Raises `BadInput`."""

    delta: Annotated[float, Meta(gt=0, lt=1)]
    noise_multiplier: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    epsilon: Annotated[float, Meta(gt=0, le=1e3)] | None = None
    unit: Literal["owner"] = "owner"
    adaptive: AdaptiveClip | None = None

    def __post_init__(self) -> None:
        _check_ranges(self)


def _check_ranges(privacy: Privacy | RecordPrivacy) -> None:
    if (privacy.noise_multiplier is None) == (privacy.epsilon is None):
        raise BadInput("privacy takes either noise_multiplier= or epsilon=, and delta= with it")
    for name, most in (("delta", 1.0), ("noise_multiplier", 1e6), ("epsilon", 1e3)):
        value = getattr(privacy, name)
        if value is not None and not 0 < value <= most:
            raise BadInput(f"privacy: {name} must be above 0, and at most {most:g}")


def _check_noise(privacy: Privacy | RecordPrivacy | None) -> None:
    if privacy is not None and privacy.noise_multiplier is None:
        raise BadInput("a job states its noise_multiplier: an epsilon is turned into one before it is sent")


class TrainJob(_Value, frozen=True, tag=True):
    """Train `plan` (canonical JSON, `plans`) on every owner's tensors `inputs` and `targets`; both are empty, and `local` counts
    for nothing, where the plan names an update function and the tensors that it reads (`plans.update_document`).

    `clip`: largest L2 norm of an update (float32[d]), or with `privacy.adaptive` the most that the clip may become;
    `max_samples`: public cap on an owner's rows, the weight is rows / max_samples; `tolerance`: largest decoding error of a
    mean that is accepted; `ring_bits`: None for 32, or 64 where the tolerance needs it; `seed`: shuffles and dropout derive
    from (seed, round, owner).

    `update_bits` = n: an update's numbers become n-bit integers, ±max(clip, 1) being ±2^(n-1), and a training round's
    ring, unless `ring_bits` says it, the smallest that holds their sum: n + log2(owners) bits, rounded up.

    `weighting`: an expression (`pointers.lineage`, canonical bytes) whose value at an owner, one number, weighs it in
    training instead of its rows; rounded to a whole one, at most `max_samples`. `private`: names or patterns of tensors that
    every owner has for itself ("head.*"; FedPer: Arivazhagan et al. 2019).
    `fraction`: part of the owners that is drawn for each training round; `min_owners`: fewest whose sum is taken."""

    plan: Annotated[bytes, Meta(max_length=1 << 23)]
    inputs: Annotated[str, Meta(max_length=256)]
    targets: Annotated[str, Meta(max_length=256)]
    rounds: Annotated[int, Meta(ge=0, le=1 << 20)]
    local: LocalTraining = LocalTraining()
    strategy: Strategy = FedAvg()
    weighting: Annotated[bytes, Meta(max_length=1 << 16)] = b""
    private: tuple[TensorName, ...] = ()
    fraction: Annotated[float, Meta(gt=0, le=1)] = 1.0
    min_owners: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    evaluation: Evaluation | None = None
    stop: Stop | None = None
    clip: Positive = 10.0
    max_samples: Annotated[int, Meta(ge=1, le=1 << 40)] = 10_000
    tolerance: Positive = 1e-3
    ring_bits: RingBits | None = None
    update_bits: UpdateBits | None = None
    compression: Compression | None = None
    seed: Annotated[bytes, Meta(min_length=16, max_length=16)] = bytes(16)
    privacy: Privacy | None = None

    def __post_init__(self) -> None:
        _check_noise(self.privacy)
        _check_noise(self.local.privacy)


class AggregateJob(_Value, frozen=True, tag=True):
    """One element-wise mean or sum over owners of the value of one expression (`pointers.lineage`, canonical bytes).

    Each owner evaluates the expression on its own registered tensors, so operands cannot differ in lineage. `weights`:
    the researcher's, by sorted owner id, each in [LEAST_WEIGHT, 1], or None: rows / max_samples for a mean, 1 for a sum. Values
    beyond ±bound saturate, or with `norm` the whole value is scaled down to that L2 norm; how many owners had any is one
    slot of the secure vector."""

    expression: Annotated[bytes, Meta(max_length=1 << 23)]
    reduce: Literal["mean", "sum"]
    shape: Annotated[list[Annotated[int, Meta(ge=0, le=MAX_SIZE)]], Meta(max_length=16)]
    bound: Positive
    norm: bool = False
    weights: (
        Annotated[list[Annotated[float, Meta(ge=LEAST_WEIGHT, le=1)]], Meta(min_length=1, max_length=4096)] | None
    ) = None
    max_samples: Annotated[int, Meta(ge=1, le=1 << 40)] = 1_000_000
    tolerance: Positive = 1e-3
    ring_bits: RingBits | None = None
    privacy: Privacy | None = None

    def __post_init__(self) -> None:
        _check_noise(self.privacy)
        if self.privacy is not None and self.privacy.adaptive is not None:
            raise BadInput(
                "an adaptive clip follows updates: it goes with training, not with aggregates and statistics"
            )
        if math.prod(self.shape) > MAX_SIZE:
            raise BadInput(f"an aggregate has at most {MAX_SIZE} elements: reduce first")


Job = TrainJob | AggregateJob

_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder: msgspec.msgpack.Decoder[Job] = msgspec.msgpack.Decoder(Job, dec_hook=decode)


def encode_job(job: Job) -> bytes:
    """The bytes that are hashed, approved and run."""
    return _encoder.encode(job)


def decode_job(data: bytes) -> Job:
    """A job from its bytes; raises `MalformedMessage` unless they are its one canonical spelling."""
    try:
        job = _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise MalformedMessage("a job does not decode: make it with this release of smpc-fl") from None
    if _encoder.encode(job) != data:
        raise MalformedMessage("a job is not in its one canonical spelling")
    return job


def job_digest(data: bytes) -> bytes:
    """What an owner approves: 32 bytes over the job's canonical bytes."""
    return digest("smpc-fl/1 job", data)
