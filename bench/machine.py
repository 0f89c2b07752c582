"""This machine: its line for the tables, and how fast it copies, encrypts and writes: what every stage is held against."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import numpy as np
from cryptography.hazmat.backends.openssl import backend
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

Work = Callable[[], object]

PIECE = 1 << 18
"""Bytes that are encrypted at a time: what suits a cache."""


def describe() -> dict[str, str]:
    """What a figure means nothing without."""
    return {
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "openssl": backend.openssl_version_text(),
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def line() -> str:
    return ", ".join(f"{key} {value}" for key, value in describe().items())


def _cpu_model() -> str:
    if sys.platform == "linux":
        for text in Path("/proc/cpuinfo").read_text().splitlines():
            if text.startswith("model name"):
                return text.partition(":")[2].strip()
    return platform.processor()


def compare(works: Mapping[str, Work], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of this thread for each work, `repeats` times in turn, so that all of them see the same machine."""
    for work in works.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            began = time.thread_time()
            work()
            seconds[name].append(time.thread_time() - began)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: median(times) for name, times in seconds.items()}


def ceilings(size: int) -> dict[str, Work]:
    """Each goes once over `size` bytes: as fast as this machine does it from Python, one core."""
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    ctr, gcm = AES256(bytes(32)), AESGCM(bytes(32))
    zeros, room = bytes(PIECE), bytearray(PIECE + 16)

    def copy() -> None:
        np.copyto(target, source)

    def stream() -> None:
        encryptor = Cipher(ctr, CTR(bytes(16))).encryptor()
        for start in range(0, size, PIECE):
            encryptor.update_into(zeros[: min(PIECE, size - start)], room)

    def seal() -> None:
        plain = source.data
        for number, start in enumerate(range(0, size, PIECE)):
            piece = plain[start : start + PIECE]
            gcm.encrypt_into(number.to_bytes(12, "big"), piece, None, memoryview(room)[: len(piece) + 16])

    return {"memcpy": copy, "AES-CTR": stream, "AES-GCM": seal}


def disk_seconds(size: int, repeats: int, folder: Path | None = None) -> float:
    """Median wall seconds to overwrite `size` bytes of a file in place and have them on disk (`fdatasync`)."""
    data = bytes(size)
    with tempfile.NamedTemporaryFile(dir=folder, buffering=0) as file:
        times = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            file.seek(0)
            file.write(data)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return median(times[1:])
