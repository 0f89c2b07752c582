"""What the pages on learning tell their reader to type runs as written: their Python in this process, for speed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from documents import FENCE, ROOT

SAYS = {
    "strategies": ["FedAvg", "FedProx", "Scaffold"],
    "personal": ["global", "fine-tuned", "Ditto", "own head"],
    "traffic": ["None", "bytes a round"],
    "homomorphic": ["mean", "from shares 0.0"],
    "shared_tensors": ["Cost(rounds=", "tensor("],
}


@pytest.mark.slow
@pytest.mark.parametrize("page", SAYS)
def test_what_the_page_says_runs_as_written(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    blocks = [match["text"] for match in FENCE.finditer(text) if match["language"] == "python"]
    assert blocks
    for number, block in enumerate(blocks):
        names: dict[str, Any] = {"__name__": f"page_{page}_{number}"}
        exec(compile(block, f"{page}.md", "exec"), names)  # noqa: S102 (the project's own page)
    shown = capsys.readouterr().out
    assert [word for word in SAYS[page] if word not in shown] == []
    with contextlib.suppress(ValueError):
        assert all(0 <= float(line.split()[-1]) <= 1 for line in shown.splitlines())
