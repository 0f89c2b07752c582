"""The fault points: off unless asked for, where they say that they are, and loud."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from smpc_fl.errors import ConfigInvalid, Unavailable
from smpc_fl.nodes import faults
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.home.values import Values


@pytest.fixture(autouse=True)
def _none_left() -> Iterator[None]:
    yield
    faults.arm("")


def test_nothing_is_armed_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(faults.VARIABLE, raising=False)
    with capture_logs() as logs:
        faults.arm_from_environment()
    assert not faults.armed
    assert not logs


def test_a_node_with_faults_says_so_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faults.VARIABLE, "kill:persist:Voted:before:1")
    with capture_logs() as logs:
        faults.arm_from_environment()
    assert [entry["log_level"] for entry in logs] == ["critical"]
    assert "FAILS ON PURPOSE" in logs[0]["event"]


@pytest.mark.parametrize(
    "text",
    [
        "kill",
        "kill:persist:Voted:before",
        "kill:persist:Voted:during:1",
        "exec:persist:Voted:before:1",
        "ENOSPC:send:Vote:before:1",
        "ENOSPC:persist:Voted:after:1",
        "kill:persist:Voted:before:1,",
        "kill:persist:Vo ted:before:1",
    ],
)
def test_what_is_no_fault_is_refused(text: str) -> None:
    with pytest.raises(ConfigInvalid, match="unset it unless this is a test"):
        faults.arm(text)


def test_a_fault_happens_when_its_time_has_come() -> None:
    faults.arm("EIO:persist:Voted:before:2-3,ENOSPC:value:write:before:1")
    assert [_error("persist", "Voted", "before") for _ in range(4)] == [0, errno.EIO, errno.EIO, 0]
    assert _error("persist", "Voted", "after") == _error("send", "Voted", "before") == 0
    assert [_error("value", "write", "before") for _ in range(2)] == [errno.ENOSPC, 0]


def _error(step: str, name: str, when: str) -> int:
    try:
        faults.at(step, ["Other", name], when)
    except OSError as error:
        return error.errno or -1
    return 0


async def test_the_disk_is_full_for_a_while(tmp_path: Path) -> None:
    faults.arm("ENOSPC:persist:Voted:before:1-2,EIO:persist:bulk:before:1,ENOSPC:value:write:before:1")
    with Journal.open(tmp_path / "journal.db") as journal:
        for _ in range(2):
            with pytest.raises(Unavailable, match=r"No space left on device. See to the disk and its free space"):
                await journal.append("s", "Voted", b"")
        with pytest.raises(Unavailable, match=r"Input/output error. See to the disk"):
            await journal.append_all("s", [("VectorAdded", b"")], b"sum")
        assert journal.read("s") == []
        await journal.append_all("s", [("Voted", b""), ("VectorAdded", b"")], b"sum")
        assert bytes(journal.read_bulk("s") or b"") == b"sum"
    values = Values(tmp_path / "values")
    with pytest.raises(Unavailable, match=r"No space left on device. See to the disk"):
        values.write(1, b"model")
    values.write(1, b"model")
    assert values.read(1) == b"model"


_KILLED = """
import asyncio, sys
from smpc_fl.nodes import faults
from smpc_fl.nodes.home.journal import Journal

async def main():
    await journal.append_all("s", [("Prepared", b"secret of the round"), ("Voted", b"for S")])
    faults.arm(sys.argv[2])
    await journal.erase("s", {"Prepared"}, records=[("Closed", b"")])

journal = Journal.open(sys.argv[1])
asyncio.run(main())

"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_between_an_erasure_and_the_end_of_its_log(tmp_path: Path, when: str) -> None:
    path = tmp_path / "journal.db"
    command = [sys.executable, "-c", _KILLED, str(path), f"kill:persist:erase:{when}:1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with Journal.open(path) as journal:
        kinds = [kind for kind, _ in journal.read("s")]
        assert kinds == (["Voted", "Closed"] if when == "after" else ["Prepared", "Voted"])
        found = [file for file in tmp_path.iterdir() if b"secret of the round" in file.read_bytes()]
        if when == "after":
            assert not found
        asyncio.run(journal.erase("s", {"Prepared"}))
        assert not [file for file in tmp_path.iterdir() if b"secret of the round" in file.read_bytes()]


def test_held_and_let_go(tmp_path: Path) -> None:
    hold = "faults.arm('stop:compute:vector:before:1'); faults.at('compute', ['vector'], 'before')"
    code = f"from smpc_fl.nodes import faults; {hold}"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        assert process.wait() == 0
