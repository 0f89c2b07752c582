"""A clip that follows a quantile of the update norms: Andrew, Thakkar, McMahan and Ramaswamy, "Differentially Private Learning
with Adaptive Clipping", NeurIPS 2021, Algorithm 1.

Every owner's vector says whether its update was clipped; the noisy sum of that gives the fraction b of owners whose update was
not, and the next clip is C · exp(-rate · (b - quantile)). What an owner gives in a round is [Δ ‖ s · flag]: |Δ| <= C, and the
flag is s / 2 at most from its middle, so it is within L = sqrt(C² + s²/4) of a public point. One noise of sigma = z · L is in
all slots: z_Δ = sigma / C times the clip on the update, and sigma_b = sigma / s owners on the count, so

    z_Δ = (z^-2 - (2 sigma_b)^-2)^(-1/2),        theorem 1 of the paper,

and the round is a Gaussian mechanism of multiplier z, whatever C is and wherever it came from: the accounting is that of a fixed
clip. Any clip up to the job's is as private; one that does not follow this rule only learns less well.
"""

from __future__ import annotations

import math

from smpc_fl.errors import BadInput
from smpc_fl.jobs import AdaptiveClip, Privacy, TrainJob

_LEAST = 2.0**-40
"""Of the largest clip: a clip never gets smaller."""


def update_multiplier(multiplier: float, count_noise: float) -> float:
    """z_Δ, for a noise multiplier z of the whole and sigma_b owners of noise in the count. Raises `BadInput` where that
    little would cost more than the whole."""
    left = 1 / (multiplier * multiplier) - 1 / (4 * count_noise * count_noise)
    if not left > 0:
        raise BadInput("privacy: count_noise must be more than half of the noise multiplier")
    return 1 / math.sqrt(left)


def count_tail(multiplier: float, count_noise: float, clip: float) -> int:
    """The exponent of s, a power of two, with which the noise of the count is `count_noise` owners, or up to twice as many."""
    # Products, quotients and square roots round alike on every machine, and so do all nodes come to one exponent.
    s = update_multiplier(multiplier, count_noise) * clip / count_noise
    return math.frexp(min(s, max(clip, 1.0)))[1] - 1


def next_clip(adaptive: AdaptiveClip, clip: float, unclipped: float, most: float) -> float:
    """After a round with `clip`, in which this fraction of the owners (noisy: maybe below 0 or above 1) was not clipped; at most
    `most`."""
    # Noise alone may be far outside; a step of e^±700 would leave the floats.
    step = min(max(-adaptive.rate * (unclipped - adaptive.quantile), -700.0), 700.0)
    return min(max(clip * math.exp(step), most * _LEAST), most)


def adaptive_of(privacy: Privacy | None) -> AdaptiveClip | None:
    return None if privacy is None else privacy.adaptive


def first_clip(job: TrainJob) -> float:
    """Of the first round: the job's, or where it adapts the first one that it names."""
    adaptive = adaptive_of(job.privacy)
    return job.clip if adaptive is None else adaptive.initial


def check_adaptive(job: TrainJob) -> None:
    """Raises `BadInput` for a job whose clip cannot follow its updates."""
    adaptive = adaptive_of(job.privacy)
    if adaptive is None:
        return
    assert job.privacy is not None
    assert job.privacy.noise_multiplier is not None
    if adaptive.initial > job.clip:
        raise BadInput(
            f"privacy: the adaptive clip begins at {adaptive.initial:g}, above clip={job.clip:g}, which is the most that it may "
            "become: give a larger clip or a smaller initial="
        )
    if adaptive.count_noise < job.privacy.noise_multiplier:
        raise BadInput(
            f"privacy: count_noise={adaptive.count_noise:g} is below the noise multiplier {job.privacy.noise_multiplier:g}, so "
            "the count would cost more than the update: give more (a twentieth of the owners is usual), or less noise"
        )
    if job.strategy.weights != "equal":
        raise BadInput("an adaptive clip counts owners: use a strategy with weights='equal'")
    if job.compression is not None:
        raise BadInput("compressed updates have a scale that is fixed with the job: no adaptive clip with compression=")
