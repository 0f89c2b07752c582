"""A run of many owners in one process: the same model as between processes, bit for bit, whatever it runs on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sample_federation import FEATURES, linear_plan, owners
from serving import apply

import smpc_fl as sf
from smpc_fl.errors import CohortTooSmall, NotFinite, PrecisionTooLow
from smpc_fl.jobs import TrainJob
from smpc_fl.learning.update import disassemble
from smpc_fl.nodes.simulation.batch import Batch, Partial, Setting, combine, run_batch
from smpc_fl.nodes.simulation.data import Tensors, arrays, holdings, name_of, read_owners
from smpc_fl.nodes.simulation.executors import batch_size, choose
from smpc_fl.nodes.simulation.run import Progress
from smpc_fl.nodes.training_job import training_job
from smpc_fl.protocols.manifest import choose_numbers
from smpc_fl.protocols.work import train_round, work_of

SEED = 5
PLAN = linear_plan()


def made(number: int, *, bad: frozenset[int] = frozenset(), wrong: str = "") -> dict[str, npt.NDArray[Any]]:
    """The tensors of owner `number`, some rows of a linear rule; those of `bad` owners are `wrong`."""
    generator = np.random.default_rng(number)
    x = generator.normal(size=(5 + number % 7, FEATURES)).astype(np.float32)
    y = (x.sum(1) > 0).astype(np.int64)
    if number in bad:
        if wrong == "raises":
            raise RuntimeError("row 7 holds 3.25")
        if wrong == "classes":
            y = y + 2
        if wrong == "rows":
            y = y[1:]
    return {"x": x, "y": y}


def job_of(rounds: int, **options: Any) -> TrainJob:
    defaults: dict[str, Any] = {
        "local": None, "strategy": None, "evaluation": None, "stop": None, "clip": 10.0, "max_samples": 10_000,
        "tolerance": 1e-2, "ring_bits": None, "update_bits": None,
    }  # fmt: skip
    return training_job(PLAN, inputs="x", targets="y", rounds=rounds, seed=SEED, **(defaults | options))


def in_the_clear(job: TrainJob, data: Mapping[str, Tensors], cohort: int, k_min: int = 3) -> npt.NDArray[np.float32]:
    """The model after the job, from Python's own integers: no ring, no shares, nothing secret. `data`: of those included."""
    work, model = work_of(job, "train"), PLAN.initial
    numbers = choose_numbers(
        owners=cohort, clip=work.clip, max_samples=work.max_samples, k_min=k_min, tolerance=work.tolerance,
        ring_bits=work.ring_bits, update_bits=work.update_bits,
    )  # fmt: skip
    for number in range(1, job.rounds + 1):
        total = [0] * work.layout.length
        for owner, tensors in data.items():
            vector = holdings(tensors).vector(
                job, "train", train_round(number), model.data.cast("B"), owner=owner, cohort=list(data)
            )
            for place, value in enumerate(vector.dense()):
                total[place] += round(float(value) * 2.0**numbers.fractional_bits)
        said = disassemble(np.array(total, np.float64) * 2.0**-numbers.fractional_bits, work.layout)
        model = apply(job.strategy, model, said.sum, PLAN.layout, weight=said.total_weight)
    return model


def named(count: int, *, without: frozenset[int] = frozenset()) -> dict[str, Tensors]:
    return {name_of(number): made(number) for number in range(count) if number not in without}


# --- the same bits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ring_bits": 64},
        {"ring_bits": "fit"},
        {"clip": 0.01, "update_bits": 12, "max_samples": 16, "tolerance": 0.5},
        {"strategy": sf.FedSGD(lr=0.5, weights="equal")},
    ],
)
@pytest.mark.parametrize("aggregators", [2, 3])
def test_the_model_is_that_of_the_integers(options: dict[str, Any], aggregators: int) -> None:
    run = sf.simulate(
        PLAN, (11, made), rounds=2, seed=SEED, executor="threads", aggregators=aggregators, **options
    ).wait()  # fmt: skip
    expected = in_the_clear(job_of(2, **options), named(11), 11)
    np.testing.assert_array_equal(run.vector, expected)
    assert [r.number for r in run.rounds] == [1, 2]
    assert all(r.included == sorted(named(11)) and not r.missing for r in run.rounds)
    assert all(r.clipped == (11 if "clip" in options else 0) for r in run.rounds)
    assert torch.equal(run.model.state_dict()["weight"].flatten(), torch.from_numpy(run.vector[: 2 * FEATURES]))


@pytest.mark.slow  # as tests/nodes/test_resume.py shows with more than this
def test_the_model_is_that_of_a_federation_of_processes() -> None:
    data = owners(4)
    options: dict[str, Any] = {
        "inputs": "x", "targets": "y", "rounds": 3, "seed": SEED, "local": sf.LocalTraining(epochs=2, batch_size=16),
        "evaluation": sf.Evaluation(fraction=0.25, every=2),
    }  # fmt: skip
    with sf.LocalFederation(data, aggregators=3, ledger="own") as federation:
        between_processes = federation.train(PLAN, **options).wait()
    simulated = sf.simulate(PLAN, data, **options).wait()
    for one, other in zip(between_processes.rounds, simulated.rounds, strict=True):
        np.testing.assert_array_equal(one.model, other.model)
        assert one.metrics == other.metrics
        assert (one.included, one.total_weight, one.clipped) == (other.included, other.total_weight, other.clipped)
        assert (one.ring_bits, one.worst_error, one.attempts) == (other.ring_bits, other.worst_error, other.attempts)
    assert simulated.digest == between_processes.digest
    assert "val_accuracy" in simulated.rounds[-1].metrics


def test_processes_agree_with_threads_whatever_the_batches() -> None:
    models = [
        sf.simulate(PLAN, owners_, rounds=2, seed=SEED, executor=executor, workers=workers).wait().vector
        for owners_, executor, workers in (
            ((40, made), "threads", 3),
            ((40, made), "auto", 2),
            (named(40), "processes", 1),
        )
    ]
    for model in models[1:]:
        np.testing.assert_array_equal(model, models[0])
    np.testing.assert_array_equal(models[0], in_the_clear(job_of(2), named(40), 40))


@pytest.mark.parametrize("size", [1, 4, 9])
def test_any_division_into_batches_gives_the_same(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one batch of them all, and sums that may not be written to, as Ray hands them on."""

    class Here:
        workers = 1

        def reduce(self, setting: Setting, batches: Iterable[Batch], on_done: Callable[[int], None]) -> Partial:
            given = list(batches)
            names = tuple(name for batch in given for name in batch.owners)
            parts = [
                run_batch(setting, Batch(names[first : first + size], given[0].data)) for first in range(0, 9, size)
            ]
            for part in parts:
                for total in part.sums.values():
                    total.flags.writeable = False
            return combine(parts)

    monkeypatch.setattr("smpc_fl.nodes.simulation.run.open_executor", lambda where, workers: nullcontext(Here()))
    run = sf.simulate(PLAN, (9, made), rounds=1, seed=SEED).wait()
    np.testing.assert_array_equal(run.vector, in_the_clear(job_of(1), named(9), 9))


def test_the_order_of_names_and_the_number_of_others_change_no_owner() -> None:
    data = owners(4)
    backwards = dict(reversed(data.items()))
    one, other = (sf.simulate(PLAN, each, rounds=1, seed=SEED).wait() for each in (data, backwards))
    np.testing.assert_array_equal(one.vector, other.vector)
    assert not np.array_equal(one.vector, sf.simulate(PLAN, data, rounds=1, seed=SEED + 1).wait().vector)


# --- those that fail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("raises", "the computation failed at this owner (RuntimeError at test_simulate.py:"),
        ("classes", "some targets are not classes"),
        ("rows", "do not have one row each"),
    ],
)
def test_an_owner_whose_training_fails_is_missing_and_named(wrong: str, said: str) -> None:
    bad = frozenset({0, 4})
    run = sf.simulate(PLAN, (9, partial(made, bad=bad, wrong=wrong)), rounds=2, seed=SEED).wait()
    for round_ in run.rounds:
        assert set(round_.missing) == {name_of(0), name_of(4)}
        assert all(said in why and "3.25" not in why for why in round_.missing.values())
        assert round_.included == sorted(named(9, without=bad))
        assert set(round_.traffic.uploaded) == set(round_.included)
    np.testing.assert_array_equal(run.vector, in_the_clear(job_of(2), named(9, without=bad), 9))


def test_fewer_than_k_min_give_nothing() -> None:
    with pytest.raises(CohortTooSmall, match="2 owners are fewer than k_min = 3"):
        sf.simulate(PLAN, (2, made))
    run = sf.simulate(PLAN, (6, partial(made, bad=frozenset({0, 1, 2, 5}), wrong="classes")), rounds=3)
    with pytest.raises(sf.BadInput, match="fewer than k_min = 3 owners can take part") as raised:
        run.wait()
    assert run.status.startswith("failed: ")
    assert not run.rounds
    with pytest.raises(type(raised.value), match="fewer than k_min"):
        next(iter(run))


def test_an_error_quotes_some_of_many() -> None:
    run = sf.simulate(PLAN, (30, partial(made, bad=frozenset(range(28)), wrong="classes")), rounds=1)
    with pytest.raises(sf.BadInput, match="; and 8 more") as raised:
        run.wait()
    assert raised.value.message.count("owner-0000") == 20


def test_a_model_that_diverges_ends_the_run() -> None:
    run = sf.simulate(
        PLAN, (4, made), rounds=3, strategy=sf.FedAvg(server_lr=1e38), local=sf.LocalTraining(lr=10.0), seed=SEED
    )  # fmt: skip
    with pytest.raises(NotFinite):
        run.wait()
    assert run.status.startswith("failed")


# --- a run like any other -------------------------------------------------------------------------------------------


def test_rounds_come_one_by_one_and_the_run_can_be_stopped_early() -> None:
    run = sf.simulate(
        PLAN, (8, made), rounds=50, seed=SEED, evaluation=sf.Evaluation(fraction=0.3),
        stop=sf.Stop(metric="val_accuracy", target=0.6),
    )  # fmt: skip
    assert run.status == "waiting"
    first = next(iter(run))
    assert first.number == 1
    assert first.seconds > 0
    assert run.status in ("running", "finished")
    assert 1 <= len(run.wait().rounds) < 50
    assert run.status == "finished"
    assert run.rounds[-1].metrics["val_accuracy"] >= 0.6
    assert [r.number for r in run] == [r.number for r in run.rounds]
    assert run.wait() is run
    assert isinstance(run, sf.Run)


def test_a_cancelled_run_ends_before_the_next_round() -> None:
    run = sf.simulate(PLAN, (3, made), rounds=5)
    next(iter(run))
    run.cancel()
    with pytest.raises(sf.RunFailed, match="cancelled after 1 rounds"):
        run.wait()


def test_a_run_that_was_interrupted_goes_on() -> None:
    def interrupt(progress: Progress) -> None:
        if progress.round == 2 and not interrupted:
            interrupted.append(progress)
            raise KeyboardInterrupt

    interrupted: list[Progress] = []
    run = sf.simulate(PLAN, (9, made), rounds=3, seed=SEED, progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.wait()
    assert run.status == "running"
    assert len(run.rounds) == 1
    np.testing.assert_array_equal(run.wait().vector, in_the_clear(job_of(3), named(9), 9))


def test_progress_counts_every_owner_of_every_protocol_round() -> None:
    heard: list[Progress] = []
    sf.simulate(
        PLAN, (10, made), rounds=2, evaluation=sf.Evaluation(fraction=0.3), progress=heard.append, workers=2,
        executor="threads",
    ).wait()  # fmt: skip
    rounds = {(one.round, one.purpose) for one in heard}
    assert rounds == {(1, "train"), (1, "evaluate"), (2, "train"), (2, "evaluate")}
    for round_, purpose in rounds:
        counts = [one.done for one in heard if (one.round, one.purpose) == (round_, purpose)]
        assert counts == sorted(counts)
        assert counts[-1] == 10
        assert len(counts) > 1
    assert str(heard[0]).startswith("round 1, train: 2 of 10 owners, ")


def test_an_owner_uploads_what_it_does_between_processes() -> None:
    """A vector of d numbers in the ring's bits and some hundred bytes, whatever the number of aggregators."""
    few, many = (sf.simulate(PLAN, (4, made), rounds=1, aggregators=m).wait().rounds[0] for m in (2, 5))
    vector = 4 * (PLAN.layout.size + 3)
    assert vector + 300 < few.traffic.uploaded[name_of(0)] < vector + 2000
    assert many.traffic.uploaded[name_of(0)] < vector + 6000


# --- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((0, made), "a count over 0"),
        ((3,), "a mapping, or"),
        ((3, "x"), "a mapping, or"),
        (7, "a mapping, or"),
        ({"a": [1.0]}, "owners: give"),
        ({"a": {"x": np.array(["text"])}}, "an array of numbers"),
        ({"a": {"x": 1.0}}, "an array of numbers"),
        ({name: {"x": [1.0]} for name in ("a", "b", "coordinator")}, "coordinator: an owner needs a name"),
        ({name: {"x": [1.0]} for name in ("a", "b", "c d")}, "a roster cannot be written"),
        ((1 << 15, made), "at most 32768 members"),
    ],
)
def test_owners_that_cannot_be(given: Any, said: str) -> None:
    with pytest.raises(sf.BadInput, match=said):
        sf.simulate(PLAN, given)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"aggregators": 1}, sf.BadInput, "at least two"),
        ({"ring_bits": 7}, sf.BadInput, "bits do not fit"),
        ({"tolerance": 1e-30}, PrecisionTooLow, "tolerance"),
        ({"workers": 0}, sf.BadInput, "at least one"),
        ({"executor": "cluster"}, sf.BadInput, "one of"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        sf.simulate(PLAN, (4, made), rounds=1, **options)


def test_auto_takes_processes_where_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = read_owners((32, made)), read_owners((33, made))
    assert [choose("auto", owners_) for owners_ in (few, many)] == ["threads", "processes"]
    assert choose("auto", read_owners((33, lambda number: made(number)))) == "threads"
    assert choose("ray://10.0.0.1:10001", few) == "ray://10.0.0.1:10001"
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    assert choose("auto", many) == "ray"


def test_a_function_that_no_other_process_can_find_runs_on_threads() -> None:
    here = (40, lambda number: made(number))
    with pytest.raises(sf.BadInput, match="cannot travel"):
        sf.simulate(PLAN, here, executor="processes", rounds=1)
    there = sf.simulate(PLAN, (40, made), rounds=1, seed=SEED, executor="threads").wait()
    np.testing.assert_array_equal(sf.simulate(PLAN, here, rounds=1, seed=SEED).wait().vector, there.vector)


def test_a_script_without_a_guard_is_told_what_to_do(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import smpc_fl as sf\nfrom sample_federation import linear_plan, owners\n"
        "sf.simulate(linear_plan(), owners(3), rounds=1, executor='processes', workers=1).wait()\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert done.returncode != 0
    assert 'if __name__ == "__main__"' in done.stderr.splitlines()[-1]


def test_batches_are_a_few_for_each_worker() -> None:
    assert [batch_size(owners_, 2) for owners_ in (1, 8, 9, 100, 10_000)] == [1, 1, 2, 13, 64]


def test_arrays_are_those_that_a_node_would_read() -> None:
    found = arrays({"x": torch.ones(3, 2, requires_grad=True), "y": [1, 2, 3]})
    assert found["x"].dtype == np.float32
    assert found["y"].dtype.kind == "i"
    assert found["x"].flags.c_contiguous
