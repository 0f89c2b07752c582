"""What releases cost: the researcher's figures are dp-accounting's own, and owners' ledgers agree with them."""

from __future__ import annotations

import math
import sys

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant

from smpc_fl.errors import BadInput, Unavailable
from smpc_fl.jobs import Privacy
from smpc_fl.privacy.accounting import calibrated, cost, cost_of, delta_of, epsilon_of, spent


@pytest.mark.parametrize(("multiplier", "releases", "delta"), [(4.0, 20, 1e-5), (30.0, 500, 1e-8)])
def test_epsilon_is_that_of_dp_accounting(multiplier: float, releases: int, delta: float) -> None:
    book = PLDAccountant(dp_accounting.NeighboringRelation.REPLACE_ONE)
    book.compose(dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(multiplier), releases))
    own = spent(Privacy(delta=delta, noise_multiplier=multiplier), 3, releases)
    assert own.epsilon == book.get_epsilon(delta)
    assert own.epsilon == pytest.approx(epsilon_of(cost(multiplier, releases), delta), rel=1e-6)
    assert (own.delta, own.unit, own.rounds, own.releases, own.noise_multiplier) == (
        delta,
        "owner",
        3,
        releases,
        multiplier,
    )
    assert f"ε = {own.epsilon:.3f} at δ = {delta:g} for each owner, after 3 rounds" in str(own)


def test_little_noise_costs_much_and_is_counted_all_the_same() -> None:
    """With the accountant's own grid that takes minutes, and all memory."""
    own = spent(Privacy(delta=1e-5, noise_multiplier=0.02), 3, 3)
    assert own.epsilon == pytest.approx(epsilon_of(cost(0.02, 3), 1e-5), rel=1e-3)
    assert own.epsilon > 10_000


def test_nothing_released_costs_nothing() -> None:
    assert spent(Privacy(delta=1e-5, noise_multiplier=1.0), 0, 0).epsilon == 0
    assert epsilon_of(0.0, 1e-5) == 0
    assert epsilon_of(cost(1e6), 1e-3) == 0  # δ alone pays for it
    assert epsilon_of(cost(1e-6), 1e-5) == math.inf


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 4.0, 100.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-6, 1e-12])
def test_budget_and_cost_are_inverse(epsilon: float, delta: float) -> None:
    most = cost_of(epsilon, delta)
    assert epsilon_of(most, delta) == pytest.approx(epsilon, rel=1e-6)
    assert delta_of(most, epsilon) <= delta < delta_of(most * (1 + 1e-6), epsilon)


def test_delta_neither_overflows_nor_vanishes() -> None:
    """Against the formula as it stands in the paper, where float64 bears it; and far beyond, within (0, 1)."""
    for mu, epsilon in ((1.0, 0.5), (0.1, 0.01), (5.0, 20.0)):
        phi = [math.erfc(-x / math.sqrt(2)) / 2 for x in (mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu)]
        assert delta_of(mu**2, epsilon) == pytest.approx(phi[0] - math.exp(epsilon) * phi[1], rel=1e-9)
    assert 0 < delta_of(100.0**2, 6000.0) < 1e-10
    assert 0.4 < delta_of(100.0**2, 5000.0) < 0.5


@pytest.mark.parametrize(("epsilon", "releases"), [(4.0, 50), (0.5, 1)])
def test_a_multiplier_is_found_for_an_epsilon(epsilon: float, releases: int) -> None:
    found = calibrated(Privacy(delta=1e-6, epsilon=epsilon), releases)
    assert found.epsilon is None
    assert found.noise_multiplier is not None
    assert epsilon * 0.998 < spent(found, releases, releases).epsilon <= epsilon
    assert calibrated(found, 7) is found


def test_what_cannot_be_calibrated_or_counted_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="number of rounds"):
        calibrated(Privacy(delta=1e-6, epsilon=1.0), 0)
    with pytest.raises(BadInput, match=r"takes an sf.Privacy"):
        calibrated("much", 1)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(Unavailable, match="smpc-fl\\[privacy\\]"):
        spent(Privacy(delta=1e-6, noise_multiplier=1.0), 1, 1)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"delta": 1e-5}, "either noise_multiplier= or epsilon="),
        ({"delta": 1e-5, "noise_multiplier": 1.0, "epsilon": 1.0}, "either noise_multiplier= or epsilon="),
        ({"delta": 0.0, "epsilon": 1.0}, "delta must be above 0"),
        ({"delta": 1e-5, "noise_multiplier": math.nan}, "noise_multiplier must be above 0"),
        ({"delta": 1e-5, "epsilon": 2e3}, "epsilon must be above 0, and at most 1000"),
    ],
)
def test_privacy_that_says_nothing_is_refused(fields: dict[str, float], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        Privacy(**fields)  # type: ignore[arg-type]
