"""What releases with Gaussian noise cost together: (ε, δ), for neighbours that differ in all of one owner's data.

The cohort is fixed and public, so nothing is amplified, and neighbouring federations replace one owner's contribution by
any other within the same clip: it moves the sum by up to twice the sensitivity. With noise multiplier z a release is μ-GDP,
μ = 2 / z, and releases compose exactly: their μ² add up, also where later ones depend on earlier ones (Dong, Roth and Su,
"Gaussian Differential Privacy", JRSS-B 2022, corollary 3.3). The closed form of a Gaussian's (ε, δ) (Balle and Wang, ICML
2018, theorem 8) is what owners keep their ledgers by; what a researcher is told is the word of `dp-accounting` (privacy loss
distributions), which agrees with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec import structs

from smpc_fl.errors import BadInput, Unavailable
from smpc_fl.jobs import Privacy

if TYPE_CHECKING:
    from types import ModuleType

ACCOUNTANT = "dp-accounting, PLD, replace one"
_MOST_EPSILON = 1e6


@dataclass(frozen=True)
class Spent:
    """What `releases` noisy sums of a run have cost so far: (`epsilon`, `delta`)-differential privacy for each `unit` as a
    whole, by whose word (`accountant`). For records: steps of local training, over rows drawn at `sampling_rate`."""

    epsilon: float
    delta: float
    unit: str
    rounds: int
    releases: int
    noise_multiplier: float
    accountant: str = ACCOUNTANT
    sampling_rate: float | None = None

    def __str__(self) -> str:
        sums = f"{self.releases} releases"
        if self.sampling_rate is not None:
            sums = f"{self.releases} steps at sampling rate {self.sampling_rate:g}"
        return (
            f"ε = {self.epsilon:.3f} at δ = {self.delta:g} for each {self.unit}, after {self.rounds} rounds "
            f"({sums}, noise multiplier {self.noise_multiplier:g}; {self.accountant})"
        )


# --- in closed form ---


def cost(noise_multiplier: float, releases: int = 1) -> float:
    """μ² of so many releases; costs add up."""
    return releases * (2.0 / noise_multiplier) ** 2


def delta_of(cost: float, epsilon: float) -> float:
    """The smallest δ at ε: Φ(μ/2 - ε/μ) - e^ε Φ(-μ/2 - ε/μ)."""
    mu = math.sqrt(cost)
    above, below = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    # e^ε Φ(-below) = φ(above) · (Φ(-below) / φ(below)): neither factor overflows.
    return _upper(above) - math.exp(-above * above / 2) * _scaled_upper(below)


def epsilon_of(cost: float, delta: float) -> float:
    """The smallest ε at δ, rounded up in the last digits; 0 for no cost."""
    if cost <= 0 or delta_of(cost, 0.0) <= delta:
        return 0.0
    if delta_of(cost, _MOST_EPSILON) > delta:
        return math.inf
    return _bisect(lambda epsilon: delta_of(cost, epsilon) > delta, 0.0, _MOST_EPSILON)[1]


def cost_of(epsilon: float, delta: float) -> float:
    """The most that (ε, δ) pays for: the inverse of `epsilon_of`, rounded down in the last digits."""
    return _bisect(lambda cost: delta_of(cost, epsilon) <= delta, 1e-12, 1e6)[0]


def _bisect(holds: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
    """Neighbouring numbers, about: it holds at the first, as at all below, and not at the second."""
    while (middle := (low + high) / 2) not in (low, high) and high - low > 1e-13 * high:
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low, high


def _upper(x: float) -> float:
    """P(N(0, 1) > x)."""
    return math.erfc(x / math.sqrt(2)) / 2


def _scaled_upper(x: float) -> float:
    """P(N(0, 1) > x) · exp(x² / 2), for x >= 0."""
    if x < 25:
        return _upper(x) * math.exp(x * x / 2)
    return (1 - 1 / x**2 + 3 / x**4 - 15 / x**6) / (x * math.sqrt(2 * math.pi))


# --- by dp-accounting ---


def spent(privacy: Privacy, rounds: int, releases: int) -> Spent:
    """What so many releases with this job's noise cost. Raises `Unavailable` without dp-accounting."""
    assert privacy.noise_multiplier is not None
    epsilon = 0.0
    if releases:
        size = epsilon_of(cost(privacy.noise_multiplier, releases), privacy.delta)
        dp, book = dp_accounting_with("REPLACE_ONE", size)
        book.compose(dp.GaussianDpEvent(privacy.noise_multiplier), releases)
        epsilon = float(book.get_epsilon(privacy.delta))
    return Spent(epsilon, privacy.delta, privacy.unit, rounds, releases, privacy.noise_multiplier)


def calibrated(privacy: Privacy, releases: int) -> Privacy:
    """The same with a noise multiplier: the smallest one, to 4 digits, with which so many releases cost no more than its ε.

    Raises `Unavailable` without dp-accounting, `BadInput`."""
    if not isinstance(privacy, Privacy):
        raise BadInput("privacy= takes an sf.Privacy(delta=…, noise_multiplier=… or epsilon=…)")
    if privacy.epsilon is None:
        return privacy
    if releases < 1:
        raise BadInput("privacy with epsilon= needs a number of rounds to share it out among; or say noise_multiplier=")
    most = privacy.epsilon
    dp, _ = dp_accounting_with("REPLACE_ONE", most)
    guess = math.sqrt(cost(1.0, releases) / cost_of(most, privacy.delta))
    found = dp.calibrate_dp_mechanism(
        lambda: dp_accounting_with("REPLACE_ONE", most)[1],
        lambda multiplier: dp.SelfComposedDpEvent(dp.GaussianDpEvent(multiplier), releases),
        most,
        privacy.delta,
        dp.ExplicitBracketInterval(0.9 * guess, 1.1 * guess),
    )
    digits = 10.0 ** (3 - math.floor(math.log10(found)))
    return structs.replace(privacy, epsilon=None, noise_multiplier=math.ceil(found * digits) / digits)


def dp_accounting_with(neighbours: str, epsilon: float) -> tuple[ModuleType, Any]:
    """The package, and an empty book of its PLD accountant for this relation and for losses of about this size: with its own
    grid, 10^-4, unless that would have millions of points. Takes seconds to import, so only when it is asked."""
    try:
        import dp_accounting
        from dp_accounting.pld import PLDAccountant
    except ImportError:
        raise Unavailable("privacy accounting needs dp-accounting: pip install 'smpc-fl[privacy]'") from None
    grid = max(1e-4, 1e-6 * min(epsilon, _MOST_EPSILON))
    relation = dp_accounting.NeighboringRelation[neighbours]
    return dp_accounting, PLDAccountant(relation, value_discretization_interval=grid)
