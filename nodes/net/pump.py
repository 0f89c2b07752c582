"""Reads a link until it closes, and hands each message on, one after another."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from smpc_fl.errors import InternalError, SmpcError
from smpc_fl.nodes.net.attachment import Sink
from smpc_fl.nodes.net.link import OUR_BUG, POLICY, Link
from smpc_fl.protocols.messages import Signed

log = logging.getLogger(__name__)

OnMessage = Callable[[Link, Signed, Any], Awaitable[None]]
"""Gets each message with its attachment (a memoryview, the sink that took it, or None). The next message waits until it
returns, and so does the peer's ping: work that takes seconds, and anything that waits for the same peer, belongs in a
task of its own. To send the peer a long attachment is to wait for it."""

OpenSink = Callable[[Link, Signed, int], Awaitable[Sink | None]]
"""As `attachment.Accept`, with the link."""

OnRefused = Callable[[Link, SmpcError, Signed | None], Awaitable[None]]
"""Told that a message of this link was refused by `on_message`, `open_sink` or its sink; the link goes on."""


async def pump(
    link: Link, on_message: OnMessage, *, open_sink: OpenSink | None = None, on_refused: OnRefused | None = None
) -> SmpcError:
    """Until the link is closed, by whomever; it is closed when this returns, with the reason. Raises nothing.

    An `SmpcError` out of a callback goes to `on_refused`; without one, or out of it, it closes the link. Any other
    exception is our own bug: it is logged by type and place, never by text, and closes the link."""

    async def accept(signed: Signed, size: int) -> Sink | None:
        return None if open_sink is None else await open_sink(link, signed, size)

    try:
        while True:
            try:
                signed, attachment = await link.receive(accept)
            except SmpcError as error:
                if link.ended:
                    return error
                await _refused(link, error, link.refused, on_refused)
                continue
            try:
                await on_message(link, signed, attachment)
            except SmpcError as error:
                await _refused(link, error, signed, on_refused)
    except SmpcError as error:
        await link.close(error.code, code=POLICY)
        return error
    except Exception as error:
        report_bug(error, "while handling a message")
        await link.close("internal error", code=OUR_BUG)
        return InternalError("a message could not be handled, by our own fault", peer=link.peer)
    finally:
        # Cancelled: the node is stopping, nobody waits for a goodbye, and nothing more is read.
        link.abort()


async def _refused(link: Link, error: SmpcError, signed: Signed | None, on_refused: OnRefused | None) -> None:
    if on_refused is None:
        raise error
    await on_refused(link, error, signed)


def report_bug(error: Exception, what: str) -> None:
    """Log an exception that should not have happened: its type and where it was raised. Its text may hold values."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "an unknown place"
    log.error("%s %s at %s: our own bug, please report it", type(error).__name__, what, place)
