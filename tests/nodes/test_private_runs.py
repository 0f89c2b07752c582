"""Runs with noise from where a researcher stands: simulated ones, and steps of job files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_federation import FEATURES, linear_plan

import smpc_fl as sf
from smpc_fl.errors import BadInput, ConfigInvalid
from smpc_fl.nodes.cli.job_file import read_job, training_options
from smpc_fl.nodes.simulation.run import Simulation
from smpc_fl.nodes.training_run import Run

PLAN = linear_plan()
NOISE = sf.Privacy(delta=1e-5, noise_multiplier=0.5)


def made(number: int) -> dict[str, Any]:
    draw = np.random.default_rng(number)
    x = draw.normal(size=(60, FEATURES)).astype(np.float32)
    return {"x": x, "y": (x.sum(1) > 0).astype(np.int64)}


def simulated(**options: Any) -> Run:
    defaults: dict[str, Any] = {"rounds": 2, "clip": 1.0, "max_samples": 64, "executor": "threads", "seed": 1}
    return sf.simulate(PLAN, (40, made), **(defaults | options)).wait()


@pytest.mark.slow
def test_weights_by_rows_are_noisy_too() -> None:
    low = sf.Privacy(delta=1e-5, noise_multiplier=0.2)
    run = simulated(privacy=low, evaluation=sf.Evaluation(fraction=0.5, every=2, bins=2))
    first, last = run.rounds
    exact = 40 * 30 / 64
    assert first.total_weight != exact
    assert abs(first.total_weight - exact) < 12  # noise of sigma 0.2 · 1.06 / 0.25 at each of three
    assert first.metrics == {}
    assert set(last.metrics) >= {"val_loss", "val_accuracy"}
    assert run.privacy is not None
    assert (run.privacy.rounds, run.privacy.releases, run.privacy.unit) == (2, 3, "owner")
    assert first.worst_error > 0.1


def test_without_privacy_nothing_is_noisy_and_nothing_is_promised() -> None:
    run, again = simulated(), simulated(strategy=sf.FedAvg())
    assert run.privacy is None
    assert run.rounds[0].total_weight == 40 * 60 / 64
    assert np.array_equal(run.vector, again.vector)
    noisy = simulated(privacy=NOISE, strategy=sf.FedAvg(weights="equal"))
    assert noisy.rounds[0].total_weight == 40.0
    assert 0 < float(np.abs(noisy.vector - run.vector).max()) < 2.0


def test_every_strategy_carries_noise() -> None:
    """Parts of the vector beside the update count towards its norm; compressed ones as well."""
    for strategy in (sf.Scaffold(), sf.QFedAvg(), sf.FedAdam()):
        assert simulated(rounds=1, strategy=strategy, privacy=NOISE).rounds[0].included
    loud = sf.Privacy(delta=1e-5, noise_multiplier=50.0)
    few = {"rounds": 1, "compression": sf.Compression(bits=8), "strategy": sf.FedAvg(weights="equal")}
    noisy, quiet = (simulated(privacy=privacy, **few).rounds[0] for privacy in (loud, None))
    assert noisy.ring_bits > quiet.ring_bits  # it takes room


def test_a_clip_that_adapts() -> None:
    """From round to round by the fraction that was not clipped, as `Round.clipped` tells it; and the noise with it."""
    adaptive = sf.AdaptiveClip(initial=2.0, count_noise=1.0, quantile=0.2, rate=0.5)
    privacy = sf.Privacy(delta=1e-5, noise_multiplier=1e-3, adaptive=adaptive)
    run = simulated(rounds=4, clip=3.0, strategy=sf.FedAvg(weights="equal"), privacy=privacy)
    clips = [round_.clip for round_ in run.rounds]
    assert clips[0] == 2.0
    for before, after in zip(run.rounds, clips[1:], strict=False):
        told = after / before.clip
        if 0 < before.clipped < 40:
            assert told == pytest.approx(math.exp(-0.5 * (1 - before.clipped / 40 - 0.2)), rel=0.02)
        else:  # the noisy count may lie beyond what can be told
            assert abs(math.log(told) + 0.5 * (1 - before.clipped / 40 - 0.2)) < 0.5 * 20 / 40
    assert clips[-1] < 1.0
    assert run.rounds[-1].worst_error < 0.8 * run.rounds[0].worst_error
    with pytest.raises(BadInput, match="weights='equal'"):
        simulated(clip=3.0, privacy=privacy)


def test_a_run_of_another_session_does_not_guess() -> None:
    run = simulated(rounds=1, privacy=NOISE)
    other = Run(run._feed, PLAN, PLAN.initial)
    assert isinstance(run._feed, Simulation)
    with pytest.raises(BadInput, match="ask the one that did"):
        _ = other.privacy


STEP = """
[[steps]]
do = "train"
privacy = { delta = 1e-6, noise_multiplier = 4.0 }
[steps.model]
layers = [3, 2]
[[steps]]
do = "mean"
tensor = "x"
bound = 1.0
privacy = { delta = 1e-6, epsilon = 2.0 }
"""


def test_steps_of_a_job_file_take_it(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(STEP)
    train, mean = read_job(tmp_path / "job.toml").steps
    assert training_options(train)["privacy"] == sf.Privacy(delta=1e-6, noise_multiplier=4.0)  # type: ignore[arg-type]
    assert mean.privacy == sf.Privacy(delta=1e-6, epsilon=2.0)
    for wrong in ("delta = 2.0, epsilon = 1.0", "delta = 1e-6", "delta = 1e-6, epsilon = 1.0, noise_multiplier = 1.0"):
        (tmp_path / "job.toml").write_text(STEP.replace("delta = 1e-6, epsilon = 2.0", wrong))
        with pytest.raises(ConfigInvalid, match=r"steps.*privacy"):
            read_job(tmp_path / "job.toml")
