"""A run's values at the coordinator, each in a file of its own: the models of its rounds, or the aggregate.

`<home>/values/<run>/<number>`; number 0 is the model that the run began with. They are what the run is for, no secrets of
the coordinator's; a record in the journal says which of them count. A value is durable before its record is, so that one
without a record is of a round that was not finished, and is written again.
"""

from __future__ import annotations

import os
from pathlib import Path

from smpc_fl.errors import Unavailable
from smpc_fl.hashing import Buffer
from smpc_fl.nodes.home import files


class Values:
    """The values of one run; `folder` is made with the first of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, number: int, data: Buffer) -> None:
        """Durable on return, whole or not there. Raises `Unavailable`."""
        try:
            for folder in (self.folder.parent, self.folder):
                if not folder.is_dir():
                    folder.mkdir(mode=0o700)
                    files.sync_folder(folder.parent)
            files.write_whole(self._path(number), data, mode=0o600, partial=self.folder / "partial")
        except OSError as error:
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
