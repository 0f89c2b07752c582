"""The benchmark's smallest configurations run, and what they say makes sense. How fast anything is is not tested here."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bench import idle, machine, requirements, stages
from bench.__main__ import main
from bench.homes import Certificates
from bench.measure import (
    BARE,
    BARE_TLS,
    PLAIN,
    PLAIN_TLS,
    SECURE,
    SECURE_TLS,
    Kind,
    Measured,
    Sample,
    compare,
    exponent,
    ratio,
    sides,
)
from bench.peers import PYTHON, Contest, Peer, Way, contest
from bench.processes import cpu_seconds, memory
from bench.report import Report
from bench.requirements import Row
from bench.task import MAX_SAMPLES, Task

SMALL = Task(3, 40_000, 2)
ALL = [(kind, SMALL) for kind in (BARE, PLAIN, SECURE, BARE_TLS, PLAIN_TLS, SECURE_TLS)]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("tls") / "tls")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> list[Measured]:
    """Every side, side by side."""
    return compare(ALL, tmp_path_factory.mktemp("sides"), certificates, repeats=2, seconds=60.0)


def test_every_side_does_the_same_work(measured: Sequence[Measured]) -> None:
    for found in measured:
        assert len(found.samples) == 2
        assert all(sample.wall > 0 and sample.cpu > 0 for sample in found.samples)
        assert set(found.peaks) == set(found.base) == set(found.samples[0].roles)
        assert all(found.peaks[role] >= found.base[role] > 1 << 20 for role in found.peaks)
        if found.kind.what != "bare":
            assert 1.0 < found.uploaded / (4 * SMALL.dimension * SMALL.owners) < 1.05


def test_all_means_are_the_exact_one(tmp_path: Path, certificates: Certificates) -> None:
    packed = Task(3, 40_000, 3, bits=23)
    with sides([(BARE, SMALL), (PLAIN_TLS, SMALL), (SECURE, SMALL), (SECURE, packed)], tmp_path, certificates) as up:
        for side, error in zip(up, (1e-8, 1e-8, 1e-8, 1e-5), strict=True):
            side.rounds(1)
            assert np.max(np.abs(side.model() - SMALL.mean())) < error


def test_a_wrong_sum_is_found(tmp_path: Path, certificates: Certificates) -> None:
    with sides([(SECURE, SMALL)], tmp_path, certificates) as [side]:
        [exact] = tmp_path.glob("*/exact")
        words = np.fromfile(exact, np.uint32)
        words[-1] += 1
        words.tofile(exact)
        with pytest.raises(AssertionError, match="not the exact one"):
            side.rounds(1)


def test_no_process_is_left_behind(tmp_path: Path, certificates: Certificates) -> None:
    with sides([(SECURE, SMALL), (PLAIN, SMALL)], tmp_path, certificates) as up:
        pids = [pid for side in up for pid in side.pids]
        assert len(pids) == 6 + 4
        assert all(cpu_seconds(pid) > 0 and memory(pid) > 0 for pid in pids)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_weights_are_owners_own_and_exact() -> None:
    task = Task(100, 10)
    weights = [task.weight(owner) for owner in range(task.owners)]
    assert len(set(weights)) == 100
    assert all(0 < weight <= 1 and weight * MAX_SAMPLES == int(weight * MAX_SAMPLES) for weight in weights)


def test_stages_are_held_against_what_they_are_made_of() -> None:
    found = {stage.name: stage for stage in stages.measure(SMALL, 2)}
    assert {"quantise", "subtract", "seal", "open", "add", "expand", "finish"} <= set(found)
    for stage in found.values():
        assert stage.seconds > 0
        assert stage.ceiling > 0
        assert stage.speed == pytest.approx(stage.size / stage.seconds / 1e9)
    assert found["subtract"].made_of == "AES-CTR"
    assert stages.clips_told(SMALL) == 1
    rows = requirements.crypto(list(found.values()), 5.0, 1)
    assert [row.name for row in rows if row.limit == 8.0] == [
        "crypto alone, owner side", "crypto alone, aggregator side", "crypto alone, expand",
    ]  # fmt: skip
    assert set(stages.machine_speeds(SMALL, 2)) == {"memcpy", "AES-CTR", "AES-GCM"}
    assert machine.disk_seconds(4096, 2) > 0
    assert "cores" in machine.line()


def test_idle_nodes_are_watched(tmp_path: Path) -> None:
    environment = dict(os.environ)
    found = {node.role: node for node in idle.measure(tmp_path, 0.2)}
    assert dict(os.environ) == environment  # the nodes of the next test are closed again
    assert set(found) == {"coordinator", "aggregator", "owner"}
    assert all(node.seconds > 0 and node.resident > 1 << 20 and node.share >= 0 for node in found.values())
    assert not found["aggregator"].libraries
    assert not found["coordinator"].libraries


def _result(kind: Kind, task: Task, *walls: float, uploaded: float = 0.0) -> Measured:
    roles = ("aggregator", "coordinator", "owner") if kind.what == "secure" else ("server", "owner")
    samples = [Sample(wall, dict.fromkeys(roles, wall)) for wall in walls]
    memory = dict.fromkeys(roles, 100 << 20)
    return Measured(kind, task, samples, uploaded, memory, memory)


def test_ratios_are_medians_of_pairs() -> None:
    ours, plain = _result(SECURE, SMALL, 2.0, 40.0, 6.0), _result(PLAIN, SMALL, 1.0, 10.0, 2.0)
    assert ratio(ours, plain, "wall") == 3.0
    assert ratio(ours, plain, "cpu") == pytest.approx(3.0 * 3 / 2)


def test_exponents() -> None:
    assert exponent({5: 10.0, 10: 20.0, 100: 200.0}) == pytest.approx(1.0)
    assert exponent({2: 7.0, 3: 7.0, 5: 7.0}) == pytest.approx(0.0)
    assert exponent({10: 100.0, 100: 10_000.0}) == pytest.approx(2.0)


def test_verdicts() -> None:
    assert [Row("r", 1.0, limit).verdict for limit in (None, 1.0, 0.9)] == ["reported", "pass", "MISS"]
    assert [Row("r", 1.0, limit, least=True).verdict for limit in (1.0, 1.1)] == ["pass", "MISS"]


def test_what_must_be_shown_is_read_off_the_figures() -> None:
    task = Task(10, 10**6)
    up = 4.0 * task.dimension * task.owners
    walls = {BARE: 1.0, PLAIN: 1.1, SECURE: 3.0, BARE_TLS: 2.0, PLAIN_TLS: 2.0, SECURE_TLS: 3.2}
    pairs = {kind: _result(kind, task, wall) for kind, wall in walls.items()}
    rows = {row.name.split(",")[0]: row for row in requirements.pairs(pairs) if ", wall," in row.name}
    assert rows["(a) secure"].verdict == "MISS"
    assert [row.verdict for row in requirements.pairs(pairs)].count("reported") == 2

    grid = [_result(SECURE, Task(10, 10**6, m), 3.0 * m**0.5, uploaded=up * 1.001) for m in (2, 3, 5)]
    unit = grid[1].wall
    grid += [_result(SECURE, Task(n, 10**6), unit * n / 10, uploaded=up) for n in (5, 100)]
    grid += [_result(SECURE, Task(10, d), unit * d / 10**6, uploaded=up) for d in (10**5, 10**7)]
    found = requirements.growth(grid)
    assert [round(row.figure, 3) for row in found] == [1.0, 1.0, 0.5, 0.0]
    assert all(row.verdict == "pass" for row in found)
    assert [row.verdict for row in requirements.uploads(grid, _result(SECURE, task, 1.0, uploaded=up))] == [
        "pass", "pass", "pass", "MISS",
    ]  # fmt: skip
    assert [row.figure for row in requirements.memory(grid[1], grid[1])] == [0.0, 0.0]


def test_what_secure_takes_more_is_divided() -> None:
    grid = [
        _result(kind, Task(10, d), cost + d * 1e-7 * roles)
        for kind, cost, roles in ((PLAIN, 0.01, 1.5), (SECURE, 0.1, 1.0))
        for d in (10**5, 10**6)
    ]
    rows = requirements.rest(grid, stages.measure(SMALL, 1))
    more, fixed, crypto, left = (row.figure for row in rows)
    assert more == pytest.approx(1000 * (3 * 0.2 - 2 * 0.16))
    assert fixed == pytest.approx(1000 * (3 * 0.1 - 2 * 0.01))
    assert crypto + left == pytest.approx(more - fixed)
    assert not requirements.rest(grid[:3], [])


def _contest(task: Task) -> Contest:
    way = Way("SecAgg+", "ray")
    return Contest(
        _result(SECURE, task, 0.1, uploaded=1e6), 1e-9, (Peer(way, task, 2.0, 3.0, 2_000_000, 1e-6, 1 << 28),)
    )


def test_peers_are_divided_by_us() -> None:
    rows = requirements.peers(_contest(Task(10, 10**6)))
    assert [(round(row.figure, 3), row.verdict) for row in rows] == [
        (20.0, "pass"), (10.0, "pass"), (0.5, "pass"), (0.001, "pass"),
    ]  # fmt: skip


@pytest.mark.skipif(PYTHON not in os.environ, reason="flwr has an environment of its own: scripts/bench peers")
def test_flower_runs_beside_us(tmp_path: Path, certificates: Certificates) -> None:
    found = contest(SMALL, tmp_path, certificates, rounds=1)
    assert found.error < 1e-8
    for peer in found.peers:
        assert peer.wall > 0
        assert 0 < peer.error < 1e-4
        assert peer.uploaded > 4 * SMALL.dimension * SMALL.owners * (2 if peer.way.secure else 1)


def test_a_report_is_a_table_and_json(tmp_path: Path, measured: Sequence[Measured]) -> None:
    console = Console(record=True, width=200)
    report = Report("small", console)
    report.stages("small", stages.measure(SMALL, 1))
    report.ceilings({"memcpy": 5.0}, 0.002)
    report.measured("Sides", measured)
    report.idle([idle.Idle("aggregator", 0.5, 60 << 20, 0.001, ())])
    report.contest(_contest(SMALL))
    report.requirements([Row("a", 1.0, 2.0, "x"), Row("b", 3.0, 2.0, "x"), Row("c", math.pi, None)])
    written = json.loads(report.finish(tmp_path / "results").read_text())
    assert [row["verdict"] for row in written["requirements"]] == ["pass", "MISS", "reported"]
    assert len(written["measured"]) == len(ALL)
    assert written["machine"]["cores"]
    text = console.export_text()
    assert "secure, TLS" in text
    assert "MISS" in text


def test_only_known_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slow"]) == 2
    assert "quick|full|peers" in capsys.readouterr().err
