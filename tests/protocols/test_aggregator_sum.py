"""The sum of the vectors at an aggregator: each is in it exactly once, it is kept with its records and given out once. What is
lost is said, never guessed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from opened import carried, elements, encoded, partial_sums
from rig import OWNERS, Rig, aggregator_at, arriving, carrying, refusal, told

from smpc_fl.errors import Unavailable
from smpc_fl.protocols import codec
from smpc_fl.protocols.aggregator import AggregatorRound, State
from smpc_fl.protocols.commands import Command, EraseSecrets, Persist, Received, Send, Start
from smpc_fl.protocols.coordinator import GivenUp, Released
from smpc_fl.protocols.messages import (
    AbortRequest,
    AttemptAborted,
    FreezeRequest,
    FrozenList,
    FrozenLists,
    ManifestOffer,
    PartialSum,
    Receipt,
    Refusal,
    ReleaseReceipt,
    SeedReport,
    VectorReport,
    Vote,
    Votes,
)
from smpc_fl.protocols.records import SeedTaken, VectorAdded
from smpc_fl.protocols.simulate import COORDINATOR
from smpc_fl.protocols.vectors import VectorOpener
from smpc_fl.ring import RingArray

ME = "aggregator-0"
LOST = "has lost the sum of the vectors that it had acknowledged"


def kept(commands: list[Command]) -> tuple[Any, bytes]:
    """The record that commands begin with, and the bulk that comes with it."""
    first = commands[0]
    assert isinstance(first, Persist)
    return first.record, bytes(first.bulk()) if first.bulk else b""


# --- the sum ---


def test_the_sum_is_that_of_all_that_were_carried() -> None:
    rig = Rig()
    outcome = rig.run()
    assert isinstance(outcome, Released)
    sums = partial_sums(rig)
    for aggregator in rig.plan.aggregators:
        vectors = [words for _, words in carried(rig, aggregator)]
        (_, last) = rig.bulks[aggregator][-1]
        assert np.array_equal(np.frombuffer(last, "<u4"), np.sum(vectors, axis=0, dtype="<u4"))
        assert not np.array_equal(sums[aggregator], np.sum(vectors, axis=0, dtype="<u4")), (
            "the seeds' streams are in it"
        )
    total = np.sum(list(sums.values()), axis=0, dtype="<u4")
    assert elements(rig, total) == elements(rig, outcome.total)
    everybody = [encoded(rig, owner) for owner in OWNERS]
    assert elements(rig, total) == [sum(slot) % 2**32 for slot in zip(*everybody, strict=True)]


def test_memory_and_disk_do_not_grow_with_the_number_of_owners() -> None:
    for count in (4, 40):
        rig = Rig({f"owner-{i:02}": np.full(100, 0.5) for i in range(count)}, ring_bits=32)
        rig.begin()
        rig.until(FrozenLists, ME)
        machine, node = rig.aggregator(), rig.nodes[ME]
        assert len(list(carried(rig, ME))) == -(-count // 3)
        assert node.bulk is not None
        assert len(node.bulk) == 400
        arrays = [value for value in vars(machine).values() if isinstance(value, np.ndarray)]
        assert sum(array.nbytes for array in arrays) == 800, "the sum, and its copy for the disk"
        assert (
            sum(len(codec.encode(record)) for record in node.journal if isinstance(record, SeedTaken | VectorAdded))
            < 150 * count
        )


def test_a_snapshot_is_good_until_the_next() -> None:
    """What is being written stays as it is while the sum grows."""
    rig, event, report, sealed = arriving()
    first, *_ = rig.tell(ME, event.sender, report, sealed)
    assert isinstance(first, Persist)
    assert first.bulk is not None
    being_written = first.bulk()
    before = bytes(being_written)
    rig.aggregator()._add(np.ones(4, "<u4"))
    assert bytes(being_written) == before
    assert bytes(first.bulk()) != before, "asked later, it is what the later records say"


def test_a_snapshot_that_nobody_needs_is_nothing() -> None:
    """The attempt was aborted before the disk was ready for it: the records say so, and an erasure follows."""
    rig, event, report, sealed = arriving()
    first, *_ = rig.tell(ME, event.sender, report, sealed)
    assert isinstance(first, Persist)
    assert first.bulk is not None
    rig.tell(ME, COORDINATOR, AbortRequest(*rig.aggregator().key))
    assert bytes(first.bulk()) == b""


def test_it_is_rebuilt_with_its_sum() -> None:
    rig = carrying()
    before = bytes(rig.aggregator()._snapshot())
    rig.crash(ME)
    assert bytes(rig.aggregator()._snapshot()) == before
    assert bytes(rig.nodes[ME].bulk or b"") == before
    outcome = rig.finish()
    rig.check(outcome)
    assert isinstance(outcome, Released)
    assert len(outcome.agreed) == 4


def test_the_machine_that_came_back_does_not_write_on_the_disk_behind_the_journals_back() -> None:
    rig = carrying()
    rig.crash(ME)
    before = bytes(rig.nodes[ME].bulk or b"")
    rig.aggregator()._add(np.ones(4, "<u4"))
    assert bytes(rig.nodes[ME].bulk or b"") == before


# --- a sum that is lost ---


def test_one_that_lost_its_sum_aborts_and_says_why() -> None:
    for rig in (carrying(), aggregator_at(State.FROZEN)):
        rig.crash_and_lose(ME)
        commands = rig.aggregator().receive(Start(), rig.now)
        (aborted,) = told(commands)
        assert isinstance(aborted, AttemptAborted)
        assert LOST in aborted.reason
        assert EraseSecrets() in commands


def test_the_round_goes_on_in_another_attempt_after_a_loss() -> None:
    rig = carrying()
    rig.crash_and_lose(ME)
    outcome = rig.finish()
    rig.check(outcome)
    assert isinstance(outcome, GivenUp)
    rig.next_attempt(outcome.aborts)
    again = rig.run()
    rig.check(again)
    assert isinstance(again, Released)


def test_one_that_lost_its_sum_after_it_voted_says_so_whenever_it_is_asked() -> None:
    """It is bound by its vote and cannot keep it: others may not take the silence for consent, nor it release another sum."""
    rig = aggregator_at(State.VOTED)
    rig.crash_and_lose(ME)
    assert told(rig.aggregator().receive(Start(), rig.now)) == []
    votes = rig.until(Votes, ME)[1]
    for _ in range(2):
        error = refusal(rig.aggregator().receive(votes, rig.now))
        assert type(error) is Unavailable
        assert LOST in error.message
        assert rig.aggregator().state is State.VOTED, "what cannot be said is not decided"
    assert [type(m) for m in told(rig.tell(ME, COORDINATOR, AbortRequest(*rig.aggregator().key)))] == [FrozenList, Vote]
    outcome = rig.finish()
    assert isinstance(outcome, GivenUp)
    assert outcome.aborts == ()


def test_one_that_lost_its_sum_after_it_released_says_so() -> None:
    rig = aggregator_at(State.RELEASED)
    offer = next(event for event in rig.received[ME] if isinstance(event.message, ManifestOffer))
    rig.crash_and_lose(ME)
    error = refusal(rig.aggregator().receive(offer, rig.now))
    assert type(error) is Unavailable
    rig.deliver(ME, rig.from_(COORDINATOR, ReleaseReceipt(rig.aggregator().manifest_hash)))
    assert rig.aggregator().state is State.CLOSED, "the coordinator had it after all"


def test_one_that_carried_nothing_has_nothing_to_lose() -> None:
    rig = aggregator_at(State.OPEN)
    rig.crash_and_lose(ME)
    outcome = rig.finish()
    rig.check(outcome)
    assert isinstance(outcome, Released)


@pytest.mark.parametrize("state", [State.ABORTED, State.CLOSED])
def test_what_has_ended_needs_no_sum_and_takes_none(state: State) -> None:
    """Also when the crash came between the record and the erasure."""
    rig = aggregator_at(State.FROZEN)
    if state is State.ABORTED:
        rig.dies = lambda by, command: by == ME and isinstance(command, EraseSecrets)
        rig.deliver(ME, rig.from_(COORDINATOR, AbortRequest(*rig.aggregator().key)))
    else:
        rig.dies = lambda by, command: by == ME and isinstance(command, EraseSecrets)
        while rig.aggregator().state is not State.CLOSED:
            rig.deliver(*rig.queue.popleft())
    rig.dies = lambda by, command: False
    assert rig.aggregator().state is state
    left = rig.nodes[ME].bulk
    assert left is not None
    assert rig.aggregator()._sum is None
    rig.settle()
    assert rig.nodes[ME].bulk is None


# --- the agreed set ---


@pytest.mark.parametrize("gone", OWNERS)
def test_a_set_that_lacks_an_owner_whose_vector_is_in_the_sum_is_voted_down(gone: str) -> None:
    """A seed holder "forgets" a seed that it had receipted: its carrier cannot take the vector out again, so it aborts. One
    that holds a seed of this owner just leaves it out."""
    rig = aggregator_at(State.FROZEN)
    machine = rig.aggregator()
    without = FrozenList(machine.manifest_hash, [entry for entry in machine._entries if entry.owner != gone])
    full = FrozenList(machine.manifest_hash, machine._entries)
    lists = FrozenLists(
        machine.manifest_hash,
        [rig.parties[a].sign(without if a == "aggregator-2" else full) for a in rig.plan.aggregators],
    )
    vote = told(rig.tell(ME, COORDINATOR, lists))[-1]
    assert isinstance(vote, Vote)
    own = {owner for owner, _ in carried(rig, ME)}
    assert own == {"alice", "dave"}
    if gone in own:
        assert vote.choice == b""
        assert f"complete everywhere are not in the agreed set: {gone}" in vote.reason
    else:
        assert len(vote.choice) == 32
        assert machine._vote is not None
        assert gone not in {entry.owner for entry in machine._vote.agreed}


def test_a_forgetful_seed_holder_ends_the_attempt_not_the_round() -> None:
    rig = Rig()
    rig.begin()
    to, event = rig.until(FrozenLists)
    lists = event.message
    assert isinstance(lists, FrozenLists)
    entries = codec.decode(lists.lists[2].body, FrozenList).entries[1:]
    shorter = rig.parties["aggregator-2"].sign(FrozenList(lists.manifest_hash, entries))
    rig.deliver(to, rig.from_(COORDINATOR, FrozenLists(lists.manifest_hash, [*lists.lists[:2], shorter])))
    outcome = rig.finish()
    rig.check(outcome)
    assert isinstance(outcome, GivenUp)
    assert "not in the agreed set: alice" in str(outcome.error)
    rig.next_attempt(outcome.aborts)
    again = rig.run()
    rig.check(again)
    assert isinstance(again, Released)


# --- said again ---


def test_a_release_is_the_very_same_message_however_often_it_is_asked_for() -> None:
    rig = aggregator_at(State.RELEASED)
    hash_, machine = rig.aggregator().manifest_hash, rig.aggregator()
    votes = next(event for event in rig.received[ME] if isinstance(event.message, Votes))
    offer = next(event for event in rig.received[ME] if isinstance(event.message, ManifestOffer))
    first = next(send for by, send, message in rig.said if by == ME and isinstance(message, PartialSum))
    for event in (votes, offer, rig.from_(COORDINATOR, FreezeRequest(hash_)), votes):
        assert machine.receive(event, rig.now)[-1] == first
    rig.crash(ME)
    again = rig.aggregator().receive(votes, rig.now)[-1]
    assert isinstance(again, Send)
    assert again != first, "under a fresh key after a crash: the same sum"
    assert rig.aggregator().receive(offer, rig.now)[-1] == again
    rig.deliver(COORDINATOR, Received(ME, codec.decode_message(again.signed.body), again.signed, again.attachment))
    outcome = rig.finish()
    rig.check(outcome)
    assert isinstance(outcome, Released)


@pytest.mark.parametrize("state", [State.FROZEN, State.VOTED, State.RELEASED, State.CLOSED, State.ABORTED])
def test_a_report_that_was_taken_gets_its_receipt_in_every_later_state(state: State) -> None:
    rig = aggregator_at(state) if state is not State.ABORTED else aggregator_at(State.FROZEN)
    if state is State.ABORTED:
        rig.deliver(ME, rig.from_(COORDINATOR, AbortRequest(*rig.aggregator().key)))
    reports = [event for event in rig.received[ME] if isinstance(event.message, SeedReport | VectorReport)]
    assert {event.sender for event in reports} == set(OWNERS)
    for crashed in (False, True):
        for event in reports:
            (receipt,) = told(rig.aggregator().receive(event, rig.now))
            if crashed and state in (State.CLOSED, State.ABORTED):
                assert isinstance(receipt, Refusal), "what has ended is not read back"
                assert receipt.code == "ReportTooLate"
            else:
                assert isinstance(receipt, Receipt)
                assert receipt.owner == event.sender
        rig.crash(ME)


# --- planted faults ---


def crashes_everywhere() -> None:
    """A round for each of the first aggregator's commands, in which it dies just before that one."""
    number, ended = 0, False
    while not ended:
        number += 1
        rig, count = Rig(seed="crash"), [0]

        def dies(by: str, command: Command, count: list[int] = count, number: int = number) -> bool:
            count[0] += by == ME
            return by == ME and count[0] == number

        rig.dies = dies
        outcome = rig.run()
        rig.check(outcome)
        assert isinstance(outcome, Released)
        ended = count[0] < number


def late_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum that goes to the disk is that before the vector whose record it comes with."""
    add = AggregatorRound._add

    def late(self: AggregatorRound, words: RingArray) -> None:
        vars(self)["late"] = np.zeros(4, "<u4") if self._sum is None else self._sum.copy()
        add(self, words)

    monkeypatch.setattr(AggregatorRound, "_add", late)
    monkeypatch.setattr(AggregatorRound, "_snapshot", lambda self: memoryview(vars(self)["late"]).cast("B"))


def forgets_whom_it_has_added(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = AggregatorRound._apply
    monkeypatch.setattr(
        AggregatorRound, "_apply", lambda self, record: None if isinstance(record, VectorAdded) else apply(self, record)
    )


def adds_before_it_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes twice is added twice."""
    report = AggregatorRound._report

    def twice(self: AggregatorRound, owner: str, message: Any, attachment: Any) -> list[Command]:
        if isinstance(message, VectorReport) and owner in self._reports and self._sum is not None:
            opener = VectorOpener.__new__(VectorOpener)
            opener.words = np.ones(4, "<u4")
            self._add(opener.words)
        return report(self, owner, message, attachment)

    monkeypatch.setattr(AggregatorRound, "_report", twice)


def test_no_crash_changes_the_sum() -> None:
    crashes_everywhere()


@pytest.mark.parametrize("plant", [late_snapshot, forgets_whom_it_has_added, adds_before_it_checks])
def test_the_crashes_find_a_sum_that_is_not_what_its_records_say(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        crashes_everywhere()
