"""A thousand federations under faults, each out of one seed: no invariant breaks, and a seed tells the same story always."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import shell
from federation_of_seed import Federation
from many_seeds import digests, minimised, run_seeds, smaller
from mutants import MUTANTS
from network import FAULTS
from scenario import Scenario
from toy_crypto import toy_cryptography

from smpc_fl.nodes import rounds
from smpc_fl.protocols.commands import Command
from smpc_fl.protocols.coordinator import Released
from smpc_fl.protocols.simulate import COORDINATOR

SEEDS, PARTS = 1000, 10


@pytest.mark.parametrize("part", range(PARTS))
def test_no_invariant_breaks(part: int) -> None:
    size = SEEDS // PARTS
    outcome = run_seeds(range(part * size, (part + 1) * size))
    assert outcome.failed == {}, "scripts/faults --replay SEED tells how it came to this"
    assert outcome.ends["Released"] > size // 2, "rounds come to their end all the same"
    assert outcome.ends["GivenUp"] > size // 10, "and some do not"


def test_everything_goes_wrong_somewhere() -> None:
    """Otherwise nothing was shown."""
    seen: Counter[str] = Counter()
    for seed in range(200):
        scenario = Scenario.of(seed)
        seen.update(planned.what for planned in scenario.planned)
        seen.update(scenario.rates)
        seen.update({f"{len(scenario.aggregators)} aggregators", f"{len(scenario.owners)} owners"})
        seen.update({f"{len(scenario.runs)} runs", "crashes at boundaries" * bool(scenario.crashes)})
        seen.update(
            {"skews" * bool(scenario.skews), "mischief" * bool(scenario.mischief), "hasty" * bool(scenario.hasty)}
        )
    planned = {
        "cut",
        "kill",
        "disk full",
        "backup",
        "restore",
        "restore journal",
        "restore without spool",
        "gone for good",
    }
    sizes = {"1 runs", "2 runs", *(f"{m} aggregators" for m in (2, 3, 4)), *(f"{n} owners" for n in (3, 4, 5, 6))}
    assert seen.keys() >= planned | sizes | set(FAULTS) | {"crashes at boundaries", "skews", "mischief", "hasty"}


def test_where_nothing_goes_wrong_everybody_is_in() -> None:
    with toy_cryptography():
        for seed in range(10):
            wild = Scenario.of(seed)
            calm = Scenario(wild.seed, wild.owners, wild.aggregators, wild.k_min, wild.runs[:1], calm=0.0)
            federation = Federation(calm)
            assert federation.run() is None
            for ended in federation.books.attempts:
                assert isinstance(ended.outcome, Released)
                assert [entry.owner for entry in ended.outcome.agreed] == list(wild.runs[0].cohort)


def test_a_seed_tells_the_same_story_in_another_process() -> None:
    program = Path(__file__).with_name("many_seeds.py")
    told = set()
    for hash_seed in ("1", "2"):
        command = [sys.executable, str(program), "--digests", "--seeds", "12"]
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        told.add(subprocess.run(command, capture_output=True, check=True, text=True, env=environment).stdout)
    assert told == {"\n".join(digests(range(12))) + "\n"}


def test_the_shell_is_cut_as_the_real_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model of the shell decides what is written together, and before what, as `nodes.rounds` does."""
    batches = 0

    def both(commands: Sequence[Command]) -> list[shell.Segment]:
        nonlocal batches
        batches += 1
        own, real = shell_segments(commands), rounds._segments(commands)
        assert len(own) == len(real)
        for ours, theirs in zip(own, real, strict=True):
            assert (ours.records, ours.erases, ours.others) == (theirs.records, theirs.erases, theirs.others)
            assert [(stream, *row) for stream, row in ours.ledger] == theirs.ledger
            assert (ours.bulk is None) == (theirs.bulk is None)
            assert ours.speaks == theirs.speaks
        return own

    shell_segments = shell.segments
    monkeypatch.setattr(shell, "segments", both)
    assert run_seeds(range(10)).failed == {}
    assert batches > 1000


def test_curves_tell_the_same_story_as_their_toys() -> None:
    with toy_cryptography(curves=True):
        for seed, toy in enumerate(digests(range(4))):
            federation = Federation(Scenario.of(seed), remembered=1)
            federation.run()
            assert federation.world.digest == toy


def test_a_failing_seed_is_made_small() -> None:
    """What does not matter to the failure is left out of the story."""
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "never_gives_up")
    with toy_cryptography(), mutant.planted():
        seed = next(seed for seed in range(100) if Federation(Scenario.of(seed)).run() is not None)
        scenario = Scenario.of(seed)
        federation = Federation(scenario)
        verdict = federation.run()
        assert verdict is not None
        small = minimised(scenario, verdict.name)
        assert all(Federation(candidate).run() is None for candidate in smaller(small))
    assert any(COORDINATOR in line for line in federation.world.story)
    assert str(verdict) in federation.world.story[-1]
    assert replace(small, seed=0) != replace(scenario, seed=0)
