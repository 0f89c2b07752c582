"""An owner's ledger of what it has given into sums: what it finds again, what a crash leaves, what it takes on disk."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from itertools import combinations
from pathlib import Path

import pytest
import pytest_asyncio

from smpc_fl.nodes.home.journal import Journal
from smpc_fl.nodes.owner_contributions import Contributions, Key
from smpc_fl.protocols.releases import isolates

pytestmark = pytest.mark.asyncio

MEAN, OTHER = b"m" * 32, b"o" * 32
DATA, CHANGED = b"d" * 32, b"c" * 32
ABC, ABCD = ["alice", "bob", "carol"], ["alice", "bob", "carol", "dave"]


def key(run: int, round_: int = 0) -> Key:
    return bytes([run]) * 16, round_


@pytest_asyncio.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    with Journal.open(tmp_path / "journal.db") as opened:
        yield opened


def cohorts(given: Contributions, computation: bytes = MEAN, data: bytes = DATA, but: Key | None = None) -> list[str]:
    return sorted("".join(owner[0] for owner in sorted(each)) for each in given.earlier(computation, data, but))


async def test_what_was_given_is_found_again_after_a_restart(journal: Journal) -> None:
    given = Contributions(journal)
    assert cohorts(given) == []
    await given.note(MEAN, DATA, key(1), ABC)
    await given.note(MEAN, DATA, key(2), ABCD)
    for now in (given, Contributions(journal)):
        assert cohorts(now) == ["abc", "abcd"]
        assert cohorts(now, but=key(2)) == ["abc"]
        assert cohorts(now, OTHER) == []
        assert cohorts(now, data=CHANGED) == []


async def test_a_further_attempt_stands_in_the_place_of_the_one_before(journal: Journal) -> None:
    """The manifest of the further one carries everybody's abort of the one before."""
    given = Contributions(journal)
    await given.note(MEAN, DATA, key(1), ABCD)
    assert cohorts(given, but=key(1)) == []
    await given.note(MEAN, DATA, key(1), ABC)
    assert cohorts(given) == ["abc"]
    await given.note(MEAN, DATA, key(1, 2), ABCD)  # another round of the run is another contribution
    assert cohorts(given, but=key(1)) == ["abcd"]


async def test_the_same_sum_again_takes_no_room(journal: Journal) -> None:
    given = Contributions(journal)
    for run in range(1, 30):
        await given.note(MEAN, DATA, key(run), ABC)
    assert len(journal.read(journal.streams("given/")[0])) == 1
    assert cohorts(given) == ["abc"]


async def test_nobody_relies_on_an_entry_that_may_still_change(journal: Journal) -> None:
    """Run 1 is under way: its next attempt may be over others, and run 2 has given for these."""
    given = Contributions(journal)
    await given.note(MEAN, DATA, key(1), ABC)
    await given.note(MEAN, DATA, key(2), ABC, open_=[key(1), key(2)])
    await given.note(MEAN, DATA, key(1), ABCD)
    assert cohorts(given) == ["abc", "abcd"]


async def test_an_attempt_after_a_restart_shares_the_integers_of_the_old_data(journal: Journal) -> None:
    await Contributions(journal).note(MEAN, DATA, key(1), ABC)
    await Contributions(journal).note(MEAN, DATA, key(2), ABC, open_=[key(1)])
    given = Contributions(journal)
    assert cohorts(given, data=CHANGED, but=key(1)) == ["abc"]
    await given.note(MEAN, None, key(1), ABCD)
    assert cohorts(given, data=CHANGED) == []
    assert cohorts(given, data=DATA) == ["abc", "abcd"]


async def test_data_that_are_not_known_any_more_are_any(journal: Journal) -> None:
    """Killed between the report's record and the note: nothing has left, and what is noted then counts for all data."""
    given = Contributions(journal)
    await given.note(MEAN, None, key(1), ABC)
    await given.note(MEAN, CHANGED, key(2), ABCD)
    assert cohorts(given, data=DATA) == ["abc"]
    assert cohorts(given, data=CHANGED) == ["abc", "abcd"]
    assert cohorts(given, data=DATA, but=key(1)) == ["abcd"]


async def test_a_round_of_training_takes_little_room_and_no_scan(tmp_path: Path) -> None:
    """Every round has a model of its own, and so a computation; the cohort is kept once."""
    members = [f"hospital-number-{i:04}" for i in range(1000)]
    with Journal.open(tmp_path / "journal.db") as journal:
        given = Contributions(journal)
        for number in range(60):
            await given.note(number.to_bytes(32, "little"), DATA, (b"r" * 16, 2 * number), members)
        streams = journal.streams("given/")
        assert len(streams) == 60
        assert max(sum(len(data) for _, data in journal.read(stream)) for stream in streams) < 110
        reads: list[str] = []
        known = journal.read
        journal.read = lambda stream: reads.append(stream) or known(stream)  # type: ignore[func-returns-value, method-assign]
        assert given.earlier((7).to_bytes(32, "little"), DATA) == {frozenset(members)}
        assert reads == [streams[7]]


class Memory:
    """A journal without a disk, for many tries."""

    def __init__(self) -> None:
        self.streams: dict[str, list[tuple[str, bytes]]] = {}
        self.named: dict[str, bytes] = {}

    def read(self, stream: str) -> list[tuple[str, bytes]]:
        return list(self.streams.get(stream, []))

    def get(self, name: str) -> bytes | None:
        return self.named.get(name)

    async def append(self, stream: str, kind: str, data: bytes) -> None:
        self.streams.setdefault(stream, []).append((kind, data))

    async def put(self, name: str, data: bytes) -> None:
        self.named[name] = data


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_cohorts_are_asked_for_nothing_can_be_subtracted(seed: int) -> None:
    """Runs over any owners, further attempts over fewer, owners swapped for newcomers: 1,000 tries, 4 times."""
    draw, k_min = random.Random(seed), 3
    memory = Memory()
    owners = [f"owner-{i:02}" for i in range(12)]
    given: dict[Key, set[str]] = {}
    for number in range(1000):
        contributions = Contributions(memory)  # type: ignore[arg-type]  # restarted each time
        again = bool(given) and draw.random() < 0.2
        round_ = draw.choice(list(given)) if again else (number.to_bytes(16, "little"), 0)
        base = draw.choice(list(given.values())) if given and draw.random() < 0.7 else set(owners)
        cohort = set(base) ^ set(draw.sample(owners, draw.choice([0, 0, 1, 1, 2, 3, 6])))
        cohort |= {"owner-00"}  # itself
        if len(cohort) < k_min or isolates([cohort, *contributions.earlier(MEAN, DATA, round_)], k_min):
            continue
        await contributions.note(MEAN, None if again else DATA, round_, cohort, given.keys())
        given[round_] = cohort
    sets = {frozenset(each) for each in given.values()}
    assert len(sets) > 1
    for one, other in combinations(sets, 2):
        assert all(len(difference) == 0 or len(difference) >= k_min for difference in (one - other, other - one))
    for owner in owners:  # nor by sums and differences of more of them: whoever is alike in all sets is many, or nobody
        alike = [other for other in owners if all((owner in each) == (other in each) for each in sets)]
        assert len(alike) >= k_min or not any(owner in each for each in sets)
