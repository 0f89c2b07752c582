"""How a node listens and dials: its config's sockets, certificates and pages put together."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import structlog

from smpc_fl.errors import SmpcError
from smpc_fl.nodes.home.config import ListenerConfig, NodeConfig
from smpc_fl.nodes.net.addresses import parse_listen
from smpc_fl.nodes.net.budget import Budget
from smpc_fl.nodes.net.dialer import Dialer
from smpc_fl.nodes.net.handshake import LocalMember
from smpc_fl.nodes.net.server import Handler, Listener, listening_socket, serve
from smpc_fl.nodes.net.tls import dial_tls, listen_tls

if TYPE_CHECKING:
    from smpc_fl.nodes.node import Node

log = structlog.get_logger()

REFUSED_LINES = (0.2, 50.0)
"""Lines of the log about refused connections, a second and at once: whoever can connect could fill the disk with them."""


async def listen(
    node: Node,
    config: ListenerConfig,
    status: Callable[[], Mapping[str, object]],
    *,
    roles: Collection[str],
) -> Listener:
    """Listen as the config says, or on the socket that a parent process handed down (`node.listen_fd`)."""
    host, port = parse_listen(config.listen)

    lines, untold = Budget(*REFUSED_LINES, time.monotonic()), 0

    def refused(error: SmpcError) -> None:
        nonlocal untold
        node.metrics.refused(error.code)
        if not lines.ask(1.0, time.monotonic()):
            untold += 1
            return
        log.warning(
            "connection refused", error=error.code, message=error.message, **({"untold": untold} if untold else {})
        )
        untold = 0

    return await serve(
        node.converse,
        node.me,
        listening_socket(host, port, fd=node.listen_fd),
        roles=roles,
        ssl=listen_tls(config),
        pages=node.metrics.pages(status),
        on_refused=refused,
        limits=config.limits.limits(),
    )


def dial(config: NodeConfig, me: LocalMember, peer: str, address: str, handler: Handler) -> Dialer:
    """A started dialer to one member; it keeps trying, and says in the log why it cannot."""
    last = ""

    def failed(error: SmpcError) -> None:
        nonlocal last
        if error.message != last:  # once for each reason, not at every try
            last = error.message
            log.warning("cannot connect", peer=peer, error=error.code, message=error.message)

    dialer = Dialer(
        address, peer, me, handler, ssl=dial_tls(config, address), limits=config.limits.limits(), on_failed=failed
    )
    dialer.start()
    return dialer
