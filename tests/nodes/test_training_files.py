"""A run's model and history as files: what other programs read is what the run had."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import smpc_fl as sf
from smpc_fl.errors import BadInput
from smpc_fl.nodes.cli.main import main
from smpc_fl.nodes.training_files import read_metrics

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] > 0).long()
OWNERS = {
    name: {"x": X[n * 20 : (n + 1) * 20], "y": Y[n * 20 : (n + 1) * 20]} for n, name in enumerate(("ann", "ben", "cai"))
}


@pytest.fixture(scope="module")
def run() -> sf.Run:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        plan = sf.Plan.from_module(torch.nn.Linear(4, 2), example=(X[:4], Y[:4]))
    held = sf.Evaluation(inputs="x", targets="y", every=2)
    # Too large a rate: what comes last is not the best.
    return sf.simulate(
        plan, OWNERS, rounds=5, local=sf.LocalTraining(lr=20.0), evaluation=held, seed=3, max_samples=32, workers=1,
        clip=100.0, stop=sf.Stop("val_loss", restore_best=True),
    ).wait()  # fmt: skip


def test_the_best_model_is_the_runs(run: sf.Run) -> None:
    losses = {round_.number: round_.metrics["val_loss"] for round_ in run.rounds if "val_loss" in round_.metrics}
    assert set(losses) == {2, 4, 5}
    best = run.best("val_loss")
    assert losses[best.number] == min(losses.values())
    assert run.best("val_accuracy").metrics["val_accuracy"] == max(r.metrics.get("val_accuracy", 0) for r in run.rounds)
    np.testing.assert_array_equal(run.vector, best.model)
    with pytest.raises(BadInput, match="no round has the metric 'auc'; there are: loss, val_accuracy"):
        run.best("auc")


def test_a_model_is_what_torch_and_safetensors_read(run: sf.Run, tmp_path: Path) -> None:
    expected = run.model(X)
    run.save_model(tmp_path / "model.safetensors")
    net = torch.nn.Linear(4, 2)
    net.load_state_dict(load_file(tmp_path / "model.safetensors"))
    torch.testing.assert_close(net(X), expected)
    run.save_model(tmp_path / "model.pt2")
    module = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(module(X), expected)
    torch.testing.assert_close(module(X[:7]), expected[:7])
    with pytest.raises(BadInput, match=r".safetensors or .pt2"):
        run.save_model(tmp_path / "model.pkl")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_history_is_read_back_and_drawn(run: sf.Run, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"history.{suffix}"
    run.save_history(path)
    assert read_metrics(path) == [round_.metrics for round_ in run.rounds]
    drawn = CliRunner().invoke(main, ["plot", str(path)])
    assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / "history.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(("name", "content", "said"), [
    ("none.jsonl", None, "there is no such history"),
    ("bad.jsonl", b'{"metrics": {"loss": 1}}\n[]\n', "line 2"),
    ("bad.parquet", b"nothing", "is no Parquet file"),
    ("bad.csv", b"", ".jsonl or .parquet"),
])  # fmt: skip
def test_what_is_no_history_is_said(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=said):
        read_metrics(tmp_path / name)
