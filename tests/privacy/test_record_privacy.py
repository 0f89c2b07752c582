"""Which jobs may promise privacy of each record, and what it costs: dp-accounting's own figures."""

from __future__ import annotations

import sys
from typing import Any

import dp_accounting
import msgspec
import pytest
from dp_accounting.pld import PLDAccountant
from test_work import PLAN, aggregate, train

import smpc_fl as sf
from smpc_fl.errors import BadInput, MalformedMessage, Unavailable
from smpc_fl.jobs import Evaluation, LocalTraining, Privacy, RecordPrivacy, TrainJob, decode_job, encode_job
from smpc_fl.learning.strategies import Ditto, FedAdam, FedAvg, FedBN, FedProx, FedSGD, QFedAvg, Scaffold
from smpc_fl.plans.document import Part
from smpc_fl.plans.update_document import UpdateDocument, encode_update
from smpc_fl.privacy import records
from smpc_fl.privacy.accounting import cost, epsilon_of
from smpc_fl.privacy.records import Noisy, calibrated, check_job, epsilon, price, spent, steps_of
from smpc_fl.protocols.work import work_of

PRIVACY = RecordPrivacy(delta=1e-5, sampling_rate=0.1, noise_multiplier=2.0)
EQUAL = FedAvg(weights="equal")

UPDATE = encode_update(UpdateDocument("ridge", 1, [Part("w", [2], "parameter")], ["x", "y"], {}, []))


def local(epochs: int = 1, **privacy: Any) -> LocalTraining:
    return LocalTraining(epochs=epochs, privacy=msgspec.structs.replace(PRIVACY, **privacy))


def a_job(**fields: Any) -> TrainJob:
    return train(**{"local": local(), "strategy": EQUAL, **fields})


# --- which jobs ---


@pytest.mark.parametrize(
    "strategy", [EQUAL, FedProx(weights="equal"), FedBN(weights="equal"), FedAdam(weights="equal"), Scaffold()]
)
def test_strategies_that_train_once_may_promise_it(strategy: Any) -> None:
    check_job(a_job(strategy=strategy))
    check_job(a_job(strategy=strategy, evaluation=Evaluation(inputs="tx", targets="ty")))


class Curious(FedAvg, frozen=True, tag=True):
    """Looks at the rows itself."""

    def local(self, owner: Any) -> Any: ...


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"strategy": FedAvg()}, "weights='equal' in the strategy"),
        *(({"strategy": s}, "does more with the rows") for s in (FedSGD(), Ditto(), QFedAvg(), Curious(weights="equal"))),
        ({"privacy": Privacy(delta=1e-5, noise_multiplier=1.0)}, "protects the owner as a whole"),
        ({"evaluation": Evaluation(fraction=0.2)}, "metrics carry no noise"),
        ({"evaluation": Evaluation(inputs="x", targets="ty")}, "metrics carry no noise"),
        ({"evaluation": Evaluation(inputs="t", targets="u", finetune=LocalTraining())}, "trains without noise"),
        ({"plan": PLAN.replace(b"aten.linear.default", b"aten.batch_norm.default")}, "use group or layer norm"),
        ({"plan": UPDATE}, "an update function takes no steps"),
        ({"local": local(10_000, sampling_rate=1e-3)}, "10000000 steps a round are more than 1000000"),
    ],
)  # fmt: skip
def test_jobs_that_would_not_keep_the_promise_are_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        check_job(a_job(**fields))


def test_finetuning_makes_no_promise_of_its_own() -> None:
    check_job(train(evaluation=Evaluation(fraction=0.2, finetune=LocalTraining())))
    with pytest.raises(BadInput, match="finetune"):
        check_job(train(evaluation=Evaluation(fraction=0.2, finetune=local())))


def test_a_job_carries_it_and_its_loss_stays_at_home() -> None:
    job = a_job()
    assert decode_job(encode_job(job)).local.privacy == PRIVACY  # type: ignore[union-attr]
    assert work_of(job, "train").layout.metrics == ()
    assert work_of(train(), "train").layout.metrics == ("loss",)
    assert work_of(job, "train").subject != work_of(train(strategy=EQUAL), "train").subject
    with pytest.raises(BadInput, match="an epsilon is turned into one"):
        a_job(local=LocalTraining(privacy=RecordPrivacy(delta=1e-5, sampling_rate=0.1, epsilon=1.0)))
    with pytest.raises((BadInput, MalformedMessage)):
        decode_job(encode_job(job).replace(b"record\x00"[:6], b"office"))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"noise_multiplier": None}, "either noise_multiplier= or epsilon="),
        ({"delta": 1.5}, "delta must be above 0"),
        ({"sampling_rate": 0.0}, "sampling_rate must be 1e-06 to 1"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm must be 1e-06 to 1e"),
    ],
)
def test_privacy_out_of_range_is_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        RecordPrivacy(**{"delta": 1e-5, "sampling_rate": 0.1, "noise_multiplier": 1.0, **fields})


# --- what it costs ---


@pytest.mark.parametrize(("multiplier", "rate", "steps", "delta"), [(4.0, 0.1, 30, 1e-5), (8.0, 0.5, 400, 1e-6)])
def test_epsilon_for_records_is_that_of_dp_accounting(multiplier: float, rate: float, steps: int, delta: float) -> None:
    book = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    each = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier))
    book.compose(dp_accounting.SelfComposedDpEvent(each, steps))
    own = spent(local(noise_multiplier=multiplier, sampling_rate=rate, delta=delta), round(steps * rate))
    assert own.epsilon == book.get_epsilon(delta)
    assert (own.unit, own.releases, own.sampling_rate, own.accountant) == ("record", steps, rate, records.ACCOUNTANT)
    assert f"for each record, after {round(steps * rate)} rounds ({steps} steps at sampling rate {rate:g}," in str(own)


def test_without_sampling_it_is_the_gaussian_in_closed_form() -> None:
    whole = spent(local(sampling_rate=1.0), 6)
    book = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    book.compose(dp_accounting.GaussianDpEvent(2.0), 6)
    assert whole.epsilon == pytest.approx(book.get_epsilon(1e-5), rel=1e-5)
    assert epsilon({}, 1e-5) == epsilon({Noisy(2.0, 0.1): 0}, 1e-5) == 0


def test_kinds_of_noise_add_up() -> None:
    """Sampling saves a lot, and what is composed costs more than its parts."""
    sampled, whole = {Noisy(4.0, 0.1): 30}, {Noisy(8.0): 3}
    together = epsilon({**sampled, **whole}, 1e-5)
    book = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    book.compose(dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(4.0)), 30)
    book.compose(dp_accounting.GaussianDpEvent(8.0), 3)
    assert together == pytest.approx(book.get_epsilon(1e-5), rel=1e-3)
    assert max(epsilon(sampled, 1e-5), epsilon(whole, 1e-5)) < together
    assert epsilon(sampled, 1e-5) < epsilon({Noisy(4.0): 30}, 1e-5) / 3


def test_prices() -> None:
    assert price(a_job(local=local(2)), 3) == {Noisy(2.0, 0.1): 60}
    assert price(train()) == price(aggregate()) == {}
    noisy = Privacy(delta=1e-5, noise_multiplier=4.0)
    assert price(train(privacy=noisy), 3) == {Noisy(2.0): 3}
    # A record costs no more than its owner.
    assert epsilon(price(aggregate(privacy=noisy)), 1e-5) == pytest.approx(epsilon_of(cost(4.0, 1), 1e-5))
    assert [
        steps_of(local(epochs, sampling_rate=rate)) for epochs, rate in ((1, 0.1), (3, 0.3), (1, 0.3), (2, 1.0))
    ] == [10, 10, 4, 2]


@pytest.mark.parametrize(("most", "rate", "off"), [(0.5, 0.02, 1.7), (0.5, 1.0, 1.0)])
def test_a_multiplier_for_records_is_found(
    most: float, rate: float, off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from a guess that is far `off`."""
    guess = records._by_renyi
    monkeypatch.setattr(records, "_by_renyi", lambda *about: off * guess(*about))
    asked = LocalTraining(privacy=RecordPrivacy(delta=1e-5, sampling_rate=rate, epsilon=most))
    found = calibrated(asked, 10)
    assert found.privacy is not None
    assert (found.privacy.epsilon, found.privacy.max_grad_norm) == (None, 1.0)
    assert most * 0.99 < spent(found, 10).epsilon <= most
    assert calibrated(found, 10) is found
    assert calibrated(LocalTraining(), 1) == LocalTraining()
    with pytest.raises(BadInput, match="number of rounds"):
        calibrated(asked, 0)


def test_without_dp_accounting_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(Unavailable, match="smpc-fl\\[privacy\\]"):
        spent(local(), 1)
    assert sf.RecordPrivacy is RecordPrivacy
