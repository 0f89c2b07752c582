"""kill -9 of every role at every boundary, a disk that is full for a while: the sum is exact, and everybody is in it.

An owner that the agreed set lacks would be a lost acknowledgement, another sum one that counted twice; a second attempt, work
that was lost. None is allowed. `scripts/kill` does it twenty times over, with nodes that start from nothing."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
from fleet import AGGREGATORS, COORDINATOR, OWNERS, RESTLESS, Fleet
from kill_points import CHAINS, DISK, NOT_REPEATABLE

import smpc_fl as sf
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.protocols.records import SECRET
from smpc_fl.protocols.work import train_round

SEEDS = count(1)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        made.run(CHAINS)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def fed(fleet: Fleet) -> Iterator[sf.Federation]:
    with fleet.connect() as federation:
        yield federation


def _exhaust(fleet: Fleet, fed: sf.Federation) -> None:
    """Runs, until every fault has happened: they are over with the last."""
    before = len(fleet.pending)
    assert before
    while fleet.pending:
        fleet.train(fed, rounds=4, seed=next(SEEDS)).check()
        assert len(fleet.pending) < before, f"nobody died in a whole run; still to come: {fleet.pending}"
        before = len(fleet.pending)


def test_killed_at_every_boundary(fleet: Fleet, fed: sf.Federation) -> None:
    _exhaust(fleet, fed)
    assert {node: [d.fault for d in fleet.deaths if d.node == node] for node in CHAINS} == CHAINS
    assert len(fleet.deaths) == sum(map(len, CHAINS.values()))  # nobody died of anything else


def test_a_disk_that_is_full_for_a_while(fleet: Fleet, fed: sf.Federation) -> None:
    """No acknowledgement meanwhile, a sentence that says what to do, and the very round goes on when there is space."""
    for node, faults in DISK.items():
        fleet.restart(node, ",".join(faults))
    fleet.train(fed, rounds=3, seed=next(SEEDS)).check()
    for node, faults in DISK.items():
        assert fleet.logged(node, "waiting for the disk") == fleet.logged(node, "written after all") == len(faults), (
            node
        )
        assert "See to the disk" in fleet.log(node)


def test_killed_while_it_waits_for_the_disk(fleet: Fleet, fed: sf.Federation) -> None:
    """Had it acknowledged what it could not write, an owner would not say it again."""
    before = {node: fleet.logged(node, "waiting for the disk") for node in (AGGREGATORS[1], COORDINATOR)}
    fleet.restart(AGGREGATORS[1], "ENOSPC:persist:VectorAdded:before:1-100000")
    fleet.restart(COORDINATOR, "EIO:persist:Summed:before:1-100000")
    trained = fleet.train(fed, rounds=1, seed=next(SEEDS))
    for node in before:
        fleet.until(lambda node=node: fleet.logged(node, "waiting for the disk") > before[node])
        fleet.restart(node)
    trained.check()


def test_never_two_vectors_under_one_set_of_seeds(
    fleet: Fleet, fed: sf.Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner computes another update each time that it is asked, and is killed between encoding, record and sends."""
    monkeypatch.setattr(fleet, "patch", "fleet:never_twice_the_same")
    for node in AGGREGATORS:
        fleet.restart(node)
    fleet.restart(RESTLESS, *NOT_REPEATABLE)
    while fleet.pending:
        trained = fleet.train(fed, rounds=3, seed=next(SEEDS))
        for round_ in trained.run:
            assert round_.included == sorted(OWNERS)
            assert round_.attempts == 1
            computed = [
                np.frombuffer(bytes.fromhex(each["delta"]), np.float32)
                for each in fleet.noted(RESTLESS)
                if each["seed"] == trained.reference.job.seed.hex() and each["round"] == train_round(round_.number)
            ]
            possible = trained.reference.any_of(round_.number, round_.included, RESTLESS, computed)
            assert sum(np.array_equal(round_.model, each) for each in possible) == 1
            trained.reference.model = round_.model
    reports = [each for each in fleet.noted("reports") if each["owner"] == RESTLESS]
    by_manifest: dict[str, list[dict[str, str]]] = defaultdict(list)
    for report in reports:
        by_manifest[report["manifest"]].append(report)
    # It did compute several times in one round, and did say one report several times: else nothing was shown.
    rounds = [(each["seed"], each["round"]) for each in fleet.noted(RESTLESS)]
    assert len(rounds) > len(set(rounds))
    assert any(len(said) > len(AGGREGATORS) for said in by_manifest.values())
    for said in by_manifest.values():
        assert len({tuple(each["commitments"]) for each in said}) == 1
        for kind in ("SeedReport", "VectorReport"):
            assert len({each["vector"] for each in said if each["kind"] == kind}) <= 1
    seeds = fleet.noted("seeds")
    seen: dict[str, str] = {}
    for each in seeds:
        assert seen.setdefault(each["seed"], each["manifest"]) == each["manifest"], "a seed served twice"


@pytest.mark.parametrize("point", ["persist:Reporting:after:1", "send:VectorReport:before:1"])
def test_an_owner_that_comes_back_reports_before_all_else(fleet: Fleet, fed: sf.Federation, point: str) -> None:
    """Nothing that it does before needs torch (tests/test_house.py), and its ledger and the job wait."""
    fleet.restart(RESTLESS, f"kill:{point}")
    fleet.train(fed, rounds=1, seed=next(SEEDS)).check()

    def events() -> list[str]:
        log = fleet.log(RESTLESS)
        return re.findall(r'"event": "(ready|reported|datasets|job|computing)"', log[log.rindex('"event": "ready"') :])

    fleet.until(lambda: "datasets" in events())  # the round may be over before the ledger is open
    assert events()[:3] == ["ready", "reported", "datasets"]


def test_nothing_is_left_of_rounds_that_are_over(fleet: Fleet, fed: sf.Federation) -> None:
    """Whoever was killed between a round's end and the erasures has made up for it."""
    for node in (*OWNERS, *AGGREGATORS, COORDINATOR):
        fleet.restart(node)
    fleet.train(fed, rounds=1, seed=next(SEEDS)).check()
    fleet.halt()
    for node in (*OWNERS, *AGGREGATORS, COORDINATOR):
        with Journal.open(fleet.folder / node / "state" / "journal.db") as journal:
            for stream in journal.streams("round/"):
                assert not {kind for kind, _ in journal.read(stream)} & SECRET, (node, stream)
