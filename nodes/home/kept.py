"""What an owner keeps from one round of a run to the next: control variates, layers and models of its own, residuals.

`<home>/kept/<run>/state`, and `next-<round>` with what a round has computed. That becomes the state when the round is
released with this owner's report in it; else it is forgotten, so that what an owner keeps and what the server has go
together, whatever crashes. All of it is private, and none of it a secret of the protocol: without it a run goes on as if
the owner were new to it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from smpc_fl.errors import ConfigInvalid, Unavailable
from smpc_fl.nodes.home import files

Vectors = dict[str, npt.NDArray[np.float32]]


class Kept:
    """The vectors of one owner in one run; `folder` is made with the first of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> Vectors:
        """What the last round that counted has left; nothing before the first. Raises `Unavailable`."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            return load(self._state.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, SafetensorError) as error:
            raise Unavailable(
                f"what this owner keeps of the run, {self._state}, cannot be read ({type(error).__name__}): put it back "
                "from a backup, or remove it to go on as a newcomer"
            ) from None

    def stage(self, round_number: int, vectors: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """What will count if this round does; durable on return. Raises `Unavailable`."""
        from safetensors.numpy import save

        self._forget_staged()
        if not vectors:
            return
        contiguous = {name: np.ascontiguousarray(vector) for name, vector in vectors.items()}
        try:
            files.private_folder(self.folder)
            files.replace(self._next(round_number), save(contiguous), mode=0o600)
        except ConfigInvalid as error:
            raise Unavailable(error.message) from None

    def commit(self, round_number: int) -> None:
        """The round counts. Again, or for a round that kept nothing: nothing happens. Raises `Unavailable`."""
        try:
            os.replace(self._next(round_number), self._state)
            files.sync_folder(self.folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise Unavailable(f"{self._state} cannot be written: {os.strerror(error.errno or 0)}") from None

    def erase(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _state(self) -> Path:
        return self.folder / "state"

    def _next(self, round_number: int) -> Path:
        return self.folder / f"next-{round_number}"

    def _forget_staged(self) -> None:
        """Of rounds that did not count, or of this one before a crash."""
        for path in self.folder.glob("next-*"):
            with contextlib.suppress(OSError):
                path.unlink()
