"""Update functions that owners register by name: what they are given, what they may give back, and which jobs may name them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

import smpc_fl as sf
from smpc_fl.errors import BadInput, NotFinite, PlanRejected, RunFailed, ShapeMismatch
from smpc_fl.jobs import decode_job, encode_job
from smpc_fl.learning import update_functions
from smpc_fl.learning.local_result import LocalResult
from smpc_fl.learning.update_functions import UpdateAbout, function_of, run_update
from smpc_fl.nodes.owner_consent import summary
from smpc_fl.nodes.simulation.data import holdings
from smpc_fl.nodes.training_job import training_job
from smpc_fl.plans.layout import layout_of
from smpc_fl.plans.update_document import UpdateDocument, encode_update, update_of
from smpc_fl.protocols.messages import StartRun

FEATURES, ROUNDS = 4, 20
RNG = np.random.default_rng(8)
RULE = RNG.normal(size=FEATURES)
OPTIONS = {"lr": 0.3, "penalty": 0.01, "name": "ridge"}


def table(rows: int) -> dict[str, Any]:
    x = RNG.normal(size=(rows, FEATURES))
    return {"x": x, "y": x @ RULE + 0.5 + 0.1 * RNG.normal(size=rows), "z": np.ones(rows)}


OWNERS = {"ann": table(20), "ben": table(35), "cai": table(50)}


@sf.register_update("test_ridge_step")
def ridge_step(model: dict[str, Any], tensors: dict[str, Any], about: UpdateAbout) -> Any:
    x, y, lr = tensors["x"], tensors["y"], about.options["lr"]
    error = x @ model["w"] + model["b"] - y
    change = {"w": -lr * (x.T @ error / len(x) + about.options["penalty"] * model["w"]), "b": -lr * error.mean()}
    return change, len(x), {"loss": np.mean(error**2)}


def plan(**changes: Any) -> sf.UpdatePlan:
    options: dict[str, Any] = {"tensors": ["x", "y"], "options": OPTIONS, "metrics": ["loss"]} | changes
    model = {"w": np.zeros(FEATURES), "b": 0.0}
    return sf.UpdatePlan(options.pop("name", "test_ridge_step"), options.pop("model", model), **options)


@pytest.fixture
def named() -> Iterator[Callable[[str, Any], None]]:
    """Registers functions for one test."""
    before = dict(update_functions._known)
    yield lambda name, function: update_functions._known.update({name: function})
    update_functions._known.clear()
    update_functions._known.update(before)


def in_clear(step: Callable[[Any, int], Any]) -> Any:
    """`ROUNDS` rounds over the owners without any secrets; `step`: (mean change, round) -> what is added."""
    w = np.zeros(FEATURES + 1)
    for number in range(1, ROUNDS + 1):
        total, rows = np.zeros_like(w), 0
        for data in OWNERS.values():
            x = np.column_stack([data["x"], np.ones(len(data["x"]))])
            gradient = x.T @ (x @ w - data["y"]) / len(x) + 0.01 * np.append(w[:-1], 0)
            total, rows = total - 0.3 * gradient * len(x), rows + len(x)
        w = w + step(total / rows, number)
    return w


class Adam:
    """Reddi et al. 2021, Algorithm 2, with the defaults of `sf.FedAdam`."""

    def __init__(self) -> None:
        self.m, self.v = np.zeros(FEATURES + 1), np.full(FEATURES + 1, 1e-6)

    def __call__(self, change: Any, number: int) -> Any:
        self.m = 0.9 * self.m + 0.1 * change
        self.v = 0.99 * self.v + 0.01 * change**2
        return 0.1 * self.m / (np.sqrt(self.v) + 1e-3)


@pytest.mark.parametrize(
    ("strategy", "step"),
    [(sf.FedAvg(), lambda change, number: change), (sf.FedAdam(), Adam())],
    ids=["FedAvg", "FedAdam"],
)
def test_the_model_is_that_of_the_same_steps_in_the_clear(strategy: Any, step: Any) -> None:
    run = sf.simulate(
        plan(), OWNERS, rounds=ROUNDS, strategy=strategy, ring_bits=64, clip=100.0, executor="threads"
    ).wait()
    expected, found = in_clear(step), np.append(run.tensors["w"], run.tensors["b"])
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)
    assert run.rounds[-1].metrics["loss"] < run.rounds[0].metrics["loss"]
    with pytest.raises(BadInput, match=r"Run\.tensors"):
        run.model  # noqa: B018


def test_a_function_sees_the_round_the_options_and_a_seed(named: Callable[[str, Any], None]) -> None:
    seen: list[tuple[int, str, int, float]] = []

    def look(model: Any, tensors: Any, about: UpdateAbout) -> Any:
        assert not any(array.flags.writeable for array in tensors.values())
        assert list(tensors) == ["z"]
        assert about.options == {"lr": 2}
        model["w"] += 1  # a copy
        seen.append((about.round, about.owner, about.seed, float(model["w"])))
        return {"w": 1.5}, 10

    named("look", look)
    job = plan(name="look", model={"w": np.float64(3)}, tensors=["z"], options={"lr": 2}, metrics=[])
    for _ in range(2):
        run = sf.simulate(job, OWNERS, rounds=2, seed=4, executor="threads", workers=1).wait()
        assert run.tensors["w"] == pytest.approx(6, abs=1e-3)
    assert seen[:6] == seen[6:]
    assert {(number, owner) for number, owner, *_ in seen} == {(n, owner) for n in (1, 2) for owner in OWNERS}
    assert len({drawn for *_, drawn, _ in seen}) == 6
    assert repr(job) == f"UpdatePlan('look', 1 elements, digest {job.digest.hex()[:16]})"
    assert job.network is None


def test_a_function_that_fails_is_named_and_the_others_go_on(named: Callable[[str, Any], None]) -> None:
    def picky(model: Any, tensors: Any, about: UpdateAbout) -> Any:
        if about.owner == "ben":
            raise ValueError("row 3 holds 0.25")
        if about.owner == "dan":
            raise sf.BadInput("this hospital measures in other units: see the handbook")
        return {"w": 1.0}, 1

    named("picky", picky)
    job = plan(name="picky", model={"w": 0}, tensors=["z"], options={}, metrics=[])
    (round_,) = (
        sf.simulate(job, OWNERS | {"dan": table(3), "eve": table(4)}, rounds=1, executor="threads").wait().rounds
    )
    assert round_.included == ["ann", "cai", "eve"]
    assert "'picky' failed at this owner: ValueError in picky, line" in round_.missing["ben"]
    assert "0.25" not in round_.missing["ben"]
    assert "handbook" in round_.missing["dan"]


MODEL = np.zeros(FEATURES + 1, np.float32)
GOOD = {"w": np.ones(FEATURES), "b": 0}


@pytest.mark.parametrize(
    ("result", "error", "said"),
    [
        (None, BadInput, r"must return \(change, rows\)"),
        ((GOOD,), BadInput, r"must return \(change, rows\)"),
        (([1.0], 3, {"loss": 1}), BadInput, "change as {tensor: array}"),
        (({"w": np.ones(FEATURES)}, 3, {"loss": 1}), ShapeMismatch, "'test_given'.*differ in 'b'"),
        (({"w": np.ones(3), "b": 0}, 3, {"loss": 1}), ShapeMismatch, "'test_given'.*tensor 'w' has shape"),
        (({"w": np.ones(FEATURES), "b": "much"}, 3, {"loss": 1}), BadInput, "other than numbers for 'b'"),
        (({"w": np.ones(FEATURES), "b": np.nan}, 3, {"loss": 1}), NotFinite, "NaN or infinity"),
        (({"w": np.ones(FEATURES), "b": 1e300}, 3, {"loss": 1}), NotFinite, "NaN or infinity"),
        ((GOOD, 0, {"loss": 1}), BadInput, "whole number of rows"),
        ((GOOD, True, {"loss": 1}), BadInput, "whole number of rows"),
        ((GOOD, 2.5, {"loss": 1}), BadInput, "whole number of rows"),
        ((GOOD, 3), BadInput, r"metrics, \['loss'\]"),
        ((GOOD, 3, 0.5), BadInput, r"metrics, \['loss'\]"),
        ((GOOD, 3, {"loss": 1, "auc": 1}), BadInput, r"metrics, \['loss'\]"),
        ((GOOD, 3, {"loss": np.inf}), NotFinite, "not one finite number"),
        ((GOOD, 3, {"loss": np.ones(2)}), NotFinite, "not one finite number"),
        ((GOOD, np.int64(3), {"loss": 0.5}), None, ""),
    ],
)
def test_what_a_function_gives_back_is_checked(
    result: Any, error: type[Exception] | None, said: str, named: Callable[[str, Any], None]
) -> None:
    named("test_given", lambda model, tensors, about: result)
    document = plan(name="test_given").document

    def give() -> LocalResult:
        return run_update(
            document, MODEL, {"x": np.ones((2, 4)), "y": np.ones(2)}, seed=bytes(16), owner="ann", number=1
        )

    if error is None:
        assert (give().rows, give().metrics) == (3, {"loss": 0.5})
    else:
        with pytest.raises(error, match=said):
            give()


def test_names_are_given_once() -> None:
    assert sf.register_update("test_ridge_step")(ridge_step) is ridge_step  # a module that is loaded again
    with pytest.raises(BadInput, match="there is an update function 'test_ridge_step' already"):
        sf.register_update("test_ridge_step")(lambda model, tensors, about: None)


# --- the job ---


def job_of(made: sf.UpdatePlan, **options: Any) -> Any:
    defaults: dict[str, Any] = {
        "inputs": None, "targets": None, "rounds": 3, "local": None, "strategy": None, "evaluation": None, "stop": None,
        "clip": 10.0, "max_samples": 100, "tolerance": 1e-2, "ring_bits": None, "update_bits": None, "seed": 1,
    }  # fmt: skip
    return training_job(made, **(defaults | options))


def test_a_job_carries_the_name_and_the_layout_and_no_code() -> None:
    job = job_of(plan())
    assert decode_job(encode_job(job)) == job
    assert job.plan == plan().to_bytes()
    assert b"lambda" not in job.plan
    assert (layout_of(job.plan).size, job.inputs, job.targets) == (FEATURES + 1, "", "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"inputs": "x"}, r"UpdatePlan\(tensors="),
        ({"local": sf.LocalTraining()}, r"UpdatePlan\(tensors="),
        ({"strategy": sf.FedProx()}, "FedProx says how owners train.*'test_ridge_step'.*use FedAvg"),
        ({"strategy": sf.FedBN()}, "FedBN says how owners train"),
        ({"strategy": sf.Scaffold()}, "Scaffold says how owners train"),
        ({"private": ["w"]}, r"private=\('w',\).*keeps nothing"),
        ({"evaluation": sf.Evaluation(fraction=0.2)}, "no graph that could be evaluated"),
    ],
)
def test_what_goes_with_networks_alone_is_refused_by_name(options: Mapping[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        job_of(plan(), **options)


def test_an_owner_is_told_what_it_would_run_and_holds_it_against_what_it_has() -> None:
    job = job_of(plan())
    text = summary(job, StartRun(bytes(16), encode_job(job), ["ann", "ben", "cai"], bytes(32)), "")
    assert "Run this owner's own update function 'test_ridge_step' on x, y by FedAvg, at most 3 rounds" in text
    assert "lr = 0.3, name = 'ridge', penalty = 0.01" in text
    assert "the job carries none" in text
    held = holdings(OWNERS["ann"])
    held.check_training(job)
    with pytest.raises(BadInput, match=r"no update function 'nobodys'; it has: .*test_ridge_step.*extensions"):
        held.check_training(job_of(plan(name="nobodys")))
    with pytest.raises(sf.SmpcError, match="no tensor 'age'"):
        held.check_training(job_of(plan(tensors=["x", "age"])))


def test_an_owner_without_any_function_says_so(named: Callable[[str, Any], None]) -> None:
    update_functions._known.clear()
    with pytest.raises(BadInput, match="it has: none"):
        function_of(plan().document)


def test_a_run_that_everybody_fails_ends() -> None:
    with pytest.raises(sf.SmpcError) as raised:
        sf.simulate(plan(name="nobodys"), OWNERS, rounds=1, executor="threads").wait()
    assert not isinstance(raised.value, RunFailed)
    assert "nobodys" in str(raised.value)


# --- the document ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "no such name"}, "is called 'no such name'"),
        ({"options": {"a b": 1}}, "is called 'a b'"),
        ({"metrics": ["lo/ss"]}, "is called 'lo/ss'"),
        ({"tensors": ["x", "x"]}, "names the tensor 'x' twice"),
        ({"metrics": ["a", "a"]}, "names the metric 'a' twice"),
        ({"tensors": []}, "does not decode"),
        ({"options": {"lr": [1.0]}}, "does not decode"),
        ({"options": {str(n): "v" * 250 for n in range(65)}}, "does not decode"),
        ({"model": {}}, "does not decode"),
        ({"model": {"a/b": 1}}, "holds the name 'a/b'"),
        ({"model": {"a": np.zeros((0, 3))}}, "1 to"),
    ],
)
def test_documents_are_strict(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanRejected, match=said):
        plan(**changes)


@pytest.mark.parametrize("value", [np.array(["a"]), np.array([np.nan]), np.array([1j])])
def test_a_first_model_is_made_of_finite_numbers(value: Any) -> None:
    with pytest.raises(BadInput, match="tensor 'w' of the first model"):
        plan(model={"w": value})


def test_only_the_canonical_bytes_are_taken() -> None:
    data = plan().to_bytes()
    assert update_of(data) == plan().document
    for wrong, said in (
        (data.replace(b'"version":1', b'"version": 1'), "canonical"),
        (data[:-1], "does not decode"),
        (data[:-1] + b',"code":"print()"}', "does not decode"),
        (data + b" " * (1 << 23), "over the limit"),
        (data.replace(b"parameter", b"buffer"), "are parameters"),
    ):
        with pytest.raises(PlanRejected, match=said):
            update_of(wrong)
    document: UpdateDocument = plan().document
    assert encode_update(document) == data
