"""What a round takes while somebody attacks the nodes that do it, beside one that nobody attacks.

    scripts/hostile                    every attack on an aggregator, ten interleaved pairs each: minutes
    scripts/hostile --pairs 3 --only idle

Real processes; the attackers run in a process of their own, and every round is held against the exact sum. What they use
of the machine is theirs: with two cores, part of a ratio is that. `VmHWM` is the node's peak, before and after."""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bench.attacks import STRANGERS, under
from bench.processes import memory
from bench.secure import SecureSide, start_secure
from bench.task import Task
from smpc_fl.nodes.home.config import AggregatorConfig, load

WARM = 1.0
"""Seconds that an attack goes on before a round is timed beside it."""


def attacker(pipe: Connection, address: tuple[str, int]) -> None:
    """Begins the attack that it is told the name of; ends it at the next word."""

    async def live() -> None:
        while name := await asyncio.to_thread(pipe.recv):
            async with under(STRANGERS[name](address)):
                await asyncio.sleep(WARM)
                pipe.send(True)
                await asyncio.to_thread(pipe.recv)
            pipe.send(True)

    asyncio.run(live())


def timed(side: SecureSide, rounds: int) -> float:
    began = time.perf_counter()
    side.rounds(rounds)
    return (time.perf_counter() - began) / rounds


def measure(task: Task, names: list[str], pairs: int, rounds: int, console: Console) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        side = start_secure(task, Path(folder) / "federation", None)
        path = side.folder / "aggregator-1" / "node.toml"
        host, _, port = load(path, AggregatorConfig).listen.rpartition(":")
        pipe, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(
            target=attacker, args=(theirs, (host, int(port))), daemon=True
        )
        process.start()
        table = Table(
            "attack",
            "alone, s",
            "attacked, s",
            "ratio",
            "peak +MB",
            title=f"{task.owners} owners, d = {task.dimension:,}",
        )
        good = True
        try:
            side.rounds(3)
            pid = side.roles["aggregator"][0]
            for name in names:
                before, alone, attacked = memory(pid), [], []
                for _ in range(pairs):
                    alone.append(timed(side, rounds))
                    pipe.send(name)
                    pipe.recv()
                    attacked.append(timed(side, rounds))
                    pipe.send(False)
                    pipe.recv()
                ratio = median(b / a for a, b in zip(alone, attacked, strict=True))
                more = (memory(pid) - before) / (1 << 20)
                good &= ratio < 2.0 and more < 64.0
                table.add_row(name, f"{median(alone):.3f}", f"{median(attacked):.3f}", f"{ratio:.2f}", f"{more:.1f}")
                console.print(name, f"{ratio:.2f}", f"+{more:.1f} MB")
            pipe.send("")
        finally:
            process.terminate()
            process.join()
            side.stop()
    console.print(table)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3, help="rounds in a row that are timed together")
    parser.add_argument("--owners", type=int, default=3)
    parser.add_argument("--dimension", type=int, default=100_000)
    parser.add_argument("--only", default="", help="attacks whose name holds this word")
    chosen = parser.parse_args()
    names = [name for name in STRANGERS if chosen.only in name]
    task = Task(chosen.owners, chosen.dimension, 2)
    if not measure(task, names, chosen.pairs, chosen.rounds, Console()):
        sys.exit("an attack cost more than twice the time, or 64 MB")


if __name__ == "__main__":
    main()
