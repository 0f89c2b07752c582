"""Helper: the command line as its users have it, a process for each command, and waiting for what it must bring about."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

DIGEST = re.compile(r"\b[0-9a-f]{16}\b")


def smpc_fl(*words: str | Path, exit_code: int | None = 0) -> str:
    """What `smpc-fl WORDS…` prints; it must end with `exit_code`, or in any way for None."""
    command = [sys.executable, "-m", "smpc_fl.nodes", *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "200"}, check=False
    )
    assert exit_code in (None, done.returncode), f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def until(look: Callable[[], bool], what: str, timeout: float = 60.0) -> None:
    """Until `look()` is true. For what happens in other processes, which have no event to wait for here."""
    pause, end = threading.Event(), time.monotonic() + timeout
    while not look():
        assert time.monotonic() < end, f"not within {timeout:.0f} s: {what}"
        pause.wait(0.05)


def waiting_digests(config: Path) -> list[str]:
    """The digests of the requests that wait at an owner's node, as its table shows them, oldest first."""
    return DIGEST.findall(smpc_fl("requests", "list", "--config", config))
