"""The crypto provider's process: it deals randomness for programs on shared tensors, and sees no share of any data.

Its operator is nobody else in the federation: who deals, and is a party as well, can open what is masked.
"""

from __future__ import annotations

from typing import Any

from smpc_fl.nodes.computing import Computing
from smpc_fl.nodes.home.config import ProviderConfig
from smpc_fl.nodes.net import web
from smpc_fl.nodes.net.attachment import Sink
from smpc_fl.nodes.net.link import Link
from smpc_fl.nodes.node import Node, run_node
from smpc_fl.protocols.commands import Received
from smpc_fl.protocols.computing import ComputingRules
from smpc_fl.protocols.computing_provider import ComputingProvider
from smpc_fl.protocols.messages import Refusal, Signed

MIB = 1 << 20


class Provider(Node):
    role = "provider"

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        self.config = config
        rules = ComputingRules(frozenset({self.id}), config.policy.program * MIB)
        self._computing = Computing(self, lambda run, who: ComputingProvider(self.party, rules, run, who, self.entropy))

    async def open(self) -> None:
        import smpc_fl.shared_tensors.dealing  # noqa: F401  (torch, which takes its time: before the first run)

        self.server = await web.listen(self, self.config, self._status, roles={"aggregator", "researcher"})

    async def stop(self) -> None:
        if hasattr(self, "server"):
            await self.server.close()
        self._computing.close()
        await super().stop()

    def _status(self) -> dict[str, Any]:
        return {"runs": len(self._computing), "connected": len(self.peers)}

    async def open_sink(self, link: Link, signed: Signed, size: int) -> Sink | None:
        return await self._computing.open_sink(link, self._verified(link, signed), size)

    def price(self, link: Link, signed: Signed, attachment: object) -> float:
        return super().price(link, signed, attachment) if link.role == "researcher" else 0.05

    async def handle(self, link: Link, event: Received) -> None:
        if not isinstance(event.message, Refusal):
            await self._computing.handle(link, event)

    def _link_up(self, link: Link) -> None:
        self._computing.linked(link.peer)
        super()._link_up(link)

    def _link_down(self, link: Link) -> None:
        self._computing.lost(link.peer)
        super()._link_down(link)


def main(config: ProviderConfig, *, listen_fd: int | None = None, with_parent: bool = False) -> None:
    """`smpc-fl provider`: until SIGINT or SIGTERM."""
    run_node(lambda: Provider(config), config.log, listen_fd=listen_fd, with_parent=with_parent)
