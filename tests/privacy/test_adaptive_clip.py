"""Clips that follow a quantile of the updates' norms: their path, what they cost, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from test_work import COHORT, aggregate, train

import smpc_fl as sf
from smpc_fl.errors import BadInput, CapacityExceeded
from smpc_fl.jobs import decode_job, encode_job
from smpc_fl.learning.compression import Compression
from smpc_fl.learning.strategies import FedAvg
from smpc_fl.learning.update import Aggregate, assemble
from smpc_fl.privacy.accounting import spent
from smpc_fl.privacy.adaptive import check_adaptive, count_tail, next_clip, update_multiplier
from smpc_fl.privacy.mechanism import Mechanism, check_norm
from smpc_fl.protocols.course import TrainingRound
from smpc_fl.protocols.work import expected_of, work_of

EQUAL = FedAvg(weights="equal")
OWNERS = 200


def private(multiplier: float = 1.0, **how: Any) -> sf.Privacy:
    adaptive = sf.AdaptiveClip(**{"initial": 0.1, "count_noise": 10.0} | how)
    return sf.Privacy(delta=1e-5, noise_multiplier=multiplier, adaptive=adaptive)


def job(clip: float = 8.0, **how: Any) -> Any:
    return train(privacy=private(**how), clip=clip, strategy=EQUAL, rounds=1000)


def algorithm_1(
    norms: npt.NDArray[np.float64], noise: npt.NDArray[np.float64], clip: float, rate: float, quantile: float
) -> list[float]:
    """Straight from the paper's box: norms [rounds, owners], noise [rounds] is N(0, sigma_b²)."""
    path = [clip]
    for of_round, xi in zip(norms, noise, strict=True):
        bits = [1 if norm <= path[-1] else 0 for norm in of_round]
        b_tilde = (sum(bits) + xi) / len(bits)
        path.append(path[-1] * math.exp(-rate * (b_tilde - quantile)))
    return path


def ours(of: Any, norms: npt.NDArray[np.float64], noise: npt.NDArray[np.float64]) -> list[float]:
    """The server's rounds, given what a sum over owners says: how many of them were clipped, with noise."""
    model, clip, path = np.zeros(2, np.float32), None, []
    for number, (of_round, xi) in enumerate(zip(norms, noise, strict=True), 1):
        course = TrainingRound(of, number, model, norms.shape[1], clip)
        path.append(course.clip)
        assert course.ask is not None
        assert course.ask.work.clip == course.clip
        clipped = float((of_round > course.clip).sum()) - xi
        course.take(Aggregate(np.zeros(2), {}, norms.shape[1], max(0, round(clipped)), clipped), norms.shape[1])
        clip = course.next_clip
    return [*path, course.next_clip]


@pytest.mark.parametrize(("quantile", "rate"), [(0.5, 0.2), (0.9, 0.3), (0.1, 0.2)])
def test_the_path_is_that_of_algorithm_1_and_ends_at_the_quantile(quantile: float, rate: float) -> None:
    draw = np.random.default_rng(3)
    norms = np.exp(draw.normal(0.3, 0.6, (400, OWNERS)))
    noise = draw.normal(0, 10.0, 400)
    got = ours(job(quantile=quantile, rate=rate), norms, noise)
    assert got == pytest.approx(algorithm_1(norms, noise, 0.1, rate, quantile), rel=1e-9)
    assert np.mean(got[-100:]) == pytest.approx(np.quantile(norms, quantile), rel=0.12)


def test_it_ends_at_the_most_that_owners_agreed_to() -> None:
    norms = np.full((60, 20), 100.0)
    got = ours(job(clip=2.5), norms, np.zeros(60))
    assert (got[-1], max(got)) == (2.5, 2.5)
    adaptive = private().adaptive
    assert adaptive is not None
    assert next_clip(adaptive, 1.0, 1e9, 2.0) == 2.0 * 2.0**-40  # noise alone leaves a clip
    assert next_clip(adaptive, 1.0, -1e9, 2.0) == 2.0


# --- what it costs: nothing ---


@pytest.mark.parametrize("clip", [1e-6, 0.013, 0.9, 1.0, 7.7])
@pytest.mark.parametrize(("multiplier", "asked"), [(1.0, 10.0), (4.0, 4.0), (0.3, 55.0)])
def test_the_noise_is_split_as_in_the_paper(clip: float, multiplier: float, asked: float) -> None:
    """One multiplier for what an owner gives as a whole, z_Δ for its update, sigma_b for its bit."""
    work = work_of(job(multiplier=multiplier, count_noise=asked), "train", clip)
    assert (work.clip, work.mechanism and work.mechanism.centred) == (clip, True)
    assert work.mechanism is not None
    noise = work.mechanism.noise(44)
    assert noise.sigma / noise.sensitivity == pytest.approx(multiplier, rel=1e-6)
    sigma = math.ldexp(noise.sigma, -44)
    count_noise = sigma / work.layout.scale
    assert asked * 0.999 <= count_noise <= 2.02 * asked or work.layout.scale == 2.0 ** math.floor(
        math.log2(max(clip, 1))
    )
    assert sigma / clip == pytest.approx(update_multiplier(multiplier, count_noise), rel=1e-4)
    assert 1 / multiplier**2 == pytest.approx(clip**2 / sigma**2 + 1 / (2 * count_noise) ** 2, rel=1e-4)


def test_the_accounting_is_that_of_a_fixed_clip() -> None:
    """By construction: no owner is further than the sensitivity from a public point, whatever the clip, and whether clipped."""
    fixed = sf.Privacy(delta=1e-5, noise_multiplier=2.0)
    assert spent(private(2.0), 1, 1) == spent(fixed, 1, 1)
    for clip in (0.02, 1.0, 5.0):
        work = work_of(job(), "train", clip)
        assert work.mechanism is not None
        noise = work.mechanism.noise(30)
        words = []
        for payload in ([clip, 0.0], [-1e6, 0.0], [0.0, clip], [0.0, 0.0]):
            numbers = work.numbers(owners=3, k_min=3, aggregators=2, ring_bits=64)
            fixed_point = type(numbers.fixed_point)(numbers.fixed_point.ring, 30)
            vector = assemble(np.array(payload), 1.0, {}, layout=work.layout, clip=work.clip, mode=work.mode)
            words.append(vector.encode(fixed_point))
            check_norm(words[-1], fixed_point.ring, noise)
        apart = max(float(np.linalg.norm((a - b).astype(np.int64))) for a in words for b in words)
        assert 1.9 * noise.sensitivity < apart <= 2 * noise.sensitivity
        longer, heavier = words[0].copy(), words[0].copy()
        longer[1] += np.uint64(noise.sensitivity // 4)
        heavier[-2] += np.uint64(noise.sensitivity)  # a weight that is not 1 is no longer public
        for wrong in (longer, heavier):
            with pytest.raises(CapacityExceeded, match="longer than the sensitivity"):
                check_norm(wrong, fixed_point.ring, noise)


def test_owners_take_a_manifest_s_clip_up_to_their_own() -> None:
    of = job(clip=4.0)
    data = encode_job(of)
    assert decode_job(data) == of
    expected = [expected_of(data, of, 0, COHORT, clip).clip for clip in (0.5, 4.0, 4.1, math.nan, -1.0, 0.0, None)]
    assert expected == [0.5, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]  # and a manifest that says another is refused
    fixed = train(privacy=sf.Privacy(delta=1e-5, noise_multiplier=1.0), clip=4.0, strategy=EQUAL)
    assert expected_of(encode_job(fixed), fixed, 0, COHORT, 0.5).clip == 4.0
    assert expected_of(data, of, 0, COHORT, 0.5).mechanism == work_of(of, "train", 0.5).mechanism


# --- refusals ---


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"privacy": private(initial=9.0)}, r"begins at 9, above clip=8, .* give a larger clip or a smaller initial"),
        ({"privacy": private(3.0, count_noise=2.0)}, "count_noise=2 is below the noise multiplier 3"),
        ({"strategy": FedAvg()}, "weights='equal'"),
        ({"compression": Compression(bits=8)}, "no adaptive clip with compression="),
    ],
)
def test_nonsense_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        check_adaptive(train(**{"privacy": private(), "clip": 8.0, "strategy": EQUAL} | fields))


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"initial": 0.0}, "initial must be above 0"),
        ({"count_noise": -1.0}, "count_noise must be above 0"),
        ({"rate": 11.0}, "rate must be above 0, and at most 10"),
        ({"quantile": 1.5}, "quantile must be 0 to 1"),
        ({"quantile": math.nan}, "quantile must be 0 to 1"),
    ],
)
def test_options_out_of_range_are_refused(how: dict[str, float], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        private(**how)


def test_it_goes_with_training_alone() -> None:
    check_adaptive(train())
    check_adaptive(train(privacy=sf.Privacy(delta=1e-5, noise_multiplier=1.0)))
    check_adaptive(job())
    with pytest.raises(BadInput, match="goes with training, not with aggregates"):
        aggregate(privacy=private())
    with pytest.raises(BadInput, match="more than half of the noise multiplier"):
        count_tail(4.0, 2.0, 1.0)
    with pytest.raises(CapacityExceeded, match="the count of clipped owners does not fit"):
        Mechanism(1.0, 1.0, -20, 4, centred=True).noise(20)
