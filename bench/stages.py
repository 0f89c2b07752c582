"""What each stage of one owner's vector costs on one core, beside what the machine could do at best.

Every stage is the product's own function on the round's own vector; its ceiling is the one operation that it cannot be
done without: a copy for arithmetic, AES-CTR for a seed's stream, AES-GCM for sealing.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import numpy as np

from bench.machine import Work, ceilings, compare
from bench.task import Task
from smpc_fl.learning.update import disassemble
from smpc_fl.nodes.memory import keep_freed_memory
from smpc_fl.prg import add_streams
from smpc_fl.protocols import vectors
from smpc_fl.shares import Context, split, stream

HASH = bytes(32)
KEY = bytes(range(32))


@dataclass(frozen=True)
class Stage:
    """CPU `seconds` of the stage and of its `ceiling`, medians; `ratio` is the median of those of each repetition."""

    name: str
    side: str
    size: int
    seconds: float
    ceiling: float
    ratio: float
    made_of: str

    @property
    def speed(self) -> float:
        """GB/s of 4d bytes."""
        return self.size / self.seconds / 1e9


def measure(task: Task, repeats: int) -> list[Stage]:
    keep_freed_memory()  # as every node does: the pages of a fresh vector are no part of the arithmetic
    works, needs = _works(task)
    size = 4 * task.dimension
    seconds = compare({**ceilings(size), **works}, repeats)
    stages = []
    for name in works:
        side, parts = needs[name]
        at_best = [sum(seconds[part][i] * times for part, times in parts.items()) for i in range(repeats)]
        ratio = median(seconds[name][i] / at_best[i] for i in range(repeats))
        made_of = " + ".join(part if times == 1 else f"{times} {part}" for part, times in parts.items())
        stages.append(Stage(name, side, size, median(seconds[name]), median(at_best), ratio, made_of))
    return stages


def machine_speeds(task: Task, repeats: int) -> dict[str, float]:
    """GB/s of the ceilings themselves."""
    size = 4 * task.dimension
    return {name: size / median(times) / 1e9 for name, times in compare(ceilings(size), repeats).items()}


def clips_told(task: Task) -> int:
    """How many owners the decoded sum says were clipped, when the update of one of them was far too long."""
    fixed = task.numbers.fixed_point
    total = fixed.ring.zeros(task.layout.length)
    for owner in range(3):
        update = task.update(owner) * np.float32(10.0 if owner == 1 else 1.0)
        fixed.ring.add_into(total, task.vector(owner, update).encode(fixed))
    return disassemble(fixed.decode(total), task.layout).clipped


def _works(task: Task) -> tuple[dict[str, Work], dict[str, tuple[str, dict[str, int]]]]:
    """The stages, and for each its side and the ceilings that it is made of."""
    fixed = task.numbers.fixed_point
    ring, n, others = fixed.ring, task.layout.length, task.aggregators - 1
    context, carrier = Context(HASH, "owner-000"), task.aggregator_names[0]
    update = task.update(0)
    words = task.vector(0, update).encode(fixed)
    shared = words.copy()
    seeds = [bytes([i]) * 32 for i in range(1, task.aggregators)]
    streams = [stream(seed, context, name) for seed, name in zip(seeds, task.aggregator_names[1:], strict=True)]
    sealing = vectors.stream(KEY, HASH, ring, n)
    sealed = vectors.seal_sum(sealing, ring, words, [])
    step, fragment = vectors.chunk_elements(ring), vectors.fragment_size(ring)
    total, opened = ring.zeros(n), ring.zeros(n)

    def quantise() -> None:
        task.vector(0, update).encode(fixed)

    def share() -> None:
        supply = iter(seeds)
        split(shared, ring, context, task.aggregator_names, carrier, lambda size: next(supply), in_place=True)

    def seal() -> None:
        sealer = vectors.VectorSealer(sealing, ring)
        for start in range(0, n, step):
            sealer(words[start : start + step])

    def owner() -> None:
        supply = iter(seeds)
        vector = task.vector(0, update).encode(fixed)
        sealer = vectors.VectorSealer(sealing, ring)
        split(
            vector, ring, context, task.aggregator_names, carrier, lambda size: next(supply), in_place=True,
            absorb=sealer,
        )  # fmt: skip

    def open_() -> None:
        opener = vectors.VectorOpener(sealing, ring, opened)
        view = memoryview(sealed)
        for start in range(0, len(sealed), fragment):
            opener(view[start : start + fragment])
        opener.finish()

    def add() -> None:
        ring.add_into(total, opened)

    def carry() -> None:
        open_()
        add()

    def expand() -> None:
        for _ in add_streams(ring, total, streams[:1]):
            pass

    def finish() -> None:
        disassemble(fixed.decode(words), task.layout).mean.astype(np.float32)

    works: dict[str, Work] = {
        "quantise": quantise, "subtract": share, "seal": seal, "open": open_, "add": add, "expand": expand,
        "finish": finish, "owner side": owner, "aggregator side": carry,
    }  # fmt: skip
    needs = {
        "quantise": ("owner", {"memcpy": 1}),
        "subtract": ("owner", {"AES-CTR": others}),
        "seal": ("owner", {"AES-GCM": 1}),
        "open": ("aggregator", {"AES-GCM": 1}),
        "add": ("aggregator", {"memcpy": 1}),
        "expand": ("aggregator", {"AES-CTR": 1}),
        "finish": ("coordinator", {"memcpy": 2}),
        "owner side": ("owner", {"memcpy": 1, "AES-CTR": others, "AES-GCM": 1}),
        "aggregator side": ("aggregator", {"AES-GCM": 1, "memcpy": 1}),
    }
    return works, needs
