"""The log: JSON lines of allow-listed fields, and nothing else."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from smpc_fl.nodes.logs import MAX_TEXT, configure, gate


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    written = io.StringIO()
    undo = configure("info", node="anna", role="aggregator", stream=written)
    yield written
    undo()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line(stream: io.StringIO) -> None:
    structlog.get_logger().info("round closed", peer="alice", round=3, seconds=0.25)
    [line] = lines(stream)
    timestamp = line.pop("timestamp")
    assert timestamp.endswith("Z")
    assert line == {
        "node": "anna", "role": "aggregator", "event": "round closed", "level": "info", "peer": "alice", "round": 3,
        "seconds": 0.25,
    }  # fmt: skip


def test_fields_that_are_not_listed_are_dropped_and_named(stream: io.StringIO) -> None:
    structlog.get_logger().warning(
        "x", loss=0.4711, share=b"4711", update=np.array([4711.0]), peer=b"4711", round="4711", rows=4711, exc_info=True
    )
    [line] = lines(stream)
    assert "4711" not in stream.getvalue()
    assert line["dropped"] == ["exc_info", "loss", "peer", "round", "rows", "share", "update"]


def test_long_text_is_cut_and_none_stays() -> None:
    passed = gate(None, "info", {"event": "x", "text": "y" * 5000, "error": None, "count": None, "z" * 100: 1})
    assert passed == {
        "event": "x", "text": "y" * MAX_TEXT + "…", "error": None, "count": None, "dropped": ["z" * 64],
    }  # fmt: skip


def test_a_text_cannot_make_up_lines(stream: io.StringIO) -> None:
    structlog.get_logger().info("x", message='a\n{"event": "forged"}\x1b[31m')
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_the_level_counts(stream: io.StringIO) -> None:
    structlog.get_logger().debug("not this")
    assert stream.getvalue() == ""


def test_records_of_the_standard_library(stream: io.StringIO) -> None:
    logging.getLogger("smpc_fl.nodes.net.pump").error("%s in a test", "ValueError")
    logging.getLogger("asyncio").error("a task failed with 4711")
    try:
        raise ValueError("4711")
    except ValueError:
        logging.getLogger("asyncio").exception("Task exception 4711")
    logging.getLogger("asyncio").info("not this")
    ours, plain, theirs = lines(stream)
    assert (ours["event"], ours["logger"], ours["level"]) == ("ValueError in a test", "smpc_fl.nodes.net.pump", "error")
    assert (plain["event"], plain["error"]) == ("library warning", None)
    assert (theirs["event"], theirs["logger"], theirs["error"]) == ("library warning", "asyncio", "ValueError")
    assert "4711" not in stream.getvalue()


def test_a_file_is_appended_to_and_private(tmp_path: Path) -> None:
    file = tmp_path / "node.log"
    for number in range(2):
        undo = configure("warning", file=file)
        structlog.get_logger().warning("started", count=number)
        structlog.get_logger().info("not this")
        undo()
    assert [json.loads(line)["count"] for line in file.read_text().splitlines()] == [0, 1]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_reader_that_went_away_is_no_error(tmp_path: Path) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise ValueError("I/O operation on closed file")

    undo = configure(stream=Gone())
    structlog.get_logger().info("nobody hears this")
    undo()


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    undo = configure()
    structlog.get_logger().info("here")
    undo()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["event"] == "here"
