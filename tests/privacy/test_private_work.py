"""What a job's privacy makes of its rounds: which slots leave, how long an owner's vector may be, what a sum is divided by."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from test_work import COHORT, PLAN, aggregate, train

from smpc_fl.errors import BadInput, MalformedMessage
from smpc_fl.fixed_point import FixedPoint
from smpc_fl.jobs import Evaluation, Privacy, decode_job, encode_job
from smpc_fl.learning.compression import Compression
from smpc_fl.learning.strategies import Ditto, FedAvg
from smpc_fl.learning.update import assemble
from smpc_fl.privacy.mechanism import check_norm
from smpc_fl.protocols.manifest import choose_numbers
from smpc_fl.protocols.work import compressor_of, evaluates, expected_of, public_weight, releases, weight_of, work_of
from smpc_fl.ring import ring

PRIVACY = Privacy(delta=1e-5, noise_multiplier=2.0)
EQUAL = FedAvg(weights="equal")


def test_a_training_round_carries_no_loss() -> None:
    """Its noise would be a hundred times as loud as that of a weight, and every other slot's the louder for it."""
    work = work_of(train(privacy=PRIVACY, clip=3.0), "train")
    assert (work.layout.payload, work.layout.metrics, work.layout.scale) == (2, (), 0.5)
    assert work.mechanism is not None
    assert (work.mechanism.multiplier, work.mechanism.norm, work.mechanism.tail) == (2.0, 3.0, -1)
    assert work.mechanism.slots == work.layout.length == 4
    assert work_of(train(clip=3.0), "train").mechanism is None


def test_norms_of_evaluations_and_aggregates() -> None:
    evaluation = work_of(train(privacy=PRIVACY, evaluation=Evaluation()), "evaluate")
    assert evaluation.mechanism is not None
    assert evaluation.mechanism.norm == 1.0  # a loss alone
    statistic = work_of(aggregate(privacy=PRIVACY), "aggregate")
    assert statistic.mechanism is not None
    assert statistic.mechanism.norm == pytest.approx(5.0 * math.sqrt(6))
    assert statistic.layout.scale <= 5.0

    whole = work_of(aggregate(privacy=PRIVACY, norm=True), "aggregate")
    assert whole.mechanism is not None
    assert (whole.mode, whole.clip, whole.mechanism.norm) == ("norm", 5.0, 5.0)

    personal = work_of(train(privacy=PRIVACY, strategy=Ditto(), evaluation=Evaluation()), "evaluate")
    assert personal.mechanism is not None
    assert personal.mechanism.norm == math.sqrt(2.0)  # of two models


@pytest.mark.parametrize("how", [Compression(bits=4), Compression(bits=8, keep=0.5), Compression(bits=6, rotate=False)])
def test_compressed_updates_are_within_their_norm(how: Compression) -> None:
    """The longest that a compressor makes of any update passes the owner's own check; half as much again would not."""
    plan = PLAN.replace(b"[1,2]", b"[1,300]").replace(b'"shape":[2]', b'"shape":[300]')
    job = train(plan=plan, privacy=PRIVACY, compression=how, clip=2.0, strategy=EQUAL)
    work, compressor = work_of(job, "train"), compressor_of(job, 0)
    assert work.mechanism is not None
    draw, longest = np.random.default_rng(3), 0.0
    for update in (draw.standard_normal(300), 1e3 * draw.standard_normal(300), np.eye(300)[7] * 5):
        payload, _, _ = compressor.compress(update.astype(np.float32), np.zeros(300, np.float32), 1.0, "alice")
        longest = max(longest, float(np.linalg.norm(payload)))
        vector = assemble(payload, 1.0, {}, layout=work.layout, clip=work.clip, mode=work.mode)
        check_norm(vector.encode(FixedPoint(ring(32), how.bits - 1)), ring(32), work.mechanism.noise(how.bits - 1))
    assert longest <= work.mechanism.norm < 2.5 * longest


def test_owners_expect_the_noise_of_the_job_at_any_scale() -> None:
    job = train(privacy=PRIVACY)
    expected = expected_of(encode_job(job), job, 0, COHORT)
    assert expected.mechanism == work_of(job, "train").mechanism


def test_the_divisor_is_public_or_noisy() -> None:
    """Never the exact sum of secret weights."""
    assert public_weight(train(), "train", COHORT, COHORT) is None  # no noise: the slot is exact
    assert public_weight(train(privacy=PRIVACY), "train", COHORT, COHORT) is None  # by rows: the slot has noise
    assert public_weight(train(privacy=PRIVACY, strategy=EQUAL), "train", COHORT[:2], COHORT) == 2.0
    assert public_weight(aggregate(privacy=PRIVACY), "aggregate", COHORT, COHORT) is None
    assert public_weight(aggregate(privacy=PRIVACY, reduce="sum"), "aggregate", COHORT, COHORT) == 3.0
    given = aggregate(privacy=PRIVACY, weights=[0.5, 1.0, 0.75])
    assert public_weight(given, "aggregate", ("alice", "carol"), COHORT) == 1.25


def test_metrics_of_equal_owners_are_equal() -> None:
    job = train(privacy=PRIVACY, strategy=EQUAL, evaluation=Evaluation())
    assert work_of(job, "evaluate").max_samples == 1
    assert weight_of(job, "evaluate", "bob", COHORT, 17) == 1.0
    by_rows = train(privacy=PRIVACY, evaluation=Evaluation())
    assert weight_of(by_rows, "evaluate", "bob", COHORT, 17) == 17 / 1024
    assert work_of(by_rows, "evaluate").max_samples == 1024


def test_every_sum_that_leaves_is_counted() -> None:
    job = train(rounds=7, evaluation=Evaluation(every=3))
    assert [evaluates(job, number) for number in range(1, 8)] == [False, False, True, False, False, True, True]
    assert [releases(job, rounds) for rounds in (0, 2, 3, 7)] == [0, 2, 4, 10]
    assert releases(train(), 5) == 5
    assert releases(aggregate(), 1) == 1


@pytest.mark.parametrize("job", [train, aggregate])
def test_a_job_states_its_noise(job: Any) -> None:
    with pytest.raises(BadInput, match="an epsilon is turned into one"):
        job(privacy=Privacy(delta=1e-5, epsilon=1.0))
    data = encode_job(job(privacy=PRIVACY))
    assert decode_job(data).privacy == PRIVACY
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(MalformedMessage):
            decode_job(data.replace(np.float64(2.0).tobytes()[::-1], np.float64(bad).tobytes()[::-1]))


def test_the_noise_of_a_plan_fits_its_ring() -> None:
    work = work_of(train(privacy=PRIVACY, strategy=EQUAL), "train")
    numbers = choose_numbers(
        owners=3, clip=work.clip, max_samples=work.max_samples, k_min=3, tolerance=work.tolerance, ring_bits=None,
        mechanism=work.mechanism, aggregators=2,
    )  # fmt: skip
    assert numbers.noise is not None
    assert numbers.noise.sigma * 2.0**-numbers.fractional_bits == pytest.approx(2.0 * 10 * 1.02, rel=0.02)
