"""A coordinator's runs: those that ended long ago are a line in memory, and whole when they are asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from smpc_fl.nodes import ended_runs
from smpc_fl.nodes.ended_runs import Runs


def run_of(number: int, *, ended: bool) -> Any:
    results = [SimpleNamespace(uploaded={"ann": 10, "ben": 20})] * number
    book = SimpleNamespace(end=object() if ended else None, results=results)
    state = "finished" if ended else "running"
    return SimpleNamespace(id=bytes([number]) * 16, researcher=f"r{number}", book=book, job=object(), state=state)


def test_the_last_that_ended_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ended_runs, "WHOLE", 2)
    read: list[bytes] = []

    def again(id_: bytes) -> Any:
        read.append(id_)
        return run_of(id_[0], ended=True)

    runs = Runs(again)
    for number in range(1, 6):
        runs.add(run_of(number, ended=number != 3))
    assert runs.retire() == [bytes([1]) * 16, bytes([2]) * 16]
    assert runs.retire() == []
    assert [run.id[0] for run in runs.here()] == [3, 4, 5]
    assert len(runs) == 5
    assert runs.get(bytes([1]) * 16) is None
    found = runs.find(bytes([1]) * 16)
    assert found is not None
    assert found.researcher == runs.researcher(found.id) == "r1"
    assert runs.researcher(bytes([4]) * 16) == "r4"
    assert runs.find(bytes([4]) * 16) is runs.get(bytes([4]) * 16)
    assert read == [found.id]
    assert runs.find(bytes(16)) is None
    assert runs.researcher(bytes(16)) == ""
    shown = runs.status()
    assert [(each.rounds, each.uploaded) for each in shown] == [(n, 30 * n) for n in range(1, 6)]
    runs.add(run_of(1, ended=False))  # it goes on
    assert len(runs) == 5
    assert runs.get(bytes([1]) * 16) is not None
