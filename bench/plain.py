"""Plain federated averaging on the nodes' own transport: same links, same handshake, same TLS; one server, no sharing.

The server sends float32[d] to every owner; each answers with its weighed update and its weight, float32[d + 1], which
are added in place as they arrive; the server divides. Nothing is signed but the handshakes, nothing is written to disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from bench.bare import client as bare_client
from bench.bare import server as bare_server
from bench.homes import COORDINATOR, Certificates, Homes, make_homes
from bench.processes import START_TIMEOUT, Side
from bench.task import Task, Vector
from smpc_fl.errors import SmpcError
from smpc_fl.nodes.home.config import CoordinatorConfig, NodeConfig, OwnerConfig
from smpc_fl.nodes.home.keys import load_key
from smpc_fl.nodes.home.membership import LiveMembership
from smpc_fl.nodes.net.attachment import Sink
from smpc_fl.nodes.net.dialer import Dialer
from smpc_fl.nodes.net.handshake import LocalMember
from smpc_fl.nodes.net.link import Link
from smpc_fl.nodes.net.server import listening_socket, serve
from smpc_fl.nodes.net.tls import dial_tls, listen_tls
from smpc_fl.protocols.messages import Signed
from smpc_fl.roster import Role


def start_plain(task: Task, folder: Path, certificates: Certificates | None) -> Side:
    """All processes up and connected."""
    side = Side(f"plain {'tls' if certificates else 'bare'}")
    homes = make_homes(folder, _without_aggregators(task), certificates=certificates)
    try:
        config = homes.configs[COORDINATOR]
        listener = homes.listeners[COORDINATOR]
        side.spawn_driver("server", server, config, listener, task.owners, task.dimension)
        listener.close()
        for number, name in enumerate(task.names):
            side.spawn("owner", owner, homes.configs[name], _address(homes), task, number)
        side.hear(START_TIMEOUT)
    except BaseException:
        side.stop()
        raise
    return side


def start_bare(task: Task, certificates: Certificates | None) -> Side:
    """`bare.py` as a side, on the same vectors."""
    side = Side(f"bare {'tls' if certificates else 'bare'}")
    tls = (str(certificates.certificate), str(certificates.key)) if certificates else None
    authority = str(certificates.authority) if certificates else None
    try:
        side.spawn_driver("server", bare_server, task.owners, task.dimension, tls)
        port = side.hear(START_TIMEOUT)
        for number in range(task.owners):
            side.spawn("owner", bare_owner, port, task, number, authority)
        side.hear(START_TIMEOUT)
    except BaseException:
        side.stop()
        raise
    return side


def bare_owner(port: int, task: Task, number: int, authority: str | None) -> None:
    bare_client(port, weighed(task, number), authority)


def weighed(task: Task, number: int) -> Vector:
    """float32[d + 1]: w·Δ, then w."""
    weight = np.float32(task.weight(number))
    return np.append(task.update(number) * weight, weight)


def _without_aggregators(task: Task) -> Task:
    return Task(task.owners, task.dimension, 0, seed=task.seed)


def _address(homes: Homes) -> str:
    config = homes.configs[COORDINATOR]
    assert isinstance(config, CoordinatorConfig)
    return f"{'wss' if config.tls.certificate else 'ws'}://{config.listen}"


def _member(config: NodeConfig, role: Role) -> LocalMember:
    return LocalMember(config.id, role, load_key(config.key), LiveMembership(config))


def _said(me: LocalMember) -> Signed:
    """An envelope that says nothing: what matters is behind it."""
    return Signed(me.id, b"", bytes(64))


# --- the server's process ---


def server(pipe: Connection, config: CoordinatorConfig, listener: socket.socket, owners: int, dimension: int) -> None:
    asyncio.run(_Server(pipe, config, owners, dimension).serve(listener))


class _Server:
    def __init__(self, pipe: Connection, config: CoordinatorConfig, owners: int, dimension: int) -> None:
        self.pipe, self.config, self.owners = pipe, config, owners
        self.me = _member(config, "coordinator")
        self.links: list[Link] = []
        self.complete, self.all_in = asyncio.Event(), asyncio.Event()
        self.model = np.zeros(dimension, np.float32)
        self.total = np.zeros(dimension + 1, np.float32)
        self.arrived = 0

    async def serve(self, listener: socket.socket) -> None:
        sock = listening_socket("", 0, fd=listener.detach())
        async with await serve(self.converse, self.me, sock, roles={"owner"}, ssl=listen_tls(self.config)):
            await self.complete.wait()
            self.pipe.send("ready")
            while count := await asyncio.to_thread(self.pipe.recv):
                if count < 0:
                    self.pipe.send(self.model)
                    continue
                before = self.received
                seconds = [await self.round() for _ in range(count)]
                self.pipe.send({"seconds": seconds, "uploaded": (self.received - before) / count})

    async def converse(self, link: Link) -> None:
        self.links.append(link)
        if len(self.links) == self.owners:
            self.complete.set()
        with contextlib.suppress(SmpcError):
            while True:
                await link.receive(self.accept)
                self.arrived += 1
                if self.arrived == self.owners:
                    self.all_in.set()

    async def accept(self, signed: Signed, size: int) -> Sink:
        return _Add(self.total)

    async def round(self) -> float:
        began = time.perf_counter()
        self.total.fill(0)
        self.arrived = 0
        self.all_in.clear()
        await asyncio.gather(*(link.send(_said(self.me), self.model.data) for link in self.links))
        await self.all_in.wait()
        np.divide(self.total[:-1], self.total[-1], out=self.model)
        return time.perf_counter() - began

    @property
    def received(self) -> int:
        return sum(link.bytes_received for link in self.links)


class _Add:
    """Adds a vector to the total as it arrives."""

    def __init__(self, total: Vector) -> None:
        self.rest = total

    def __call__(self, piece: memoryview, /) -> None:
        part = np.frombuffer(piece, np.float32)
        np.add(self.rest[: part.size], part, out=self.rest[: part.size])
        self.rest = self.rest[part.size :]


# --- an owner's process ---


def owner(config: OwnerConfig, address: str, task: Task, number: int) -> None:
    asyncio.run(_take_part(config, address, weighed(task, number)))


async def _take_part(config: OwnerConfig, address: str, update: Vector) -> None:
    me = _member(config, "owner")
    model = np.empty(update.size - 1, np.float32)

    async def accept(signed: Signed, size: int) -> Sink:
        return _Take(model)

    async def converse(link: Link) -> None:
        with contextlib.suppress(SmpcError):
            while True:
                await link.receive(accept)
                sending = asyncio.create_task(link.send(_said(me), update.data))
                sending.add_done_callback(lambda done: done.exception())

    async with Dialer(address, COORDINATOR, me, converse, ssl=dial_tls(config, address)):
        await asyncio.Event().wait()


class _Take:
    """Copies a vector as it arrives."""

    def __init__(self, vector: Vector) -> None:
        self.rest = vector.data.cast("B")

    def __call__(self, piece: memoryview, /) -> None:
        self.rest[: len(piece)] = piece
        self.rest = self.rest[len(piece) :]
