"""Sums that could be subtracted from each other: the rule, the book that it is held against, and who asks in vain."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig import KEY, OWNERS, Draws, Rig, changed, endorsed, offered, powers, refusal, told

from smpc_fl.errors import SubtractionRefused
from smpc_fl.protocols import codec
from smpc_fl.protocols.aggregator import AggregatorRound, State
from smpc_fl.protocols.commands import Persist, Received, Send
from smpc_fl.protocols.coordinator import GivenUp, Released
from smpc_fl.protocols.manifest import Rules, manifest_hash, set_hash
from smpc_fl.protocols.messages import (
    PROTOCOL_VERSION,
    Entry,
    FrozenList,
    FrozenLists,
    Manifest,
    Prekey,
    Vote,
    Votes,
)
from smpc_fl.protocols.records import Accepted, Frozen, Prepared, Record, SeedTaken
from smpc_fl.protocols.releases import Releases, isolates
from smpc_fl.protocols.simulate import COORDINATOR, JOB, Book, Node, federation
from smpc_fl.sealing import KeyPair

K_MIN = 3
POOL = tuple("abcdefgh")
sets = st.frozensets(st.sampled_from(POOL), min_size=0, max_size=8)


# --- the rule ---


@given(sets, sets)
def test_two_sets_differ_each_way_by_nobody_or_by_k_min(one: frozenset[str], other: frozenset[str]) -> None:
    parts = (one - other, other - one, one & other)
    assert isolates([one, other], K_MIN) == any(0 < len(part) < K_MIN for part in parts)


@given(st.lists(sets, max_size=4))
def test_no_combination_of_sums_is_over_fewer_than_k_min(family: list[frozenset[str]]) -> None:
    if isolates(family, K_MIN):
        return
    inside = np.array([[owner in owners for owner in POOL] for owners in family], dtype=int).reshape(-1, len(POOL))
    for factors in itertools.product((-2, -1, 0, 1, 2), repeat=len(family)):
        assert np.count_nonzero(np.array(factors, dtype=int) @ inside) not in range(1, K_MIN)


def test_sets_that_are_in_order_by_pairs_are_looked_at_together() -> None:
    """The sums over abcd, abef, cdef and aceg: each two sets differ by two owners, and half the sum of the first three less
    the fourth is over three; with k_min = 2 that is in order, and g alone is not."""
    family = [frozenset("abcd"), frozenset("abef"), frozenset("cdef")]
    assert not isolates(family, 2)
    fourth = frozenset("aceg")
    assert not any(0 < len(one - other) < 2 for one, other in itertools.permutations([*family, fourth], 2))
    assert isolates([*family, fourth], 2)


# --- the book ---


def test_a_claim_counts_until_it_is_withdrawn() -> None:
    book, one, two = Releases(), (bytes(16), 0, 0), (bytes(16), 2, 0)
    book.claim(one, b"x", "abc")
    assert book.others(two, b"x") == [frozenset("abc")]
    assert book.others(one, b"x") == []
    assert book.others(two, b"y") == []
    book.withdraw(one)
    book.withdraw(one)
    assert book.others(two, b"x") == []


def test_what_peers_say_only_grows() -> None:
    book = Releases()
    book.hear({"p": 3})
    book.hear({"p": 2, "q": 1})
    assert book.heard == {"p": 3, "q": 1}


# --- somebody who asks again and again ---


class Asker:
    """A coordinator, and everybody else, in league against one honest aggregator, which they ask for sums over sets of
    their choice: in new runs, in further attempts at one round, and with crashes in between."""

    def __init__(self, seed: int) -> None:
        self.draw, self.entropy = np.random.default_rng(seed), Draws(seed)
        self.ledgers = Book()
        self.key = KeyPair.generate(self.entropy)
        self.got: dict[bytes, list[frozenset[str]]] = defaultdict(list)
        self.runs = 0

    def ask(self, agreed: frozenset[str], subject: bytes, *, run: bytes = b"", attempt: int = 0) -> bool:
        """Whether the aggregator votes for the sum over these owners: from then on it may be released."""
        self.runs += 1
        key = (run or self.runs.to_bytes(16, "little"), 0, attempt)
        cohort = sorted(agreed)
        prekeys = [PARTIES[a].sign(Prekey(*key, self.key.public)) for a in AGGREGATORS]
        manifest = Manifest(
            PROTOCOL_VERSION, PARTIES["m0"].federation, PARTIES["m0"].membership.roster_hash, *key, "train", COORDINATOR,
            self.key.public, cohort, prekeys, 1, 32, 8, 1.0, 1, K_MIN, 1e9, JOB, subject, KEY, None, 1.0,
        )  # fmt: skip
        signed = PARTIES[COORDINATOR].sign(manifest)
        hash_ = manifest_hash(signed)
        entries = [Entry(owner, KEY) for owner in cohort]
        records: list[Record] = [
            Prepared(self.key.private.reveal()),
            Accepted(signed),
            *(SeedTaken(owner, KEY, KEY) for owner in cohort),
            Frozen(entries, self.ledgers.number),
        ]
        machine = AggregatorRound.restore(
            PARTIES["m0"],
            Rules(K_MIN),
            key,
            records,
            coordinator=COORDINATOR,
            entropy=self.entropy,
            releases=self.ledgers,
        )
        lists = FrozenLists(hash_, [PARTIES[a].sign(FrozenList(hash_, entries)) for a in AGGREGATORS])
        signed_lists = PARTIES[COORDINATOR].sign(lists)
        vote = None
        for command in machine.receive(Received(COORDINATOR, lists, signed_lists), 1.0):
            match command:
                case Persist(ledger=(computation, record)):
                    self.ledgers.ledgers[computation].append(record)
                case Send():
                    said = codec.decode_message(command.signed.body)
                    vote = said if isinstance(said, Vote) else vote
        if self.draw.random() < 0.3:  # the node is killed, and comes back with what is on its disk
            disk, self.ledgers = self.ledgers.ledgers, Book()
            self.ledgers.ledgers.update(disk)
        assert vote is not None
        if vote.choice:
            assert vote.choice == set_hash(hash_, entries)
            self.got[subject].append(agreed)
        else:
            assert vote.code == "SubtractionRefused"
            assert "could be subtracted" in vote.reason
        return bool(vote.choice)


AGGREGATORS = ("m0", "m1")
PARTIES = federation(list(POOL), list(AGGREGATORS), Draws("askers"))
SUBJECTS = (bytes([1]) * 32, bytes([2]) * 32)


def ask_often(times: int, seed: int) -> tuple[int, int]:
    """(sums that the asker got, those that it was refused). None of those it got can be subtracted."""
    got = refused = 0
    for number in range(times // 20):
        asker = Asker(seed + number)
        base = frozenset(POOL[: asker.draw.integers(K_MIN, len(POOL) + 1)])
        for _ in range(20):
            agreed = set(base)
            for owner in asker.draw.choice(POOL, size=asker.draw.integers(0, 3), replace=False):
                agreed ^= {str(owner)}  # without one, with one more, one swapped for a newcomer
            if len(agreed) < K_MIN:
                agreed = set(base)
            subject = SUBJECTS[int(asker.draw.random() < 0.2)]
            if asker.ask(frozenset(agreed), subject, attempt=int(asker.draw.integers(3))):
                got += 1
            else:
                refused += 1
        for sums in asker.got.values():
            for one, other in itertools.permutations(set(sums), 2):
                assert not 0 < len(one - other) < K_MIN, f"{sorted(one)} minus {sorted(other)}"
    return got, refused


def test_who_asks_again_for_almost_the_same_owners_asks_in_vain() -> None:
    got, refused = ask_often(400, seed=0)
    assert got > 50
    assert refused > 100


@pytest.mark.slow
def test_ten_thousand_times() -> None:
    got, refused = ask_often(10_000, seed=1000)
    assert got + refused == 10_000


def test_the_asker_gets_them_where_nobody_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Releases, "others", lambda self, key, computation: [])
    with pytest.raises(AssertionError, match="minus"):
        ask_often(100, seed=0)


# --- whole rounds ---


def again(rig: Rig, vectors: Sequence[str]) -> Rig:
    """Another run over the same computation and model, with the same members, aggregators' books and ledgers."""
    other = Rig({owner: rig.vectors[owner] for owner in vectors}, parties=rig.parties, seed=("again", vectors))
    other.books = rig.books
    for id_ in other.plan.aggregators:
        other.nodes[id_] = Node(other._machine(id_, []), [])
    return other


FIVE = (*OWNERS, "erin")


@pytest.mark.parametrize(
    ("second", "released"),
    [
        (FIVE, True),
        (FIVE[1:], False),
        (FIVE[2:], False),
        (("alice", "bob", "carol", "dave"), False),
    ],
)
def test_a_second_run_may_be_over_the_same_owners(second: tuple[str, ...], released: bool) -> None:
    rig = Rig(powers(FIVE))
    assert isinstance(rig.run(), Released)
    outcome = again(rig, second).run()
    assert isinstance(outcome, Released) == released
    if isinstance(outcome, GivenUp):
        assert type(outcome.error) is SubtractionRefused
        assert outcome.aborts, "another attempt may follow, with all of them"


def test_an_owner_that_drops_out_of_the_second_run_ends_it() -> None:
    rig = Rig(powers(FIVE))
    assert isinstance(rig.run(), Released)
    second = again(rig, FIVE)
    second.down.add("erin")
    outcome = second.run()
    assert isinstance(outcome, GivenUp)
    assert type(outcome.error) is SubtractionRefused
    second.check(outcome)
    second.down.clear()
    second.next_attempt(outcome.aborts)
    third = second.run()
    assert isinstance(third, Released)
    assert len(third.agreed) == 5


def test_a_claim_that_was_aborted_stands_in_nobodys_way() -> None:
    """Voted for, then aborted because a peer did: the next attempt may be over others."""
    rig = Rig(powers(FIVE))
    rig.begin()
    rig.until(Vote)
    first = rig.aggregator()
    assert first.state is State.VOTED
    lists = [rig.parties["aggregator-1"].sign(Vote(first.manifest_hash, b"", "no", "RoundAborted"))]
    votes = rig.from_(COORDINATOR, Votes(first.manifest_hash, lists))
    commands = first.receive(votes, rig.now)
    withdrawn = [command.ledger for command in commands if isinstance(command, Persist) and command.ledger]
    assert [type(record).__name__ for _, record in withdrawn] == ["Withdrawn"]
    for command in commands:
        rig.carry_out("aggregator-0", command)
    book = rig.books["aggregator-0"]
    (computation,) = book.ledgers
    assert [type(record).__name__ for record in book.ledgers[computation]] == ["Claim", "Withdrawn"]
    assert book.others((bytes(16), 0, 0), computation) == []


# --- the owner's own ledger ---


@pytest.mark.parametrize(
    ("earlier", "fits"),
    [((), True), ((OWNERS,), True), ((OWNERS[:3],), False), ((OWNERS, (*OWNERS, "erin")), False)],
)
def test_an_owner_gives_once_but_to_the_same_cohort(earlier: tuple[tuple[str, ...], ...], fits: bool) -> None:
    rig = Rig()
    _, event = offered(rig)
    machine = rig.owner()
    assert machine.expected is not None
    machine.expected = replace(machine.expected, earlier=tuple(frozenset(cohort) for cohort in earlier))
    commands = machine.receive(event, rig.now)
    if fits:
        assert not told(commands)
    else:
        error = refusal(commands)
        assert type(error) is SubtractionRefused
        assert "could be subtracted" in error.message


def test_a_manifest_of_another_subject_is_refused() -> None:
    rig = Rig()
    manifest, event = offered(rig)
    offer = endorsed(rig, changed(manifest, subject=KEY))
    error = refusal(rig.owner().receive(rig.from_(COORDINATOR, offer, event.attachment), rig.now))
    assert "subject is not that of the approved job" in error.message
