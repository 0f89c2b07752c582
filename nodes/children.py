"""Child processes of a local federation: started, watched, started again when they die, and gone when we are.

Each child has a pipe from us as its standard input: when this process ends, however it ends, the pipe closes and the
child stops by itself. A listener's socket is made here and handed down, so no port is lost, or taken by another, while
a child is started again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from smpc_fl.errors import Unavailable

GRACE = 10.0
"""Seconds that a child has to stop after SIGTERM before it is killed."""
TOO_OFTEN = 5
"""Deaths within a minute after which a child is not started again."""
TAIL = 20
"""Lines of a dead child's log that its error shows."""


@dataclass
class Child:
    """One node's process. `log` takes its standard output and error."""

    id: str
    role: str
    config: Path
    log: Path
    sock: socket.socket | None = None
    process: subprocess.Popen[bytes] | None = None
    deaths: list[float] = field(default_factory=list)
    failed: bool = False

    @property
    def pid(self) -> int:
        """The process id. Raises `Unavailable` when it is not running."""
        if self.process is None or self.process.poll() is not None:
            raise Unavailable(f"the process of {self.id} is not running", peer=self.id)
        return self.process.pid

    def start(self) -> None:
        command = [sys.executable, "-m", "smpc_fl.nodes", self.role, "--config", str(self.config), "--with-parent"]
        if self.sock is not None:
            command += ["--listen-fd", str(self.sock.fileno())]
        environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[self.sock.fileno()] if self.sock is not None else [],
                start_new_session=True,  # Ctrl-C reaches the parent only, which stops the children in its own way
            )

    def tail(self) -> str:
        """The end of its log, for an error."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL:])
        return ""

    def stop(self, deadline: float) -> None:
        """SIGTERM was sent: wait until `deadline` (monotonic seconds), then kill."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


class Children:
    """All of them, and the thread that watches."""

    def __init__(self, children: list[Child]) -> None:
        self.by_id = {child.id: child for child in children}
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._watch = threading.Thread(target=self._supervise, name="smpc-fl-children", daemon=True)

    def start(self) -> None:
        for child in self.by_id.values():
            child.start()
        self._watch.start()

    def _supervise(self) -> None:
        while not self._stopping.wait(0.1):
            with self._lock:
                for child in self.by_id.values():
                    self._look(child)

    def _look(self, child: Child) -> None:
        process = child.process
        if child.failed or child.id in self._held or process is None or process.poll() is None:
            return
        now = time.monotonic()
        child.deaths = [*(at for at in child.deaths if now - at < 60.0), now]
        if process.stdin is not None:
            process.stdin.close()
        # Exit code 2: its config is wrong, starting it again would not help.
        if process.returncode == 2 or len(child.deaths) >= TOO_OFTEN:
            child.failed = True
        else:
            child.start()

    def check(self) -> None:
        """Raises `Unavailable` with a child's last words if one cannot be kept alive."""
        for child in self.by_id.values():
            if child.failed:
                raise Unavailable(
                    f"the process of {child.id} keeps dying; its log ends:\n{child.tail()}", peer=child.id
                )

    def kill(self, id_: str, *, restart: bool = True) -> None:
        """SIGKILL, as a crash would; `restart=False`: it stays dead until `revive`."""
        with self._lock:
            child = self.by_id[id_]
            if not restart:
                self._held.add(id_)
            os.kill(child.pid, signal.SIGKILL)
            assert child.process is not None
            child.process.wait()

    def revive(self, id_: str) -> None:
        """Start a process that was killed for good again."""
        with self._lock:
            self._held.discard(id_)

    def stop(self) -> None:
        """Stop all of them; none is left when this returns, and all ports are free."""
        self._stopping.set()
        if self._watch.is_alive():
            self._watch.join()
        running = [c for c in self.by_id.values() if c.process is not None and c.process.poll() is None]
        for child in running:
            assert child.process is not None
            child.process.terminate()
        deadline = time.monotonic() + GRACE
        for child in self.by_id.values():
            child.stop(deadline)
            if child.sock is not None:
                child.sock.close()
