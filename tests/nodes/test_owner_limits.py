"""How often an owner takes part, and which commands it has taken: both survive a restart, neither grows."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from smpc_fl.errors import BadInput, ManifestRefused, Unavailable
from smpc_fl.nodes.home.config import OwnerPolicy
from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.owner_cadence import DAY, Cadence
from smpc_fl.nodes.owner_commands import AHEAD, SESSIONS, Commands
from smpc_fl.protocols.relay import session_id

pytestmark = pytest.mark.asyncio

NOW = 1_800_000_000.0
R1, R2 = b"1" * 16, b"2" * 16


@pytest_asyncio.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    with Journal.open(tmp_path / "journal.db") as opened:
        yield opened


# --- rounds ---


class Rounds:
    """An owner that is restarted before every offer."""

    def __init__(self, journal: Journal, **policy: Any) -> None:
        self.journal, self.policy = journal, OwnerPolicy(aggregators=("a", "b"), **policy)

    async def offered(self, at: float, run: bytes = R1, round_: int = 0, purpose: str = "train") -> bool:
        try:
            await Cadence(self.policy, self.journal).take(run, round_, purpose, NOW + at)
        except ManifestRefused:
            return False
        return True


async def test_rounds_are_as_far_apart_as_the_policy_says(journal: Journal) -> None:
    rounds = Rounds(journal, round_interval=60.0)
    assert await rounds.offered(0.0)
    assert not await rounds.offered(59.0, R1, 2)
    assert not await rounds.offered(59.0, R2)  # whoever asks
    assert await rounds.offered(1.0, R1, 1, "evaluate")  # goes with the round before it
    assert not await rounds.offered(1.0, R1, 1, "train")
    assert not await rounds.offered(1.0, R2, 1, "evaluate")
    assert await rounds.offered(60.0, R1, 2)
    with pytest.raises(ManifestRefused, match=r"a round every 60 s at most \(round_interval\): the next in 50 s"):
        await Cadence(rounds.policy, journal).take(R2, 0, "train", NOW + 70.0)


async def test_there_are_so_many_rounds_a_day(journal: Journal) -> None:
    rounds = Rounds(journal, rounds_a_day=3)
    assert [await rounds.offered(at, R1, int(at)) for at in (0.0, 1.0, 2.0, 3.0, DAY - 1)] == [True] * 3 + [False] * 2
    assert [await rounds.offered(DAY + at, R1, int(at)) for at in (0.0, 1.0, 2.0, 3.0)] == [True] * 3 + [False]


async def test_an_offer_that_is_not_taken_up_uses_nothing_up(journal: Journal) -> None:
    cadence = Cadence(OwnerPolicy(aggregators=("a", "b"), round_interval=60.0, rounds_a_day=1), journal)
    await cadence.give_back(await cadence.take(R1, 0, "train", NOW))
    await cadence.give_back(await cadence.take(R2, 0, "train", NOW + 1))
    await cadence.take(R2, 0, "train", NOW + 2)
    with pytest.raises(ManifestRefused):
        await cadence.take(R1, 0, "train", NOW + 3)


async def test_without_limits_nothing_is_written(journal: Journal) -> None:
    rounds = Rounds(journal)
    assert all([await rounds.offered(0.0, R1, number) for number in range(5)])
    assert journal.get("cadence") is None


async def test_a_clock_that_was_set_back_does_not_lock_the_owner_out(journal: Journal) -> None:
    rounds = Rounds(journal, round_interval=60.0, rounds_a_day=1)
    assert await rounds.offered(10 * DAY)
    assert await rounds.offered(0.0)
    assert not await rounds.offered(1.0)


# --- commands ---


def session(at: float) -> bytes:
    return session_id(NOW + at, os.urandom)


def commands(journal: Journal) -> Commands:
    return Commands(journal, lambda: NOW)


async def test_a_command_works_once_also_across_restarts(journal: Journal) -> None:
    mine, other = session(-5), session(-4)
    assert await commands(journal).take("rita", mine, 7)
    for sequence in (7, 6, 0):
        assert not await commands(journal).take("rita", mine, sequence)
    assert await commands(journal).take("rita", other, 7)
    assert await commands(journal).take("rob", mine, 7)
    assert await commands(journal).take("rita", mine, 8)


async def test_sessions_that_are_forgotten_stay_closed(journal: Journal) -> None:
    taken = commands(journal)
    sessions = [session(number / 1000) for number in range(-SESSIONS - 3, 0)]
    long = sessions[0]
    assert await taken.take("rita", long, 1)
    for number, each in enumerate(sessions[1:]):
        assert await taken.take("rita", each, 1)
        if number % 100 == 0:
            assert await taken.take("rita", long, 2 + number)  # in use, however old
    assert await taken.take("rita", long, 1000)
    for each in (sessions[1], sessions[2], session(-60.0)):
        with pytest.raises(Unavailable, match="connect again"):
            await commands(journal).take("rita", each, 50)
    assert not await commands(journal).take("rita", sessions[-1], 1)
    assert await commands(journal).take("rita", session(0.0), 0)
    assert len(journal.get("commands/rita") or b"") < 32 * SESSIONS


async def test_a_session_from_the_future_does_not_keep_others_out(journal: Journal) -> None:
    with pytest.raises(BadInput, match="set the researcher's clock"):
        await commands(journal).take("rita", session(AHEAD + 1.0), 1)
    assert await commands(journal).take("rita", session(AHEAD - 1.0), 1)
    assert await commands(journal).take("rita", session(0.0), 1)
