"""A run goes on from the coordinator's disk, with the result that it would have had: after a kill, and after a stop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file

import smpc_fl as sf
from smpc_fl.errors import BadInput, IsolationRefused, RunFailed, ShapeMismatch, SmpcError, Unavailable
from smpc_fl.learning.strategy import known
from smpc_fl.nodes.cli.main import main
from smpc_fl.nodes.extensions import load_extensions

ROUNDS = 15
X = torch.randn(120, 5, generator=torch.Generator().manual_seed(2))
Y = (X[:, 0] - X[:, 1] > 0).long()
DATA = {
    name: {"x": X[rows], "y": Y[rows]}
    for name, rows in {"ann": slice(0, 30), "ben": slice(30, 80), "cai": slice(80, 120)}.items()
}


def plan() -> sf.Plan:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    return sf.Plan.from_module(net, example=(X[:4], Y[:4]))


def options(strategy: Any, seed: int) -> dict[str, Any]:
    return {
        "inputs": "x", "targets": "y", "rounds": ROUNDS, "strategy": strategy, "seed": seed, "max_samples": 64, "clip": 50.0,
        "local": sf.LocalTraining(batch_size=16, lr=0.1), "ring_bits": 64, "tolerance": 1.0,
    }  # fmt: skip


GENTLE = """
import smpc_fl as sf
from smpc_fl.nodes import ended_runs

ended_runs.WHOLE = 1  # almost every run that has ended is read back from the disk

@sf.register_strategy
class Gentle(sf.FedAvg, frozen=True, tag=True):
    def step(self, mean, kept, about):
        return 0.5 * mean["update"]
"""


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sf.LocalFederation]:
    path = tmp_path_factory.mktemp("extensions") / "gentle.py"
    path.write_text(GENTLE)
    load_extensions([path])
    with sf.LocalFederation(DATA, aggregators=2, ledger="own", extensions=[path]) as fed:
        yield fed


def test_a_coordinator_killed_in_round_seven_makes_no_difference(fed: sf.LocalFederation) -> None:
    """With a strategy that keeps control variates at the server and at every owner."""
    unbroken = sf.simulate(plan(), DATA, **options(sf.Scaffold(), 1), workers=1).wait()
    run = fed.train(plan(), **options(sf.Scaffold(), 1))
    for round_ in run:
        if round_.number == 6:
            fed.kill("coordinator")
        if round_.number == 10:
            fed.kill("ben")
    assert [round_.number for round_ in run.rounds] == list(range(1, ROUNDS + 1))
    np.testing.assert_array_equal(run.vector, unbroken.vector)


def test_a_run_that_was_stopped_goes_on_in_another_session(fed: sf.LocalFederation) -> None:
    strategy = sf.FedAdam(server_lr=0.05)
    unbroken = sf.simulate(plan(), DATA, **options(strategy, 2), workers=1).wait()
    run = fed.train(plan(), **options(strategy, 2))
    for round_ in run:
        if round_.number == 2:
            run.cancel()
            break
    with pytest.raises(RunFailed, match="cancelled"):
        run.wait()
    done = len(run.rounds)
    assert 2 <= done < ROUNDS
    fed.kill("coordinator")
    with sf.connect(fed.config_path("researcher")) as later:
        again = later.resume(run.id, plan()).wait()
        assert [round_.number for round_ in again.rounds] == list(range(1, ROUNDS + 1))
        np.testing.assert_array_equal(again.vector, unbroken.vector)
        # Once more: it is over, and is told from its first round on.
        np.testing.assert_array_equal(later.resume(run.id, plan()).wait().vector, unbroken.vector)
        with pytest.raises(Unavailable, match="knows no run"):
            later.resume("00" * 16, plan()).wait()
        with pytest.raises(BadInput, match="32 hexadecimal"):
            later.resume("12", plan())


def test_an_adaptive_clip_goes_on_where_it_was(fed: sf.LocalFederation) -> None:
    """The noise is too small to count, so clips are those of an unbroken run."""
    adaptive = sf.AdaptiveClip(initial=0.01, count_noise=1e-6)
    privacy = sf.Privacy(delta=1e-5, noise_multiplier=1e-7, adaptive=adaptive)
    asked = options(sf.FedAvg(weights="equal"), 5) | {"rounds": 6, "privacy": privacy}
    unbroken = sf.simulate(plan(), DATA, **asked, workers=1).wait()
    run = fed.train(plan(), **asked)
    for round_ in run:
        if round_.number == 3:
            fed.kill("coordinator")
    clips = [round_.clip for round_ in run.rounds]
    assert clips == pytest.approx([round_.clip for round_ in unbroken.rounds], rel=1e-5)
    assert len(set(clips)) == 6


def test_compressed_updates_are_the_simulations(fed: sf.LocalFederation) -> None:
    """Residuals stay at the owners, also of one that is killed."""
    small = options(sf.FedAvg(), 3) | {"ring_bits": None, "compression": sf.Compression(bits=6, keep=0.5), "clip": 5.0}
    run = fed.train(plan(), **small)
    for round_ in run:
        if round_.number == 5:
            fed.kill("cai")
    np.testing.assert_array_equal(run.vector, sf.simulate(plan(), DATA, **small, workers=1).wait().vector)


def test_a_strategy_of_ones_own_is_run_by_nodes_that_have_it(fed: sf.LocalFederation) -> None:
    gentle = options(known()["Gentle"](), 4) | {"rounds": 2}
    run = fed.train(plan(), **gentle).wait()
    half = options(sf.FedAvg(server_lr=0.5), 4) | {"rounds": 2}
    np.testing.assert_array_equal(run.vector, sf.simulate(plan(), DATA, **half, workers=1).wait().vector)


def test_an_owner_takes_its_own_model_home(fed: sf.LocalFederation, tmp_path: Path) -> None:
    short = {"rounds": 2}
    config, runner = ["--config", str(fed.config_path("ann"))], CliRunner()

    def models(*words: str) -> str:
        done = runner.invoke(main, ["models", *words, *config], terminal_width=200)
        assert done.exit_code == 0, done.output
        return done.output

    ditto = fed.train(plan(), **(options(sf.Ditto(), 5) | short)).wait()
    heads = fed.train(plan(), private=["2.*"], **(options(sf.FedAvg(), 6) | short)).wait()
    heads.save_model(tmp_path / "global.safetensors")
    for run in (ditto, heads):
        assert run.id in models("list")
    models("export", ditto.id[:12], "-o", str(tmp_path / "ditto.safetensors"))
    models(
        "export", heads.id, "--model", str(tmp_path / "global.safetensors"), "-o", str(tmp_path / "heads.safetensors")
    )
    plain, personal, own = (load_file(tmp_path / f"{name}.safetensors") for name in ("global", "ditto", "heads"))
    assert plain.keys() == personal.keys() == own.keys()
    assert {name for name in plain if not np.array_equal(plain[name], own[name])} == {"2.weight", "2.bias"}
    assert not np.array_equal(personal["0.weight"], ditto.model.state_dict()["0.weight"].numpy())
    assert (tmp_path / "ditto.safetensors").stat().st_mode & 0o777 == 0o600
    refused = runner.invoke(main, ["models", "export", heads.id, "-o", str(tmp_path / "no.safetensors"), *config])
    assert "--model" in refused.output
    assert "erased" in models("erase", ditto.id)
    assert ditto.id not in models("list")
    assert len(fed.status().runs) >= 2
    assert all(run.rounds for run in fed.status().runs)
    unknown = runner.invoke(main, ["models", "erase", ditto.id, *config])
    assert "0 runs begin with" in unknown.output


def test_owners_may_be_weighed_by_what_they_compute(fed: sf.LocalFederation) -> None:
    """An expression of public form; owners have to say yes to it themselves, and its value stays with them."""
    x = fed["ann"].tensor("x")[:, 0]
    short = options(sf.FedAvg(), 7) | {"rounds": 1}
    rows = sf.simulate(plan(), DATA, **short, workers=1).wait()
    counted = sf.simulate(plan(), DATA, weighting=((x * 0 + 1).sum()).expression, **short, workers=1).wait()
    np.testing.assert_array_equal(counted.vector, rows.vector)
    roots = sf.simulate(plan(), DATA, weighting=((x * 0 + 4).sum().sqrt()), **short, workers=1).wait()
    sizes = np.array([len(tensors["x"]) for tensors in DATA.values()])
    assert roots.rounds[0].total_weight == np.rint(np.sqrt(4 * sizes)).sum() / 64
    assert not np.array_equal(roots.vector, rows.vector)
    with pytest.raises(IsolationRefused, match="weighed by a computation"):
        fed.train(plan(), weighting=x.sum(), **short).wait()
    with pytest.raises(ShapeMismatch, match="a weight is one number"):
        fed.train(plan(), weighting=x, **short).wait()
    with pytest.raises(SmpcError, match=r"not in 1\.\.64"):
        sf.simulate(plan(), DATA, weighting=(x * 0 - 1).sum(), **short, workers=1).wait()
    with pytest.raises(BadInput, match='weights="rows"'):
        fed.train(plan(), weighting=x.sum(), **(short | {"strategy": sf.FedAvg(weights="equal")}))
