"""`scripts/kill`: kill -9 of every role at every boundary, many times, and how long each takes to be back.

Sums are exact with everybody in them, or it ends at once. "Back" is from the start of the process, imports and all, to the
moment that it has its rounds again and listens (its log line "ready")."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

from fleet import AGGREGATORS, COORDINATOR, RESTLESS, Fleet
from kill_points import CHAINS, repeated
from rich.console import Console
from rich.table import Table

LIMIT = 5.0
"""Seconds in which an aggregator or a coordinator is back."""
SAMPLES = 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/kill", description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    times = parser.parse_args().times
    console = Console()
    chains = {node: repeated(chain, times) for node, chain in CHAINS.items()}
    total = sum(map(len, chains.values()))
    rounds = seed = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="smpc-fl-kill-") as folder:
        fleet = Fleet(Path(folder))
        try:
            fleet.run(chains)
            with fleet.connect() as fed:
                while fleet.pending:
                    seed += 1
                    rounds += fleet.train(fed, rounds=6, seed=seed).check()
                    done = total - len(fleet.pending)
                    print(
                        f"\r{time.monotonic() - began:6.0f} s  {done}/{total} kills, {rounds} rounds  ",
                        end="",
                        flush=True,
                    )
            print()
            fleet.halt()
            back = {node: _back(fleet, node) for node in (AGGREGATORS[0], COORDINATOR, RESTLESS)}
        finally:
            fleet.stop()
    _tell(console, fleet, back)
    console.print(f"{len(fleet.deaths)} deaths, {rounds} rounds: every sum exact, everybody in it, one attempt each")
    late = [node for node in (AGGREGATORS[0], COORDINATOR) if max(back[node]) > LIMIT]
    if late:
        console.print(f"[red]not back within {LIMIT:.0f} s: {', '.join(late)}")
    return 1 if late else 0


def _back(fleet: Fleet, node: str) -> list[float]:
    """Seconds from the start of a process to its "ready", each after a kill, in the home that all those rounds have left."""
    seconds = []
    for _ in range(SAMPLES):
        command = [sys.executable, "-m", "smpc_fl.nodes", *fleet.arguments(node)]
        began = time.time()
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=fleet.descriptors
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if re.search(r'"event": "ready"', line):
                    at = datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp()
                    seconds.append(at - began)
                    break
            process.kill()
    return seconds


def _tell(console: Console, fleet: Fleet, back: dict[str, list[float]]) -> None:
    table = Table("killed", "at", "times", title="kill -9")
    for (node, fault), count in Counter((d.node, d.fault) for d in fleet.deaths if d.fault.startswith("kill")).items():
        table.add_row(node, " ".join(fault.split(":")[1:4]), str(count))
    console.print(table)
    table = Table("process", "back after", "at most", title=f"{SAMPLES} starts each")
    for node, seconds in back.items():
        table.add_row(node, f"{sorted(seconds)[len(seconds) // 2]:.2f} s", f"{max(seconds):.2f} s")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
