"""Where batches run: on threads or processes of this machine, or on Ray (`on_ray.py`).

An executor runs the batches of a round and adds their results up as they come, so that memory holds a few of them, however
many batches there are. Sums modulo 2^b are the same in any order: all executors agree, bit for bit.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures import Executor as Pool
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.reduction import ForkingPickler
from typing import Protocol

from smpc_fl.errors import BadInput, Unavailable
from smpc_fl.nodes.simulation.batch import Batch, Partial, Setting, combine, run_batch
from smpc_fl.nodes.simulation.data import Given, Owners

LARGEST_BATCH = 64
"""Owners in a task: enough that what is done once a task does not count, few enough that progress is seen."""
FEW_OWNERS = 32
"""Up to here "auto" takes threads: processes would need longer to start, for each imports torch."""
AHEAD = 2
"""Tasks that wait for a worker, at most, beside those that run."""


class Executor(Protocol):
    """Runs batches somewhere, `workers` of them at a time."""

    @property
    def workers(self) -> int: ...

    def reduce(self, setting: Setting, batches: Iterable[Batch], on_done: Callable[[int], None]) -> Partial:
        """All batches' results, combined. `on_done` hears, in this thread, how many owners each finished batch had."""


def batch_size(owners: int, workers: int) -> int:
    """A few tasks for each worker, so that none waits long for another's last one."""
    return max(1, min(LARGEST_BATCH, -(-owners // (4 * workers))))


def choose(where: str, owners: Owners) -> str:
    """What "auto" stands for: Ray where this process is connected to it already; else processes, or threads for few
    owners, or for data whose function cannot travel to a process. Raises `BadInput` for what is no executor."""
    if where == "auto":
        ray = sys.modules.get("ray")
        if ray is not None and ray.is_initialized():
            return "ray"
        return "processes" if len(owners.names) > FEW_OWNERS and travels(owners) else "threads"
    if where not in ("threads", "processes", "ray") and not where.startswith("ray://"):
        raise BadInput(f'executor {where!r}: one of "auto", "threads", "processes", "ray", "ray://HOST:PORT"')
    if where == "processes" and not travels(owners):
        raise BadInput(
            "the function that makes an owner's tensors cannot travel to another process: define it at the top level of a "
            'module or script, or use executor="threads"'
        )
    return where


def open_executor(where: str, workers: int | None) -> AbstractContextManager[Executor]:
    """The executor that was chosen, for as long as the block lasts. Raises `Unavailable` where Ray is not."""
    if where == "threads":
        return _threads(workers or cores())
    if where == "processes":
        return _processes(workers or cores())
    from smpc_fl.nodes.simulation.on_ray import on_ray

    return on_ray(None if where == "ray" else where, workers)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def travels(owners: Owners) -> bool:
    """Can another process be told of these data? Functions travel by name: those of a prompt or a notebook have none."""
    if isinstance(owners.data, Given):
        return True
    make = owners.data.make
    try:
        ForkingPickler.dumps(make)
    except Exception:  # whatever it is that a caller's object raises
        return False
    home = getattr(make, "__module__", None) or type(make).__module__
    return home != "__main__" or hasattr(sys.modules["__main__"], "__file__")


class _Local:
    """Threads or processes of this machine."""

    def __init__(self, pool: Pool, workers: int) -> None:
        self._pool, self.workers = pool, workers

    def reduce(self, setting: Setting, batches: Iterable[Batch], on_done: Callable[[int], None]) -> Partial:
        pending: set[Future[Partial]] = set()
        parts: list[Partial] = []
        coming = iter(batches)
        try:
            while True:
                for batch in itertools.islice(coming, self.workers + AHEAD - len(pending)):
                    pending.add(self._pool.submit(run_batch, setting, batch))
                if not pending:
                    return parts[0]
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    part = future.result()
                    parts = [combine([*parts, part])]
                    on_done(part.owners)
        except BrokenProcessPool:
            raise Unavailable(
                "a worker process of the simulation ended before its work was done. If this script simulates at its top "
                'level, put that under `if __name__ == "__main__":`, or use executor="threads"; if the machine ran out of '
                "memory, use fewer workers"
            ) from None
        finally:
            for future in pending:
                future.cancel()


@contextmanager
def _threads(workers: int) -> Iterator[Executor]:
    with ThreadPoolExecutor(workers, "simulation", initializer=one_torch_thread) as pool:
        yield _Local(pool, workers)


@contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(kind), initializer=_begin)
    with pool:
        yield _Local(pool, workers)


def _begin() -> None:
    """In a new worker process. Ctrl-C is for the process that started it, which then ends the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    one_torch_thread()


def one_torch_thread() -> None:
    """Workers are as many as cores; and a sum over other threads could round otherwise than an owner's node does, which
    has one as well."""
    import torch

    torch.set_num_threads(1)
