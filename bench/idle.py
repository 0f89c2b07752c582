"""Nodes that do nothing: how soon they are up, what they hold, what they cost at rest. Started as a deployment starts them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.homes import COORDINATOR, make_homes
from bench.processes import cpu_seconds, memory
from bench.task import Task
from smpc_fl.nodes.children import Child
from smpc_fl.nodes.hardening import SWITCH

START_TIMEOUT = 60.0


@dataclass(frozen=True)
class Idle:
    """`seconds` from the start of the process until it says that it is ready; `resident` bytes; `share` of a core at rest;
    `libraries` that it has loaded of those that it should not."""

    role: str
    seconds: float
    resident: int
    share: float
    libraries: tuple[str, ...]


def measure(folder: Path, rest: float) -> list[Idle]:
    """One node of each role, of a federation whose members are all up, watched for `rest` seconds."""
    was = os.environ.get(SWITCH)
    os.environ[SWITCH] = "1"  # /proc/PID/maps of a hardened process is for root
    task = Task(3, 1000, 2)
    homes = make_homes(folder, task, certificates=None)
    roles = [(COORDINATOR, "coordinator"), *((name, "aggregator") for name in task.aggregator_names)]
    roles += [(name, "owner") for name in task.names]
    children, started = [], {}
    try:
        for name, role in roles:
            log = folder / f"{name}.log"
            child = Child(name, role, homes.paths[name], log, homes.listeners.get(name))
            began = time.perf_counter()
            child.start()
            children.append(child)
            started[role] = _ready(log, began)
        time.sleep(rest / 2)  # what a node does after it is ready: connections, an owner's ledger
        watched = {child.role: child.pid for child in children}
        before = {role: cpu_seconds(pid) for role, pid in watched.items()}
        time.sleep(rest)
        return [
            Idle(role, started[role], memory(pid, "VmRSS"), (cpu_seconds(pid) - before[role]) / rest, _loaded(pid))
            for role, pid in watched.items()
        ]
    finally:
        del os.environ[SWITCH]
        if was is not None:
            os.environ[SWITCH] = was
        for child in children:
            if child.process is not None:
                child.process.terminate()
        for child in children:
            child.stop(time.monotonic() + 5.0)
        for listener in homes.listeners.values():
            listener.close()


def import_seconds(module: str) -> float:
    """Seconds that a fresh interpreter takes to import it, and to end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - began


def _ready(log: Path, began: float) -> float:
    while time.perf_counter() - began < START_TIMEOUT:
        if log.exists() and '"ready"' in log.read_text():
            return time.perf_counter() - began
        time.sleep(0.005)
    raise TimeoutError(f"a node is not ready: {log.read_text()[-2000:]}")


def _loaded(pid: int) -> tuple[str, ...]:
    maps = Path(f"/proc/{pid}/maps").read_text()
    return tuple(name for name, sign in {"torch": "libtorch", "pandas": "/pandas/"}.items() if sign in maps)
