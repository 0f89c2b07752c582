"""What a job wants of each kind of round: the layout of the secure vector, its bounds, and every owner's weight.

The coordinator makes manifests from it, and each owner checks them against its own reading of the approved bytes.

Round numbers: training round k (from 1) is round 2(k-1), its evaluation round 2(k-1)+1; an aggregate is round 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import msgspec

from smpc_fl.errors import BadInput, ManifestRefused
from smpc_fl.hashing import digest
from smpc_fl.jobs import AggregateJob, Job, RingBits, TrainJob, job_digest
from smpc_fl.learning.cohort import drawn
from smpc_fl.learning.compression import Compressor, weight_in_units
from smpc_fl.learning.metrics import evaluation_layout
from smpc_fl.learning.shared import shared_of
from smpc_fl.learning.strategy import same_numbers
from smpc_fl.learning.update import VectorLayout, denominator, row_weight
from smpc_fl.privacy.adaptive import count_tail
from smpc_fl.privacy.mechanism import Mechanism, tail_of
from smpc_fl.protocols.manifest import Expected, Numbers, Protection, choose_numbers

Purpose = Literal["train", "evaluate", "aggregate"]
Mode = Literal["norm", "saturate"]
ROUGH = 1e9
"""A tolerance that any error keeps."""
_encoder = msgspec.msgpack.Encoder(order="deterministic")


def train_round(number: int) -> int:
    """The protocol round of training round `number` (from 1)."""
    return 2 * (number - 1)


def evaluation_round(number: int) -> int:
    """The protocol round of the evaluation after training round `number`."""
    return 2 * (number - 1) + 1


def number_of(round_number: int) -> int:
    """The training round (from 1) that a protocol round belongs to."""
    return round_number // 2 + 1


def purpose_of(job: Job, round_number: int) -> Purpose:
    """What round `round_number` of `job` is for; `ManifestRefused` past the job's last round."""
    if isinstance(job, AggregateJob):
        if round_number == 0:
            return "aggregate"
    elif round_number < 2 * max(job.rounds, 1):
        if round_number % 2 == 0 and job.rounds:
            return "train"
        if round_number % 2 == 1 and job.evaluation is not None:
            return "evaluate"
    raise ManifestRefused(f"the approved job has no round {round_number}", phase="offer")


@dataclass(frozen=True)
class Work:
    """One kind of round of one job. `clip` bounds every payload slot; "norm" clips the L2 norm, "saturate" each element.
    `subject`: as in the manifest; `mechanism`: the noise that the job asks for."""

    purpose: Purpose
    subject: bytes
    layout: VectorLayout
    clip: float
    max_samples: int
    mode: Mode
    tolerance: float
    ring_bits: RingBits | None
    update_bits: int | None = None
    mechanism: Mechanism | None = None
    sums: bool = False
    """Is the sum itself what is asked for, and not a mean?"""

    def numbers(
        self, *, owners: int, k_min: int, aggregators: int, ring_bits: RingBits | None = None,
        protection: Protection = "shares",
    ) -> Numbers:  # fmt: skip
        """The ring and scale of its rounds. `ring_bits`: where the job does not say. Raises as `choose_numbers`, and
        `BadInput` for noise where vectors are encrypted."""
        choose = partial(
            choose_numbers,
            owners=owners,
            clip=self.clip,
            max_samples=self.max_samples,
            k_min=1 if self.sums else k_min,  # a sum's error is not divided by any weight
            tolerance=self.tolerance,
            update_bits=self.update_bits,
            mechanism=self.mechanism,
            aggregators=aggregators,
        )
        asked = self.ring_bits or ring_bits
        numbers = choose(ring_bits=asked)
        if protection == "shares":
            return numbers
        if self.mechanism is not None:
            raise BadInput(
                'privacy= adds noise at several aggregators, and protection="ckks" has one: use "shares", or '
                "LocalTraining(privacy=...), which adds it at the owners"
            )
        # Ciphertexts have no word to fill: beyond 32 bits, every bit may cost a ciphertext more (`encryption.Layout`).
        return choose(ring_bits="fit") if asked is None and numbers.ring_bits > 32 else numbers

    def expected(self, digest: bytes, cohort: Sequence[str]) -> Expected:
        """What an owner holds a manifest against."""
        return Expected(
            self.purpose, digest, self.layout.length, self.clip, self.max_samples, self.tolerance, tuple(cohort), self.subject,
            mechanism=self.mechanism,
        )  # fmt: skip


def work_of(job: Job, purpose: Purpose, clip: float | None = None) -> Work:
    """The round's layout, bounds and noise, from nothing but the job. `clip`: of a training round, where the job lets it adapt;
    the job's own is the most, also for a clip that cannot be."""
    work = _work_of(job, purpose)
    if job.privacy is None:
        return work
    multiplier = job.privacy.noise_multiplier
    assert multiplier is not None
    adaptive = job.privacy.adaptive if purpose == "train" else None
    if adaptive is not None and clip is not None and 0 < clip < work.clip:
        work = replace(work, clip=clip)
    # A training's loss would cost noise in every other slot, and drown in its own: evaluation is there for metrics.
    norm = _norm(job, work)
    count = adaptive.count_noise if adaptive else None
    tail = tail_of(norm, max(work.clip, 1.0)) if count is None else count_tail(multiplier, count, norm)
    layout = VectorLayout(work.layout.payload, scale=2.0**tail)
    mechanism = Mechanism(multiplier, norm, tail, layout.length, centred=adaptive is not None)
    return replace(work, layout=layout, mechanism=mechanism)


def _norm(job: Job, work: Work) -> float:
    """The largest L2 norm of an owner's weighed payload (weights are at most 1)."""
    if work.mode == "norm":
        return work.clip
    if isinstance(job, AggregateJob):
        return work.clip * math.sqrt(work.layout.payload)
    if work.purpose == "train":
        assert job.compression is not None
        compressor, slots = compressor_of(job, 0), math.sqrt(work.layout.payload)
        # A rotation keeps the norm; every number is rounded up or down to a whole one.
        return min(slots, compressor.clip / compressor.bound) + math.ldexp(slots, 1 - job.compression.bits)
    # Loss and accuracy are within 1 each, and the histograms' shares add up to 1; of each model.
    layout = evaluation_layout(job)
    return math.sqrt((1 + layout.accuracy + (layout.bins > 0)) * (1 + layout.personal))


def _work_of(job: Job, purpose: Purpose) -> Work:
    subject = subject_of(job, purpose)
    if isinstance(job, AggregateJob):
        layout = VectorLayout(math.prod(job.shape))
        mode: Mode = "norm" if job.norm else "saturate"
        return Work(
            purpose, subject, layout, job.bound, _resolution(job), mode, job.tolerance, job.ring_bits,
            sums=job.reduce == "sum",
        )  # fmt: skip
    rows = _max_samples(job)
    if purpose == "train":
        shared = shared_of(job.plan, job.strategy, job.private)
        if job.compression is not None:
            # No metrics: a few bits cannot tell a loss. A mean is as rough as they are, whatever is tolerated.
            layout = VectorLayout(compressor_of(job, 0).length)
            units = min(rows, 1 << (job.compression.bits - 1))  # weights are whole ones
            return Work(purpose, subject, layout, 1.0, units, "saturate", ROUGH, "fit", job.compression.bits)
        # The loss is of the records: with privacy for each of them it stays at home.
        metrics = shared.metrics if job.local.privacy is None else ()
        layout = VectorLayout(sum(job.strategy.parts(shared.size).values()), metrics)
        return Work(purpose, subject, layout, job.clip, rows, "norm", job.tolerance, job.ring_bits, job.update_bits)
    assert job.evaluation is not None
    layout = VectorLayout(evaluation_layout(job).length)
    rows = denominator(job.max_samples) if _evaluates_by_rows(job) else 1
    return Work(purpose, subject, layout, 1.0, rows, "saturate", job.tolerance, job.ring_bits)


def compressor_of(job: TrainJob, round_number: int) -> Compressor:
    """How a training round's updates get smaller. Raises `BadInput` for a strategy that sends more than an update."""
    assert job.compression is not None
    size = shared_of(job.plan, job.strategy, job.private).size
    if list(job.strategy.parts(size)) != ["update"]:
        raise BadInput(
            f"{type(job.strategy).__name__} sends {', '.join(job.strategy.parts(size))}, and only an update can be compressed: "
            "use a strategy such as FedAvg, FedProx or FedAdam, or no compression"
        )
    return Compressor(job.compression, size, job.clip, job.seed, round_number)


def subject_of(job: Job, purpose: Purpose) -> bytes:
    """What a round computes of an owner's data, given the model: 32 bytes over all of the job that shapes it, and nothing
    else of the job: neither how often, how exactly and in which ring it is done, nor what becomes of the sum, nor the clip
    and the scale of the weights (`max_samples`), which may leave the numbers as they are but for a public factor.

    Two jobs of one subject give sums that can be subtracted from each other (`releases.py`)."""
    if isinstance(job, AggregateJob):
        parts: list[object] = [job.expression, job.reduce, job.weights]
    elif purpose == "train":
        parts = [
            job.plan,
            job.inputs,
            job.targets,
            job.seed,
            job.local,
            *same_numbers(job.strategy),
            *([job.weighting] if job.weighting else []),
            *([sorted(job.private)] if job.private else []),
            *([job.compression] if job.compression else []),
        ]
    else:
        assert job.evaluation is not None
        held = job.evaluation
        parts = [job.plan, job.inputs, job.targets, job.seed, held.inputs, held.targets, held.fraction, held.bins]
        if (
            job.private or job.strategy.PERSONAL or held.finetune
        ):  # then owners' own models count, and these come of training
            parts += [*same_numbers(job.strategy), job.local, sorted(job.private), held.finetune]
    return digest("smpc-fl/1 subject", purpose.encode(), _encoder.encode(parts))


def participants(job: Job, round_number: int, owners: Sequence[str], k_min: int) -> list[str]:
    """Who of the owners that are there takes part in this round, sorted: all of them, or those that are drawn for a
    training round."""
    if isinstance(job, TrainJob) and purpose_of(job, round_number) == "train":
        return drawn(owners, job.fraction, max(k_min, job.min_owners), job.seed, round_number)
    return sorted(owners)


def expected_of(
    job_bytes: bytes, job: Job, round_number: int, cohort: Sequence[str], clip: float | None = None
) -> Expected:
    """`clip`: what the manifest says, which counts where the job lets it adapt."""
    return work_of(job, purpose_of(job, round_number), clip).expected(job_digest(job_bytes), cohort)


def _max_samples(job: TrainJob) -> int:
    return denominator(job.max_samples) if job.strategy.weights == "rows" else 1


def _resolution(job: AggregateJob) -> int:
    """1 / the least weight that an owner may have, in whole numbers; odd where weights are not exact in fixed point."""
    if job.weights is not None:
        least = math.ceil(1 / min(job.weights))
        return least if least == 1 else least | 1
    return denominator(job.max_samples) if job.reduce == "mean" else 1


def _evaluates_by_rows(job: TrainJob) -> bool:
    """With noise and equal weights metrics are means over owners: the number of owners is no secret, and needs none."""
    return job.privacy is None or job.strategy.weights == "rows"


def public_weight(job: Job, purpose: Purpose, included: Sequence[str], cohort: Sequence[str]) -> float | None:
    """The sum of the weights of the owners in a sum, where a noisy one is to be divided by it and everybody may know it;
    else None: the sum says it."""
    if job.privacy is None:
        return None
    if isinstance(job, AggregateJob):
        if job.weights is None and job.reduce == "mean":
            return None
        return math.fsum(weight_of(job, purpose, owner, cohort, 1) for owner in included)
    return float(len(included)) if job.strategy.weights == "equal" else None


def releases(job: Job, rounds: int) -> int:
    """Sums over owners that so many rounds of a job let out, evaluations too."""
    if isinstance(job, AggregateJob) or job.evaluation is None:
        return rounds
    return rounds + sum(evaluates(job, number) for number in range(1, rounds + 1))


def evaluates(job: TrainJob, number: int) -> bool:
    """Whether training round `number` (from 1) is followed by an evaluation."""
    return job.evaluation is not None and (number % job.evaluation.every == 0 or number == job.rounds)


def weight_of(job: Job, purpose: Purpose, owner: str, cohort: Sequence[str], rows: int) -> float:
    """An owner's weight in (0, 1]: rows / denominator(max_samples), 1, or the researcher's for this owner.

    Raises `WeightOutOfRange` (also for no rows at all)."""
    if isinstance(job, AggregateJob):
        if job.weights is not None:
            return job.weights[sorted(cohort).index(owner)]
        return row_weight(rows, job.max_samples) if job.reduce == "mean" else 1.0
    by_rows = row_weight(rows, job.max_samples)
    if purpose == "evaluate" and _evaluates_by_rows(job):
        return by_rows
    weight = by_rows if job.strategy.weights == "rows" else 1.0
    return weight if job.compression is None else weight_in_units(weight, job.compression.bits)
