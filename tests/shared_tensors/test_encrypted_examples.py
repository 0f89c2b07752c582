"""The examples of encrypted inference and training, in short form."""

from __future__ import annotations

import re
import runpy

import pytest
from documents import ROOT


@pytest.fixture(autouse=True)
def _beside_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setenv("COLUMNS", "120")


def test_the_class_on_shares_is_that_in_clear(capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(ROOT / "examples" / "encrypted_inference.py"))["main"]
    main(["--images", "40", "--rows", "1000", "--epochs", "1", "--parties", "3"])
    shown = capsys.readouterr().out
    found = re.search(r"Same class as in clear: (\d+) of 40\. Right: (0\.\d+)", shown)
    assert found is not None
    assert int(found[1]) >= 39
    assert float(found[2]) > 0.4


def test_training_on_shares_ends_where_training_in_clear_does(capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(ROOT / "examples" / "encrypted_training.py"))["main"]
    main(["--tasks", "2"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "diabetes" in line and "10-10-1" in line]
    shared, clear, steps, *_ = re.findall(r" (\d+(?:\.\d+)?)", line.split("diabetes")[1])
    assert abs(float(shared) - float(clear)) < 1
    assert float(clear) > 20
    assert int(steps) == 30
