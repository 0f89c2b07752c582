"""Helper: a whole federation within this process: the nodes that run everywhere else, with their disks, keys and sockets, in
one event loop of a thread of its own. Every listener has a tap, so all traffic is known; every secret that is drawn, derived
or opened is known as well (`Secrets`). Nodes can be stopped, started again, and held at a message of theirs."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from commands import until
from numpy.typing import NDArray
from processes_on_disk import OnDisk
from tap import Tap, Wire

import smpc_fl as sf
from smpc_fl import hashing, prg, sealing, shares
from smpc_fl.hashing import Buffer
from smpc_fl.nodes.aggregator import Aggregator
from smpc_fl.nodes.coordinator import Coordinator
from smpc_fl.nodes.home.config import AggregatorConfig, CoordinatorConfig, OwnerConfig, load
from smpc_fl.nodes.home.spool import Slot, Spool
from smpc_fl.nodes.node import Node
from smpc_fl.nodes.owner import Owner
from smpc_fl.protocols import codec
from smpc_fl.protocols import owner as owner_module
from smpc_fl.protocols.commands import Send
from smpc_fl.protocols.messages import Message
from smpc_fl.protocols.records import SECRET
from smpc_fl.protocols.vectors import VectorOpener
from smpc_fl.roster import Role

T = TypeVar("T")
WINDOW = 48
"""Bytes of a vector that are looked for."""


@dataclass
class Secrets:
    """Everything that must not outlive its round, with what it is: {bytes: kind}. Found wherever it stands, as it is or in
    hex: by its first three bytes in a table first, because there are many."""

    known: dict[bytes, str] = field(default_factory=dict)
    _spellings: dict[int, list[tuple[bytes, str]]] = field(default_factory=dict)
    _begins: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(1 << 24, np.bool_))

    def note(self, kind: str, data: bytes) -> None:
        if data not in self.known:
            self.known[data] = kind
            for spelling in (data, data.hex().encode()):
                begin = int.from_bytes(spelling[:3], "big")
                self._spellings.setdefault(begin, []).append((spelling, kind))
                self._begins[begin] = True

    def vector(self, kind: str, words: NDArray[Any]) -> None:
        """Its beginning, where it is long enough to be nobody else's."""
        raw = np.ascontiguousarray(words).view(np.uint8).tobytes()[:WINDOW]
        if len(raw) == WINDOW:
            self.note(kind, raw)

    def kinds(self) -> set[str]:
        return set(self.known.copy().values())

    def within(self, data: bytes) -> set[str]:
        """Kinds of what is in `data`."""
        raw = np.frombuffer(data, np.uint8).astype(np.uint32)
        begins = raw[:-2] << 16 | raw[1:-1] << 8 | raw[2:]
        places = np.flatnonzero(self._begins[begins])
        return {
            kind
            for place, begin in zip(places.tolist(), begins[places].tolist(), strict=True)
            for spelling, kind in self._spellings.get(begin, [])
            if data.startswith(spelling, place)
        }

    def install(self, patch: Callable[[Any, str, Any], None]) -> None:
        """Learn derived keys, the spool's keys, and every vector that is shared or opened in this process."""
        derive_key, write, split, finish = hashing.derive_key, Spool.write, shares.split, VectorOpener.finish

        def derive(label: str, secret: Buffer, *context: Buffer) -> bytes:
            key = derive_key(label, secret, *context)
            self.note(f"derived: {label}", key)
            return key

        def written(spool: Spool, data: Buffer) -> Slot:
            slot = write(spool, data)
            self.note("the key of a spooled vector", slot.key)
            return slot

        def shared(x: Any, *rest: Any, **more: Any) -> Any:
            self.vector("an encoded update", x.copy())
            made = split(x, *rest, **more)
            self.vector("a vector share", made.vector)
            return made

        def finished(opener: VectorOpener) -> bytes:
            tags = finish(opener)
            self.vector("an opened vector", opener.words)
            return tags

        patch(sealing, "derive_key", derive)
        patch(prg, "derive_key", derive)
        patch(Spool, "write", written)
        patch(owner_module, "split", shared)
        patch(VectorOpener, "finish", finished)


class Indoors(OnDisk):
    """`data`: each owner's tensors; `aggregators` of them, a coordinator, a researcher. Use `open` and `close`."""

    def __init__(
        self,
        folder: Path,
        data: Mapping[str, Mapping[str, torch.Tensor]],
        aggregators: int = 3,
        *,
        deadline: float = 8.0,
    ) -> None:
        self.data = data
        names = [f"aggregator-{number}" for number in range(1, aggregators + 1)]
        roles: dict[str, Role] = {**dict.fromkeys(data, "owner"), **dict.fromkeys(names, "aggregator")}
        roles |= {"coordinator": "coordinator", "researcher": "researcher"}
        self.taps: dict[str, Tap] = {}
        self.nodes: dict[str, Node] = {}
        self.secrets = Secrets()
        self._held: dict[str, tuple[type[Message], asyncio.Event, asyncio.Event]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="indoors", daemon=True)
        self._thread.start()
        policies = {owner: {"aggregators": tuple(names)} for owner in data}
        super().__init__(folder, roles, policies=policies, deadline=deadline)

    def address(self, id_: str) -> str:
        return f"127.0.0.1:{self.taps[id_].port}" if id_ in self.sockets else ""

    def publish(self, *revoke: str) -> None:
        for id_, each in self.sockets.items():
            if id_ not in self.taps:
                self.taps[id_] = Tap(id_, each.getsockname()[1])
                self.call(self.taps[id_].open())
        super().publish(*revoke)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(110.0)

    # --- nodes ---

    def open(self) -> Indoors:
        for id_, role in self.roles.items():
            if role != "researcher":
                (self.folder / id_ / "node.toml").write_text(self._config(id_, self.data.get(id_)))
                self.start_node(id_)
        return self

    def close(self) -> None:
        for id_ in list(self.nodes):
            self.stop_node(id_)
        for tap in self.taps.values():
            self.call(tap.close())
        for each in self.sockets.values():
            each.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        self._loop.close()

    def start_node(self, id_: str) -> None:
        self.call(self._start(id_))

    async def _start(self, id_: str) -> None:
        path = self.folder / id_ / "node.toml"
        match self.roles[id_]:
            case "owner":
                node: Node = Owner(load(path, OwnerConfig))
            case "aggregator":
                node = Aggregator(load(path, AggregatorConfig))
            case _:
                node = Coordinator(load(path, CoordinatorConfig))
        node.entropy = self._drawing(id_)
        if id_ in self.sockets:
            node.listen_fd = os.dup(self.sockets[id_].fileno())
        send = node.send

        async def held(command: Send) -> int:
            await self._hold(id_, command)
            return await send(command)

        node.send = held  # type: ignore[method-assign]
        self.nodes[id_] = node
        await node.open()

    def stop_node(self, id_: str) -> None:
        self.call(self.nodes.pop(id_).stop())

    def _drawing(self, id_: str) -> Callable[[int], bytes]:
        def draw(n: int, /) -> bytes:
            data = os.urandom(n)
            if n == 32:  # keys, seeds, blinders; ids and nonces are shorter
                self.secrets.note(f"drawn by {self.roles[id_]}", data)
            return data

        return draw

    def wait_closed(self) -> None:
        """Until every node has erased what it kept of its rounds."""
        until(
            lambda: not any(kind in SECRET for node in self.nodes.values() for kind in _kept(node)), "rounds are closed"
        )

    # --- holding a node's message back ---

    async def _hold(self, id_: str, command: Send) -> None:
        if id_ in self._held:
            kind, reached, go = self._held[id_]
            if isinstance(codec.decode_message(command.signed.body), kind):
                reached.set()
                await go.wait()

    @contextmanager
    def holding(self, id_: str, kind: type[Message]) -> Iterator[Callable[[], None]]:
        """Within, the node's messages of this kind are not sent; the function that is given waits until one would be."""
        reached, go = asyncio.Event(), asyncio.Event()
        self._held[id_] = kind, reached, go
        try:
            yield lambda: self.call(asyncio.wait_for(reached.wait(), 100.0)) and None
        finally:
            del self._held[id_]
            self._loop.call_soon_threadsafe(go.set)

    # --- what an attacker gets ---

    def wires(self) -> list[Wire]:
        return [wire for tap in self.taps.values() for wire in tap.wires]

    def files(self, *ids: str) -> dict[Path, bytes]:
        """Every file under the folders of these members (of all nodes if none is named) as it is now."""
        homes = [self.folder / id_ for id_ in ids or [i for i, role in self.roles.items() if role != "researcher"]]
        found = {}
        for path in sorted(path for home in homes for path in home.rglob("*")):
            try:
                if path.is_file():
                    found[path] = path.read_bytes()
            except FileNotFoundError:
                continue  # SQLite's, gone in the meantime
        return found


def _kept(node: Node) -> Iterator[str]:
    for stream in node.journal.streams("round/"):
        yield from (kind for kind, _ in node.journal.read(stream))


@contextmanager
def indoors(
    folder: Path, data: Mapping[str, Mapping[str, torch.Tensor]], **more: Any
) -> Iterator[tuple[Indoors, sf.Federation]]:
    """An open federation, and a researcher's connection to it."""
    with pytest.MonkeyPatch.context() as patch:
        world = Indoors(folder, data, **more)
        world.secrets.install(patch.setattr)
        try:
            with sf.connect(world.open().researcher(), timeout=60.0) as fed:
                yield world, fed.wait_for_owners()
        finally:
            world.close()
