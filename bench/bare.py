"""Federated averaging with nothing around it: `websockets`, `np.add`, no framework. The yardstick of the plain baseline."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import numpy as np
import numpy.typing as npt
from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection as Socket
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

Vector = npt.NDArray[np.float32]

PIECE = 1 << 18
"""Bytes of a fragment."""


def pieces(vector: Vector) -> Iterator[memoryview]:
    view = vector.data.cast("B")
    for start in range(0, view.nbytes, PIECE):
        yield view[start : start + PIECE]


def server(pipe: Connection, owners: int, dimension: int, tls: tuple[str, str] | None) -> None:
    """Says its port, then "ready"; for a number that it gets does so many rounds, and answers with their seconds; for -1,
    with the model."""
    asyncio.run(_serve(pipe, owners, dimension, tls))


async def _serve(pipe: Connection, owners: int, dimension: int, tls: tuple[str, str] | None) -> None:
    model, total = np.zeros(dimension, np.float32), np.zeros(dimension + 1, np.float32)
    sockets: list[ServerConnection] = []
    complete = asyncio.Event()
    context = None
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)

    async def arrived(socket: ServerConnection) -> None:
        sockets.append(socket)
        if len(sockets) == owners:
            complete.set()
        await socket.wait_closed()

    async def exchange(socket: Socket) -> None:
        await socket.send(pieces(model))
        place = 0
        async for piece in socket.recv_streaming(decode=False):
            part = np.frombuffer(piece, np.float32)
            np.add(total[place : place + part.size], part, out=total[place : place + part.size])
            place += part.size

    async with serve(arrived, "127.0.0.1", 0, ssl=context, compression=None, max_size=None, write_limit=PIECE) as made:
        pipe.send(made.sockets[0].getsockname()[1])
        await complete.wait()
        pipe.send("ready")
        while count := await asyncio.to_thread(pipe.recv):
            if count < 0:
                pipe.send(model)
                continue
            seconds = []
            for _ in range(count):
                began = time.perf_counter()
                total.fill(0)
                await asyncio.gather(*map(exchange, sockets))
                np.divide(total[:-1], total[-1], out=model)
                seconds.append(time.perf_counter() - began)
            pipe.send(seconds)


def client(port: int, update: Vector, tls: str | None) -> None:
    """`update`: float32[d + 1], the weighed update and the weight."""
    asyncio.run(_take_part(port, update, tls))


async def _take_part(port: int, update: Vector, tls: str | None) -> None:
    context = ssl.create_default_context(cafile=tls) if tls else None
    model = np.empty(update.size - 1, np.float32)
    room = model.data.cast("B")
    url = f"{'wss' if tls else 'ws'}://127.0.0.1:{port}"
    async with connect(url, ssl=context, compression=None, max_size=None, proxy=None, write_limit=PIECE) as socket:
        try:
            while True:
                place = 0
                async for piece in socket.recv_streaming(decode=False):
                    room[place : place + len(piece)] = piece
                    place += len(piece)
                await socket.send(pieces(update))
        except ConnectionClosed:
            pass
