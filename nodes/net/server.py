"""A listener: websockets for members, and a few read-only pages over HTTP, on one port.

Strangers are held short: a connection has `Limits.handshake` seconds for TLS, for HTTP, and to prove whose it is; no
more than 64 KiB of it are looked at before that (`guard.py`), and there are at most `Limits.pending` such connections at
a time (`door.py`). A page of another origin in somebody's browser cannot connect.
"""

from __future__ import annotations

import asyncio
import http
import socket
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as websockets_serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from smpc_fl.errors import SmpcError, Unavailable
from smpc_fl.nodes.net.door import Door
from smpc_fl.nodes.net.guard import Accepted
from smpc_fl.nodes.net.handshake import LocalMember, authenticate
from smpc_fl.nodes.net.limits import Limits
from smpc_fl.nodes.net.link import Link
from smpc_fl.nodes.net.pump import report_bug

Handler = Callable[[Link], Awaitable[None]]
"""A member's whole conversation; the link is closed when it returns."""


@dataclass(frozen=True)
class HttpAnswer:
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200


Pages = Callable[[str], HttpAnswer | None]
"""The page at a path (without its query), or None: 404."""

OnRefused = Callable[[SmpcError], None]
"""Told of a connection that was turned away at the door, or ended in its handshake, and why."""


def listening_socket(host: str, port: int, *, fd: int | None = None) -> socket.socket:
    """A bound, listening TCP socket; `fd`: one that a parent process has made for us. Port 0: any free one.

    Raises `Unavailable` when the address cannot be had."""
    try:
        if fd is not None:
            return socket.socket(fileno=fd)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        where = f"descriptor {fd}" if fd is not None else f"{host}:{port}"
        raise Unavailable(
            f"cannot listen on {where}: {error.strerror or error}. Is another process using it?"
        ) from None


class Listener:
    """Made by `serve`. `address` is (host, port), as bound."""

    def __init__(self) -> None:
        self._server: Server
        self._door: Door
        self.address: tuple[str, int] = ("", 0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self, *, grace: float = 5.0) -> None:
        """Stop listening, say goodbye to all, wait for the handlers; those that take over `grace` seconds are
        cancelled. The port is free when this returns."""
        self._server.close()
        self._door.hang_up()
        try:
            async with asyncio.timeout(grace):
                await self._server.wait_closed()
        except TimeoutError:
            self._door.hang_up()
            for task in list(self._server.handler_tasks):
                task.cancel()
            await self._server.wait_closed()

    @property
    def door(self) -> Door:
        return self._door


async def serve(
    handler: Handler,
    me: LocalMember,
    sock: socket.socket,
    *,
    roles: Collection[str] | None = None,
    ssl: SSLContext | None = None,
    pages: Pages = lambda path: None,
    on_refused: OnRefused = lambda error: None,
    limits: Limits | None = None,
) -> Listener:
    """Listen on `sock` (bound; it is ours from now on), and run `handler` for every member that proves who it is.

    `roles`: who may connect. Several connections of one member run at once: `Peers` keeps the newest."""
    bounds = limits or Limits()
    listener = Listener()
    listener.address = sock.getsockname()[:2]
    listener._door = door = Door(sock, bounds, says_why=ssl is None, on_turned_away=on_refused)

    class Connection(Accepted):
        pass

    Connection.door = door

    async def converse(connection: ServerConnection) -> None:
        assert isinstance(connection, Connection)
        link = Link(connection, dialled=False, limits=bounds)
        try:
            await authenticate(link, me, roles=roles)
        except SmpcError as error:
            on_refused(error)
            return
        connection.is_known()
        try:
            await handler(link)
        except Exception as error:
            report_bug(error, "in a connection's handler")
        finally:
            await link.close()

    def answer(connection: ServerConnection, request: Request) -> Response | None:
        if "upgrade" in request.headers:
            return None
        return _http_response(request, pages)

    timeouts: dict[str, Any] = {} if ssl is None else {"ssl_handshake_timeout": bounds.handshake}
    door.setblocking(False)
    listener._server = await websockets_serve(
        converse,
        sock=door,
        ssl=ssl,
        origins=[None],
        process_request=answer,
        server_header=None,
        create_connection=Connection,
        **timeouts,
        **bounds.websocket(),
    )
    return listener


def _http_response(request: Request, pages: Pages) -> Response:
    page: HttpAnswer | None
    if request.method not in ("GET", "HEAD"):
        page = HttpAnswer(b"only GET and HEAD\n", status=405)
    else:
        try:
            page = pages(request.path.partition("?")[0])
        except Exception as error:
            report_bug(error, "while making a page")
            page = HttpAnswer(b"internal error\n", status=500)
    page = page or HttpAnswer(b"no such page\n", status=404)
    headers = Headers(
        [
            ("Connection", "close"),
            ("Content-Length", str(len(page.body))),
            ("Content-Type", page.content_type),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ]
    )
    body = b"" if request.method == "HEAD" else page.body
    return Response(page.status, http.HTTPStatus(page.status).phrase, headers, body)
