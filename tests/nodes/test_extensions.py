"""Python files of a node's own: what they register, jobs may name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import smpc_fl as sf
from smpc_fl.errors import BadInput, ConfigInvalid
from smpc_fl.learning.strategy import known
from smpc_fl.nodes.extensions import load_extensions

GENTLE = """
import smpc_fl as sf

@sf.register_strategy
class Gentle(sf.FedAvg, frozen=True, tag=True):
    def step(self, mean, kept, about):
        return 0.5 * mean["update"]
"""


CENTRE = """
import numpy as np
import smpc_fl as sf

@sf.register_update("centre_step")
def centre_step(model, tensors, about):
    noise = np.random.default_rng(about.seed).normal(size=model["centre"].shape)
    change = about.options["lr"] * (tensors["size"].mean(0) - model["centre"]) + 1e-3 * noise
    return {"centre": change}, len(tensors["size"]), {"far": float(np.abs(change).max())}
"""


def test_a_file_is_run_once_for_all(tmp_path: Path) -> None:
    path = tmp_path / "gentle.py"
    path.write_text(GENTLE)
    load_extensions([path, path])
    assert known()["Gentle"].__module__ == "smpc_fl_extension_gentle"


@pytest.mark.parametrize(("name", "content", "said"), [
    ("none.py", None, "must be a Python file"),
    ("table.csv", "a,b", "must be a Python file"),
    ("broken.py", "1 / 0", "ZeroDivisionError"),
    ("words.py", "so far", "SyntaxError"),
])  # fmt: skip
def test_what_cannot_be_run_is_named(tmp_path: Path, name: str, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigInvalid, match=f"{name}.*{said}"):
        load_extensions([tmp_path / name])


def test_owners_run_their_own_update_function_by_name(tmp_path: Path) -> None:
    """Between processes as in a simulation, bit for bit; what no owner has is refused; the code is in none of the bytes."""
    path = tmp_path / "centre.py"
    path.write_text(CENTRE)
    load_extensions([path])
    rng = np.random.default_rng(3)
    owners = {name: {"size": rng.normal(size=(rows, 3))} for name, rows in (("ann", 30), ("ben", 20), ("cai", 50))}
    plan = sf.UpdatePlan("centre_step", {"centre": np.zeros(3)}, tensors=["size"], options={"lr": 0.5}, metrics=["far"])
    options: dict[str, Any] = {"rounds": 3, "seed": 6, "strategy": sf.FedAvgM(momentum=0.5)}
    expected = sf.simulate(plan, owners, **options).wait()
    with sf.LocalFederation(owners, aggregators=2, ledger="own", extensions=[path]) as fed:
        run = fed.train(plan, **options).wait()
        with pytest.raises(BadInput, match="no update function 'median_step'; it has: centre_step"):
            fed.train(sf.UpdatePlan("median_step", {"centre": np.zeros(3)}, tensors=["size"]), rounds=1).wait()
    assert np.array_equal(run.vector, expected.vector)
    assert [r.metrics for r in run.rounds] == [r.metrics for r in expected.rounds]
    assert run.rounds[0].metrics["far"] > 0
    run.save_model(tmp_path / "centre.safetensors")
    with pytest.raises(BadInput, match=r"no graph that a \.pt2 file"):
        run.save_model(tmp_path / "centre.pt2")
