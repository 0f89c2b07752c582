"""The total at the coordinator: added as the partial sums come, durable before one is receipted, asked for again if not."""

from __future__ import annotations

import numpy as np
import pytest
from opened import elements, partial_sums
from rig import Rig, told

from smpc_fl.errors import Unavailable
from smpc_fl.protocols.commands import Finished, Persist, Received, Send
from smpc_fl.protocols.coordinator import GivenUp, Released, State
from smpc_fl.protocols.messages import PartialSum, ReleaseReceipt
from smpc_fl.protocols.records import Summed
from smpc_fl.protocols.simulate import COORDINATOR


def partials(rig: Rig) -> list[Received]:
    """The partial sums that are under way to the coordinator, once the set is agreed; taken out of the queue."""
    rig.begin()
    found = [rig.until(PartialSum, COORDINATOR)[1] for _ in rig.plan.aggregators]
    assert rig.coordinator.state is State.RELEASING
    return found


def test_the_total_is_durable_before_any_release_is_receipted() -> None:
    rig = Rig()
    *first, last = partials(rig)
    for event in first:
        assert rig.coordinator.receive(event, rig.now) == [], "nothing is said of a part"
    assert rig.bulks[COORDINATOR] == []
    summed, *rest = rig.coordinator.receive(last, rig.now)
    assert isinstance(summed, Persist)
    assert isinstance(summed.record, Summed)
    assert [type(message) for message in told(rest)] == [ReleaseReceipt] * 3
    finished = rest[-1]
    assert isinstance(finished, Finished)
    assert summed.bulk is not None
    assert bytes(summed.bulk()) == finished.outcome.total.tobytes()
    rig.received[COORDINATOR] += [*first, last]
    assert elements(rig, finished.outcome.total) == elements(rig, np.sum(list(partial_sums(rig).values()), axis=0))


@pytest.mark.parametrize("heard", [0, 1, 2])
def test_one_that_dies_before_the_total_is_durable_asks_for_every_partial_sum_again(heard: int) -> None:
    rig = Rig()
    events = partials(rig)
    for event in events[:heard]:
        rig.deliver(COORDINATOR, event)
    rig.crash(COORDINATOR)
    assert rig.coordinator._total is None
    outcome = rig.finish()
    rig.check(outcome)
    assert isinstance(outcome, Released)
    assert len(outcome.agreed) == 4
    said = [
        (send.signed, bytes(send.attachment or b"")) for _, send, message in rig.said if isinstance(message, PartialSum)
    ]
    assert len(said) > 3
    assert {signed.body for signed, _ in said} == {event.signed.body for event in events}, "the very same messages"
    assert {sealed for _, sealed in said} == {bytes(event.attachment) for event in events}


def test_one_that_dies_at_the_total_or_right_after_it_has_the_same_sum() -> None:
    totals = []
    for durable in (False, True):
        rig = Rig()
        events = partials(rig)
        at = Send if durable else Persist
        rig.dies = lambda by, command, at=at: by == COORDINATOR and isinstance(command, at)  # type: ignore[misc]
        for event in events:
            rig.deliver(COORDINATOR, event)
        rig.dies = lambda by, command: False
        assert rig.coordinator.state is (State.DONE if durable else State.RELEASING)
        outcome = rig.finish()
        rig.check(outcome)
        assert isinstance(outcome, Released)
        totals.append(elements(rig, outcome.total))
        assert {rig.aggregator(number).state.name for number in range(3)} == {"CLOSED"}
    assert totals[0] == totals[1]


def test_one_that_lost_the_total_asks_for_it_again_while_it_is_there() -> None:
    rig = Rig()
    events = partials(rig)
    rig.dies = lambda by, command: by == COORDINATOR and isinstance(command, Send)
    for event in events:
        rig.deliver(COORDINATOR, event)
    rig.dies = lambda by, command: False
    rig.crash_and_lose(COORDINATOR)
    assert rig.coordinator.state is State.RELEASING
    outcome = rig.finish()
    rig.check(outcome)
    assert isinstance(outcome, Released)


def test_one_that_lost_the_total_of_a_closed_round_has_no_sum() -> None:
    rig = Rig()
    rig.run()
    rig.outcome = None
    rig.crash_and_lose(COORDINATOR)
    outcome = rig.finish()
    assert isinstance(outcome, GivenUp)
    assert isinstance(outcome.error, Unavailable)
    assert outcome.aborts == ()
