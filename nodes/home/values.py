"""A run's values at the coordinator, each in a file of its own: the models of its rounds, or the aggregate.

`<home>/values/<run>/<number>`; number 0 is the model that the run began with. They are what the run is for, no secrets of
the coordinator's; a record in the journal says which of them count. A value is durable before its record is, so that one
without a record is of a round that was not finished, and is written again.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from smpc_fl.errors import Unavailable
from smpc_fl.hashing import Buffer
from smpc_fl.nodes import faults
from smpc_fl.nodes.home import direct, files


class Values:
    """The values of one run; `folder` is made with the first of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, number: int, data: Buffer) -> None:
        """Durable on return, whole or not there. Raises `Unavailable`."""
        partial = self.folder / "partial"
        try:
            for folder in (self.folder.parent, self.folder):
                if not folder.is_dir():
                    folder.mkdir(mode=0o700)
                    files.sync_folder(folder.parent)
            _write(partial, memoryview(data).cast("B"))
            if faults.armed:
                faults.at("value", ["write"], "before")
            os.replace(partial, self._path(number))
            files.sync_folder(self.folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise self._unavailable(number, "written", error) from None

    def read(self, number: int) -> bytes:
        """What was written. Raises `Unavailable`."""
        try:
            return self._path(number).read_bytes()
        except OSError as error:
            raise self._unavailable(number, "read", error) from None

    def _path(self, number: int) -> Path:
        return self.folder / str(number)

    def _unavailable(self, number: int, verb: str, error: OSError) -> Unavailable:
        text = os.strerror(error.errno or 0)
        return Unavailable(f"the value {self._path(number)} cannot be {verb}: {text}. See to the disk, then try again")


def _write(path: Path, data: memoryview) -> None:
    """The file is durable; its name is not yet."""
    with direct.opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor, direct.chunk_memory() as memory:
        direct.allocate(descriptor, data.nbytes)
        for start in range(0, data.nbytes, direct.CHUNK):
            part = data[start : start + direct.CHUNK]
            memory[: part.nbytes] = part
            direct.write(descriptor, memory[: direct.pages(part.nbytes)], start)
        os.ftruncate(descriptor, data.nbytes)
        os.fsync(descriptor)
