"""Secure rounds between real processes: the product's aggregators as they are, owners and a coordinator that are the
product's but for two things: an owner's update is prepared (no ledger, no training), and nobody asks for the rounds.

Everything is on that a deployment has on: signatures, sealing, journals and their durability. After each round the
released sum is compared with the exact one, integer by integer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from bench.homes import COORDINATOR, Certificates, make_homes
from bench.processes import START_TIMEOUT, Side, log_to
from bench.task import CLIP, K_MIN, MAX_SAMPLES, TOLERANCE, Task, Vector
from smpc_fl.errors import SmpcError
from smpc_fl.hashing import Buffer
from smpc_fl.learning.update import disassemble
from smpc_fl.nodes.children import Child
from smpc_fl.nodes.coordinator import Coordinator
from smpc_fl.nodes.home.config import CoordinatorConfig, OwnerConfig
from smpc_fl.nodes.home.values import Values
from smpc_fl.nodes.node import run_node
from smpc_fl.nodes.owner import Owner
from smpc_fl.nodes.owner_contributions import Key
from smpc_fl.nodes.rounds import RoundShell
from smpc_fl.protocols.commands import Computed, ComputeFailed, PeerUp, Received
from smpc_fl.protocols.coordinator import CoordinatorRound, Released, RoundPlan
from smpc_fl.protocols.manifest import Expected
from smpc_fl.protocols.messages import Manifest, RoundClosed

RUN = bytes(range(16))


class SecureSide(Side):
    """With the aggregators, which are started as `nodes.local` starts them."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name)
        self.folder = folder
        self._aggregators: list[Child] = []

    def spawn_aggregator(self, name: str, config: Path, listener: socket.socket) -> None:
        child = Child(name, "aggregator", config, self.folder / f"{name}.log", listener)
        child.start()
        self._aggregators.append(child)
        self.roles.setdefault("aggregator", []).append(child.pid)

    def stop(self) -> None:
        super().stop()
        for child in self._aggregators:
            if child.process is not None:
                child.process.terminate()
        until = time.monotonic() + 10.0
        for child in self._aggregators:
            child.stop(until)
            if child.sock is not None:
                child.sock.close()


def start_secure(task: Task, folder: Path, certificates: Certificates | None) -> SecureSide:
    """All processes up and connected."""
    side = SecureSide(f"secure {'tls' if certificates else 'bare'}", folder)
    homes = make_homes(folder, task, certificates=certificates)
    exact = folder / "exact"
    exact.write_bytes(task.integers().tobytes())
    try:
        for name in task.aggregator_names:
            side.spawn_aggregator(name, homes.paths[name], homes.listeners[name])
        listener = homes.listeners[COORDINATOR]
        side.spawn_driver("coordinator", coordinator, homes.configs[COORDINATOR], listener, task, exact)
        listener.close()
        for number, name in enumerate(task.names):
            side.spawn("owner", owner, homes.configs[name], task, number, folder / f"{name}.log")
        side.hear(START_TIMEOUT)
    except BaseException:
        side.stop()
        raise
    return side


# --- an owner's process ---


def owner(config: OwnerConfig, task: Task, number: int, log: Path) -> None:
    log_to(log)
    run_node(lambda: _Owner(config, task, number), config.log, listen_fd=None, with_parent=False)


class _Owner(Owner):
    """An owner whose update is ready, and who has approved the job."""

    def __init__(self, config: OwnerConfig, task: Task, number: int) -> None:
        super().__init__(config)
        self.task, self.number = task, number
        self.update = task.update(number)

    async def _open_ledger(self) -> None:
        self._ready.set()

    def _expected(self, manifest: Manifest) -> Expected | None:
        task = self.task
        names = tuple(task.names)
        return Expected("train", task.digest, task.layout.length, CLIP, MAX_SAMPLES, TOLERANCE, names, task.digest)

    async def _compute(self, key: Key, model: Buffer) -> None:
        shell = self._rounds[key]
        try:
            vector = await asyncio.to_thread(self.task.vector, self.number, self.update)
        except SmpcError as error:
            await shell.feed(ComputeFailed(error))
        else:
            await shell.feed(Computed(vector))


# --- the coordinator's process ---


def coordinator(pipe: Connection, config: CoordinatorConfig, listener: socket.socket, task: Task, exact: Path) -> None:
    log_to(exact.parent / "coordinator.log")
    fd = listener.detach()
    run_node(lambda: _Coordinator(config, pipe, task, exact), config.log, listen_fd=fd, with_parent=False)


class _Coordinator(Coordinator):
    """A coordinator that does rounds when it is told to, as `nodes.run` does an attempt."""

    def __init__(self, config: CoordinatorConfig, pipe: Connection, task: Task, exact: Path) -> None:
        super().__init__(config)
        self.pipe, self.task, self.exact = pipe, task, exact
        self.model = np.zeros(task.dimension, np.float32)
        self.number = 0
        self._shell: RoundShell | None = None
        self._closing: list[RoundShell] = []
        self._numbers = task.numbers
        self._values = Values(self.home / "values")
        self._verifying = 0.0

    async def open(self) -> None:
        await super().open()
        self.spawn(self._obey())

    async def _obey(self) -> None:
        await self.peers.wait_for(*self.task.names, *self.task.aggregator_names)
        self.pipe.send("ready")
        with contextlib.suppress(EOFError):
            while count := await asyncio.to_thread(self.pipe.recv):
                try:
                    self.pipe.send(await self._rounds(count) if count > 0 else self.model)
                except Exception as error:
                    self.pipe.send(error)

    async def _rounds(self, count: int) -> dict[str, Any]:
        self._verifying = 0.0
        rounds = [await self._round() for _ in range(count)]
        return {
            "seconds": [seconds for seconds, _ in rounds],
            "uploaded": sum(rounds[-1][1].uploaded.values()),
            "verifying": self._verifying,
        }

    async def _to_runs(self, event: Received) -> None:
        if self._shell is not None:
            await self._shell.feed(event)

    async def peer_up(self, peer: str, role: str) -> None:
        for shell in [*self._closing, *([self._shell] if self._shell else [])]:
            await shell.feed(PeerUp(peer))

    async def _round(self) -> tuple[float, Released]:
        began = time.perf_counter()
        task = self.task
        plan = RoundPlan(
            RUN, self.number, 0, "train", tuple(task.names), tuple(task.aggregator_names), task.layout.length, self._numbers,
            CLIP, MAX_SAMPLES, K_MIN, 600.0, 600.0, task.digest, task.digest, self.model.data.cast("B"), (),
        )  # fmt: skip
        self.number += 2
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def finished(outcome: Any) -> None:
            if not done.done():
                done.set_result(outcome)

        def build(records: Sequence[Any], bulk: bytearray | None) -> CoordinatorRound:
            return CoordinatorRound.restore(self.party, plan, records, bulk, entropy=self.entropy)

        stream = f"round/{RUN.hex()}/{plan.round}/0"
        shell = RoundShell(stream=stream, journal=self.journal, build=build, send=self.send, finished=finished)
        self._shell = shell
        await shell.start()
        released = await done
        if not isinstance(released, Released):
            raise released.error
        self.model = await asyncio.to_thread(self._mean, released)
        seconds = time.perf_counter() - began
        await self._keep(shell, stream)
        self._verify(released)
        return seconds, released

    def _mean(self, released: Released) -> Vector:
        total = disassemble(self._numbers.fixed_point.decode(released.total), self.task.layout)
        mean = np.empty(self.task.dimension, np.float32)
        np.divide(total.sum, total.total_weight, out=mean, casting="same_kind")
        return mean

    async def _keep(self, shell: RoundShell, stream: str) -> None:
        """As a run ends a round: owners may erase, the model is durable, then the partial sums go."""
        machine = shell.machine
        assert isinstance(machine, CoordinatorRound)
        for name in self.task.names:
            await self.tell(name, RoundClosed(machine.manifest_hash, True))
        self._shell, self._closing = None, [*self._closing[-7:], shell]
        await asyncio.to_thread(self._values.write, 1 + self.number // 2 % 2, self.model.data.cast("B"))
        await self.journal.append(f"run/{RUN.hex()}", "result", b"")
        await self.journal.erase(stream)

    def _verify(self, released: Released) -> None:
        """The released sum is the exact one. Read piece by piece, so that nobody's memory shows it."""
        began = time.thread_time()
        total, used = (
            released.total,
            (1 << self.task.numbers.ring_bits) - 1,
        )  # what is above the ring's bits means nothing
        place = 0
        with self.exact.open("rb") as file:
            while data := file.read(1 << 18):
                exact = np.frombuffer(data, total.dtype)
                differing = (total[place : place + exact.size] ^ exact) & total.dtype.type(used)
                if differing.any():
                    raise AssertionError(f"round {self.number}: the released sum is not the exact one")
                place += exact.size
        assert place == total.size
        self._verifying += time.thread_time() - began
