"""`scripts/soak`: rounds for an hour while random nodes die at random times; exact sums, and memory that stays.

One aggregator and one owner are spared, and the coordinator mostly, so that there are processes old enough to leak."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from fleet import AGGREGATORS, COORDINATOR, OWNERS, Fleet

LIMIT = 1.0
"""MB an hour that a process may grow."""
WARM_UP = 180.0
"""Seconds of a process's life that do not count: caches fill, the first of everything is loaded."""
LEAST = 1 / 6
"""Hours of warm life that a slope is judged by: those who are killed every minute have too little of it."""
ROUNDS = 100
MORTAL = {COORDINATOR: 1, **dict.fromkeys((*AGGREGATORS[:2], *OWNERS[:2]), 6)}
"""Who is killed, and how often beside the others."""
Sample = tuple[float, float]


class Memory:
    """(age in seconds, MB) of every process, second by second: what it has of its own (RssAnon). Pages of files, such as
    torch's libraries, come and go as the kernel likes, and are shared."""

    def __init__(self) -> None:
        self.samples: dict[tuple[str, int], list[Sample]] = defaultdict(list)
        self._born: dict[int, float] = {}

    def look(self, pids: dict[str, int]) -> None:
        now = time.monotonic()
        for node, pid in pids.items():
            try:
                (line,) = (
                    each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("RssAnon:")
                )
            except (OSError, ValueError):
                continue  # it has just died
            age = now - self._born.setdefault(pid, now)
            self.samples[node, pid].append((age, int(line.split()[1]) * 1024 / 1e6))

    def slopes(self, warm_up: float) -> dict[str, tuple[float, float]]:
        """{node: (MB an hour, hours that this is from)}: least squares over its processes together, each from where it was
        when it was warm."""
        found = {}
        for node in sorted({node for node, _ in self.samples}):
            ages, sizes, hours = [], [], 0.0
            for (other, _), samples in self.samples.items():
                warm = np.array([sample for sample in samples if sample[0] > warm_up])
                if other == node and len(warm) >= 60:
                    ages.append(warm[:, 0] - warm[:, 0].mean())
                    sizes.append(warm[:, 1] - warm[:, 1].mean())
                    hours += (warm[-1, 0] - warm[0, 0]) / 3600
            if ages:
                x, y = np.concatenate(ages), np.concatenate(sizes)
                found[node] = (float(x @ y / (x @ x)) * 3600, hours)
        return found


def _executioner(fleet: Fleet, memory: Memory, mean: float, stop: threading.Event, counts: dict[str, int]) -> None:
    """Look at the memory every second; kill somebody every `mean` seconds, on average."""
    next_ = time.monotonic() + 10.0
    while not stop.wait(1.0):
        memory.look(dict(fleet.pids))
        if time.monotonic() < next_:
            continue
        next_ = time.monotonic() + random.expovariate(1 / mean)
        (victim,) = random.choices([*MORTAL], weights=[*MORTAL.values()])
        try:
            os.kill(fleet.pids[victim], signal.SIGKILL)
            counts[victim] += 1
        except ProcessLookupError:
            pass


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between kills, on average")
    parser.add_argument("--warm-up", type=float, default=WARM_UP, help="seconds of a process's life that do not count")
    given = parser.parse_args()
    stop, counts, memory = threading.Event(), dict.fromkeys(MORTAL, 0), Memory()
    rounds = short = again = 0
    exact, began = True, time.monotonic()
    end = began + given.hours * 3600
    with tempfile.TemporaryDirectory(prefix="smpc-fl-soak-") as folder:
        fleet = Fleet(Path(folder))
        killer = threading.Thread(target=_executioner, args=(fleet, memory, given.every, stop, counts))
        try:
            fleet.run()
            with fleet.connect() as fed:
                fed.wait_for_owners()
                killer.start()
                seed = 0
                while exact and time.monotonic() < end:
                    seed += 1
                    trained = fleet.train(fed, rounds=ROUNDS, seed=seed)
                    for round_ in trained.run:
                        exact = trained.exact(round_)
                        rounds, short = rounds + 1, short + (len(round_.included) < len(OWNERS))
                        again += round_.attempts > 1
                        if not exact:
                            print(f"\nround {round_.number} of run {seed}: WRONG SUM", flush=True)
                            break
                        if rounds % 10 == 0:
                            minutes, dead = (time.monotonic() - began) / 60, sum(counts.values())
                            print(f"\r{minutes:6.1f} min  {rounds} rounds, {dead} kills  ", end="", flush=True)
                        if time.monotonic() > end:
                            trained.run.cancel()
                            break
        except KeyboardInterrupt:
            print("\nstopped: what there is so far")
        finally:
            stop.set()
            if killer.is_alive():
                killer.join()
            fleet.stop()
    deaths = len([d for d in fleet.deaths if not d.fault.startswith("exit")])
    print(f"\n{rounds} rounds, each sum {'exact' if exact else 'NOT EXACT'}; {deaths} deaths: {counts}")
    print(f"rounds without an owner that was away: {short}; with more than one attempt: {again}")
    worst = _tell(memory, given.warm_up)
    good = exact and rounds > 0 and worst is not None and worst <= LIMIT
    print("verdict:", "good" if good else "BAD" if worst is not None else "too short for a slope of memory")
    return 0 if good else 1


def _tell(memory: Memory, warm_up: float) -> float | None:
    slopes = memory.slopes(warm_up)
    for node, (slope, hours) in slopes.items():
        judged = f"limit {LIMIT}" if hours >= LEAST else "too short to judge by"
        print(f"  {node:14} {slope:+7.2f} MB/h over {hours * 60:.0f} min of warm processes ({judged})")
    for (node, pid), samples in memory.samples.items():
        if len(samples) > warm_up:
            warm = [size for age, size in samples if age > warm_up]
            if warm:
                print(
                    f"  {node:14} pid {pid}: {samples[0][1]:.1f} MB at first, {warm[0]:.1f} warm, {warm[-1]:.1f} at last"
                )
    return max((slope for slope, hours in slopes.values() if hours >= LEAST), default=None)


if __name__ == "__main__":
    sys.exit(main())
