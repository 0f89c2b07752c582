"""`smpc-fl up`: all nodes of a machine as child processes, their logs side by side, none left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from smpc_fl.errors import RunFailed

BAD_CONFIG = 2
"""Exit code of a node whose config is wrong: starting it again would not help."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before a node that died is started again; doubled each time."""
GRACE = 15.0
"""Seconds that a node has to stop after SIGTERM before it is killed."""


@dataclass(frozen=True)
class Child:
    """One node to run: its id for the log, its role, its config file."""

    id: str
    role: str
    config: Path

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "smpc_fl.nodes", self.role, "--config", str(self.config), "--with-parent"]


def log_line(raw: bytes) -> str:
    """A node's JSON log line for a person's eye; anything else as it is, without control characters."""
    text = raw.decode("utf-8", "replace").rstrip()
    try:
        event = json.loads(text)
    except ValueError:
        event = None
    if isinstance(event, dict):
        rest = " ".join(f"{key}={value}" for key, value in event.items() if key not in ("event", "level", "timestamp"))
        text = f"{event.get('level', 'info'):7} {event.get('event', '')}  {rest}".rstrip()
    return "".join(character if character.isprintable() else " " for character in text)


class _Supervisor:
    def __init__(self, children: Sequence[Child], show: Callable[[str], object]) -> None:
        self.children = children
        self.show = show
        self.width = max(len(child.id) for child in children)
        self.stopping = asyncio.Event()
        self.failure: str | None = None

    def say(self, child: Child, text: str) -> None:
        self.show(f"{child.id:{self.width}} | {text}")

    async def once(self, child: Child) -> int:
        """Runs a child to its end, or until everything stops; its exit code."""
        # A pipe of our own: asyncio's would count the child as running for as long as anything holds its output.
        read_end, write_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *child.command,
                stdin=asyncio.subprocess.PIPE,  # closed if this process dies: the child stops then (`--with-parent`)
                stdout=write_end,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this process only, which stops the children in its own way
            )
        finally:
            os.close(write_end)
        pump = asyncio.create_task(self.pump(child, read_end))
        stop, ended = asyncio.create_task(self.stopping.wait()), asyncio.create_task(process.wait())
        try:
            await asyncio.wait({stop, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                with contextlib.suppress(ProcessLookupError):  # it may end at this very moment
                    process.terminate()
                await asyncio.wait({ended}, timeout=GRACE)
                if not ended.done():
                    self.say(child, f"did not stop within {GRACE:g} s and is killed")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what is left of it, with whatever it had started itself
            stop.cancel()
            code = await ended
            await pump
        return code

    async def pump(self, child: Child, read_end: int) -> None:
        """Shows a child's output until everybody has closed it; an overlong line in pieces."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb")
        )
        try:
            while True:
                try:
                    line = await reader.readuntil(b"\n")
                except asyncio.LimitOverrunError as error:
                    line = await reader.readexactly(error.consumed)
                self.say(child, log_line(line))
        except asyncio.IncompleteReadError as error:
            if error.partial:
                self.say(child, log_line(error.partial))
        finally:
            transport.close()

    async def keep(self, child: Child) -> None:
        """Runs a child again and again, ever more slowly, until everything stops."""
        wait = FIRST_WAIT
        while not self.stopping.is_set():
            code = await self.once(child)
            if self.stopping.is_set():
                return
            if code == BAD_CONFIG:
                self.failure = f"{child.id} cannot start (see its lines above); try --check"
                self.stopping.set()
                return
            self.say(child, f"ended with code {code}; starting it again in {wait:g} s")
            try:
                await asyncio.wait_for(self.stopping.wait(), wait)
            except TimeoutError:
                wait = min(2 * wait, LONGEST_WAIT)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.stopping.set)
        self.show(f"{len(self.children)} nodes, supervised by process {os.getpid()}; Ctrl-C stops them all")
        try:
            async with asyncio.TaskGroup() as group:
                for child in self.children:
                    group.create_task(self.keep(child))
        finally:
            self.stopping.set()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)
        self.show("all nodes have stopped")


def run_all(children: Sequence[Child], show: Callable[[str], object]) -> None:
    """Runs nodes until SIGINT, SIGTERM or SIGHUP, restarting those that die. `show` gets one line at a time.

    Raises `RunFailed` when a node cannot start because of its config; all others have been stopped then."""

    async def supervise() -> str | None:
        supervisor = _Supervisor(children, show)
        await supervisor.run()
        return supervisor.failure

    failure = asyncio.run(supervise())
    if failure is not None:
        raise RunFailed(failure)
