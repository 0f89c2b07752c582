"""Helper: a tap in front of a listener. All bytes of both directions are kept, and read back as websocket frames (RFC 6455)."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from smpc_fl.nodes.net.framing import Kind
from smpc_fl.protocols import codec
from smpc_fl.protocols.messages import Message, Signed

_LENGTHS = struct.Struct(">BIQ")


class Frame(NamedTuple):
    """`size`: bytes on the socket."""

    opcode: int
    final: bool
    payload: bytes
    size: int


class Said(NamedTuple):
    """One message as it passed, with the attachment behind it."""

    signed: Signed
    message: Message
    attachment: bytes


@dataclass
class Wire:
    """One TCP connection to `listener`: what the dialler said (`up`) and what it heard (`down`)."""

    listener: str
    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)

    @property
    def dialler(self) -> str:
        """Who the dialler said that it is; empty when it never said so."""
        return next((said.signed.sender for said in self.said(up=True)), "")

    def frames(self, *, up: bool) -> list[Frame]:
        return list(frames(bytes(self.up if up else self.down)))

    def said(self, *, up: bool) -> Iterator[Said]:
        return messages(self.frames(up=up))


def frames(data: bytes) -> Iterator[Frame]:
    """The frames behind the HTTP upgrade; one that is cut off at the end is left out."""
    at = data.find(b"\r\n\r\n") + 4
    while at >= 4 and len(data) >= at + 2:
        start, (first, second) = at, data[at : at + 2]
        length, at = second & 0x7F, at + 2
        if length >= 126:
            width = 2 if length == 126 else 8
            length, at = int.from_bytes(data[at : at + width], "big"), at + width
        mask = data[at : at + 4] if second & 0x80 else b""
        at += len(mask)
        if len(data) < at + length:
            return
        payload, at = data[at : at + length], at + length
        if mask:
            long = np.resize(np.frombuffer(mask, np.uint8), length)
            payload = (np.frombuffer(payload, np.uint8) ^ long).tobytes()
        yield Frame(first & 0x0F, bool(first & 0x80), payload, at - start)


def messages(passed: list[Frame]) -> Iterator[Said]:
    """The members' messages among frames of one direction; one whose attachment never came is handed on without it."""
    parts: list[bytes] = []
    waiting: list[Said] = []
    for frame in passed:
        if frame.opcode > 2:
            continue  # pings, goodbyes
        parts.append(frame.payload)
        if not frame.final:
            continue
        whole, parts = b"".join(parts), []
        match Kind(whole[0]):
            case Kind.MESSAGE | Kind.ANNOUNCEMENT as kind:
                _, length, size = _LENGTHS.unpack_from(whole)
                # Between the lengths and the envelope stands the connection's tag, once there is one.
                end = len(whole) - (size if kind is Kind.MESSAGE else 0)
                signed = codec.decode_signed(whole[end - length : end])
                said = Said(signed, codec.decode_message(signed.body), whole[end:])
                if kind is Kind.MESSAGE:
                    yield said
                else:
                    waiting.append(said)
            case Kind.ATTACHMENT:
                yield waiting.pop(0)._replace(attachment=whole[1:])
            case _:
                pass
    yield from waiting
    if parts and waiting:
        yield waiting[0]._replace(attachment=b"".join(parts)[1:])


class Tap:
    """Listens on a port of its own and passes everything on to `target`. `wires`: every connection so far."""

    def __init__(self, listener: str, target: int) -> None:
        self.listener, self.target = listener, target
        self.wires: list[Wire] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(far_writer)
        wire = Wire(self.listener)
        self.wires.append(wire)
        for source, sink, record in ((reader, far_writer, wire.up), (far_reader, writer, wire.down)):
            task = asyncio.get_running_loop().create_task(_pass(source, sink, record))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _pass(source: asyncio.StreamReader, sink: asyncio.StreamWriter, record: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(1 << 16):
            record += data
            sink.write(data)
            await sink.drain()
    sink.transport.abort() if source.exception() else sink.close()
