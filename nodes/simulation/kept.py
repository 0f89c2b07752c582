"""What simulated owners keep from round to round: files of this machine, for as long as the simulation lives."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path

from smpc_fl.jobs import TrainJob
from smpc_fl.learning.shared import shared_of
from smpc_fl.nodes.home.kept import Kept


def keeps_at_home(job: TrainJob) -> bool:
    """Does an owner keep anything between two rounds of this job?"""
    residual = job.compression is not None and job.compression.feedback
    return residual or job.strategy.KEEPS or bool(shared_of(job.plan, job.strategy, job.private).private)


class SimulatedKept:
    """A folder for each owner."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="smpc-fl-simulation-")
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def __str__(self) -> str:
        return self._folder

    def commit(self, round_number: int, owners: Iterable[str]) -> None:
        """The round counts, with these owners in it."""
        for owner in owners:
            of_owner(str(self), owner).commit(round_number)


def of_owner(folder: str, owner: str) -> Kept:
    return Kept(Path(folder) / owner)
