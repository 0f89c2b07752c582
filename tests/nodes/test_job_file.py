"""Job files: what is wrong is said before anything starts, and a good one runs to its results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from smpc_fl.errors import ConfigInvalid
from smpc_fl.nodes.cli.job_file import read_job, run_job

LOCAL = """
[local]
ledger = "own"
aggregators = 2
[local.owners]
a = { private = "a.safetensors" }
b = { private = "b.safetensors" }
c = { private = "c.safetensors" }
"""
TRAIN = """
[[steps]]
do = "train"
rounds = 2
ring_bits = "fit"
strategy = { type = "FedSGD", lr = 0.5 }
[steps.model]
layers = [3, 4, 2]
fill_missing = true
"""


def _owners(folder: Path) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    generator = np.random.default_rng(5)
    made = {}
    for name, rows in (("a", 20), ("b", 30), ("c", 40)):
        x = generator.normal(size=(rows, 3)).astype(np.float32)
        save_file({"x": x, "y": (x[:, 0] > 0).astype(np.int64)}, folder / f"{name}.safetensors")
        made[name] = x
    return made


def _job(folder: Path, text: str) -> Path:
    path = folder / "job.toml"
    path.write_text(text)
    return path


def test_a_mean_and_training_run_to_their_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = _owners(tmp_path)
    path = _job(tmp_path, LOCAL + '[[steps]]\ndo = "mean"\ntensor = "x"\nbound = 8.0\n' + TRAIN)
    run_job(path, config=tmp_path / "federation.toml", check=True)
    assert "ready to run" in capsys.readouterr().out
    run_job(path, config=tmp_path / "federation.toml", output=tmp_path / "out")
    mean = json.loads((tmp_path / "out" / "1-mean.json").read_text())["mean"]
    np.testing.assert_allclose(mean, np.concatenate(list(tables.values())).mean(0), atol=1e-5)
    model = load_file(tmp_path / "out" / "2-train.safetensors")
    assert {tensor.shape for tensor in model.values()} == {(4, 3), (4,), (2, 4), (2,)}
    rounds = [json.loads(line) for line in (tmp_path / "out" / "2-train.jsonl").read_text().splitlines()]
    assert [(line["round"], line["ring_bits"]) for line in rounds] == [(1, 26), (2, 26)]
    assert all(line["included"] == ["a", "b", "c"] for line in rounds)
    assert (tmp_path / "out" / "2-train.svg").read_text().lstrip().startswith("<?xml")
    assert "loss" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps = [", "is not TOML"),
        ("steps = []", "steps"),
        ('[[steps]]\ndo = "dance"\n', "do"),
        (TRAIN.replace("rounds = 2", "rounds = 0"), "rounds"),
        (TRAIN + "colour = 3\n", "colour"),
        (TRAIN.replace('"fit"', '"fits"'), "ring_bits"),
        (TRAIN.replace('ring_bits = "fit"', "update_bits = 1"), "update_bits"),
        (TRAIN, "no [local] section"),
        (TRAIN.replace("layers = [3, 4, 2]", "layers = [3]"), "two widths"),
        (TRAIN.replace("layers = [3, 4, 2]", ""), "either `layers` or `python`"),
        (TRAIN.replace("layers = [3, 4, 2]", 'python = "net.py:make"'), "how many columns"),
        (TRAIN.replace("layers = [3, 4, 2]", 'python = "net.py:make"\ninputs = 3'), "must be there"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = _job(tmp_path, text)
    with pytest.raises(ConfigInvalid) as caught:
        run_job(path, config=tmp_path / "federation.toml", check=True)
    assert said in str(caught.value)


def test_a_missing_file_points_at_the_examples(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="examples/"):
        read_job(tmp_path / "none.toml")
