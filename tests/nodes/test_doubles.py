"""A hundred copies of one upload at once, at a real aggregator: counted once, and every receipt is the same.

The other members are machines of this process; what they say to that aggregator goes over websockets, in a hundred copies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from processes_on_disk import OnDisk

from smpc_fl.errors import SmpcError, Unavailable
from smpc_fl.nodes.aggregator import Aggregator
from smpc_fl.nodes.home.config import AggregatorConfig, load
from smpc_fl.nodes.net.dialer import Dialer
from smpc_fl.nodes.net.handshake import LocalMember
from smpc_fl.nodes.net.link import Link
from smpc_fl.protocols.commands import Command, Event, PeerUp, Received, Send, Start
from smpc_fl.protocols.coordinator import Released
from smpc_fl.protocols.messages import Message, Receipt, SeedReport, Signed, VectorReport
from smpc_fl.protocols.simulate import COORDINATOR, Simulation, decoded
from smpc_fl.roster import Role

REAL, OTHER = "aggregator-0", "aggregator-1"
ROLES: dict[str, Role] = {
    "alice": "owner", "bob": "owner", "carol": "owner", REAL: "aggregator", OTHER: "aggregator", COORDINATOR: "coordinator",
}  # fmt: skip
COPIES, CONNECTIONS = 100, 5
VECTORS = {owner: np.array([4.0**i / 64, 0.25, -1.0]) for i, owner in enumerate(("alice", "bob", "carol"))}


class Half(Simulation):
    """A simulation whose one aggregator is a node of its own."""

    def __init__(self, disk: OnDisk) -> None:
        parties = {id_: disk.party(id_) for id_ in ROLES}
        super().__init__(VECTORS, aggregators=2, clip=1.0, max_samples=128, entropy=os.urandom, parties=parties)
        self.disk, self.now = disk, time.time()
        self.incoming: asyncio.Queue[tuple[str, Event]] = asyncio.Queue()
        self.links: dict[str, Link] = {}
        self.receipts: dict[tuple[str, type[Message]], list[Signed]] = defaultdict(list)
        self.copied: dict[str, type[Message]] = {}
        self.outbox: list[tuple[str, Send]] = []

    def deliver(self, to: str, event: Event) -> None:
        if to != REAL:
            super().deliver(to, event)

    def carry_out(self, by: str, command: Command) -> None:
        if isinstance(command, Send) and command.to == REAL:
            self.outbox.append((by, command))
        else:
            super().carry_out(by, command)

    def dialer(self, me: str, wait: float = 0.1) -> Dialer:
        member = LocalMember(me, ROLES[me], self.disk.keys[me], self.parties[me].membership)
        return Dialer(f"ws://{self.disk.address(REAL)}", REAL, member, self._hear_as(me), backoff=(wait, wait))

    def _hear_as(self, me: str) -> Any:
        async def hear(link: Link) -> None:
            self.links[me] = link
            self.incoming.put_nowait((me, PeerUp(REAL)))
            with contextlib.suppress(SmpcError):
                while True:
                    signed, attachment = await link.receive()
                    message = self.parties[me].read(signed)
                    if isinstance(message, Receipt):
                        self.receipts[me, self.copied[me]].append(signed)
                    content = None if attachment is None else bytes(attachment)
                    self.incoming.put_nowait((me, Received(REAL, message, signed, content)))

        return hear

    async def post(self, by: str, command: Send) -> None:
        """A report goes out in a hundred copies: an owner's seed by one connection, its vector by several."""
        message = self.parties[by].read(command.signed)
        if not isinstance(message, SeedReport | VectorReport) or by in self.copied:
            with contextlib.suppress(Unavailable):  # said again when there is a connection
                await self.links[by].send(command.signed, command.attachment, piece=command.piece)
            return
        self.copied[by] = type(message)
        if isinstance(message, SeedReport):
            link = self.links[by]
            await asyncio.gather(*(link.send(command.signed) for _ in range(COPIES)))
            return
        async with contextlib.AsyncExitStack() as more:
            for _ in range(CONNECTIONS):  # each throws the one before it out, with what is under way
                dialer = await more.enter_async_context(self.dialer(by, 60.0))
                await dialer.connected.wait()
                sends = (
                    dialer.send(command.signed, command.attachment, piece=command.piece)
                    for _ in range(COPIES // CONNECTIONS)
                )
                outcomes = await asyncio.gather(*sends, return_exceptions=True)
                assert all(isinstance(outcome, int | Unavailable) for outcome in outcomes)

    async def run_round(self) -> Released:
        self.queue.extend((id_, Start()) for id_ in self.nodes)
        while self.outcome is None:
            while self.queue:
                self.deliver(*self.queue.popleft())
            said, self.outbox = self.outbox, []
            for by, command in said:
                await self.post(by, command)
            if self.outcome is None and not self.queue:
                async with asyncio.timeout(60.0):
                    self.queue.append(await self.incoming.get())
        assert isinstance(self.outcome, Released)
        return self.outcome


async def test_a_hundred_copies_of_one_upload(tmp_path: Path) -> None:
    disk = OnDisk(tmp_path, ROLES)
    path = tmp_path / "node.toml"
    path.write_text(disk._config(REAL, None))
    node = Aggregator(load(path, AggregatorConfig))
    node.listen_fd = os.dup(disk.sockets[REAL].fileno())
    half = Half(disk)
    try:
        await node.open()
        async with contextlib.AsyncExitStack() as dialers:
            for me in ("alice", "bob", "carol", COORDINATOR):
                dialer = await dialers.enter_async_context(half.dialer(me))
                await dialer.connected.wait()
            outcome = await half.run_round()
            async with asyncio.timeout(60.0):
                while len(half.receipts["bob", SeedReport]) < COPIES:
                    await half.incoming.get()
    finally:
        await node.stop()
        disk.stop()
    assert [entry.owner for entry in outcome.agreed] == sorted(VECTORS)
    np.testing.assert_array_equal(decoded(half, outcome), sum(VECTORS.values()))
    assert half.copied == {"alice": VectorReport, "bob": SeedReport, "carol": VectorReport}
    for (owner, kind), receipts in half.receipts.items():
        assert len(set(receipts)) == 1, (owner, kind)
    assert len(half.receipts["bob", SeedReport]) == COPIES
    assert len(half.receipts["alice", VectorReport]) > 1
