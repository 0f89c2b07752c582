"""The documentation keeps its word: what it tells its reader to type runs as written, what it lists is what there is."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from documents import ROOT, Block, run_block, run_section, sections

README = sections(ROOT / "README.md")
RECURSIVE = "./scripts/test"
"""The one command that no test can run, being what runs the tests."""


def test_the_readme_has_its_sections() -> None:
    assert {"Two commands", "From Python", "Your own data", "Across machines"} <= set(README)


@pytest.mark.timeout(400)
def test_the_two_commands() -> None:
    (block,) = README["Two commands"]
    commands = block.text.split()
    assert commands == ["./scripts/demo", RECURSIVE]
    run_block(Block("bash", "bash -n scripts/test; bash -n .ci/run", going_on=False), ROOT)
    shown = run_block(Block("bash", commands[0], going_on=False), ROOT)
    assert "Switzerland" in shown
    assert "off plain" in shown
    assert (ROOT / "demo-output" / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("heading", [heading for heading in README if heading != "Two commands"])
def test_what_the_readme_says_runs_as_written(heading: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    run_section(README[heading], tmp_path)


@pytest.mark.parametrize(
    "document", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{document} links to {target}"


def test_every_operation_on_pointers_is_listed() -> None:
    from smpc_fl.pointers.operations import OPERATIONS

    listed = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "pointers.md").read_text(encoding="utf-8")))
    assert not set(OPERATIONS) - listed
