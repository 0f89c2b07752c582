"""An aggregator whose disk was put back to an earlier state: its peers remember, and it is told what it has said itself."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from rig import Rig, aborts, aggregator_at, refusal, told

from smpc_fl.errors import RolledBack
from smpc_fl.protocols.aggregator import State
from smpc_fl.protocols.commands import Finished, Persist
from smpc_fl.protocols.coordinator import GivenUp, Released
from smpc_fl.protocols.coordinator import State as CoordinatorState
from smpc_fl.protocols.messages import (
    AbortRequest,
    FreezeRequest,
    FrozenList,
    FrozenLists,
    PrekeyRequest,
    Refusal,
    ReleaseReceipt,
    SeedReport,
    VectorReport,
    Vote,
    Votes,
)
from smpc_fl.protocols.records import Claim, Outdated
from smpc_fl.protocols.records import Released as ReleasedRecord
from smpc_fl.protocols.simulate import COORDINATOR, Book, Node

ME = "aggregator-0"


def restore(rig: Rig, copy_of: Node) -> None:
    """The node comes back with the journal and the bulk of an earlier time."""
    rig.nodes[ME].journal[:] = copy_of.journal
    rig.nodes[ME].bulk = copy_of.bulk
    rig.crash(ME)


def taken(rig: Rig) -> Node:
    node = rig.nodes[ME]
    return Node(node.machine, list(node.journal), copy.copy(node.bulk))


@pytest.mark.parametrize("state", [State.OPEN, State.FROZEN, State.VOTED])
def test_one_restored_from_before_the_release_refuses_and_names_the_witness(state: State) -> None:
    """The copy is of this state; the release was after it, and the coordinator has the sum."""
    rig = aggregator_at(state)
    before = taken(rig)
    outcome = rig.finish()
    assert isinstance(outcome, Released)
    restore(rig, before)
    machine = rig.aggregator()
    assert machine.state is state
    commands = rig.tell(ME, COORDINATOR, ReleaseReceipt(rig.coordinator.manifest_hash))
    kept = commands[0]
    assert isinstance(kept, Persist)
    assert kept.record == Outdated(COORDINATOR)
    (said,) = told(commands)
    assert isinstance(said, Refusal)
    assert said.code == "RolledBack"
    assert f"{ME} was restored" in said.text
    assert COORDINATOR in said.text
    finished = commands[-1]
    assert isinstance(finished, Finished)
    assert isinstance(finished.outcome, RolledBack)
    for command in commands:
        rig.carry_out(ME, command)
    assert not rig.nodes[ME].bulk
    assert [type(record).__name__ for record in rig.nodes[ME].journal] == ["Outdated"]
    reports = [event for event in rig.received[ME] if isinstance(event.message, SeedReport | VectorReport)]
    for crashed in (False, True):
        if crashed:
            rig.crash(ME)
        key, hash_ = machine.key, machine.manifest_hash
        for message in (AbortRequest(*key), PrekeyRequest(*key), FreezeRequest(hash_), Votes(hash_, aborts(rig))):
            assert type(refusal(rig.tell(ME, COORDINATOR, message))) is RolledBack
        for event in reports:
            assert type(refusal(rig.aggregator().receive(event, rig.now))) is RolledBack


@pytest.mark.parametrize("state", [State.OPEN, State.FROZEN])
def test_its_own_list_that_it_does_not_know(state: State) -> None:
    rig = aggregator_at(State.OPEN)
    before = taken(rig)
    lists = rig.until(FrozenLists, ME)[1].message
    assert isinstance(lists, FrozenLists)
    restore(rig, before)
    if state is State.FROZEN:  # it has frozen another list since
        rig.deliver(ME, rig.from_(COORDINATOR, FreezeRequest(rig.aggregator().manifest_hash)))
        assert rig.aggregator().state is State.FROZEN
    commands = rig.tell(ME, COORDINATOR, lists)
    assert [type(message) for message in told(commands)] == [Refusal]
    assert rig.aggregator().state is State.OUTDATED


@pytest.mark.parametrize("state", [State.OPEN, State.FROZEN])
def test_its_own_vote_that_it_does_not_know(state: State) -> None:
    rig = aggregator_at(state)
    before = taken(rig)
    votes = rig.until(Votes, ME)[1].message
    assert isinstance(votes, Votes)
    restore(rig, before)
    rig.deliver(ME, rig.from_(COORDINATOR, votes))
    assert rig.aggregator().state is State.OUTDATED


def test_its_own_abort_that_it_does_not_know() -> None:
    rig = aggregator_at(State.VOTED)
    rig.deliver(ME, rig.from_(COORDINATOR, Votes(rig.aggregator().manifest_hash, aborts(rig)[:1])))
    assert rig.aggregator().state is State.OUTDATED


def test_the_coordinator_says_why_the_attempt_is_over() -> None:
    """One that is outdated signs no abort: no further attempt, and the researcher reads the reason."""
    rig = aggregator_at(State.OPEN)
    before = taken(rig)
    lists = rig.until(FrozenLists, ME)[1].message
    assert isinstance(lists, FrozenLists)
    restore(rig, before)
    rig.deliver(ME, rig.from_(COORDINATOR, lists))
    assert rig.aggregator().state is State.OUTDATED
    rig.settle()
    assert rig.coordinator.state is CoordinatorState.ABORTING
    outcome = rig.finish()
    assert isinstance(outcome, GivenUp)
    assert type(outcome.error) is RolledBack
    assert outcome.aborts == ()


# --- the peers remember ---


def rounds(rig: Rig, number: int) -> Rig:
    """The next round of the same aggregators, over another model."""
    following = Rig(rig.vectors, parties=rig.parties, seed=("round", number))
    following.books = rig.books
    following.plan = replace(following.plan, model=bytes([number]))
    for id_ in following.nodes:
        following.nodes[id_] = Node(following._machine(id_, []), [])
    return following


def test_who_has_forgotten_a_release_is_found_out_by_its_peers() -> None:
    rig = Rig()
    assert isinstance(rig.run(), Released)
    second = rounds(rig, 2)
    assert isinstance(second.run(), Released), "who forgets nothing goes on"
    assert [second.books[a].number for a in second.plan.aggregators] == [2, 2, 2]
    old = copy.deepcopy(rig.books[ME])
    assert isinstance(rounds(rig, 3).run(), Released)
    fourth = rounds(rig, 4)
    fourth.books = {**rig.books, ME: old}
    fourth.nodes[ME] = Node(fourth._machine(ME, []), [])
    outcome = fourth.run()
    fourth.check(outcome)
    assert isinstance(outcome, GivenUp)
    assert type(outcome.error) is RolledBack
    assert f"{ME} says that it has voted to release 2 sums, and it did for 3" in outcome.error.message
    (reason,) = {message.reason for message in fourth.sent_by("aggregator-1", Vote)}
    assert "older copy of its disk" in reason
    assert "aggregator-" in fourth.aggregator()._abort_reason, "the one that was restored is told who remembers"


def test_a_list_from_before_the_manifest_does_not_accuse_anybody() -> None:
    """What a peer said of its releases while this attempt was open does not count against what it says in it."""
    rig = Rig()
    rig.begin()
    lists = rig.until(FrozenLists, ME)[1]
    rig.books[ME].hear({rig.parties["aggregator-1"].identity.public.key.hex(): 7})
    rig.deliver(ME, lists)
    assert rig.aggregator().state is State.VOTED
    (vote,) = rig.sent_by(ME, Vote)
    assert vote.choice


def test_the_newest_releases_say_how_many_there_were_and_what_peers_said() -> None:
    rig = Rig()
    rig.run()
    (released,) = [record for record in rig.written[ME] if isinstance(record, ReleasedRecord)]
    ((claim,),) = rig.books[ME].ledgers.values()
    assert isinstance(claim, Claim)
    book = Book()
    book.learn(claim)
    book.learn(released)
    assert book.number == 1
    assert set(book.heard.values()) == {1}
    assert len(book.heard) == 3
    assert isinstance(rig.sent_by(ME, FrozenList)[0], FrozenList)
