"""What docs/privacy.md tells its reader to type runs as written, and its table is what the accountant says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documents import FENCE, ROOT, Block, run_block

from smpc_fl.jobs import LocalTraining, Privacy, RecordPrivacy
from smpc_fl.privacy.accounting import spent
from smpc_fl.privacy.records import spent as spent_on_records

PAGE = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_example_learns_and_reports_what_it_cost(tmp_path: Path) -> None:
    block, _, _ = [Block(match["language"], match["text"], going_on=False) for match in FENCE.finditer(PAGE)]
    shown = run_block(block, tmp_path)
    accuracy = re.search(r"accuracy (\d\.\d\d)", shown)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.85
    assert re.search(r"ε = (5\.9\d\d|6\.000) at δ = 1e-05 for each owner, after 6 rounds \(6 releases", shown)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_clip_of_the_example_grows_to_the_updates(tmp_path: Path) -> None:
    first, further, _ = (match["text"] for match in FENCE.finditer(PAGE))
    shown = run_block(Block("python", f"{first}\n{further}", going_on=False), tmp_path)
    clips = re.search(r"\[(0\.1(, [0-9.]+){5})\]", shown)
    assert clips is not None
    assert float(clips[1].split(", ")[-1]) > 0.1


@pytest.mark.slow
def test_the_example_for_records_learns_and_reports_what_it_cost(tmp_path: Path) -> None:
    _, _, block = [Block(match["language"], match["text"], going_on=False) for match in FENCE.finditer(PAGE)]
    shown = run_block(block, tmp_path)
    accuracy = re.search(r"accuracy (\d\.\d\d)", shown)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.85
    privacy = RecordPrivacy(noise_multiplier=2.0, sampling_rate=0.1, delta=1e-5)
    assert str(spent_on_records(LocalTraining(privacy=privacy), 3)) in shown


@pytest.mark.parametrize(("multiplier", "releases"), [(4, 10), (32, 200)])
def test_the_table_is_the_accountants(multiplier: int, releases: int) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| {multiplier} |"))
    said = row.split(" | ")[1 + [10, 50, 200].index(releases)].removesuffix(" |")
    own = spent(Privacy(delta=1e-5, noise_multiplier=float(multiplier)), releases, releases)
    assert said == f"ε = {own.epsilon:.3g}"
