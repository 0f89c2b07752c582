"""Processes of one side of a comparison: started, told what to do through a pipe, measured from outside.

They are forked from one warm server process (`multiprocessing`'s), so that a hundred of them are up in seconds; the
aggregators of the secure side are started as a deployment starts them. CPU seconds come from each process's own clock
(`clock_getcpuclockid(3)`), to the nanosecond and with all its threads; memory from /proc.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Self

START_TIMEOUT = 180.0
"""Seconds in which all processes of a side must be up."""
ROUND_TIMEOUT = 600.0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["bench.bare", "bench.plain", "bench.secure"])
os.environ.setdefault("OMP_NUM_THREADS", "1")  # as the nodes' own starter does


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a live process, user and system, all threads."""
    return time.clock_gettime((~pid << 3) | 2)  # CPUCLOCK_SCHED of the process, see clock_getcpuclockid(3)


def memory(pid: int, field: str = "VmHWM") -> int:
    """Bytes of a live process: `VmHWM` is the peak resident size, `VmRSS` the present one."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


class Side:
    """One way of doing rounds, with all its processes up: `driver` is the server's or coordinator's pipe.

    Used as a context manager; `stop` ends every process that was started here."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.roles: dict[str, list[int]] = {}
        self.driver: Connection
        self._processes: list[ForkServerProcess] = []

    def spawn(self, role: str, target: Callable[..., None], *args: Any) -> None:
        process = _context.Process(target=target, args=args, daemon=True)
        process.start()
        assert process.pid is not None
        self._processes.append(process)
        self.roles.setdefault(role, []).append(process.pid)

    def spawn_driver(self, role: str, target: Callable[..., None], *args: Any) -> None:
        """The process that is told how many rounds to do. What it inherits of modules that a server or coordinator would
        not have is no garbage collection's business."""
        self.driver, theirs = _context.Pipe()
        self.spawn(role, _frozen, target, theirs, *args)
        theirs.close()

    def hear(self, timeout: float) -> Any:
        """What the driver says next. Raises what went wrong there."""
        if not self.driver.poll(timeout):
            raise TimeoutError(f"{self.name}: nothing heard for {timeout:.0f} s")
        told = self.driver.recv()
        if isinstance(told, Exception):
            raise told
        return told

    def rounds(self, count: int) -> Any:
        """`count` rounds, one after another; what the driver tells of them."""
        self.driver.send(count)
        return self.hear(ROUND_TIMEOUT)

    def model(self) -> Any:
        """The newest model that the driver has, float32[d]."""
        self.driver.send(-1)
        return self.hear(ROUND_TIMEOUT)

    @property
    def pids(self) -> list[int]:
        return [pid for pids in self.roles.values() for pid in pids]

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far, by role."""
        return {role: sum(map(cpu_seconds, pids)) for role, pids in self.roles.items()}

    def settle(self, timeout: float = 5.0) -> None:
        """Until nobody works any more: what follows a round (acknowledgements, erasing) belongs to it."""
        until, before = time.monotonic() + timeout, sum(self.cpu().values())
        while time.monotonic() < until:
            time.sleep(0.03)
            now = sum(self.cpu().values())
            if now - before < 0.001 * (1 + len(self.pids) / 20):
                return
            before = now

    def peaks(self) -> dict[str, int]:
        """The largest peak resident size of a process, in bytes, by role."""
        return {role: max(map(memory, pids)) for role, pids in self.roles.items()}

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.driver.send(0)  # or its thread that waits for orders would wait on
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(10.0)
            if process.is_alive():
                process.kill()
                process.join()
        self.driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def _frozen(target: Callable[..., None], *args: Any) -> None:
    gc.freeze()
    target(*args)


def log_to(path: Path) -> None:
    """This process's standard output and error go to a file from now on."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
