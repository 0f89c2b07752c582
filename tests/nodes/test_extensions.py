"""Python files of a node's own: what they register, jobs may name."""

from __future__ import annotations

from pathlib import Path

import pytest

from smpc_fl.errors import ConfigInvalid
from smpc_fl.learning.strategy import known
from smpc_fl.nodes.extensions import load_extensions

GENTLE = """
import smpc_fl as sf

@sf.register_strategy
class Gentle(sf.FedAvg, frozen=True, tag=True):
    def step(self, mean, kept, about):
        return 0.5 * mean["update"]
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
