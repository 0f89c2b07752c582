"""The interface of strategies: a user's own, and what is refused."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

import smpc_fl as sf
from smpc_fl.errors import BadInput, MalformedMessage, NotFinite, ShapeMismatch
from smpc_fl.jobs import TrainJob, decode_job, encode_job
from smpc_fl.learning import strategy as strategies
from smpc_fl.learning.server import Server, serve, shown_of
from smpc_fl.learning.shared import shared_of
from smpc_fl.learning.strategy import About, Strategy, same_numbers
from smpc_fl.learning.training import train_locally
from smpc_fl.nodes.training_job import training_job
from smpc_fl.protocols.work import participants, subject_of

X = torch.randn(90, 4, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] > 0).long()
OWNERS = {
    name: {"x": X[n * 30 : (n + 1) * 30], "y": Y[n * 30 : (n + 1) * 30]} for n, name in enumerate(("ann", "ben", "cai"))
}


@sf.register_strategy
class Halves(sf.FedAvg, frozen=True, tag=True):
    """A user's: half the step of the round before is made again."""

    memory: float = 0.5

    SERVER: ClassVar[frozenset[str]] = sf.FedAvg.SERVER | {"memory"}

    def keeps(self) -> dict[str, float]:
        return {"last": 0.0}

    def step(self, mean: Any, kept: Any, about: About) -> Any:
        kept["last"][:] = mean["update"] + self.memory * kept["last"]
        return kept["last"]


@functools.cache
def plan() -> sf.Plan:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return sf.Plan.from_module(nn.Linear(4, 2), example=(X[:4], Y[:4]))


def job(**options: Any) -> TrainJob:
    common: dict[str, Any] = {
        "inputs": "x", "targets": "y", "rounds": 1, "local": None, "strategy": None, "evaluation": None, "stop": None,
        "clip": 10.0, "max_samples": 64, "tolerance": 1e-3, "ring_bits": None, "update_bits": None, "seed": 1,
    }  # fmt: skip
    return training_job(plan(), **{**common, **options})


def test_a_strategy_of_ones_own_runs() -> None:
    options: dict[str, Any] = {"rounds": 3, "seed": 1, "max_samples": 64, "workers": 1}
    own = sf.simulate(plan(), OWNERS, strategy=Halves(), **options).wait()
    same = sf.simulate(plan(), OWNERS, strategy=sf.FedAvgM(momentum=0.5), **options).wait()
    np.testing.assert_allclose(own.vector, same.vector, atol=1e-6)
    assert decode_job(encode_job(job(strategy=Halves(memory=0.25)))).strategy == Halves(memory=0.25)  # type: ignore[union-attr]


def test_what_is_no_strategy_is_not_registered() -> None:
    class Plain: ...

    with pytest.raises(BadInput, match="Plain is no strategy"):
        sf.register_strategy(Plain)

    with pytest.raises(BadInput, match="there is a strategy FedProx already"):

        @sf.register_strategy
        class FedProx(sf.FedAvg, frozen=True, tag=True): ...

    assert strategies.known()["FedProx"] is sf.FedProx
    assert sf.register_strategy(Halves) is Halves  # a module that is loaded again


def test_a_strategy_that_is_not_known_here_is_refused() -> None:
    data = encode_job(job(strategy=Halves()))
    with pytest.raises(MalformedMessage):
        decode_job(data.replace(b"Halves", b"Thirds"))
    with pytest.raises(msgspec.ValidationError, match=r"no strategy 'Thirds' here; there are: .*FedAvg"):
        msgspec.convert({"type": "Thirds"}, Strategy, dec_hook=strategies.decode)
    with pytest.raises(msgspec.ValidationError, match="no strategy None"):
        msgspec.convert({}, Strategy, dec_hook=strategies.decode)
    with pytest.raises(NotImplementedError):
        strategies.decode(int, 3)


def test_servers_that_differ_ask_owners_for_the_same() -> None:
    plain = same_numbers(sf.FedAvg())
    other: Strategy
    for other in (sf.FedAvg(server_lr=0.5), sf.FedAvgM(), sf.FedAdam(tau=0.1), Halves(memory=0.1)):
        assert same_numbers(other) == plain
        assert subject_of(job(strategy=other), "train") == subject_of(job(), "train")
    for other in (sf.FedAvg(weights="equal"), sf.FedProx(mu=0.1), sf.FedSGD(), sf.QFedAvg(), sf.Ditto()):
        assert same_numbers(other) != plain
        assert subject_of(job(strategy=other), "train") != subject_of(job(), "train")
    assert same_numbers(sf.FedProx(mu=0.1)) != same_numbers(sf.FedProx(mu=0.2))
    assert subject_of(job(private=["bias"]), "train") != subject_of(job(), "train")


def test_evaluations_of_owners_own_models_are_of_their_training() -> None:
    held, tuned = (
        sf.Evaluation(inputs="x", targets="y"),
        sf.Evaluation(inputs="x", targets="y", finetune=sf.LocalTraining()),
    )
    assert subject_of(job(evaluation=held), "evaluate") == subject_of(
        job(evaluation=held, strategy=sf.FedProx()), "evaluate"
    )
    assert subject_of(job(evaluation=tuned), "evaluate") != subject_of(job(evaluation=held), "evaluate")
    assert subject_of(job(evaluation=held, strategy=sf.Ditto(lam=1)), "evaluate") != subject_of(
        job(evaluation=held, strategy=sf.Ditto(lam=2)), "evaluate"
    )


def test_options_that_do_not_go_together_are_refused() -> None:
    for local in (
        sf.LocalTraining(optimizer="adam"),
        sf.LocalTraining(momentum=0.5),
        sf.LocalTraining(weight_decay=0.1),
    ):
        with pytest.raises(BadInput, match="Scaffold corrects plain gradient steps"):
            job(strategy=sf.Scaffold(), local=local)
    with pytest.raises(BadInput, match="FedSGD takes no step"):
        job(strategy=sf.FedSGD(), private=["bias"])
    with pytest.raises(BadInput, match=r"out of range.*mu"):
        job(strategy=sf.FedProx(mu=-1.0))
    with pytest.raises(BadInput, match=r"out of range.*fraction"):
        job(fraction=1.5)


class Liar(sf.FedAvg, frozen=True, tag=True):
    def local(self, owner: Any) -> Any:
        return {"update": owner.train().delta[:-1]}


class Idle(sf.FedAvg, frozen=True, tag=True):
    def local(self, owner: Any) -> Any:
        return {"update": np.zeros(owner.shared.size, np.float32)}


class Wild(sf.FedAvg, frozen=True, tag=True):
    def local(self, owner: Any) -> Any:
        return {"update": owner.train().delta * np.float32(np.inf)}


@pytest.mark.parametrize(("strategy", "error", "said"), [
    (Liar(), BadInput, "Liar does not send what it says"),
    (Idle(), BadInput, "Idle does not send what it says"),
    (Wild(), NotFinite, "what the strategy sends holds NaN or infinity"),
])  # fmt: skip
def test_strategies_that_break_their_word_are_named(strategy: Any, error: type[Exception], said: str) -> None:
    made, wanted = plan(), msgspec.structs.replace(job(), strategy=strategy)
    with pytest.raises(error, match=said), np.errstate(invalid="ignore"):
        train_locally(made, made.initial, X, Y, wanted, round_number=0, owner="ann")


def test_the_base_says_nothing() -> None:
    base: Any = Strategy()
    with pytest.raises(NotImplementedError):
        base.local(None)
    with pytest.raises(NotImplementedError):
        base.step({}, {}, None)
    adaptive: Any = sf.FedAdam.__mro__[1]
    with pytest.raises(NotImplementedError):
        adaptive().second(np.zeros(1), np.zeros(1))


def test_the_server_goes_on_from_its_vector() -> None:
    shared, strategy = shared_of(plan().data, sf.Scaffold()), sf.Scaffold()
    first = Server.from_vector(strategy, shared, plan().initial)
    assert not first.kept["control"].any()
    payload = np.arange(2.0 * shared.size)
    about = About(1, 3, 4, sf.LocalTraining(lr=0.5))
    after = serve(strategy, first, payload, shared, about, weight=2.0)
    again = Server.from_vector(strategy, shared, after.vector)
    np.testing.assert_array_equal(again.vector, after.vector)
    np.testing.assert_allclose(after.kept["control"], payload[shared.size :] / 2 * 3 / 4 / 0.5)
    model, shown = shown_of(strategy, shared, after.shown(strategy))
    np.testing.assert_array_equal(model, after.model)
    np.testing.assert_array_equal(shown["control"], after.kept["control"])
    for wrong in (after.vector[:-1], np.zeros(3, np.float32)):
        with pytest.raises(ShapeMismatch):
            Server.from_vector(strategy, shared, wrong)
        with pytest.raises(ShapeMismatch):
            shown_of(strategy, shared, wrong)
    with pytest.raises(NotFinite, match="learning rate"):
        serve(strategy, first, np.full(2 * shared.size, 1e39), shared, about, weight=1.0)


def test_a_drawn_part_trains_and_all_are_evaluated() -> None:
    owners = [f"owner-{number}" for number in range(8)]
    part = job(fraction=0.5, min_owners=3, evaluation=sf.Evaluation(inputs="x", targets="y"))
    assert len(participants(part, 0, owners, 2)) == 4
    assert participants(part, 1, owners, 2) == owners
    assert len(participants(job(fraction=0.1, min_owners=3), 0, owners, 2)) == 3
    made = sf.simulate(
        plan(), dict.fromkeys(owners, OWNERS["ann"]), rounds=3, fraction=0.5, seed=1, max_samples=64, k_min=3, workers=1
    ).wait()  # fmt: skip
    assert [len(round_.included) for round_ in made.rounds] == [4, 4, 4]
    assert len({tuple(round_.included) for round_ in made.rounds}) > 1


def test_the_rule_for_fine_tuning_is_the_global_model_and_a_few_steps_at_home() -> None:
    skewed = {
        name: {"x": tensors["x"], "y": (tensors["x"][:, n] > 0).long()}
        for n, (name, tensors) in enumerate(OWNERS.items())
    }
    tuned = sf.Evaluation(inputs="x", targets="y", every=4, finetune=sf.LocalTraining(epochs=20, lr=0.5))
    run = sf.simulate(plan(), skewed, rounds=4, evaluation=tuned, seed=1, max_samples=64, workers=1).wait()
    metrics = run.rounds[-1].metrics
    assert metrics["personal_accuracy"] > metrics["val_accuracy"] + 0.1
    held, local = sf.Evaluation(inputs="x", targets="y"), sf.LocalTraining(epochs=4, lr=0.5)
    heads = sf.simulate(
        plan(), skewed, rounds=8, private=["weight"], seed=1, max_samples=64, workers=1, local=local, evaluation=held
    ).wait()  # fmt: skip
    assert heads.rounds[-1].metrics["val_accuracy"] > metrics["val_accuracy"] + 0.1, "each is judged by its own"
    np.testing.assert_array_equal(
        plan().layout.unflatten(heads.vector)["weight"], plan().layout.unflatten(plan().initial)["weight"]
    )


def test_gradients_have_nothing_to_say_about_statistics() -> None:
    """SCAFFOLD and q-FedAvg work on parameters; batch norm's statistics are averaged as they are."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        norm = sf.Plan.from_module(
            nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)), example=(X[:4], Y[:4])
        )
    for strategy in (sf.Scaffold(), sf.QFedAvg(q=0.5)):
        run = sf.simulate(
            norm, OWNERS, rounds=2, strategy=strategy, seed=1, max_samples=64, clip=100.0, workers=1
        ).wait()
        assert abs(run.model.state_dict()["1.running_mean"]).sum() > 0
