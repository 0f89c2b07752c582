"""A process that holds keys or data leaves no core file, and other processes of its user cannot look inside."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import until
from processes_on_disk import AGGREGATORS, OnDisk

from smpc_fl.nodes import hardening
from smpc_fl.nodes.logs import configure
from smpc_fl.roster import Role

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is the limit alone")

HARDENED = "from smpc_fl.nodes.hardening import harden; print(harden(), flush=True); input()"
NODES: dict[str, Role] = {"alice": "owner", AGGREGATORS[0]: "aggregator", "coordinator": "coordinator"}
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@pytest.fixture(autouse=True)
def hardened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(hardening.SWITCH, raising=False)


def start(folder: Path, code: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=os.environ | environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def soft_limit(pid: int) -> str:
    (line,) = [x for x in Path(f"/proc/{pid}/limits").read_text().splitlines() if x.startswith("Max core file size")]
    return line.removeprefix("Max core file size").split()[0]


def dumps_core(process: subprocess.Popen[str] | subprocess.Popen[bytes], number: int = signal.SIGSEGV) -> bool:
    """Whether the kernel dumps a core of a process that crashes, once somebody has lifted its limit again."""
    if os.geteuid() == 0:
        resource.prlimit(process.pid, resource.RLIMIT_CORE, UNLIMITED)
    else:
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_CORE)
        resource.prlimit(process.pid, resource.RLIMIT_CORE, (hard, hard))
    os.kill(process.pid, number)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = -number
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    assert os.WTERMSIG(status) == number
    return os.WCOREDUMP(status)


def closed_to_its_user(pid: int) -> bool:
    """The kernel gives what is in /proc of a process that is not dumpable to root (proc_pid_mem(5)). Says nothing to root."""
    return Path(f"/proc/{pid}/mem").stat().st_uid == 0


def visible_here(folder: Path) -> bool:
    """Whether this machine would show the difference: it dumps cores at all, or we are not root."""
    plain = start(folder, "input()")
    return os.geteuid() != 0 or dumps_core(plain)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_no_core_whatever_the_limit_is(tmp_path: Path, number: int) -> None:
    if not visible_here(tmp_path):
        pytest.skip("this machine dumps no cores, and root may read everything: nothing would be seen")
    left = sorted(tmp_path.iterdir())
    process = start(tmp_path, HARDENED)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    assert soft_limit(process.pid) == "0"
    assert closed_to_its_user(process.pid)
    assert not dumps_core(process, number)
    assert sorted(tmp_path.iterdir()) == left


def test_a_developer_can_have_it_otherwise(tmp_path: Path) -> None:
    debuggable = start(tmp_path, HARDENED, **{hardening.SWITCH: "1"})
    assert debuggable.stdout is not None
    assert debuggable.stdout.readline() == "False\n"
    assert closed_to_its_user(debuggable.pid) == (os.geteuid() == 0)
    plain = start(tmp_path, "input()")
    assert dumps_core(debuggable) == dumps_core(plain)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnDisk]:
    roles: dict[str, Role] = {**NODES, AGGREGATORS[1]: "aggregator", "bob": "owner", "carol": "owner"}
    disk = OnDisk(tmp_path_factory.mktemp("nodes"), roles)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(disk.folder)  # a core file would lie here
        disk.start(NODES, {"alice": {"x": torch.zeros(4, 2)}})
        try:
            yield disk
        finally:
            disk.stop()


def process_of(disk: OnDisk, id_: str) -> subprocess.Popen[bytes]:
    assert disk._children is not None
    process = disk._children.by_id[id_].process
    assert process is not None
    return process


@pytest.mark.parametrize("id_", NODES)
def test_every_role_is_closed_before_it_has_loaded_its_key(nodes: OnDisk, id_: str, tmp_path: Path) -> None:
    until(lambda: '"ready"' in nodes.log(id_), f"{id_} is ready")
    process = process_of(nodes, id_)
    assert soft_limit(process.pid) == "0"
    assert closed_to_its_user(process.pid)
    assert "DEBUGGABLE" not in nodes.log(id_)
    assert nodes._children is not None
    with nodes._children._lock:  # it is started again, but not before the test has seen how it ended
        assert not dumps_core(process)
    assert not list(nodes.folder.glob("core*"))


def test_the_switch_is_loud_and_other_systems_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    undo = configure("info")
    try:
        monkeypatch.setenv(hardening.SWITCH, "1")
        hardening.harden_node()
        monkeypatch.delenv(hardening.SWITCH)
        monkeypatch.setattr(sys, "platform", "darwin")
        hardening.harden_node()
    finally:
        undo()
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["event"], first["level"]) == ("DEBUGGABLE", "warning")
    assert "Not for real data" in first["message"]
    assert (second["event"], second["level"]) == ("hardening", "warning")


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_without_prctl_there_is_the_limit(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: None, use_errno: bool) -> None:
        raise error

    monkeypatch.setattr("ctypes.CDLL", refuse)
    assert hardening.harden() is False
    assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
