"""Wide rounds: N simulated owners of d numbers each, on this machine. (`reckon.py`: what larger ones would take.)

    python -m bench.wide                       N = 10, 100, 1,000, 10,000 at d = 100,000, some five minutes on two cores
    python -m bench.wide --owners 10,100       other N; --executor threads|processes|ray; --dimension D; --json FILE

Every measured round is held against the same sum in plain 64-bit integers, without ring, shares or seals: the model must
come out the same, bit for bit. The first round, in which workers start and import torch, is not measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import smpc_fl as sf
from bench import machine
from smpc_fl.jobs import TrainJob, decode_job, encode_job
from smpc_fl.learning.server import Server, serve
from smpc_fl.learning.shared import shared_of
from smpc_fl.learning.strategy import About
from smpc_fl.learning.update import disassemble
from smpc_fl.nodes.simulation.data import Tensors, holdings, name_of
from smpc_fl.nodes.simulation.executors import cores, one_torch_thread
from smpc_fl.nodes.simulation.run import Progress
from smpc_fl.nodes.training_job import training_job
from smpc_fl.protocols.manifest import Numbers, choose_numbers
from smpc_fl.protocols.work import train_round, work_of

ROWS, CLASSES, SEED, AGGREGATORS = 8, 10, 1, 3
MB = 1 << 20


@dataclass
class Wide:
    """One N. Seconds and bytes; `cpu`: all processes; `peak`: the largest process, main or worker."""

    owners: int
    dimension: int
    ring_bits: int
    seconds: float
    cpu: float
    peak_main: int
    peak_worker: int
    uploaded: int
    equal: bool


def made(number: int, *, columns: int) -> Tensors:
    """An owner's rows: quick to make, and different for everybody."""
    x = np.random.default_rng(number).standard_normal((ROWS, columns), dtype=np.float32)
    return {"x": x, "y": (np.arange(ROWS) + number) % CLASSES}


def plan_of(dimension: int) -> sf.Plan:
    """A linear layer with `dimension` parameters."""
    columns = dimension // CLASSES - 1
    torch.manual_seed(SEED)
    return sf.Plan.from_module(
        nn.Linear(columns, CLASSES), example=(torch.zeros(4, columns), torch.zeros(4, dtype=torch.long))
    )


OPTIONS: dict[str, Any] = {
    "local": sf.LocalTraining(lr=0.01), "max_samples": ROWS, "seed": SEED, "clip": 1.0, "tolerance": 1e-2
}  # fmt: skip


def k_min(owners: int) -> int:
    """Half of the owners must be there, so that 32 bits keep the tolerance also where there are many."""
    return max(3, owners // 2)


# --- the same in plain integers -------------------------------------------------------------------------------------


def integers(first: int, last: int, *, columns: int, job: bytes, model: bytes, fractional_bits: int) -> Any:
    """int64[slots], the sum of owners' encoded vectors, by no more than `rint`."""
    one_torch_thread()
    read = decode_job(job)
    assert isinstance(read, TrainJob)
    total: npt.NDArray[np.int64] | None = None
    for number in range(first, last):
        data = holdings(made(number, columns=columns))
        vector = data.vector(read, "train", train_round(2), model, owner=name_of(number), cohort=[])
        encoded = np.rint(vector.dense() * 2.0**fractional_bits).astype(np.int64)
        total = encoded if total is None else total + encoded
    return total


def expected(plan: sf.Plan, job: TrainJob, numbers: Numbers, owners: int, model: npt.NDArray[np.float32]) -> Any:
    """The model after the second round, from the one before it."""
    work, size = work_of(job, "train"), max(1, owners // (4 * cores()))
    columns = plan.document.inputs.shape[0]
    do = partial(
        integers, columns=columns, job=encode_job(job), model=model.tobytes(), fractional_bits=numbers.fractional_bits
    )
    starts = range(0, owners, size)
    with ProcessPoolExecutor(cores(), multiprocessing.get_context("forkserver")) as pool:
        parts = pool.map(do, starts, [min(start + size, owners) for start in starts])
        total: npt.NDArray[np.int64] = sum(parts, start=np.zeros(work.layout.length, np.int64))
    said = disassemble(total.astype(np.float64) * 2.0**-numbers.fractional_bits, work.layout)
    about, shared = About(2, owners, owners, job.local), shared_of(job.plan, job.strategy, job.private)
    return serve(job.strategy, Server(model, {}), said.sum, shared, about, weight=said.total_weight).model


# --- measuring ------------------------------------------------------------------------------------------------------


def descendants(pid: int) -> Iterator[int]:
    """Live processes under `pid`."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield child
        yield from descendants(child)


def usage(pid: int) -> tuple[float, int]:
    """(CPU seconds so far, peak resident bytes)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(peak.split()[1]) * 1024


class Watch:
    """CPU and memory of this process and all below it, as progress is heard."""

    def __init__(self) -> None:
        self.now: dict[int, tuple[float, int]] = {}

    def __call__(self, progress: Progress | None = None) -> None:
        for pid in [os.getpid(), *descendants(os.getpid())]:
            try:
                self.now[pid] = usage(pid)
            except (OSError, StopIteration):  # it has ended
                continue

    @property
    def cpu(self) -> float:
        return sum(cpu for cpu, _ in self.now.values())


def measure(owners: int, dimension: int, executor: str) -> Wide:
    plan, watch = plan_of(dimension), Watch()
    columns = plan.document.inputs.shape[0]
    run = sf.simulate(
        plan, (owners, partial(made, columns=columns)), rounds=2, executor=executor, k_min=k_min(owners),
        aggregators=AGGREGATORS, progress=watch, **OPTIONS,
    )  # fmt: skip
    rounds = iter(run)
    before = next(rounds)
    watch()
    cpu = watch.cpu
    after = next(rounds)
    watch()
    cpu, here = watch.cpu - cpu, os.getpid()
    job = training_job(
        plan, inputs="x", targets="y", rounds=2, strategy=None, evaluation=None, stop=None, ring_bits=None,
        update_bits=None, **OPTIONS,
    )  # fmt: skip
    work = work_of(job, "train")
    numbers = choose_numbers(
        owners=owners, clip=work.clip, max_samples=work.max_samples, k_min=k_min(owners), tolerance=work.tolerance,
        ring_bits=None,
    )  # fmt: skip
    assert not after.missing
    return Wide(
        owners, dimension, after.ring_bits, after.seconds, cpu, watch.now[here][1],
        max((peak for pid, (_, peak) in watch.now.items() if pid != here), default=0),
        sum(after.traffic.uploaded.values()),
        bool(np.array_equal(after.model, expected(plan, job, numbers, owners, before.model))),
    )  # fmt: skip


def show(rows: Sequence[Wide], executor: str, console: Console) -> dict[str, Any]:
    table = Table("N", "bits", "seconds", "CPU s", "CPU ms/owner", "peak MB main", "worker", "uploaded MB", "bit-equal")
    table.title = f"Wide rounds, d = {rows[0].dimension:,}, {executor}, {cores()} cores"
    for row in rows:
        table.add_row(
            f"{row.owners:,}", str(row.ring_bits), f"{row.seconds:.2f}", f"{row.cpu:.2f}",
            f"{1000 * row.cpu / row.owners:.1f}", f"{row.peak_main / MB:.0f}", f"{row.peak_worker / MB:.0f}",
            f"{row.uploaded / 1e6:.1f}", "yes" if row.equal else "NO",
        )  # fmt: skip
    console.print(table)
    slopes = {}
    for name in ("seconds", "cpu", "uploaded"):
        if len(rows) > 1:
            xs, ys = np.log([row.owners for row in rows]), np.log([max(getattr(row, name), 1e-9) for row in rows])
            slopes[name] = {
                "all": float(np.polyfit(xs, ys, 1)[0]), "last step": float((ys[-1] - ys[-2]) / (xs[-1] - xs[-2]))
            }  # fmt: skip
            console.print(
                f"exponent of {name} in N: {slopes[name]['all']:.2f}; last step {slopes[name]['last step']:.2f}"
            )
    return slopes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.wide", description=__doc__.partition("\n")[0])
    parser.add_argument("--owners", default="10,100,1000,10000", help="numbers of owners, by commas")
    parser.add_argument("--dimension", type=int, default=100_000, help="parameters of the model")
    parser.add_argument("--executor", default="processes", help="threads, processes, ray, ray://HOST:PORT")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    console = Console(width=120)
    console.print(machine.line())
    found: dict[str, Any] = {"machine": machine.describe()}
    rows = []
    for owners in map(int, given.owners.split(",")):
        rows.append(measure(owners, given.dimension, given.executor))
        console.print(f"N = {owners:,}: {rows[-1].seconds:.2f} s, {'bit-equal' if rows[-1].equal else 'NOT EQUAL'}")
    found |= {"rows": [asdict(row) for row in rows], "exponents": show(rows, given.executor, console)}
    found["load_after"] = machine.describe()["load"]
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
