from __future__ import annotations

import os
import select
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from smpc_fl.errors import RunFailed
from smpc_fl.nodes.cli import up
from smpc_fl.nodes.cli.up import Child, log_line, run_all


def script(text: str) -> Child:
    """A child that runs a Python script instead of a node."""

    class Script(Child):
        @property
        def command(self) -> list[str]:
            return [sys.executable, "-u", "-c", text]

    return Script("node", "owner", Path("x"))


@dataclass
class Watcher:
    """Collects shown lines, and interrupts this process once one of them contains `until`."""

    until: str
    lines: list[str] = field(default_factory=list)
    signal: signal.Signals = signal.SIGINT

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if self.until and self.until in line:
            self.until = ""
            os.kill(os.getpid(), self.signal)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def pid_in(lines: list[str]) -> int:
    return int(next(line for line in lines if "pid=" in line).partition("pid=")[2].split()[0])


WAITS = "import os, signal; print(f'pid={os.getpid()}'); signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WAITS


def test_the_command_of_a_node() -> None:
    command = Child("alice", "owner", Path("alice.toml")).command
    assert command == [sys.executable, "-m", "smpc_fl.nodes", "owner", "--config", "alice.toml", "--with-parent"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_nodes(number: signal.Signals) -> None:
    watcher = Watcher("pid=", signal=number)
    before = signal.getsignal(signal.SIGTERM)
    run_all([script(WAITS)], watcher)
    assert gone(pid_in(watcher.lines))
    assert watcher.lines[-1] == "all nodes have stopped"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_node_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "GRACE", 0.05)
    watcher = Watcher("pid=")
    run_all([script(STUBBORN)], watcher)
    assert gone(pid_in(watcher.lines))
    assert any("is killed" in line for line in watcher.lines)


def test_what_a_node_started_itself_is_ended_with_it() -> None:
    inner = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    text = (
        "import subprocess, sys, signal\n"
        f"child = subprocess.Popen([sys.executable, '-c', {inner!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(f'pid={child.pid}'); signal.pause()"
    )
    watcher = Watcher("pid=")
    handles: list[int] = []

    def show(line: str) -> None:
        if "pid=" in line:
            handles.append(os.pidfd_open(pid_in([line])))
        watcher(line)

    run_all([script(text)], show)
    # It was killed: its handle becomes readable when it has ended, whoever collects it.
    poll = select.poll()
    poll.register(handles[0], select.POLLIN)
    assert poll.poll(10_000)
    os.close(handles[0])


def test_a_node_that_dies_is_started_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(up, "FIRST_WAIT", 0.01)
    count = tmp_path / "count"
    text = (
        f"import os, signal; f = open({str(count)!r}, 'a'); f.write('x'); f.close()\n"
        f"n = os.path.getsize({str(count)!r})\n"
        "if n < 3: raise SystemExit(7)\n"
        "print('third'); signal.pause()"
    )
    watcher = Watcher("third")
    run_all([script(text)], watcher)
    assert [line for line in watcher.lines if "starting it again" in line] == [
        "node | ended with code 7; starting it again in 0.01 s",
        "node | ended with code 7; starting it again in 0.02 s",
    ]


def test_a_wrong_config_stops_everything() -> None:
    watcher = Watcher("")
    with pytest.raises(RunFailed, match="node cannot start"):
        run_all([script("print('smpc-fl: ConfigInvalid: x'); raise SystemExit(2)"), script(WAITS)], watcher)
    assert "node | smpc-fl: ConfigInvalid: x" in watcher.lines


def test_a_signal_while_a_node_waits_to_be_started_again() -> None:
    watcher = Watcher("starting it again")
    run_all([script("raise SystemExit(1)")], watcher)
    assert watcher.lines[-1] == "all nodes have stopped"


def test_long_lines_and_unfinished_ones() -> None:
    watcher = Watcher("the end")
    run_all([script("print('x' * 200_000); print('the end', end='')")], watcher)
    assert sum(line.count("x") for line in watcher.lines) == 200_000
    assert "node | the end" in watcher.lines


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (
            b'{"event": "round finished", "level": "info", "timestamp": "t", "round": 3}\n',
            "info    round finished  round=3",
        ),
        (b'{"event": "up"}\n', "info    up"),
        (b"plain text\n", "plain text"),
        (b"[1]\n", "[1]"),
        (b"\x1b[2Jevil\x07\xff", " [2Jevil \ufffd"),
    ],
)
def test_log_lines(raw: bytes, shown: str) -> None:
    assert log_line(raw) == shown
