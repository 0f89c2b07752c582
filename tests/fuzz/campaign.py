"""`scripts/fuzz`: many cases in a few processes, each with little memory, and a table at the end.

A process that dies (of memory, or in code that is not Python's) is a finding of the case that it was at, and another goes on
behind it. What a process may take of memory is bounded (`RLIMIT_AS`), so that input which asks for gigabytes fails there.
"""

from __future__ import annotations

import argparse
import faulthandler
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import targets
from engine import Finding, input_of, run_case, run_cases, shown

BLOCK = 500
"""Cases that a process is given at a time, at most."""
MEMORY = 1 << 30
"""Bytes of address space that cases may take beyond what is loaded."""
STUCK = 30.0
"""Seconds that one case may hold a process up, where not even Python gets to say that it is slow."""


@dataclass(frozen=True)
class Block:
    target: str
    seed: int
    cases: range


def work(pipe: Connection) -> None:
    """A process: blocks come in; a number for each case that begins, findings, and None at the end of a block go out."""
    known, prepared = targets.by_name(), set[str]()
    while (block := pipe.recv()) is not None:
        target = known[block.target]
        if block.target not in prepared:
            prepared.add(block.target)
            _limit(None)
            for _ in run_cases(target, 0, range(1)):  # what is loaded and prepared once does not count
                pass
            _limit(MEMORY)
        for case in block.cases:
            pipe.send(case)
            faulthandler.dump_traceback_later(STUCK, exit=True)
            for finding in run_cases(target, block.seed, range(case, case + 1)):
                pipe.send(finding)
            faulthandler.cancel_dump_traceback_later()
        pipe.send(None)


def _limit(more: int | None) -> None:
    """This process may take so many bytes more than it has; None: any number."""
    most = resource.RLIM_INFINITY
    if more is not None:
        with open("/proc/self/statm") as file:
            most = int(file.read().split()[0]) * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


class Worker:
    """A process and what it is at."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(other,), daemon=True)
        self.process.start()
        other.close()
        self.block: Block | None = None
        self.case = -1

    def give(self, block: Block | None) -> None:
        self.block = block
        self.pipe.send(block)

    def died(self) -> tuple[Finding, Block]:
        """The case that it died of, and what is left of its block."""
        self.process.join()
        assert self.block is not None, "a process died before it began"
        block, target = self.block, targets.by_name()[self.block.target]
        data = shown(input_of(target, block.seed, self.case))
        what = f"the process died with {self.process.exitcode} (a crash, or over {STUCK:g} s)"
        left = range(self.case + 1, block.cases.stop)
        return Finding(block.target, block.seed, self.case, what, data), Block(block.target, block.seed, left)


def blocks(plan: dict[str, int], seed: int) -> Iterator[Block]:
    for name, cases in plan.items():
        for start in range(0, cases, BLOCK):
            yield Block(name, seed, range(start, min(start + BLOCK, cases)))


def campaign(plan: dict[str, int], seed: int, workers: int, show: Any = print) -> list[Finding]:
    """All findings, in the order of targets and cases."""
    waiting, findings, done = list(blocks(plan, seed))[::-1], [], Counter[str]()
    total, told, began = sum(plan.values()), 0.0, time.monotonic()
    running: dict[Connection, Worker] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            worker = Worker()
            worker.give(waiting.pop())
            running[worker.pipe] = worker
        for pipe in wait(list(running)):
            worker = running[pipe]  # type: ignore[index]
            try:
                said = worker.pipe.recv()
            except EOFError:
                finding, left = worker.died()
                findings.append(finding)
                done[left.target] += 1
                del running[worker.pipe]
                if left.cases:
                    waiting.append(left)
                continue
            if isinstance(said, int):
                worker.case = said
                done[worker.block.target] += 1  # type: ignore[union-attr]
            elif isinstance(said, Finding):
                if said.what not in {finding.what for finding in findings}:
                    show(f"found: {said}")
                findings.append(said)
            elif waiting:
                worker.give(waiting.pop())
            else:
                worker.give(None)
                worker.process.join()
                del running[worker.pipe]
        if time.monotonic() - told > 10:
            told = time.monotonic()
            rate = done.total() / max(told - began, 1e-9)
            left_s = (total - done.total()) / max(rate, 1e-9)
            show(f"{done.total():,} of {total:,} cases, {len(findings)} findings, {rate:,.0f}/s, {left_s:,.0f} s left")
    order = list(plan)
    return sorted(findings, key=lambda finding: (order.index(finding.target), finding.case))


def table(plan: dict[str, int], findings: list[Finding]) -> str:
    found = Counter(finding.target for finding in findings)
    rows = [f"{name:24}{cases:>12,}{found[name]:>10,}" for name, cases in plan.items()]
    total = f"{'all':24}{sum(plan.values()):>12,}{len(findings):>10,}"
    return "\n".join([f"{'target':24}{'cases':>12}{'findings':>10}", *rows, total])


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="cases of all targets together")
    parser.add_argument("--only", default="", help="targets whose name begins so")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--case", type=int, help="this one case, in this process, of the target that --only names")
    given = parser.parse_args()
    if given.case is not None:
        target = targets.by_name()[given.only]
        finding = run_case(target, given.seed, given.case)
        print(
            finding
            or f"{given.only}: case {given.case} is as it should be: {shown(input_of(target, given.seed, given.case))}"
        )
        sys.exit(finding is not None)
    plan = targets.plan(given.cases, given.only)
    if not plan:
        sys.exit(f"no target's name begins with {given.only!r}: there are {', '.join(targets.by_name())}")
    began = time.monotonic()
    findings = campaign(plan, given.seed, given.workers, lambda line: print(line, flush=True))
    print(table(plan, findings))
    by_cause: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        by_cause.setdefault((finding.target, finding.what), []).append(finding)
    for same in by_cause.values():
        print(f"\n{same[0]}" + (f"\n    and {len(same) - 1} more like it" if len(same) > 1 else ""))
    print(
        f"\nseed {given.seed}, {time.monotonic() - began:,.0f} s: " + ("nothing found" if not findings else "see above")
    )
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
