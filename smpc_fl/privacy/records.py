"""Privacy of each record, by noise at its owner: which jobs may promise it, and what it costs.

Neighbouring tables differ by one record more or less. All that leaves an owner of its training rows is its update, which is
made of sums of clipped gradients over secret Poisson samples, with Gaussian noise; whatever else would tell of them (loss,
weights by rows, metrics) stays at home. The rate at which rows are drawn is in the job, not the size of lots: so the cost is the
same at every owner, and neither a report nor a refusal tells how many rows one has. Costs are the word of `dp-accounting`
(privacy loss distributions of the Poisson-sampled Gaussian).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from smpc_fl.errors import BadInput
from smpc_fl.jobs import AggregateJob, Job, LocalTraining, RecordPrivacy, TrainJob
from smpc_fl.learning.strategy import trains_once
from smpc_fl.plans.document import decode_document
from smpc_fl.plans.update_document import update_of
from smpc_fl.privacy.accounting import Spent, cost_of, dp_accounting_with, epsilon_of

ACCOUNTANT = "dp-accounting, PLD, add or remove one"
MOST_STEPS = 1_000_000
"""Of one owner in one round."""
_MIXING = "aten.batch_norm.default"


# --- which jobs may promise it ---


def check_job(job: TrainJob) -> None:
    """Raises `BadInput` for a job that promises privacy of each record and does not keep it."""
    privacy, held = job.local.privacy, job.evaluation
    if held is not None and held.finetune is not None and (privacy or held.finetune.privacy):
        raise BadInput("privacy of each record does not go with Evaluation(finetune=…), which trains without noise")
    if privacy is None:
        return
    if update_of(job.plan) is not None:
        raise BadInput("an update function takes no steps that could be made noisy: train a plan, or ask with privacy=")
    if job.privacy is not None:
        raise BadInput(
            "privacy= protects the owner as a whole, and so its every record: take it, or LocalTraining(privacy=…)"
        )
    if not trains_once(job.strategy):
        raise BadInput(
            f"{type(job.strategy).__name__} does more with the rows than train on them once, so it cannot keep each record "
            "private: use FedAvg, FedProx, FedBN, Scaffold, or a server optimizer"
        )
    if job.strategy.weights != "equal":
        raise BadInput(
            "privacy of each record wants weights='equal' in the strategy: weights by rows tell exactly how many there are "
            "(owners with few rows take smaller steps as it is)"
        )
    if held is not None and (not held.inputs or {held.inputs, held.targets} & {job.inputs, job.targets}):
        raise BadInput(
            "metrics carry no noise: with privacy of each record evaluate on tensors of their own, Evaluation(inputs=…, "
            "targets=…), that hold no row of the training's"
        )
    if any(node.operator == _MIXING for node in decode_document(job.plan).train.nodes):
        raise BadInput(
            "batch norm mixes the rows of a batch, so no record has a gradient of its own: use group or layer norm"
        )
    steps_of(job.local)


def steps_of(local: LocalTraining) -> int:
    """Noisy steps of one owner in one round: every row is drawn `epochs` times, on average. Raises `BadInput`."""
    assert local.privacy is not None
    steps = math.ceil(local.epochs / local.privacy.sampling_rate * (1 - 1e-9))
    if steps > MOST_STEPS:
        raise BadInput(f"{steps} steps a round are more than {MOST_STEPS}: fewer epochs, or a larger sampling_rate")
    return steps


# --- what it costs ---


class Noisy(NamedTuple):
    """A sum with Gaussian noise of `multiplier` times what one record may add to it, over rows drawn with probability `rate`."""

    multiplier: float
    rate: float = 1.0


def epsilon(times: Mapping[Noisy, int], delta: float) -> float:
    """The ε, at δ, of so many sums of each kind together. Raises `Unavailable` without dp-accounting, unless all rows were
    drawn every time."""
    squares = sum(number / noisy.multiplier**2 for noisy, number in times.items() if noisy.rate == 1)
    sampled = {noisy: number for noisy, number in times.items() if noisy.rate < 1 and number}
    if not sampled:
        return epsilon_of(squares, delta)
    largest = max(epsilon_of(noisy.multiplier**-2, delta) for noisy in sampled)  # of one sum, in which the record is
    dp, book = dp_accounting_with("ADD_OR_REMOVE_ONE", largest)
    for noisy, number in sorted(sampled.items()):
        book.compose(dp.PoissonSampledDpEvent(noisy.rate, dp.GaussianDpEvent(noisy.multiplier)), number)
    if squares:
        book.compose(dp.GaussianDpEvent(1 / math.sqrt(squares)))
    return float(book.get_epsilon(delta))


def price(job: Job, sums: int = 1) -> Counter[Noisy]:
    """What so many noisy sums of a job (of one with privacy for each record: rounds of training) let out of a record; nothing
    for a job without noise, which has no bound."""
    if job.privacy is not None:
        assert job.privacy.noise_multiplier is not None
        # A record more or less makes the owner's vector any other within its norm.
        return Counter({Noisy(job.privacy.noise_multiplier / 2): sums})
    if isinstance(job, AggregateJob) or job.local.privacy is None:
        return Counter()
    return Counter({_noisy(job.local.privacy): sums * steps_of(job.local)})


def spent(local: LocalTraining, rounds: int) -> Spent:
    """What so many rounds with this noise cost each record of an owner that was in all of them. Raises `Unavailable`."""
    privacy = local.privacy
    assert privacy is not None
    noisy, steps = _noisy(privacy), rounds * steps_of(local)
    cost = epsilon({noisy: steps}, privacy.delta)
    return Spent(
        cost, privacy.delta, privacy.unit, rounds, steps, noisy.multiplier, ACCOUNTANT, sampling_rate=noisy.rate
    )


def calibrated(local: LocalTraining, rounds: int) -> LocalTraining:
    """The same with a noise multiplier: the smallest one, to 3 digits, with which so many rounds cost no more than its ε.

    Raises `Unavailable` without dp-accounting, `BadInput`."""
    privacy = local.privacy
    if privacy is None or privacy.epsilon is None:
        return local
    if rounds < 1:
        raise BadInput("privacy with epsilon= needs a number of rounds to share it out among; or say noise_multiplier=")
    most, delta, rate, steps = privacy.epsilon, privacy.delta, privacy.sampling_rate, rounds * steps_of(local)

    def over(multiplier: float) -> float:
        """log(cost / what it may be), which is nearly a straight line over log(multiplier)."""
        return math.log(max(epsilon({Noisy(multiplier, rate): steps}, delta), 1e-9) / most)

    # Every look takes a while, so it is the regula falsi, from what Rényi divergences, which are cheap, allow (Mironov 2017).
    high = _by_renyi(most, delta, rate, steps)
    low = high * 0.8
    while (above := over(low)) <= 0:
        low, high = low * 0.7, low
    below = over(high)
    while high > low * 1.001:
        middle = low * (high / low) ** min(max(above / (above - below), 0.02), 0.98)
        at_middle = over(middle)
        if at_middle <= 0:
            high, below, above = middle, at_middle, above / 2
        else:
            low, above, below = middle, at_middle, below / 2
    digits = 10.0 ** (3 - math.floor(math.log10(high)))
    found = msgspec.structs.replace(privacy, epsilon=None, noise_multiplier=math.ceil(high * digits) / digits)
    return msgspec.structs.replace(local, privacy=found)


def _by_renyi(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """A noise multiplier that is enough, and not by much."""
    if rate == 1:
        return math.sqrt(steps / cost_of(epsilon, delta)) * (1 + 1e-9)
    dp, _ = dp_accounting_with("ADD_OR_REMOVE_ONE", epsilon)
    from dp_accounting.rdp import RdpAccountant

    found = dp.calibrate_dp_mechanism(
        lambda: RdpAccountant(range(2, 257)),
        lambda multiplier: dp.SelfComposedDpEvent(
            dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(multiplier)), steps
        ),
        epsilon,
        delta,
        dp.LowerEndpointAndGuess(0.0, 1.0),
    )
    return float(found)


def _noisy(privacy: RecordPrivacy) -> Noisy:
    assert privacy.noise_multiplier is not None
    return Noisy(privacy.noise_multiplier, privacy.sampling_rate)
