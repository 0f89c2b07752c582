"""Flower's SecAgg+ (`flower.py`, in an environment of its own) beside our secure round, on the same vectors."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from bench.homes import Certificates
from bench.measure import SECURE, Measured, sides, take
from bench.task import MAX_SAMPLES, Task

PYTHON = "SMPC_FL_PEERS"
"""Environment variable: the interpreter that has `flwr`; `scripts/bench` sets it once `scripts/bench peers` has made it."""


@dataclass(frozen=True)
class Way:
    """A way to run Flower: `engine` as `flower.py` has them, `threads` that run clients; `shares` of each secret, 0 for one
    to everybody, which tolerates as many colluding owners as we do; `secure`: SecAgg+, or plain FedAvg."""

    name: str
    engine: Literal["ray", "threads", "calls"]
    threads: int = 2
    shares: int = 0
    secure: bool = True


WAYS = (
    Way("SecAgg+, its simulation engine", "ray"),
    Way("SecAgg+, the engine without Ray", "threads"),
    Way("SecAgg+, mere calls, 1 thread", "calls", threads=1),
    Way("SecAgg+, mere calls, 2 threads", "calls"),
    Way("SecAgg+, mere calls, 3 shares", "calls", shares=3),
    Way("FedAvg, its simulation engine", "ray", secure=False),
)


@dataclass(frozen=True)
class Peer:
    """Flower's figures for one round: median seconds, CPU seconds, bytes uploaded, largest error of the mean, peak bytes."""

    way: Way
    task: Task
    wall: float
    cpu: float
    uploaded: int
    error: float
    peak: int

    def as_json(self) -> dict[str, Any]:
        return {
            "peer": "flower", "way": self.way.name, "owners": self.task.owners, "dimension": self.task.dimension,
            "wall": self.wall, "cpu": self.cpu, "uploaded": self.uploaded, "error": self.error, "peak": self.peak,
        }  # fmt: skip


@dataclass(frozen=True)
class Contest:
    """Our secure round (no TLS, its own sealing) and every way of Flower's, in the same run."""

    ours: Measured
    error: float
    peers: tuple[Peer, ...]


def interpreter() -> str | None:
    """The Python that has flwr, if there is one."""
    path = os.environ.get(PYTHON, "")
    return path if path and Path(path).exists() else None


def contest(task: Task, folder: Path, certificates: Certificates, *, rounds: int) -> Contest:
    """Ours and theirs in turn."""
    python = interpreter()
    assert python is not None
    exact = task.mean()
    paths = [folder / f"update-{owner}.npy" for owner in range(task.owners)]
    for owner, path in enumerate(paths):
        np.save(path, task.update(owner))
    np.save(folder / "exact.npy", exact)
    ours, peers = Measured(SECURE, task), []
    with sides([(SECURE, task)], folder, certificates) as [side]:
        side.rounds(2)
        for way in WAYS:
            for _ in range(rounds):
                take(side, ours)
            peers.append(_flower(python, way, task, paths, folder, rounds))
        ours.peaks = side.peaks()
        error = float(np.max(np.abs(side.model() - exact)))
    return Contest(ours, error, tuple(peers))


def _flower(python: str, way: Way, task: Task, updates: list[Path], folder: Path, rounds: int) -> Peer:
    case = folder / "case.json"
    case.write_text(json.dumps({
        "updates": [str(path) for path in updates], "exact": str(folder / "exact.npy"), "rounds": rounds,
        "examples": [round(MAX_SAMPLES * task.weight(owner)) for owner in range(task.owners)],
        "threads": way.threads, "shares": way.shares, "secure": way.secure, "engine": way.engine,
    }))  # fmt: skip
    script = Path(__file__).with_name("flower.py")
    done = subprocess.run([python, str(script), str(case)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"flower.py failed: {done.stderr[-2000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    return Peer(
        way, task, median(told["seconds"]), median(told["cpu"]), told["uploaded"], told["error"], told["peak"]
    )  # fmt: skip
