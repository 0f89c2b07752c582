"""websockets' connections, with what they bear of frames that no application sees: pings, pongs, and strangers' bytes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection
from websockets.frames import CloseCode, Frame
from websockets.protocol import Event, State

from smpc_fl.nodes.net.budget import Budget
from smpc_fl.nodes.net.door import SIP

if TYPE_CHECKING:
    from websockets.asyncio.connection import Connection

    from smpc_fl.nodes.net.door import Door, Guest

CONTROLS = (2.0, 120.0)
"""Pings and pongs a second, and how many at once. An honest peer sends one ping in `Limits.ping_interval` seconds."""
UNKNOWN = 1 << 16
"""Bytes of a stranger that are parsed: an upgrade, a `Hello` and a `Proof` are 2 KiB. What comes behind them waits."""


def too_busy(connection: Connection, controls: Budget | None) -> Budget:
    """Count a ping or a pong; with too many of them the connection is closed, and `cut_off` says so."""
    now = asyncio.get_running_loop().time()
    controls = controls or Budget(*CONTROLS, now)
    if not controls.ask(1.0, now) and connection.protocol.state is State.OPEN:
        connection.protocol.fail(CloseCode.POLICY_VIOLATION, "too many pings and pongs")
        connection.send_data()
        connection.cut_off = "too many pings and pongs"  # type: ignore[attr-defined]
    return controls


class Dialled(ClientConnection):
    """The dialling side."""

    cut_off = ""
    """Why we closed it, if it is for frames that `Link` does not see."""
    _controls: Budget | None = None

    def process_event(self, event: Event) -> None:
        if type(event) is Frame and event.opcode >= 8:
            self._controls = too_busy(self, self._controls)
        super().process_event(event)


class Accepted(ServerConnection):
    """The listening side. `door` is set by a subclass of its own for each listener (`server.serve`)."""

    door: Door
    cut_off = ""
    _controls: Budget | None = None
    _guest: Guest | None = None
    _heard = 0
    _held: list[bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._guest, self._held = self.door.find(transport), []
        if self._guest is not None:
            self._guest.hang_up = self.transport.abort
            self.data_received = self._sip  # type: ignore[method-assign]

    def connection_lost(self, exc: Exception | None) -> None:
        self._held = []
        super().connection_lost(exc)

    def process_event(self, event: Event) -> None:
        if type(event) is Frame and event.opcode >= 8:
            self._controls = too_busy(self, self._controls)
        super().process_event(event)

    def _sip(self, data: Any) -> None:
        """`data_received` of a stranger."""
        self._heard += len(data)
        if self.protocol.state is State.CONNECTING and self._heard > SIP:
            self.transport.abort()  # no browser and no node has headers that long
        elif self._heard > UNKNOWN:
            self._held.append(bytes(data))
            self.transport.pause_reading()
        else:
            super().data_received(data)

    def is_known(self) -> None:
        """Its peer has proved who it is."""
        if self._guest is None:
            return
        self.door.is_known(self._guest)
        del self.data_received
        held, self._held = self._held, []
        if held:
            self.transport.resume_reading()
            super().data_received(b"".join(held))
