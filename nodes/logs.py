"""A process's log: one JSON object a line, of allow-listed fields only.

Called by the node processes' `main`, never by the library. Whatever is logged here or by a library passes one gate:
fields that are not listed are dropped and named, bytes and arrays are never written, long text is cut. Tracebacks and
the messages of other libraries may quote values, so of those only the logger's name and the exception's type are kept.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

TEXT_FIELDS = frozenset(
    {
        "address", "code", "digest", "error", "event", "id", "kind", "ledger", "level", "logger",
        "manifest", "message", "node", "notice", "owner", "path", "peer", "phase", "reason", "role", "run", "state", "status",
        "stream", "text", "timestamp",
    }
)  # fmt: skip
NUMBER_FIELDS = frozenset(
    {"attempt", "attempts", "bytes", "count", "peers", "pid", "port", "round", "rounds", "seconds", "version"}
)
"""Public numbers. A loss, a weight or a number of rows is not among them."""

MAX_TEXT = 1000
"""Characters of a text field."""


def configure(
    level: str = "info", *, node: str = "", role: str = "", file: Path | None = None, stream: TextIO | None = None
) -> Callable[[], None]:
    """Send this process's log lines of `level` and above to `file` (appended to, mode 0600), or to `stream`, or to
    standard error. `node` and `role` go into every line. Returns what takes all of that back and closes the file."""
    opened: TextIO | None = None
    if file is not None:
        opened = os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8")
    number = logging.getLevelNamesMapping()[level.upper()]
    own = {name: value for name, value in (("node", node), ("role", role)) if value}

    def add_own(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        return {**own, **event}

    structlog.configure(
        processors=[
            add_own,
            structlog.processors.add_log_level,
            gate,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(_Forgiving(opened or stream or sys.stderr)),  # type: ignore[arg-type]
    )
    root = logging.getLogger()
    bridge = _Bridge(max(number, logging.WARNING))
    root.addHandler(bridge)

    def undo() -> None:
        root.removeHandler(bridge)
        structlog.reset_defaults()
        if opened is not None:
            opened.close()

    return undo


def gate(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Lets listed fields of plain types through; names the others under `dropped`."""
    passed: EventDict = {}
    dropped: list[str] = []
    for name, value in event.items():
        if name in TEXT_FIELDS and isinstance(value, str | None):
            passed[name] = value if value is None or len(value) <= MAX_TEXT else value[:MAX_TEXT] + "…"
        elif name in NUMBER_FIELDS and isinstance(value, int | float | None):
            passed[name] = value
        else:
            dropped.append(name[:64])
    if dropped:
        passed["dropped"] = sorted(dropped)
    return passed


class _Bridge(logging.Handler):
    """The standard library's log records: our own modules' text, of the others who complained and about what type."""

    def emit(self, record: logging.LogRecord) -> None:
        ours = record.name.split(".")[0] == "smpc_fl"
        kind = record.exc_info[0] if record.exc_info else None
        structlog.get_logger().log(
            record.levelno,
            record.getMessage() if ours else "library warning",
            logger=record.name,
            error=kind.__name__ if kind is not None else None,
        )


class _Forgiving:
    """A stream whose reader may go away: a node does not die of a log line that nobody can take."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            return 0

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            return
