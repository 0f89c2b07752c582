"""Runs what a document tells its reader to type.

Every fenced `bash` and `python` block of a section runs as written, in order, in one folder. A block that follows the comment
`<!-- until Ctrl-C -->` holds commands that go on: each line is started in the background and interrupted at the end. One
after `<!-- meanwhile -->` ends by itself, and needs what follows to do so.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(
    r"^(?P<going_on><!-- (?:until Ctrl-C|meanwhile) -->\n\n?)?```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    going_on: bool


def sections(document: Path) -> dict[str, list[Block]]:
    """Blocks to run, by the heading ("## …") that they stand under."""
    found: dict[str, list[Block]] = {}
    for part in re.split(r"^## ", document.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        blocks = [
            Block(match["language"], match["text"], match["going_on"] is not None)
            for match in FENCE.finditer(body)
            if match["language"] in ("bash", "python")
        ]
        if blocks:
            found[heading.strip()] = blocks
    return found


def environment() -> dict[str, str]:
    """What a reader's shell has: the environment's programs first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "COLUMNS": "120"}


@contextmanager
def background(lines: list[str], folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Commands that go on until Ctrl-C; each must end by itself, and well, when it is interrupted."""
    running = [
        subprocess.Popen(["bash", "-c", f"exec {line}"], cwd=folder, env=environment(), start_new_session=True)
        for line in lines
    ]
    try:
        yield running
    finally:
        for process in running:
            process.send_signal(signal.SIGINT)
        for process in running:
            try:
                process.wait(timeout=30)
            finally:
                process.kill()


def run_block(block: Block, folder: Path, *, timeout: float = 300) -> str:
    """Runs one block in `folder` and returns what it printed; a failure shows the block and its output."""
    command = ["bash", "-euo", "pipefail", "-c", block.text]
    if block.language == "python":
        (folder / "block.py").write_text(block.text, encoding="utf-8")
        command = [sys.executable, "block.py"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{block.text}\n--- ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_section(blocks: list[Block], folder: Path) -> str:
    """All blocks of a section, in order; what went on in the background ends with it."""
    if not blocks:
        return ""
    first, *rest = blocks
    if first.going_on:
        with background([line for line in first.text.splitlines() if line.strip()], folder):
            return run_section(rest, folder)
    return run_block(first, folder) + run_section(rest, folder)
