"""A local federation leaves nothing behind: no process, no port, no temporary folder, however its parent ends."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sample_federation import linear_plan, owners

import smpc_fl as sf

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="watches processes as Linux lets one")

PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background is born deaf to Ctrl-C
sys.path.insert(0, {tests!r})
from sample_federation import linear_plan, owners
import smpc_fl as sf

with sf.LocalFederation(owners(2), aggregators=2, k_min=2, ledger="own") as fed:
    ports = [m.address.rpartition(":")[2] for m in fed._channel.members.current.members if m.address]
    print("processes", *fed.processes.values(), flush=True)
    print("ports", *ports, flush=True)
    for round_ in fed.train(linear_plan(), inputs="x", targets="y", rounds=1000):
        print("round", round_.number, flush=True)
"""
"""Trains until somebody stops it."""

SOON = 20.0
"""Seconds that everything has to be gone in, on a machine with other things to do."""


class Parent:
    """A process that runs a local federation and is in mid-training, with a folder for temporary files of its own."""

    def __init__(self, folder: Path) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        script = PARENT.format(tests=str(Path(__file__).parent))
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(self.temporary)},
        )
        self.children = self._numbers("processes")
        self.ports = self._numbers("ports")
        self._numbers("round")
        self._watched = [os.pidfd_open(pid) for pid in self.children]
        assert len(self.children) == 5
        assert len(self.ports) == 3
        assert list(self.temporary.iterdir())

    def _numbers(self, label: str) -> list[int]:
        assert self.process.stdout is not None
        first, *numbers = self.process.stdout.readline().split() or [""]
        assert first == label, self.process.communicate()[1]
        return [int(number) for number in numbers]

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """(exit status, standard error) after a signal."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60.0)
        return self.process.returncode, errors

    def outlived_by(self, seconds: float) -> list[int]:
        """The children that run `seconds` from now; returns as soon as there are none."""
        until = time.monotonic() + seconds
        return [
            pid
            for pid, watched in zip(self.children, self._watched, strict=True)
            if not select.select([watched], [], [], max(0.0, until - time.monotonic()))[0]
        ]

    def close(self) -> None:
        for descriptor in self._watched:
            os.close(descriptor)
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Parent]:
    made = Parent(tmp_path)
    yield made
    made.close()


def is_free(port: int) -> bool:
    """Whether nobody listens there any more."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def left_in(folder: Path) -> list[Path]:
    """What is there. torch keeps an empty cache folder there once a plan was exported; it is not ours."""
    return [path for path in folder.iterdir() if not path.name.startswith("torchinductor")]


def test_ctrl_c_in_mid_training_leaves_nothing(parent: Parent) -> None:
    status, errors = parent.end(signal.SIGINT)
    assert status == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert parent.outlived_by(0.0) == []
    assert all(is_free(port) for port in parent.ports)
    assert left_in(parent.temporary) == []


def test_children_of_a_killed_parent_end_by_themselves(parent: Parent) -> None:
    """kill -9: nobody is left to remove the temporary folder, but no process runs on and no port stays taken."""
    status, _ = parent.end(signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert parent.outlived_by(SOON) == []
    assert all(is_free(port) for port in parent.ports)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that this test's temporary files go to."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def listening(fed: sf.LocalFederation) -> list[int]:
    members = fed._channel.members.current.members
    return [int(member.address.rpartition(":")[2]) for member in members if member.address]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Interrupted(Exception):
    """What goes wrong in somebody's own code."""


def fail_in_the_midst(seen: dict[str, list[int]]) -> None:
    with sf.LocalFederation(owners(2), aggregators=2, k_min=2, ledger="own") as fed:
        seen |= {"processes": list(fed.processes.values()), "ports": listening(fed)}
        assert fed.home.is_dir()
        raise Interrupted


def test_an_exception_leaves_nothing(temporary: Path) -> None:
    seen: dict[str, list[int]] = {}
    with pytest.raises(Interrupted):
        fail_in_the_midst(seen)
    assert len(seen["processes"]) == 5
    assert not any(is_alive(pid) for pid in seen["processes"])
    assert all(is_free(port) for port in seen["ports"])
    assert left_in(temporary) == []


def test_a_childs_error_is_shown_by_the_parent(temporary: Path) -> None:
    """The coordinator's config does not read: its own words are in the exception, and all others are stopped."""
    began = time.monotonic()
    with pytest.raises(sf.Unavailable) as caught:
        sf.LocalFederation(owners(2), aggregators=2, k_min=2, ledger="own", round_deadline=-1.0)
    assert caught.value.peer == "coordinator"
    assert "round_deadline" in str(caught.value)
    assert time.monotonic() - began < 60.0
    assert left_in(temporary) == []


def test_a_data_set_that_cannot_be_published_is_an_error_of_the_parent(temporary: Path) -> None:
    """An owner whose data nobody can use ends with the reason, and leaves no researcher waiting for its answer."""
    data = owners(2)
    data["owner-2"]["x"] = data["owner-2"]["x"][:0]
    with (
        pytest.raises(sf.Unavailable, match="no rows") as caught,
        sf.LocalFederation(data, aggregators=2, k_min=2, ledger="own") as fed,
    ):
        fed.train(linear_plan(), inputs="x", targets="y", rounds=1).wait()
    assert caught.value.peer == "owner-2"
    assert left_in(temporary) == []
