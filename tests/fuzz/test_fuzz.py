"""Ten thousand cases, with those below and the swaps, of what `scripts/fuzz` runs by the million; and that it would notice."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import engine
import machine_targets
import pytest
import scenes
import targets
from engine import Target, Wrong, run_case, run_cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_targets import MESSAGE_TYPES

from smpc_fl.errors import MalformedMessage
from smpc_fl.protocols.commands import Send
from smpc_fl.protocols.simulate import COORDINATOR

TARGETS = targets.by_name()
PLAN = targets.plan(6_000)


@pytest.mark.parametrize("name", PLAN)
def test_foreign_input_gives_a_documented_error_or_what_it_says(name: str) -> None:
    findings = list(run_cases(TARGETS[name], 0, range(PLAN[name])))
    assert not findings, "\n".join(map(str, findings[:5]))


@pytest.mark.parametrize(
    "name", ["message", "envelope", "frame", "roster", "job", "plan", "expression", "request", "vector"]
)
def test_and_whatever_hypothesis_comes_upon(name: str) -> None:
    """The same targets under Hypothesis, which looks elsewhere, and makes what it finds small."""
    target = TARGETS[name]

    @settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def look(rng: Random) -> None:
        data = target.make(rng)
        try:
            target.take(data)
        except target.allowed:
            return

    look()


@pytest.mark.parametrize("number", range(len(scenes.scenes())), ids=lambda number: str(scenes.scenes()[number]))
def test_every_state_hears_every_type_of_message(number: int) -> None:
    for place, kind in enumerate(MESSAGE_TYPES):
        for sender in (COORDINATOR, scenes.AGGREGATORS[1], "bob", "eve"):
            case = machine_targets.message_case(Random(f"{number}/{place}/{sender}"), number, kind, sender)
            machine_targets.take(case)


# --- planted faults ---


def _raises(data: bytes) -> None:
    raise KeyError("no such field")


def _hangs(data: bytes) -> None:
    while data:
        data = data[:1]


def _fills(data: bytes) -> None:
    bytearray(1 << 62)


def _warns(data: bytes) -> None:
    import numpy as np

    np.float32(1e38) * np.float32(1e38)


def _differs(data: bytes) -> None:
    raise Wrong("another spelling")


@pytest.mark.parametrize(
    ("take", "found"),
    [
        (_raises, "KeyError"), (_hangs, "TooSlow"), (_fills, "Error"), (_warns, "RuntimeWarning"), (_differs, "spelling"),
    ],
)  # fmt: skip
def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch, take: Callable[[bytes], None], found: str) -> None:
    monkeypatch.setattr(engine, "SLOW", 0.02)
    target = Target("planted", lambda rng: rng.randbytes(8), take, (MalformedMessage,))
    (finding,) = run_cases(target, 7, range(3, 4))
    assert found in finding.what
    assert finding.data == engine.input_of(target, 7, 3).hex()
    assert "--only planted --seed 7 --case 3" in str(finding)


def test_a_machine_that_says_a_secret_goes_astray_or_hears_strangers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from smpc_fl.protocols.owner import OwnerRound, State

    target, receive = TARGETS["machine"], OwnerRound.receive

    def findings(does: Callable[[Any, Any, float], Any]) -> set[str]:
        with monkeypatch.context() as patch:
            patch.setattr(OwnerRound, "receive", does)
            found = [run_case(target, 1, case) for case in range(60)]
        return {finding.what for finding in found if finding is not None}

    def tells(machine: Any, event: Any, now: float) -> Any:
        error = MalformedMessage(machine.party.identity.seed.reveal().hex())
        return [*receive(machine, event, now), Send(COORDINATOR, machine.party.refuse(error, "x", b""))]

    def strays(machine: Any, event: Any, now: float) -> Any:
        machine.state = State.CLOSED
        return receive(machine, event, now)

    assert any("a secret in a Refusal" in what for what in findings(tells))
    assert any("went to CLOSED upon" in what for what in findings(strays))
    assert not findings(receive)
