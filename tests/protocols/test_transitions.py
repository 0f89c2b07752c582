"""Each machine's table of transitions is exactly what the machine does, and the documentation is drawn from the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from diagrams import PAGE, page
from rig import (
    Rig,
    Seen,
    aborts,
    aggregator_at,
    carrying,
    next_offer,
    owner_at,
    powers,
)

from smpc_fl.errors import BadInput
from smpc_fl.protocols import aggregator, coordinator, owner
from smpc_fl.protocols.aggregator import AggregatorRound
from smpc_fl.protocols.commands import ComputeFailed, Start, Tick
from smpc_fl.protocols.coordinator import CoordinatorRound
from smpc_fl.protocols.messages import (
    AbortRequest,
    Endorsement,
    FrozenList,
    FrozenLists,
    ManifestOffer,
    PartialSum,
    Prekey,
    PrekeyRequest,
    Refusal,
    ReleaseReceipt,
    RoundClosed,
    RoundOffer,
    SeedReport,
    Vote,
    Votes,
)
from smpc_fl.protocols.owner import OwnerRound
from smpc_fl.protocols.simulate import COORDINATOR

Own, Agg, Coo = owner.State, aggregator.State, coordinator.State

# --- scenarios that together go through every row ---


def plain_rounds() -> Iterator[Rig]:
    yield from (Rig(seed=number, round_number=number) for number in range(3))


def owners_that_refuse() -> Iterator[Rig]:
    vectors = powers()
    vectors["alice"] = np.array([np.nan, 0, 0, 0])
    yield Rig(vectors)
    rig = owner_at(Own.COMPUTING)
    rig.deliver("alice", ComputeFailed(BadInput("no such column")))
    yield rig
    for state in (Own.SEEDING, Own.CARRYING):
        rig = owner_at(state)
        about = rig.owner().manifest_hash
        rig.deliver("alice", rig.from_("aggregator-2", Refusal("Equivocation", "another report", "report", about)))
        yield rig


def owners_in_next_attempts() -> Iterator[Rig]:
    for state in (Own.COMPUTING, Own.SEEDING, Own.CARRYING, Own.DONE, Own.REFUSED):
        rig = owner_at(state)
        rig.deliver("alice", next_offer(rig))
        yield rig
    rig = owner_at(Own.COMPUTING)
    rig.deliver("alice", ComputeFailed(BadInput("no such column")))
    rig.deliver("alice", next_offer(rig))
    yield rig
    rig = owner_at(Own.DONE)
    again = next_offer(rig)
    rig.dies = lambda by, command: by == "alice" and type(getattr(command, "record", None)).__name__ == "Reporting"
    rig.deliver("alice", again)  # dies between the manifest and the new report
    rig.dies = lambda by, command: False
    rig.deliver("alice", again)
    yield rig


def nodes_that_lose_their_bulk() -> Iterator[Rig]:
    rig = owner_at(Own.DONE)
    again = next_offer(rig)
    rig.crash_and_lose("alice")
    rig.deliver("alice", again)
    yield rig
    for rig in (carrying(), aggregator_at(Agg.FROZEN)):
        rig.crash_and_lose("aggregator-0")
        yield rig


def owners_that_are_told_of_the_end() -> Iterator[Rig]:
    for state in (Own.COMPUTING, Own.SEEDING, Own.CARRYING, Own.DONE, Own.REFUSED):
        rig = owner_at(state)
        rig.deliver("alice", rig.from_(COORDINATOR, RoundClosed(rig.owner().manifest_hash, False)))
        yield rig


def nodes_that_nobody_comes_back_to() -> Iterator[Rig]:
    for event in (Tick(), Start()):
        for own in (Own.COMPUTING, Own.SEEDING, Own.CARRYING, Own.DONE, Own.REFUSED):
            rig = owner_at(own)
            rig.now = 1e9
            rig.deliver("alice", event)
            yield rig
        for agg in (Agg.OPEN, Agg.FROZEN, Agg.VOTED, Agg.RELEASED):
            rig = aggregator_at(agg)
            rig.now = 1e9
            rig.deliver("aggregator-0", event)
            yield rig


def aggregators_that_were_restored() -> Iterator[Rig]:
    """Each is shown what it said after the copy was made that it came back from."""
    for agg in (Agg.OPEN, Agg.FROZEN, Agg.VOTED):
        rig = aggregator_at(agg)
        rig.deliver("aggregator-0", rig.from_(COORDINATOR, ReleaseReceipt(rig.aggregator().manifest_hash)))
        yield rig
        rig = aggregator_at(agg)
        rig.deliver("aggregator-0", rig.from_(COORDINATOR, Votes(rig.aggregator().manifest_hash, aborts(rig)[:1])))
        yield rig
    for agg in (Agg.OPEN, Agg.FROZEN):
        rig = aggregator_at(agg)
        hash_ = rig.aggregator().manifest_hash
        lists = [rig.parties[a].sign(FrozenList(hash_, [], 1)) for a in rig.plan.aggregators]
        rig.deliver("aggregator-0", rig.from_(COORDINATOR, FrozenLists(hash_, lists)))
        yield rig


def aggregators_that_abort() -> Iterator[Rig]:
    for state in (Agg.EMPTY, Agg.PREPARED, Agg.OPEN, Agg.FROZEN):
        rig = aggregator_at(state)
        rig.deliver("aggregator-0", rig.from_(COORDINATOR, AbortRequest(*rig.aggregator().key)))
        yield rig
    for state in (Agg.OPEN, Agg.FROZEN, Agg.VOTED):
        rig = aggregator_at(state)
        rig.deliver("aggregator-0", rig.from_(COORDINATOR, Votes(rig.aggregator().manifest_hash, aborts(rig)[1:])))
        yield rig
    rig = Rig()
    rig.down |= {"alice", "bob"}  # too few for k_min: the votes are to abort
    rig.begin()
    rig.until(Vote)
    rig.deliver("aggregator-0", rig.from_(COORDINATOR, AbortRequest(*rig.aggregator().key)))
    yield rig


def aggregators_that_are_told_to_freeze() -> Iterator[Rig]:
    rig = Rig({**powers(), "dave": np.full(4, np.inf)})
    yield rig  # dave refuses: nobody else is waited for
    rig = Rig()
    rig.down.add("dave")
    yield rig  # nobody knows: the deadline decides
    rig = Rig()
    rig.begin()
    last = rig.until(SeedReport, "aggregator-0")
    rig.settle()
    rig.queue.append(last)  # all are in with a seed that was delayed
    yield rig


def lost(kind: type[Any]) -> Callable[[], Iterator[Rig]]:
    """All messages of one kind that are under way at once are lost, and their connections stay up."""

    def scenario() -> Iterator[Rig]:
        rig = Rig()
        rig.begin()
        rig.until(kind)
        rig.queue.clear()
        rig.finish()
        yield rig

    return scenario


def a_vote_that_comes_late() -> Iterator[Rig]:
    rig = Rig()
    rig.begin()
    vote = rig.until(Vote, COORDINATOR)
    while rig.coordinator.state is not Coo.ABORTING:  # out of patience: but all are bound by their votes
        if not rig.queue:
            rig.pass_time()
        to, event = rig.queue.popleft()
        if not (to == COORDINATOR and isinstance(getattr(event, "message", None), Vote)):
            rig.deliver(to, event)
    rig.queue.append(vote)
    yield rig


def coordinator_that_is_refused() -> Iterator[Rig]:
    for kind in (PrekeyRequest, ManifestOffer):
        rig = Rig()
        rig.begin()
        to, _ = rig.until(kind)
        about = rig.plan.run if kind is PrekeyRequest else rig.coordinator.manifest_hash
        rig.queue.append((COORDINATOR, rig.from_(to, Refusal("ManifestRefused", "not with me", "manifest", about))))
        yield rig


SCENARIOS: list[Callable[[], Iterator[Rig]]] = [
    plain_rounds,
    owners_that_refuse,
    owners_in_next_attempts,
    nodes_that_lose_their_bulk,
    owners_that_are_told_of_the_end,
    nodes_that_nobody_comes_back_to,
    aggregators_that_were_restored,
    aggregators_that_abort,
    aggregators_that_are_told_to_freeze,
    a_vote_that_comes_late,
    coordinator_that_is_refused,
    *(lost(kind) for kind in (Prekey, Endorsement, RoundOffer, FrozenList, FrozenLists, Votes, PartialSum)),
]


@contextmanager
def every_change(machine: type[Any]) -> Iterator[set[tuple[Any, Any]]]:
    """(before, after) of every assignment to `state` while such a machine receives; a restart is no transition."""
    changes: set[tuple[Any, Any]] = set()
    receive = machine.receive

    def receiving(self: Any, event: Any, now: float) -> Any:
        self.__dict__["receiving"] = True
        try:
            return receive(self, event, now)
        finally:
            self.__dict__["receiving"] = False

    def assign(self: Any, name: str, value: Any) -> None:
        if name == "state" and self.__dict__.get("receiving"):
            changes.add((self.state, value))
        object.__setattr__(self, name, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "receive", receiving)
        patch.setattr(machine, "__setattr__", assign, raising=False)
        yield changes


@pytest.fixture(scope="module")
def observed() -> tuple[list[Seen], set[tuple[Any, Any]]]:
    seen: list[Seen] = []
    with every_change(CoordinatorRound) as changes:
        for scenario in SCENARIOS:
            for rig in scenario():
                if rig.outcome is None:
                    outcome = rig.run()
                    rig.check(outcome)
                seen += rig.seen
    return seen, changes


def rows(table: Any) -> set[tuple[Any, str, Any]]:
    return {(before, event.split(":")[0], after) for (before, event), after in table.items()}


@pytest.mark.parametrize(("machine", "module"), [(OwnerRound, owner), (AggregatorRound, aggregator)])
def test_the_table_is_what_the_machine_does(observed: Any, machine: type, module: Any) -> None:
    seen, _ = observed
    done = {(one.before, one.event, one.after) for one in seen if one.machine is machine and one.before != one.after}
    assert done - rows(module.TRANSITIONS) == set(), "the machine does what its table does not have"
    assert rows(module.TRANSITIONS) - done == set(), "the table has what the machine was not seen to do"


def test_the_coordinators_table_is_what_it_does(observed: Any) -> None:
    _, changes = observed
    table = {(before, after) for (before, _), after in coordinator.TRANSITIONS.items()}
    assert changes - table == set()
    assert table - changes == set()


def test_the_documentation_is_drawn_from_the_tables() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python tests/protocols/diagrams.py`"
