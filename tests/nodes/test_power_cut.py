"""The power goes at any moment: what was acknowledged is there, nothing is there by half, and what was erased stays erased.

A child process writes a journal and values under a recorder of all that it does to its files, synced or not. Then what a
cut may leave is opened: nothing of what was not synced, all of it, some of it, sectors of it."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from cut_images import CLASSES, Disk, read

from smpc_fl.errors import Unavailable
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.home.values import Values

HERE = Path(__file__).parent
STEPS = 40
IMAGES = 60
"""Per class of what is left; `SMPC_FL_CUTS` sets another number (2000: every cut)."""


@cache
def content(step: int, size: int) -> bytes:
    """What step number `step` writes: known, and like nothing else."""
    return random.Random(step).randbytes(size)


class Expected:
    """What is there after so many steps."""

    def __init__(self, steps: int) -> None:
        self.records: dict[str, list[tuple[str, bytes]]] = {}
        self.bulk: dict[str, bytes] = {}
        self.named: dict[str, bytes] = {}
        self.values: dict[int, bytes] = {}
        self.steps = 0
        for step in range(steps):
            self._step(step)

    def _step(self, step: int) -> None:
        self.steps = step + 1
        stream = f"round/{step // 8}"
        match step % 8:
            case 0 | 2 | 5:
                size = 300 if step % 8 else 70_000  # a large one spills over many pages
                self.records.setdefault(stream, []).extend(
                    [("Secret", content(step, size)), ("Kept", content(step, 40))]
                )
            case 1 | 4:
                self.records.setdefault(stream, []).append(("Kept", content(step, 50)))
                self.bulk[stream] = content(step, 3_000 * (1 + step))
            case 3:
                self.values[step] = content(step, 5_000 + step)
            case 6:
                self.named["name"] = content(step, 100)
            case _:
                kept = [record for record in self.records[stream] if record[0] != "Secret"]
                self.records[stream] = [*kept, ("Closed", b"")]
                self.bulk.pop(stream, None)

    async def do(self, step: int, journal: Journal, values: Values) -> None:
        """That step."""
        stream, before = f"round/{step // 8}", Expected(step)
        self._step(step)
        match step % 8:
            case 3:
                values.write(step, self.values[step])
            case 6:
                await journal.put("name", self.named["name"])
            case 7:
                await journal.erase(stream, {"Secret"}, records=[("Closed", b"")])
            case _:
                new = self.records[stream][len(before.records.get(stream, [])) :]
                await journal.append_all(stream, new, self.bulk[stream] if step % 8 in (1, 4) else None)

    def secrets_gone(self) -> list[bytes]:
        """What must not be found in any file: the erased records."""
        there = {data for records in self.records.values() for kind, data in records if kind == "Secret"}
        written = [content(step, 300 if step % 8 else 70_000) for step in range(self.steps) if step % 8 in (0, 2, 5)]
        return [data[:64] for data in written if data not in there]

    def is_in(self, journal: Journal, values: Values) -> bool:
        return (
            {stream: journal.read(stream) for stream in journal.streams("round/")} == self.records
            and all(bytes(journal.read_bulk(stream) or b"") == self.bulk.get(stream, b"") for stream in self.records)
            and journal.get("name") == self.named.get("name")
            and all(values.read(number) == data for number, data in self.values.items())
        )


async def _work(root: Path) -> None:
    """In the child: every step, and after each a mark that it was acknowledged."""
    mark = os.open(root / "acknowledged", os.O_WRONLY | os.O_CREAT, 0o600)
    with Journal.open(root / "journal.db") as journal:
        values, expected = Values(root / "values" / "run"), Expected(0)
        for step in range(STEPS):
            await expected.do(step, journal, values)
            os.write(mark, b".")


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """(the child's root, what it did)."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "this test records a process's writes by a small C library: install gcc (or another cc)"
    folder = tmp_path_factory.mktemp("cut")
    library, log, root = folder / "recorder.so", folder / "log", folder / "root"
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-O1",
        "-o",
        str(library),
        str(HERE / "disk_recorder.c"),
        "-ldl",
        "-lpthread",
    ]
    subprocess.run(command, check=True)
    root.mkdir()
    environment = {"LD_PRELOAD": str(library), "DISK_ROOT": str(root), "DISK_LOG": str(log)}
    subprocess.run(
        [sys.executable, "-c", f"import test_power_cut; test_power_cut.main({str(root)!r})"],
        env=os.environ | environment | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}, check=True,
    )  # fmt: skip
    return root, log.read_bytes()


def main(root: str) -> None:
    asyncio.run(_work(Path(root)))


@pytest.mark.parametrize("left", CLASSES)
def test_whatever_is_left(record: tuple[Path, bytes], left: str, tmp_path: Path) -> None:
    root, log = record
    entries = list(read(log))
    assert len([e for e in entries if e.path.name == "acknowledged" and e.operation == "W"]) == STEPS
    draw = random.Random(left)
    chosen = set(draw.sample(range(len(entries)), min(len(entries), int(os.environ.get("SMPC_FL_CUTS", IMAGES)))))
    disk, acknowledged, seen = Disk(root), 0, set()
    for number, entry in enumerate(entries):
        if entry.path.name == "acknowledged":
            acknowledged += entry.operation == "W"
            continue
        disk.step(entry)
        if number in chosen:
            disk.write_image(tmp_path / "image", left, draw)
            seen.add(_check(tmp_path / "image", acknowledged))
    assert len(seen) > STEPS // 4  # the cuts were everywhere


def _check(image: Path, acknowledged: int) -> int:
    """What was acknowledged is there, whole; what was under way is there or not."""
    values = Values(image / "values" / "run")
    with Journal.open(image / "journal.db") as journal:
        matching = [steps for steps in (acknowledged, acknowledged + 1) if _is(Expected(steps), journal, values)]
        assert matching, f"after {acknowledged} acknowledged steps: {journal.streams()}"
        expected = Expected(matching[0])
        for path in image.rglob("*"):
            # SQLite's index of the log is made anew when it is opened, in this process's memory: what that held may be in it.
            data = path.read_bytes() if path.is_file() and path.suffix != ".db-shm" else b""
            assert not [secret for secret in expected.secrets_gone() if secret in data], path
    return acknowledged


def _is(expected: Expected, journal: Journal, values: Values) -> bool:
    try:
        return expected.is_in(journal, values)
    except Unavailable:
        return False


def test_a_sync_that_is_left_out_is_noticed(record: tuple[Path, bytes], tmp_path: Path) -> None:
    """The control: a journal whose log is not synced loses what it acknowledged."""
    root, log = record
    disk, acknowledged = Disk(root), 0
    for entry in read(log):
        if entry.path.name == "acknowledged":
            acknowledged += entry.operation == "W"
        elif not (entry.operation == "F" and entry.path.name == "journal.db-wal"):
            disk.step(entry)
        if acknowledged == 6:
            break
    disk.write_image(tmp_path / "image", "nothing", random.Random(0))
    with pytest.raises(AssertionError, match="after 6 acknowledged steps"):
        _check(tmp_path / "image", acknowledged)
