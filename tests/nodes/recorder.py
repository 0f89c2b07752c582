"""Keeps all that a node process ever receives and decrypts, in a file of its own.

Test code within real node processes: a `sitecustomize.py` in PYTHONPATH calls `install_in_node`, the node's own code is
as it always is.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = "SMPC_FL_TEST_RECORD"
"""Environment variable: where the records go. Without it nothing is recorded."""


def site(folder: Path, record: Path) -> dict[str, str]:
    """Environment variables with which Python processes record into `record`; `folder` takes the module that does it."""
    (folder / "sitecustomize.py").write_text("import recorder\nrecorder.install_in_node()\n")
    record.mkdir()
    paths = [str(folder), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {FOLDER: str(record), "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def install_in_node() -> None:
    """Record, if this is a node process; its name is that of its config's folder."""
    line = sys.orig_argv
    if FOLDER in os.environ and "smpc_fl.nodes" in line and "--config" in line:
        name = Path(line[line.index("--config") + 1]).parent.name
        install(Path(os.environ[FOLDER]) / name, setattr)


def install(path: Path, patch: Callable[[Any, str, Any], None]) -> None:
    """From now on, all that comes over any link of this process, and what is decrypted of it, goes to `path`."""
    from smpc_fl.nodes.net.link import Link
    from smpc_fl.protocols import relay
    from smpc_fl.protocols.envelopes import Channel
    from smpc_fl.protocols.vectors import VectorOpener

    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    lock = threading.Lock()

    def keep(label: str, *parts: bytes | bytearray | memoryview) -> None:
        with lock:
            os.write(descriptor, b"\n".join([b"", label.encode(), *map(bytes, parts)]))

    receive = Link.receive

    async def recorded(self: Link, accept: Any = None, **options: Any) -> Any:
        async def accept_recorded(signed: Any, size: int) -> Any:
            sink = await accept(signed, size)
            return None if sink is None else _RecordedSink(sink, keep)

        signed, attachment = await receive(self, None if accept is None else accept_recorded, **options)
        if isinstance(attachment, _RecordedSink):
            keep(f"received from {self.peer}", signed.sender.encode(), signed.body)  # the rest piece by piece, before
            return signed, attachment.sink
        keep(f"received from {self.peer}", signed.sender.encode(), signed.body, attachment or b"")  # type: ignore[arg-type]
        return signed, attachment

    patch(Link, "receive", recorded)
    for holder, name in ((Channel, "open_seed"), (Channel, "open_blinder"), (relay.Asked, "read")):
        patch(holder, name, _opened(getattr(holder, name), keep))

    finish = VectorOpener.finish

    def finished(self: VectorOpener) -> bytes:
        result = finish(self)
        keep("decrypted by VectorOpener", self.words.tobytes())
        return result

    patch(VectorOpener, "finish", finished)


class _RecordedSink:
    """In front of a link's sink."""

    def __init__(self, sink: Any, keep: Callable[..., None]) -> None:
        self.sink, self._keep = sink, keep

    def __call__(self, piece: memoryview) -> None:
        self._keep("received of an attachment", piece)
        self.sink(piece)

    def abandoned(self) -> None:
        getattr(self.sink, "abandoned", lambda: None)()


def _opened(function: Callable[..., Any], keep: Callable[..., None]) -> Callable[..., Any]:
    def opened(*arguments: Any) -> Any:
        result = function(*arguments)
        parts = result if isinstance(result, tuple) else (result,)
        # An owner's refusal is read in the same way as its answer.
        said = [str(part).encode() if isinstance(part, Exception) else part for part in parts]
        keep(f"decrypted by {function.__qualname__}", *said)
        return result

    return opened
