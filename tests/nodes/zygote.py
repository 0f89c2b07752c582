"""Helper: a process that has imported what nodes are made of, and forks one when it is asked to.

A node that is started again hundreds of times in a test costs milliseconds that way, not a second of imports each. It is a
process of its own like any other: it can be killed, and has nothing but its home to come back from.

Lines of JSON: in comes {"arguments", "log", "environment"}, out goes {"pid"}, and {"pid", "status"} for each that ended.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

PATCH = "SMPC_FL_TEST_PATCH"
"""Environment variable of a forked node: "module:function", called in it before anything else."""


class Exited(Exception):
    """The zygote is gone: its log says why."""


class Zygote:
    """Forks nodes; the children end with it. `ended` gets (pid, status as of `os.waitpid`, when) of each that ends."""

    def __init__(
        self, sockets: Collection[int], log: Path, environment: Mapping[str, str], *, preload: str = ""
    ) -> None:
        """`preload`: "module:function", called once before the first fork."""
        self.ended: queue.SimpleQueue[tuple[int, int, float]] = queue.SimpleQueue()
        self._pids: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, __file__, preload],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, pass_fds=list(sockets),
                env=os.environ | environment | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
            )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def spawn(self, arguments: Collection[str], log: Path, environment: Mapping[str, str]) -> int:
        """The process id of a new node, `smpc-fl` with these arguments. For one thread at a time."""
        order = {"arguments": list(arguments), "log": str(log), "environment": dict(environment)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        pid = self._pids.get()
        if pid is None:
            raise Exited
        return pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if "status" in said:
                self.ended.put((said["pid"], said["status"], time.monotonic()))
            else:
                self._pids.put(said["pid"])
        self._pids.put(None)

    def close(self) -> None:
        """End it, and its children at once."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()


# --- the process itself ---


def _main(preload: str) -> None:
    import smpc_fl.nodes.aggregator
    import smpc_fl.nodes.cli.main
    import smpc_fl.nodes.cli.nodes
    import smpc_fl.nodes.coordinator
    import smpc_fl.nodes.owner  # noqa: F401

    if preload:
        _call(preload)
    lifeline, held = os.pipe()  # the children's standard input, which ends when this process does
    alive: set[int] = set()
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(wake, selectors.EVENT_READ)
    orders = b""
    while True:
        for key, _ in selector.select():
            data = os.read(key.fd, 1 << 16)
            if key.fd == wake:
                for pid in list(alive):
                    done, status = os.waitpid(pid, os.WNOHANG)
                    if done:
                        alive.discard(pid)
                        _say(pid=pid, status=status)
                continue
            if not data:
                for pid in alive:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                os._exit(0)  # torch takes its time to be taken down
            *lines, orders = (orders + data).split(b"\n")
            for line in lines:
                pid = os.fork()
                if pid == 0:
                    for descriptor in (held, wake, woken):
                        signal.set_wakeup_fd(-1)
                        os.close(descriptor)
                    _become(json.loads(line), lifeline)
                alive.add(pid)
                _say(pid=pid)


def _call(name: str) -> None:
    """A function by its name, "module:function"."""
    module, _, function = name.partition(":")
    getattr(importlib.import_module(module), function)()


def _say(**what: int) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def _become(order: dict[str, Any], lifeline: int) -> None:
    """Be the node, and never return."""
    status = 70
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(lifeline, 0)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(order["environment"])
        patch = os.environ.get(PATCH)
        if patch:
            _call(patch)
        from smpc_fl.nodes.cli.main import main

        main(order["arguments"], prog_name="smpc-fl")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _main(sys.argv[1])
