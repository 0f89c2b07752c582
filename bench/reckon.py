"""What a million owners, or a billion parameters, would take: from what one owner costs here, measured at several d.

    python -m bench.reckon [--json FILE]       a minute or two

The costs are CPU time of the parts of a simulated round, which are the nodes' own code, on one core, without sockets and
disks; the rest is straight lines. What is reckoned is said to be.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import smpc_fl as sf
from bench import machine
from bench.wide import AGGREGATORS, OPTIONS, k_min, made, plan_of
from smpc_fl.nodes.owner_data import Holdings
from smpc_fl.nodes.simulation import round as round_
from smpc_fl.nodes.simulation.batch import Shard
from smpc_fl.nodes.simulation.executors import one_torch_thread
from smpc_fl.protocols.manifest import choose_numbers
from smpc_fl.ring import ring

CORES, NETWORK = 64, 25e9 / 8
"""A large machine: cores, and bytes a second of its network."""
SIZES = ((10**4, 300), (10**5, 200), (10**6, 60), (10**7, 12))
"""(d, owners) that costs are measured at."""
RINGS = (32, 48)
REPEATS = 3
QUESTIONS = ((10**4, 10**5), (10**4, 10**7), (10**6, 10**5), (10**6, 10**9))
"""(N, d)."""


@dataclass
class Cost:
    """CPU milliseconds of one core for one owner's report. `owner`: its part without training, and 1/N of the
    coordinator's; `take_in`, `expand`: of all aggregators together."""

    dimension: int
    ring_bits: int
    training: float
    owner: float
    take_in: float
    expand: float


def cost(dimension: int, owners: int, ring_bits: int) -> Cost:
    """In one thread and one batch, each part timed where it is called: the least of `REPEATS` rounds."""
    parts = {"vector": Holdings, "hear": Shard, "expand": Shard}
    originals = {name: getattr(home, name) for name, home in parts.items()}
    spent = dict.fromkeys(parts, 0.0)
    module, size = vars(round_), round_.__dict__["batch_size"]

    def timed(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            try:
                return originals[name](*args, **kwargs)
            finally:
                spent[name] += time.thread_time() - began

        return call

    plan = plan_of(dimension)
    make = partial(made, columns=plan.document.inputs.shape[0])
    run = sf.simulate(
        plan, (owners, make), rounds=1 + REPEATS, executor="threads", workers=1, k_min=k_min(owners),
        ring_bits=ring_bits, aggregators=AGGREGATORS, **OPTIONS,
    )  # fmt: skip
    found: list[Cost] = []
    try:
        for name, home in parts.items():
            setattr(home, name, timed(name))
        module["batch_size"] = lambda owners, workers: owners
        for number, before in enumerate(_times(run)):
            each = {name: 1000 * value / owners for name, value in spent.items()}
            spent.update(dict.fromkeys(parts, 0.0))
            if number:  # the first round reads and imports
                began = time.process_time()
                for owner in range(owners):
                    make(owner)
                whole = 1000 * (before - (time.process_time() - began)) / owners
                own = whole - sum(each.values())
                found.append(Cost(dimension, ring_bits, each["vector"], own, each["hear"], each["expand"]))
    finally:
        module["batch_size"] = size
        for name, home in parts.items():
            setattr(home, name, originals[name])
    least = {part: min(getattr(one, part) for one in found) for part in ("training", "owner", "take_in", "expand")}
    return Cost(dimension, ring_bits, **least)


def _times(run: sf.Run) -> Iterator[float]:
    """CPU seconds of this process for each round."""
    began = time.process_time()
    for _ in run:
        yield time.process_time() - began
        began = time.process_time()


@dataclass
class Reckoned:
    """One round of N owners with d parameters. Bytes, core hours, and how many machines each part would take to be done
    in an hour; `simulated`: all of it as a simulation."""

    owners: int
    dimension: int
    ring_bits: int
    upload: int
    owner_seconds: float
    into_aggregator: int
    aggregator_hours: float
    machines_by_network: float
    machines_by_cpu: float
    models: int
    machines_for_models: float
    simulated_hours: float
    simulated_memory: int


def reckon(owners: int, dimension: int, costs: Sequence[Cost]) -> Reckoned:
    """As measured, or on the straight line through the costs at the two largest d; in the first measured ring that is wide
    enough.

    The scale is so fine that an element of a vector of norm 1, on average 1 / sqrt(d), keeps ten bits."""
    numbers = choose_numbers(
        owners=owners, clip=1.0, max_samples=1, k_min=owners // 2, tolerance=dimension**-0.5 / 1024, ring_bits="fit"
    )  # fmt: skip
    of = ring(numbers.ring_bits)
    wide_enough = min(bits for bits in RINGS if bits >= of.bits)
    rows = [row for row in costs if row.ring_bits == wide_enough]

    def seconds(part: str) -> float:
        at = {row.dimension: float(getattr(row, part)) / 1000 for row in rows}
        if dimension in at:
            return at[dimension]
        (near, low), (far, high) = sorted(at.items())[-2:]
        return high + (high - low) / (far - near) * (dimension - far)

    upload = of.packed_size(dimension)
    into, models = owners * upload // AGGREGATORS, owners * 4 * dimension
    hours = owners * (seconds("take_in") + seconds("expand")) / AGGREGATORS / 3600
    return Reckoned(
        owners, dimension, of.bits, upload, seconds("owner"), into, hours, into / NETWORK / 3600, hours / CORES,
        models, models / NETWORK / 3600,
        owners * sum(map(seconds, ("training", "owner", "take_in", "expand"))) / 3600,
        # The model, its change and the gradient; the encoded vector, sealed; two of each aggregator.
        dimension * (3 * 4 + (1 + 2 * AGGREGATORS) * of.itemsize) + upload,
    )  # fmt: skip


def show_costs(rows: Sequence[Cost], console: Console) -> None:
    table = Table("d", "bits", "training", "owner", f"{AGGREGATORS} aggregators take in", "expand seeds")
    table.title = "CPU milliseconds for one owner, one core"
    for row in rows:
        parts = (row.training, row.owner, row.take_in, row.expand)
        table.add_row(f"{row.dimension:,}", str(row.ring_bits), *(f"{part:.2f}" for part in parts))
    console.print(table)


def show(rows: Sequence[Reckoned], console: Console) -> None:
    console.print(f"Reckoned, not measured: {AGGREGATORS} aggregators, machines of {CORES} cores and 25 Gbit/s")
    table = Table("one round", *(f"N = {power(row.owners)}, d = {power(row.dimension)}" for row in rows))
    lines: list[tuple[str, Any]] = [
        ("bits of the ring", lambda row: str(row.ring_bits)),
        ("an owner uploads", lambda row: amount(row.upload)),
        ("an owner's CPU, without training", lambda row: f"{figure(row.owner_seconds)} s"),
        ("into each aggregator", lambda row: amount(row.into_aggregator)),
        ("CPU of each aggregator, core hours", lambda row: figure(row.aggregator_hours)),
        ("machines an aggregator for one hour, by network", lambda row: figure(row.machines_by_network)),
        ("machines an aggregator for one hour, by CPU", lambda row: figure(row.machines_by_cpu)),
        ("models out of the coordinator", lambda row: amount(row.models)),
        ("machines to send models in one hour", lambda row: figure(row.machines_for_models)),
        ("simulated: CPU with training, core hours", lambda row: figure(row.simulated_hours)),
        ("simulated: memory of a worker", lambda row: amount(row.simulated_memory)),
    ]
    for title, tell in lines:
        table.add_row(title, *(tell(row) for row in rows))
    console.print(table)


def power(number: int) -> str:
    return f"10^{len(str(number)) - 1}"


def figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def amount(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} PB"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.reckon", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    console = Console(width=140)
    console.print(machine.line())
    one_torch_thread()
    costs = [cost(dimension, owners, bits) for bits in RINGS for dimension, owners in SIZES]
    show_costs(costs, console)
    reckoned = [reckon(owners, dimension, costs) for owners, dimension in QUESTIONS]
    show(reckoned, console)
    if given.json:
        found = {"machine": machine.describe(), "costs": [asdict(row) for row in costs]}
        given.json.write_text(json.dumps(found | {"reckoned": [asdict(row) for row in reckoned]}, indent=1))


if __name__ == "__main__":
    main()
