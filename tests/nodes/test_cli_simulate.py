"""`smpc-fl simulate`: a job's training over simulated owners, its own or those that a table is dealt out to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from commands import smpc_fl
from safetensors.numpy import load_file, save_file

import smpc_fl as sf
from smpc_fl.errors import ConfigInvalid, DatasetInvalid
from smpc_fl.nodes.cli.job_file import TrainStep, plan_of, read_job
from smpc_fl.nodes.cli.simulate import simulate_job
from smpc_fl.nodes.simulation.data import deal

LOCAL = """
[local]
aggregators = 2
k_min = 2
[local.owners]
a = { private = "a.safetensors" }
b = { private = "b.safetensors" }
"""
TRAIN = """
[[steps]]
do = "train"
rounds = 2
seed = 3
[steps.model]
layers = [3, 4, 2]
"""


def _job(folder: Path, text: str = LOCAL + TRAIN) -> Path:
    generator = np.random.default_rng(5)
    for name, rows in (("a", 20), ("b", 33)):
        x = generator.normal(size=(rows, 3)).astype(np.float32)
        save_file({"x": x, "y": (x[:, 0] > 0).astype(np.int64)}, folder / f"{name}.safetensors")
    path = folder / "job.toml"
    path.write_text(text)
    return path


def _plan(path: Path) -> sf.Plan:
    step = read_job(path).steps[0]
    assert isinstance(step, TrainStep)
    return plan_of(step.model, path.parent)


def _flat(file: Path, plan: sf.Plan) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return plan.layout.flatten(load_file(file))


def test_the_jobs_own_owners_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _job(tmp_path)
    simulate_job(path)
    said = capsys.readouterr().out
    assert "2 owners of 20 to 33 rows" in said
    assert "written: " in said
    plan = _plan(path)
    tables = {name: load_file(tmp_path / f"{name}.safetensors") for name in ("a", "b")}
    expected = sf.simulate(plan, tables, rounds=2, seed=3, aggregators=2, k_min=2).wait()
    np.testing.assert_array_equal(_flat(tmp_path / "job-output" / "1-train.safetensors", plan), expected.vector)
    lines = (tmp_path / "job-output" / "1-train.jsonl").read_text().splitlines()
    assert [json.loads(line)["included"] for line in lines] == [["a", "b"], ["a", "b"]]


def test_their_rows_dealt_out_to_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _job(tmp_path)
    simulate_job(path, owners=20, split_seed=4, aggregators=3, k_min=15, executor="threads", output=tmp_path / "out")
    assert "20 owners of 2 to 3 rows" in capsys.readouterr().out
    plan = _plan(path)
    parts = [load_file(tmp_path / f"{name}.safetensors") for name in ("a", "b")]
    table = {name: np.concatenate([part[name] for part in parts]) for name in ("x", "y")}
    expected = sf.simulate(plan, deal(table, 20, seed=4), rounds=2, seed=3, k_min=15).wait()
    np.testing.assert_array_equal(_flat(tmp_path / "out" / "1-train.safetensors", plan), expected.vector)


def test_a_table_of_its_own(tmp_path: Path) -> None:
    path = _job(tmp_path, TRAIN)
    table = tmp_path / "table.csv"
    table.write_text("a,b,c,ill\n" + "".join(f"{n},{-n},{n % 3},{n % 2}\n" for n in range(12)))
    simulate_job(path, owners=4, data=table, inputs="a,b,c", target="ill", split="blocks")
    assert (tmp_path / "job-output" / "1-train.safetensors").exists()


def test_check_looks_and_runs_nothing(tmp_path: Path) -> None:
    path = _job(tmp_path)
    said = smpc_fl("simulate", path, "--owners", "10", "--check")
    assert "10 owners of 5 to 6 rows" in said
    assert "ready to simulate" in said
    assert not (tmp_path / "job-output").exists()


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (LOCAL + '[[steps]]\ndo = "mean"\ntensor = "x"\nbound = 8.0\n', {}, "step 1 is not training"),
        (TRAIN, {}, "name a table with --data"),
        (LOCAL + TRAIN, {"inputs": "a"}, "are the columns of --data"),
        (LOCAL + TRAIN, {"data": "a.safetensors"}, "among how many owners"),
    ],
)
def test_what_cannot_be_simulated(tmp_path: Path, text: str, options: dict[str, str], said: str) -> None:
    path = _job(tmp_path, text)
    data = tmp_path / options.pop("data") if "data" in options else None
    with pytest.raises(ConfigInvalid, match=said):
        simulate_job(path, data=data, **options)  # type: ignore[arg-type]


def test_tables_of_different_columns_are_not_one(tmp_path: Path) -> None:
    path = _job(tmp_path)
    save_file({"x": np.ones((4, 2), np.float32), "y": np.ones(4, np.int64)}, tmp_path / "b.safetensors")
    with pytest.raises(ConfigInvalid, match="different columns"):
        simulate_job(path, owners=3)
    with pytest.raises(DatasetInvalid, match="cannot be read"):
        simulate_job(path, owners=3, data=tmp_path / "nothing.csv")


def test_help_teaches() -> None:
    from smpc_fl.nodes.cli.main import main

    said = CliRunner().invoke(main, ["simulate", "--help"]).output
    assert "smpc-fl simulate job.toml --owners 1000" in said
    assert "protects nobody" in said
