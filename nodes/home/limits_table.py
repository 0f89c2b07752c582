"""`[limits]` in a node's config: what an operator may want to change of what a node bears (`net/limits.py` has the rest)."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from smpc_fl.nodes.net.limits import Limits

MIB = 1 << 20


class LimitsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The defaults suit a federation of a thousand owners. A peer that passes a limit is slowed down or cut off, is told
    which one it was, and is named in the log."""

    connections: Annotated[
        int,
        Meta(ge=8, le=1 << 20, description="Listeners: connections at a time, those without a name yet among them."),
    ] = Limits.connections
    strangers: Annotated[
        int,
        Meta(ge=2, le=1 << 16, description="Listeners: connections at a time that have not proved whose they are yet."),
    ] = Limits.pending
    strangers_per_address: Annotated[
        int, Meta(ge=1, le=1 << 16, description="Listeners: as many of them from one address (IPv6: from one /64).")
    ] = Limits.pending_address
    arrivals_per_second: Annotated[
        float,
        Meta(
            gt=0,
            le=1e6,
            description="Listeners: new connections a second from one address; 40 s' worth may come at once.",
        ),
    ] = Limits.arrivals
    handshake_seconds: Annotated[
        float, Meta(gt=0, le=600, description="For TLS, for HTTP and for the handshake, so many seconds each.")
    ] = Limits.handshake
    ping_seconds: Annotated[
        float,
        Meta(
            gt=0,
            le=3600,
            description="A connection is pinged so often, and dropped when nothing comes back for as long again. Whoever "
            "answers may be silent: an owner waits for rounds.",
        ),
    ] = Limits.ping_interval
    stall_seconds: Annotated[
        float, Meta(gt=0, le=3600, description="For each 64 KiB of a message that a peer has begun, so many seconds.")
    ] = Limits.stall
    slowest_upload: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 20,
            description="KiB a second; who is slower is cut off while others wait for the same memory.",
        ),
    ] = Limits.slowest >> 10
    messages_per_second: Annotated[
        float,
        Meta(
            gt=0,
            le=1e6,
            description="Of one member; 10 s' worth may come at once, each 16 KiB count as one more. Who says more is read "
            "more slowly.",
        ),
    ] = Limits.messages
    attachment: Annotated[
        int, Meta(ge=1, le=1 << 16, description="MiB of the longest vector or model that is taken or sent.")
    ] = Limits.attachment // MIB
    collected: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 20,
            description="MiB of models, partial sums and long messages on their way in, of all peers together; others wait. "
            "Two are taken in whatever their size. (An aggregator's vectors have `upload_memory`.)",
        ),
    ] = Limits.collected // MIB
    runs: Annotated[
        int, Meta(ge=1, le=1 << 16, description="Coordinator: runs of one researcher that have not ended, at a time.")
    ] = Limits.runs
    free_disk: Annotated[
        int, Meta(ge=0, le=1 << 30, description="Coordinator: MiB that a new run leaves free on its disk.")
    ] = Limits.free_disk // MIB

    def limits(self) -> Limits:
        """In seconds and bytes."""
        return Limits(
            attachment=self.attachment * MIB,
            handshake=self.handshake_seconds,
            ping_interval=self.ping_seconds,
            ping_timeout=self.ping_seconds,
            stall=self.stall_seconds,
            connections=self.connections,
            pending=self.strangers,
            pending_address=self.strangers_per_address,
            arrivals=self.arrivals_per_second,
            arrivals_burst=40 * self.arrivals_per_second,
            messages=self.messages_per_second,
            messages_burst=10 * self.messages_per_second,
            collected=self.collected * MIB,
            slowest=self.slowest_upload << 10,
            runs=self.runs,
            free_disk=self.free_disk * MIB,
        )
