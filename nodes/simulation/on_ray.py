"""Batches as Ray tasks, and their results added up by a tree of Ray tasks: what comes back here is one result.

Ray is optional (`pip install "smpc-fl[ray]"`), and pays on more than one machine. Every worker needs smpc-fl in its Python,
and what Ray is told includes all keys of the simulated federation: run it among machines of your own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from smpc_fl.errors import Unavailable
from smpc_fl.nodes.simulation.batch import Batch, Partial, Setting, combine, run_batch
from smpc_fl.nodes.simulation.executors import Executor, one_torch_thread

FAN_IN = 8
"""Results that one task of the tree adds up."""
AHEAD = 2
"""Tasks for each worker that are handed to Ray at a time."""


@contextmanager
def on_ray(address: str | None, workers: int | None) -> Iterator[Executor]:
    """Ray at `address` ("ray://HOST:PORT"), or as this process is connected already, or a local one with `workers` CPUs.

    Raises `Unavailable` when it is not installed or does not answer."""
    try:
        import ray
    except ModuleNotFoundError:
        raise Unavailable('ray is not installed: pip install "smpc-fl[ray]", or use executor="processes"') from None
    ours = not ray.is_initialized()
    if ours:
        options: dict[str, Any] = {"address": address} if address else {"num_cpus": workers, "include_dashboard": False}
        try:
            ray.init(log_to_driver=False, logging_level="ERROR", **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise Unavailable(f"ray at {address or 'this machine'} does not answer: {type(error).__name__}") from None
    try:
        yield _OnRay(ray, workers or int(ray.cluster_resources().get("CPU", 1)))
    finally:
        if ours:
            ray.shutdown()


class _OnRay:
    def __init__(self, ray: Any, workers: int) -> None:
        self._ray, self.workers = ray, workers
        self._leaf = ray.remote(_leaf).options(num_returns=2)
        self._node = ray.remote(_node)

    def reduce(self, setting: Setting, batches: Iterable[Batch], on_done: Callable[[int], None]) -> Partial:
        ray, shared = self._ray, self._ray.put(setting)
        coming = iter(batches)
        running: dict[Any, Any] = {}  # a batch's number of owners, as Ray will have it: its result, as Ray will have it
        tree = _Tree(self._node)
        try:
            while True:
                while len(running) < AHEAD * self.workers and (batch := next(coming, None)) is not None:
                    count, part = self._leaf.remote(shared, batch)
                    running[count] = part
                if not running:
                    break
                (count,), _ = ray.wait(list(running), num_returns=1)
                on_done(ray.get(count))
                tree.add(running.pop(count))
            found: Partial = ray.get(tree.root())
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except ray.exceptions.RayError as error:
            raise Unavailable(f"ray lost the simulation's work: {type(error).__name__}") from None
        return found


class _Tree:
    """Adds results up, `FAN_IN` at a time, as they come: a level's sums go to the level above."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._levels: list[list[Any]] = []

    def add(self, part: Any, level: int = 0) -> None:
        if level == len(self._levels):
            self._levels.append([])
        self._levels[level].append(part)
        if len(self._levels[level]) == FAN_IN:
            parts, self._levels[level] = self._levels[level], []
            self.add(self._node.remote(*parts), level + 1)

    def root(self) -> Any:
        """The sum of all that was added; called once."""
        left: list[Any] = []
        for parts in self._levels:
            left = [self._node.remote(*left, *parts)] if left or len(parts) > 1 else parts
        return left[0]


def _leaf(setting: Setting, batch: Batch) -> tuple[int, Partial]:
    one_torch_thread()
    part = run_batch(setting, batch)
    return part.owners, part


def _node(*parts: Partial) -> Partial:
    return combine(parts)
