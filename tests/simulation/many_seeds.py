"""Many federations, each out of one seed, under faults: `scripts/faults --seeds N`. A failing seed is replayed with its story."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

from federation_of_seed import Federation
from invariants import Violation
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from scenario import Scenario
from toy_crypto import toy_cryptography

CHUNK = 50
"""Seeds that a worker takes at a time."""
LINES = 150
"""Of a failing seed's story, the last that are shown."""


@dataclass
class Outcome:
    """What became of some seeds: `failed` by seed, `ends` of attempts, in words, by how many."""

    failed: dict[int, str]
    ends: Counter[str]
    seeds: int


def run_seeds(seeds: range) -> Outcome:
    failed: dict[int, str] = {}
    ends: Counter[str] = Counter()
    with toy_cryptography():
        for seed in seeds:
            federation = Federation(Scenario.of(seed), remembered=1)
            verdict = federation.run()
            if verdict is not None:
                failed[seed] = str(verdict)
            ends.update(type(ended.outcome).__name__ for ended in federation.books.attempts)
    return Outcome(failed, ends, len(seeds))


def digests(seeds: range) -> list[str]:
    """One line a seed, over all that happened."""
    found = []
    with toy_cryptography():
        for seed in seeds:
            federation = Federation(Scenario.of(seed), remembered=1)
            federation.run()
            found.append(federation.world.digest)
    return found


def smaller(scenario: Scenario) -> Iterator[Scenario]:
    """The scenario with one thing less going wrong."""
    if len(scenario.runs) > 1:
        yield from (replace(scenario, runs=(run,)) for run in scenario.runs)
    for kind in scenario.rates:
        yield replace(scenario, rates={name: rate for name, rate in scenario.rates.items() if name != kind})
    for who in scenario.crashes:
        yield replace(scenario, crashes={name: when for name, when in scenario.crashes.items() if name != who})
    for planned in scenario.planned:
        rest = tuple(other for other in scenario.planned if other is not planned and other.who != planned.who)
        yield replace(scenario, planned=rest)
    for one in scenario.slow:
        yield replace(scenario, slow={key: seconds for key, seconds in scenario.slow.items() if key != one})
    if scenario.skews:
        yield replace(scenario, skews={})
    if scenario.crash_rate:
        yield replace(scenario, crash_rate=0.0)
    if scenario.mischief:
        yield replace(scenario, mischief=0.0)
    if scenario.hasty:
        yield replace(scenario, hasty="")
    if scenario.computing_fails:
        yield replace(scenario, computing_fails=0.0)


def minimised(scenario: Scenario, name: str) -> Scenario:
    """As little as goes wrong and still breaks the invariant of this name."""
    for candidate in smaller(scenario):
        verdict = Federation(candidate, remembered=1).run()
        if verdict is not None and verdict.name == name:
            return minimised(candidate, name)
    return scenario


def replay(seed: int, console: Console) -> Violation | None:
    with toy_cryptography():
        scenario = Scenario.of(seed)
        verdict = Federation(scenario, remembered=1).run()
        if verdict is not None:
            scenario = minimised(scenario, verdict.name)
        federation = Federation(scenario, remembered=LINES)
        federation.run()
    console.print(f"[bold]seed {seed}[/]" + (", with as little going wrong as breaks it" if verdict else ""))
    console.print(scenario, markup=False)
    for line in federation.world.story:
        console.print(line, markup=False, highlight=False)
    console.print(f"digest {federation.world.digest}")
    return verdict


def run_many(first: int, seeds: int, workers: int, console: Console) -> int:
    chunks = [range(at, min(at + CHUNK, first + seeds)) for at in range(first, first + seeds, CHUNK)]
    failed: dict[int, str] = {}
    ends: Counter[str] = Counter()
    began = time.monotonic()
    columns = (
        TextColumn("seeds"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[found]}"),
    )
    with (
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool,
        Progress(*columns, console=console) as progress,
    ):
        task = progress.add_task("seeds", total=seeds, found="")
        for outcome in pool.map(run_seeds, chunks):
            failed |= outcome.failed
            for seed, why in outcome.failed.items():
                console.print(f"  seed {seed}: {why}", markup=False)
            ends.update(outcome.ends)
            progress.update(task, advance=outcome.seeds, found=f"{len(failed)} violations" if failed else "")
    console.print(
        f"{seeds:,} seeds from {first:,} in {time.monotonic() - began:,.0f} s: {ends['Released']:,} attempts released, "
        f"{ends['GivenUp']:,} given up, {len(failed)} violations"
    )
    if failed:
        seed = min(failed)
        replay(seed, console)
        console.print(f"again: scripts/faults --replay {seed}")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first one (0)")
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    again = "one seed again: its story, with as little going wrong as breaks it"
    parser.add_argument("--replay", type=int, metavar="SEED", help=again)
    parser.add_argument(
        "--digests", action="store_true", help="print a line for each seed, over all that happened in it"
    )
    arguments = parser.parse_args()
    console = Console(soft_wrap=True)
    if arguments.digests:
        print("\n".join(digests(range(arguments.first, arguments.first + arguments.seeds))))
        return 0
    if arguments.replay is not None:
        return 1 if replay(arguments.replay, console) else 0
    return run_many(arguments.first, arguments.seeds, arguments.workers, console)


if __name__ == "__main__":
    sys.exit(main())
