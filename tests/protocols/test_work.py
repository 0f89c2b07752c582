"""What a job wants of each kind of round, read alike by the coordinator and by every owner."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpc_fl.errors import ManifestRefused, WeightOutOfRange
from smpc_fl.jobs import AggregateJob, Evaluation, LocalTraining, Stop, TrainJob, encode_job, job_digest
from smpc_fl.learning.metrics import evaluation_layout
from smpc_fl.learning.strategies import FedAvg, FedSGD
from smpc_fl.protocols.manifest import stated_error
from smpc_fl.protocols.work import (
    Purpose,
    evaluation_round,
    expected_of,
    purpose_of,
    subject_of,
    train_round,
    weight_of,
    work_of,
)

COHORT = ("alice", "bob", "carol")
GRAPH = {
    "nodes": [
        ["linear", "aten.linear.default", ["$x", "@weight"], {}],
        ["loss", "aten.mse_loss.default", ["%linear", "$y"], {}],
    ],
    "loss": "%loss",
    "prediction": "%linear",
}
PLAN = json.dumps(
    {
        "version": 1,
        "loss": "mse",
        "layout": [{"name": "weight", "shape": [1, 2], "kind": "parameter"}],
        "inputs": {"dtype": "float32", "shape": [2]},
        "targets": {"dtype": "float32", "shape": [1]},
        "prediction": [1],
        "train": GRAPH,
        "evaluate": GRAPH,
    },
    separators=(",", ":"),
).encode()


def train(**fields: Any) -> TrainJob:
    return TrainJob(**{"plan": PLAN, "inputs": "x", "targets": "y", "rounds": 3, "max_samples": 1000, **fields})


def aggregate(**fields: Any) -> AggregateJob:
    return AggregateJob(**{"expression": b"e", "reduce": "mean", "shape": [2, 3], "bound": 5.0, **fields})


def test_training_and_evaluation_take_turns() -> None:
    job = train(evaluation=Evaluation())
    purposes = [purpose_of(job, number) for number in range(6)]
    assert purposes == ["train", "evaluate"] * 3
    assert [train_round(k) for k in (1, 2, 3)] == [0, 2, 4]
    assert [evaluation_round(k) for k in (1, 2, 3)] == [1, 3, 5]
    assert purpose_of(aggregate(), 0) == "aggregate"
    assert purpose_of(train(rounds=0, evaluation=Evaluation()), 1) == "evaluate"


@pytest.mark.parametrize(
    ("job", "number"),
    [
        (train(evaluation=Evaluation()), 6),
        (train(), 1),
        (train(rounds=0), 0),
        (train(rounds=0, evaluation=Evaluation()), 3),
        (aggregate(), 1),
    ],
)
def test_no_round_beyond_the_approved_ones(job: Any, number: int) -> None:
    with pytest.raises(ManifestRefused, match=f"has no round {number}"):
        purpose_of(job, number)


def test_a_training_round_carries_the_update_and_the_loss() -> None:
    work = work_of(train(clip=3.0, tolerance=0.01, ring_bits=64), "train")
    assert (work.layout.payload, work.layout.metrics, work.layout.length) == (2, ("loss",), 5)
    assert (work.clip, work.mode, work.tolerance, work.ring_bits, work.max_samples) == (3.0, "norm", 0.01, 64, 1024)
    assert work_of(train(strategy=FedSGD(weights="equal")), "train").max_samples == 1


def test_the_bits_of_an_update_are_those_of_training_rounds() -> None:
    job = train(update_bits=16, ring_bits="fit", evaluation=Evaluation())
    assert [(work.ring_bits, work.update_bits) for work in (work_of(job, "train"), work_of(job, "evaluate"))] == [
        ("fit", 16),
        ("fit", None),
    ]
    work = work_of(aggregate(ring_bits=23), "aggregate")
    assert (work.ring_bits, work.update_bits) == (23, None)


def test_an_evaluation_round_carries_averages_by_rows() -> None:
    job = train(evaluation=Evaluation(bins=16), strategy=FedAvg(weights="equal"))
    work = work_of(job, "evaluate")
    assert work.layout.payload == evaluation_layout(job).length
    assert (work.clip, work.mode, work.max_samples) == (1.0, "saturate", 1024)


def test_an_aggregate_saturates_element_by_element() -> None:
    work = work_of(aggregate(max_samples=1024), "aggregate")
    assert (work.layout.payload, work.clip, work.mode, work.max_samples) == (6, 5.0, "saturate", 1024)
    assert work_of(aggregate(shape=[]), "aggregate").layout.payload == 1
    assert work_of(aggregate(reduce="sum"), "aggregate").max_samples == 1


def test_a_sums_error_is_the_sums() -> None:
    """Not that of a mean over k_min owners: a sum is divided by nothing."""
    job = aggregate(reduce="sum", bound=2.0**20, tolerance=1e-3)
    numbers = work_of(job, "aggregate").numbers(owners=3, k_min=3, aggregators=2, ring_bits=None)
    assert 3 * 2.0 ** -(numbers.fractional_bits + 1) <= numbers.worst_error <= 1e-3
    mean = work_of(aggregate(bound=2.0**20, tolerance=1e-3, max_samples=1), "aggregate")
    assert mean.numbers(owners=3, k_min=3, aggregators=2).fractional_bits <= numbers.fractional_bits


def test_an_owner_expects_what_the_coordinator_makes() -> None:
    job = train()
    data = encode_job(job)
    expected = expected_of(data, job, 2, COHORT)
    assert expected == work_of(job, "train").expected(job_digest(data), COHORT)
    assert (expected.purpose, expected.dimension, expected.job_digest) == ("train", 5, job_digest(data))
    assert expected.cohort == COHORT


@given(st.lists(st.floats(1e-3, 1.0), min_size=3, max_size=8))
def test_given_weights_are_never_taken_for_exact_when_they_are_not(weights: list[float]) -> None:
    job = aggregate(weights=[weight / max(weights) for weight in weights])
    assert job.weights is not None
    resolution = work_of(job, "aggregate").max_samples
    assert 1 / resolution <= min(job.weights), "no weight is below the least that is reckoned with"
    bits = 30
    exact = stated_error(bits, owners=3, clip=5.0, max_samples=resolution, k_min=3) < stated_error(
        bits, owners=3, clip=5.0, max_samples=resolution + 2 if resolution > 1 else 3, k_min=3
    ) / 4  # fmt: skip
    if exact:
        assert all((weight * 2**bits).is_integer() for weight in job.weights)


def test_everybodys_weight() -> None:
    purposes: list[tuple[Any, Purpose, float]] = [
        (train(), "train", 250 / 1024),
        (train(strategy=FedAvg(weights="equal")), "train", 1.0),
        (train(strategy=FedAvg(weights="equal")), "evaluate", 250 / 1024),
        (train(strategy=FedSGD()), "train", 250 / 1024),
        (aggregate(max_samples=500), "aggregate", 250 / 512),
        (aggregate(reduce="sum"), "aggregate", 1.0),
        (aggregate(weights=[0.5, 1.0, 0.75]), "aggregate", 1.0),
    ]
    for job, purpose, weight in purposes:
        assert weight_of(job, purpose, "bob", COHORT, 250) == weight
    assert weight_of(aggregate(weights=[0.5, 1.0, 0.75]), "aggregate", "alice", COHORT[::-1], 1) == 0.5


@pytest.mark.parametrize("rows", [-5, 0, 1025])
def test_rows_out_of_range_are_refused_also_where_all_weigh_the_same(rows: int) -> None:
    for job in (train(), train(strategy=FedAvg(weights="equal"))):
        with pytest.raises(WeightOutOfRange):
            weight_of(job, "train", "bob", COHORT, rows)


# --- which sums could be subtracted from each other ---

HELD_OUT = Evaluation(fraction=0.2)


@pytest.mark.parametrize(
    "fields",
    [
        {"rounds": 7}, {"tolerance": 0.1}, {"ring_bits": 64}, {"update_bits": 16}, {"stop": Stop()}, {"clip": 1.0},
        {"max_samples": 99}, {"evaluation": HELD_OUT}, {"strategy": FedAvg(server_lr=0.5)},
    ],
)  # fmt: skip
def test_a_job_that_computes_the_same_has_the_same_subject(fields: dict[str, Any]) -> None:
    assert subject_of(train(**fields), "train") == subject_of(train(), "train")


@pytest.mark.parametrize(
    "fields",
    [
        {"inputs": "z"}, {"targets": "z"}, {"seed": bytes(15) + b"1"}, {"local": LocalTraining(lr=0.2)}, {"plan": b"{}"},
        {"strategy": FedSGD()}, {"strategy": FedAvg(weights="equal")},
    ],
)  # fmt: skip
def test_a_job_that_computes_something_else_has_another(fields: dict[str, Any]) -> None:
    assert subject_of(train(**fields), "train") != subject_of(train(), "train")


def test_evaluation_has_a_subject_of_its_own() -> None:
    job = train(evaluation=HELD_OUT)
    assert subject_of(job, "evaluate") != subject_of(job, "train")
    assert subject_of(job, "evaluate") == subject_of(
        train(evaluation=HELD_OUT, local=LocalTraining(lr=0.2)), "evaluate"
    )
    assert subject_of(job, "evaluate") != subject_of(train(evaluation=Evaluation(fraction=0.3)), "evaluate")
    assert work_of(job, "evaluate").subject == subject_of(job, "evaluate")


def test_an_aggregate_is_its_expression_its_kind_and_its_weights() -> None:
    def subject(**fields: Any) -> bytes:
        return subject_of(aggregate(**fields), "aggregate")

    assert subject(bound=1.0) == subject(tolerance=0.1) == subject(ring_bits=64) == subject()
    assert len({subject(), subject(expression=b"f"), subject(reduce="sum"), subject(weights=[1.0, 0.5])}) == 4
