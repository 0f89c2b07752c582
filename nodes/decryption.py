"""At the coordinator: a released sum of ciphertexts on its way to an owner who decrypts it (`protocols/decryption.py`)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from smpc_fl.errors import BadInput
from smpc_fl.nodes.node import Node
from smpc_fl.nodes.rounds import RoundShell
from smpc_fl.protocols.coordinator import CoordinatorRound, GivenUp, Released
from smpc_fl.protocols.decryption import Decryption
from smpc_fl.protocols.manifest import Protection

PATIENCE = 20.0
"""Seconds that an owner has to decrypt a sum, before the next one is asked."""


def check_road(protection: Protection, aggregators: int) -> None:
    """Raises `BadInput` unless the federation has the aggregators that its coordinator's `protection` is for."""
    if (aggregators == 1) != (protection == "ckks"):
        raise BadInput(
            f'this federation has {aggregators} aggregators and protection="{protection}": shares need two or more, ckks one'
        )


class Decrypting:
    """Of the attempt that a run is at, if its sum is to be decrypted. `shell`: while it goes on."""

    def __init__(self, node: Node) -> None:
        self.shell: RoundShell | None = None
        self._node = node

    async def decrypted(self, stream: str, machine: object, released: Released) -> Released | GivenUp:
        """What an owner of S makes of it. Owners that are connected are asked first, in every round another."""
        assert isinstance(machine, CoordinatorRound)
        owners = [entry.owner for entry in released.agreed]
        first = machine.plan.round % len(owners)
        owners = sorted(owners[first:] + owners[:first], key=lambda owner: not self._node.connected(owner))
        done: asyncio.Future[Released | GivenUp] = asyncio.get_running_loop().create_future()

        async def finished(outcome: Released | GivenUp) -> None:
            if not done.done():
                done.set_result(outcome)

        def build(records: Sequence[Any], bulk: bytearray | None) -> Decryption:
            return Decryption.restore(machine, released, owners, PATIENCE, records, bulk)

        self.shell = RoundShell(
            stream=f"{stream}/decryption",
            journal=self._node.journal,
            build=build,
            send=self._node.send,
            finished=finished,
        )
        try:
            await self.shell.start()
            return await done
        finally:
            self.shell.close()
            self.shell = None
