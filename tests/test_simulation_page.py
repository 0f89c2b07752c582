"""What docs/simulation.md tells its reader to type runs as written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from documents import ROOT, run_section, sections

PAGE = sections(ROOT / "docs" / "simulation.md")


@pytest.mark.slow
@pytest.mark.parametrize("heading", PAGE)
def test_what_the_page_says_runs_as_written(heading: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shown = run_section(PAGE[heading], tmp_path)
    assert "round" in shown


def test_the_page_shows_both_ways() -> None:
    assert set(PAGE) == {"From Python", "From the command line"}
