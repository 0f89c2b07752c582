"""What a connection bears, and how websockets is set up for it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from smpc_fl.nodes.net.framing import PIECE

QUEUE = 4
"""Fragments that are read ahead of the consumer; beyond them the socket is not read."""
WRITE_LIMIT = 1 << 20
"""Bytes that may wait in the write buffer before `send` waits for the peer."""

# websockets reports connections with peers' bytes in them at level DEBUG, and peers' nonsense with tracebacks at ERROR:
# the former must never be written anywhere, the latter we report ourselves as an error of our own tree.
quiet = logging.getLogger("smpc_fl.websockets")
quiet.addHandler(logging.NullHandler())
quiet.setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Limits:
    """Seconds, bytes, connections. `[limits]` in a node's config sets those that an operator may want to change
    (`home/limits_table.py`)."""

    attachment: int = 1 << 30
    """Bytes of the longest attachment that is taken or sent."""
    handshake: float = 10.0
    """Seconds until both sides have proved who they are (TCP and TLS, and HTTP, have as many of their own)."""
    ping_interval: float = 20.0
    ping_timeout: float = 20.0
    """Seconds without an answer to a ping after which the peer is taken for dead. A member that answers may be silent for
    as long as it likes: an owner waits for rounds."""
    stall: float = 30.0
    """Seconds that a peer has for 64 KiB of a message that it has begun, or of an attachment that we have room for; then
    the room is somebody else's."""
    close: float = 5.0
    """Seconds that a peer has to say goodbye."""

    connections: int = 16384
    """Connections at a listener, strangers among them; fewer where the system allows fewer open files."""
    pending: int = 128
    """Connections that have not proved who they are, at most, at a listener."""
    pending_address: int = 64
    """As many of them from one address."""
    arrivals: float = 50.0
    arrivals_burst: float = 2000.0
    """New connections a second from one address, and how many may come at once: a hospital's owners behind one gateway."""

    messages: float = 500.0
    messages_burst: float = 5000.0
    """Messages a second from one member, over all its connections, and how many may come at once; 16 KiB count as one
    more. A member that says more is read more slowly, and told."""
    collected: int = 256 << 20
    """Bytes of envelopes over 1 MiB and of attachments that are collected in memory at a time, from all peers together;
    others wait. Two are let in whatever their size."""
    slowest: int = 64 << 10
    """Bytes a second below which an upload is cut off while others wait for its room, after `stall` seconds of grace."""

    runs: int = 64
    """Runs of one researcher that have not ended, at a coordinator."""
    free_disk: int = 256 << 20
    """Bytes that a new run leaves free on the coordinator's disk, its first model counted."""

    @property
    def door(self) -> float:
        """Seconds from the first packet on until a peer has proved who it is, all in all."""
        return 3 * self.handshake

    def websocket(self) -> dict[str, Any]:
        """The keyword arguments that websockets' `connect` and `serve` have in common."""
        return {
            "compression": None,  # shares are incompressible, and compressed lengths tell about contents
            "max_size": (None, PIECE),
            "max_queue": QUEUE,
            "write_limit": WRITE_LIMIT,
            "open_timeout": self.handshake,
            "ping_interval": self.ping_interval,
            "ping_timeout": self.ping_timeout,
            "close_timeout": self.close,
            "logger": quiet,
        }
