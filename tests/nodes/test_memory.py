"""Freed memory that is used again does not fault in again."""

from __future__ import annotations

import subprocess
import sys

import pytest

from smpc_fl.nodes import memory

FAULTS = """
import resource, sys
from smpc_fl.nodes.memory import keep_freed_memory

def vectors():
    for _ in range(10):
        kept = [b"x" * (40 << 20) for _ in range(2)]
        del kept

if sys.argv[1] == "keep" and not keep_freed_memory():
    print("cannot")
    sys.exit()
vectors()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
vectors()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> str:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_blocks_of_megabytes_come_from_memory_that_is_there() -> None:
    kept = faults("keep")
    if kept == "cannot":
        pytest.skip("this is not glibc")
    assert int(kept) < 1000
    assert int(faults("give back")) > 100_000  # 10 times 2 blocks of 10,240 pages, less what luck keeps


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_without_glibc_nothing_changes(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: None) -> None:
        raise error

    monkeypatch.setattr("ctypes.CDLL", refuse)
    assert memory.keep_freed_memory() is False
    assert memory.give_back() is False


BURST = """
from pathlib import Path
from smpc_fl.nodes.memory import give_back, keep_freed_memory

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

keep_freed_memory()
messages = [bytearray(b"x" * 65_536) for _ in range(1_000)]
del messages[::2]
kept = messages.pop()  # which lies above the rest
del messages
most = resident()
print(give_back(), most - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_burst_has_left_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", BURST], capture_output=True, text=True, check=True)
    trimmed, kilobytes = done.stdout.split()
    if trimmed == "False":
        pytest.skip("this is not glibc")
    assert int(kilobytes) > 40_000


CYCLES = """
import gc
from collections import deque
from smpc_fl.nodes.memory import settle

class Ring:
    living = 0
    def __init__(self):
        self.own, self.size = self, bytearray(8)
        Ring.living += 1
    def __del__(self):
        Ring.living -= 1

library = [[number] for number in range(300_000)]
settle()
most, connected = 0, deque(maxlen=3_000)  # they live long enough to be taken for old
for _ in range(400_000):
    connected.append(Ring())
    most = max(most, Ring.living)
print(most, gc.get_freeze_count() > 300_000)
"""


def test_cycles_are_found_however_large_the_libraries_are() -> None:
    done = subprocess.run([sys.executable, "-c", CYCLES], capture_output=True, text=True, check=True)
    most, frozen = done.stdout.split()
    assert frozen == "True"
    assert int(most) < 60_000
