"""Runs that have ended, at the coordinator: a line each in memory, and the whole from its disk when somebody asks.

A coordinator lives for years. What it knows of a run under way (every result, the attempts, who was in them) stays with
it only as long as somebody is likely to ask."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from smpc_fl.nodes.run import Run
from smpc_fl.protocols.messages import RunStatus

WHOLE = 4
"""Runs that ended last, which are kept whole: members that were away are told how their last rounds ended."""


@dataclass(frozen=True, slots=True)
class Ended:
    """`status`: what `smpc-fl status` shows of it."""

    researcher: str
    status: RunStatus

    @classmethod
    def of(cls, run: Run) -> Ended:
        return cls(run.researcher, status_of(run))


def status_of(run: Run) -> RunStatus:
    uploaded = sum(sum(result.uploaded.values()) for result in run.book.results)
    return RunStatus(run.id, type(run.job).__name__, run.state, len(run.book.results), uploaded)


class Runs:
    """Every run of a coordinator by its id: those under way and the last that ended are here, the others come from the
    journal by `read`, which raises `Unavailable`."""

    def __init__(self, read: Callable[[bytes], Run]) -> None:
        self._read = read
        self._here: OrderedDict[bytes, Run] = OrderedDict()
        self._ended: dict[bytes, Ended] = {}

    def add(self, run: Run) -> None:
        """A new run, or one that goes on."""
        self._ended.pop(run.id, None)
        self._here[run.id] = run

    def retire(self) -> list[bytes]:
        """Forget all but a line of the runs that ended before the last ones; their ids."""
        over = [id_ for id_, run in self._here.items() if run.book.end is not None]
        gone = over[: max(0, len(over) - WHOLE)]
        for id_ in gone:
            self._ended[id_] = Ended.of(self._here.pop(id_))
        return gone

    def here(self) -> list[Run]:
        """The runs under way, and the last that ended."""
        return list(self._here.values())

    def find(self, id_: bytes) -> Run | None:
        """The run, read back if need be; None for one that nobody knows. Raises `Unavailable`."""
        return self._here.get(id_) or (self._read(id_) if id_ in self._ended else None)

    def get(self, id_: bytes) -> Run | None:
        """The run, if it is here."""
        return self._here.get(id_)

    def researcher(self, id_: bytes) -> str:
        """Whose run it is; nobody's if it is not known."""
        if id_ in self._ended:
            return self._ended[id_].researcher
        return self._here[id_].researcher if id_ in self._here else ""

    def status(self) -> list[RunStatus]:
        """All runs, those that ended first before the others."""
        return [*(ended.status for ended in self._ended.values()), *map(status_of, self._here.values())]

    def __len__(self) -> int:
        return len(self._ended) + len(self._here)
