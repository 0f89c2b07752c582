"""How an owner's vector comes to its carrier: whole or in pieces, looked at before it is read, taken once or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from opened import carried, elements
from rig import KEY, Rig, aggregator_at, arriving, refusal, told

from smpc_fl.errors import DecryptionFailed, Equivocation, MalformedMessage, ReportTooLate, SmpcError
from smpc_fl.protocols import vectors
from smpc_fl.protocols.aggregator import State
from smpc_fl.protocols.commands import Command, Persist, Received
from smpc_fl.protocols.messages import (
    FreezeRequest,
    Receipt,
    VectorReport,
)
from smpc_fl.protocols.records import VectorAdded
from smpc_fl.protocols.simulate import COORDINATOR
from smpc_fl.protocols.vectors import VectorSealer
from smpc_fl.ring import RING32, RingArray

ME = "aggregator-0"


def kept(commands: list[Command]) -> tuple[Any, bytes]:
    """The record that commands begin with, and the bulk that comes with it."""
    first = commands[0]
    assert isinstance(first, Persist)
    return first.record, bytes(first.bulk()) if first.bulk else b""


# --- whole, or as it comes ---


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_vector_that_came_in_pieces_is_the_same_as_one_that_came_whole(size: int) -> None:
    whole, event, report, sealed = arriving()
    record, bulk = kept(whole.tell(ME, event.sender, report, sealed))
    rig, event, report, sealed = arriving()
    opener = rig.aggregator().expect(event.sender, report, len(sealed))
    assert opener is not None
    for start in range(0, len(sealed), size):
        opener(sealed[start : start + size])
    commands = rig.tell(ME, event.sender, report, opener)
    assert kept(commands) == (record, bulk)
    assert isinstance(record, VectorAdded)
    assert [type(message) for message in told(commands)] == [Receipt]
    ((owner, vector),) = carried_now(rig, event)
    assert owner == event.sender
    assert np.frombuffer(bulk, "<u4").tolist() == vector


def carried_now(rig: Rig, event: Received) -> list[tuple[str, list[int]]]:
    rig.received[ME].append(event)
    return [(owner, elements(rig, words)) for owner, words in carried(rig, ME)]


def test_the_place_that_it_is_opened_into_is_the_shells() -> None:
    rig, event, report, sealed = arriving()
    place: RingArray = np.full(4, 7, "<u4")
    asked: list[tuple[int, Any]] = []

    def words(n: int, dtype: Any) -> RingArray:
        asked.append((n, dtype))
        return place

    opener = rig.aggregator().expect(event.sender, report, len(sealed), words)
    assert opener is not None
    opener(sealed)
    assert asked == [(4, RING32.dtype)]
    _, bulk = kept(rig.tell(ME, event.sender, report, opener))
    assert bulk == place.tobytes()
    place[:] = 0  # it serves another upload
    assert bytes(rig.aggregator()._snapshot()) == bulk


def test_what_did_not_come_whole_is_not_taken() -> None:
    rig, event, report, sealed = arriving()
    for short in (b"", sealed[:-1]):
        opener = rig.aggregator().expect(event.sender, report, len(sealed))
        assert opener is not None
        opener(short)
        assert type(refusal(rig.tell(ME, event.sender, report, opener))) is DecryptionFailed
    assert rig.aggregator()._sum is None
    assert type(kept(rig.tell(ME, event.sender, report, sealed))[0]) is VectorAdded


def test_what_came_for_another_report_is_not_taken() -> None:
    """The fragments are those of one report, the words those of another that the same owner signed."""
    rig, event, report, sealed = arriving()
    opener = rig.aggregator().expect(event.sender, report, len(sealed))
    assert opener is not None
    opener(sealed)
    other = msgspec.structs.replace(report, commitments=[KEY, *report.commitments[1:]])
    assert isinstance(refusal(rig.tell(ME, event.sender, other, opener)), MalformedMessage)
    blinded = msgspec.structs.replace(report, sealed=b"x" * len(report.sealed))
    assert type(refusal(rig.tell(ME, event.sender, blinded, opener))) is DecryptionFailed
    assert rig.aggregator()._sum is None


def test_another_vector_under_the_same_report_is_not_taken() -> None:
    """The owner has all keys, so what it seals opens; but its tags are not those that it has committed to."""
    rig, event, report, sealed = arriving()
    own = rig.owner(event.sender)._report
    assert own is not None
    sealer = VectorSealer(vectors.stream(own.vector_key, report.manifest_hash, RING32, 4), RING32)
    sealer(np.ones(4, "<u4"))
    error = refusal(rig.tell(ME, event.sender, report, sealer.sealed))
    assert type(error) is DecryptionFailed
    assert "does not match its commitment" in error.message
    assert rig.aggregator()._sum is None
    assert type(kept(rig.tell(ME, event.sender, report, sealed))[0]) is VectorAdded


def changed(report: VectorReport, **fields: Any) -> VectorReport:
    return msgspec.structs.replace(report, **fields)


EXPECT: dict[str, tuple[Callable[[Rig, str, VectorReport, int], Any], type[SmpcError], str]] = {
    "another length": (
        lambda rig, owner, report, size: rig.aggregator().expect(owner, report, size + 1),
        MalformedMessage,
        "a sealed vector of 4 slots is not 33 bytes long",
    ),
    "without a receipt": (
        lambda rig, owner, report, size: rig.aggregator().expect(owner, changed(report, receipts=report.receipts[1:]), size),
        MalformedMessage,
        "the receipt of every seed holder",
    ),
    "of another manifest": (
        lambda rig, owner, report, size: rig.aggregator().expect(owner, changed(report, manifest_hash=KEY), size),
        SmpcError,
        "has not accepted",
    ),
    "of somebody whose vector goes elsewhere": (
        lambda rig, owner, report, size: aggregator_at(State.OPEN).aggregator().expect("bob", report, size),
        MalformedMessage,
        "to its carrier, and only there",
    ),
    "with a key of low order": (
        lambda rig, owner, report, size: rig.aggregator().expect(owner, changed(report, ephemeral=bytes(32)), size),
        MalformedMessage,
        "low order",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECT)
def test_a_vector_that_would_be_refused_is_not_read(name: str) -> None:
    ask, kind, reason = EXPECT[name]
    rig, event, report, sealed = arriving()
    with pytest.raises(kind, match=reason):
        ask(rig, event.sender, report, len(sealed))
    assert rig.aggregator().expect(event.sender, report, len(sealed)) is not None


def test_a_vector_that_is_known_is_not_read_again_and_another_not_at_all() -> None:
    rig, event, report, sealed = arriving()
    rig.deliver(ME, event)
    assert rig.aggregator().expect(event.sender, report, len(sealed)) is None
    assert [type(message) for message in told(rig.tell(ME, event.sender, report))] == [Receipt]
    with pytest.raises(Equivocation, match="the first counts"):
        rig.aggregator().expect(event.sender, changed(report, commitments=[KEY, *report.commitments[1:]]), len(sealed))


def test_a_vector_that_is_too_late_is_refused_before_and_after_it_has_come() -> None:
    rig, event, report, sealed = arriving()
    opener = rig.aggregator().expect(event.sender, report, len(sealed))
    assert opener is not None
    opener(sealed)
    rig.deliver(ME, rig.from_(COORDINATOR, FreezeRequest(rig.aggregator().manifest_hash)))
    assert type(refusal(rig.tell(ME, event.sender, report, opener))) is ReportTooLate
    with pytest.raises(ReportTooLate):
        rig.aggregator().expect(event.sender, report, len(sealed))


def test_two_uploads_of_one_report_count_once() -> None:
    """The owner's connection broke off and it came back: both are on their way in."""
    rig, event, report, sealed = arriving()
    openers = [rig.aggregator().expect(event.sender, report, len(sealed)) for _ in range(2)]
    bulks = []
    for opener in openers:
        assert opener is not None
        opener(sealed)
        commands = rig.tell(ME, event.sender, report, opener)
        bulks += [kept(commands)[1]] if isinstance(commands[0], Persist) else []
        assert type(told(commands)[0]) is Receipt
    assert len(bulks) == 1


def test_a_vector_without_its_attachment_is_refused() -> None:
    rig, event, report, _ = arriving()
    for nothing in (None, "text", 5):
        error = refusal(rig.tell(ME, event.sender, report, nothing))
        assert type(error) is MalformedMessage
        assert "comes with the share attached" in error.message
