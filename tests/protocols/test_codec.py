"""One spelling for each message, and nothing else is read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig import Draws, Rig

from smpc_fl.errors import BadSignature, MalformedMessage
from smpc_fl.identity import Identity
from smpc_fl.protocols import codec
from smpc_fl.protocols.messages import (
    Endorsement,
    FreezeRequest,
    FrozenList,
    Hello,
    Message,
    PrekeyRequest,
    Receipt,
    Refusal,
    RoundResult,
    Signed,
    StatusRequest,
)
from smpc_fl.protocols.simulate import COORDINATOR

HASH, RUN, FEDERATION = bytes(range(32)), bytes(range(16)), b"f" * 32
ME = Identity.generate(Draws("me"))


def spoken() -> list[Message]:
    """Every message of a whole round, and some others."""
    rig = Rig()
    rig.run()
    others: list[Message] = [
        Hello(1, HASH, "owner", HASH, 3), Refusal("BadInput", "text"), StatusRequest(),
        RoundResult(RUN, 1, {"loss": 0.5}, 1.0, {"alice": 4}, ["alice"], {}, 1.0, 0, 1e-6, 1, 32),
    ]  # fmt: skip
    return [message for _, _, message in rig.said] + others


SPOKEN = {type(message).__name__: message for message in spoken()}


@pytest.mark.parametrize("name", SPOKEN)
def test_every_message_comes_back_as_it_was(name: str) -> None:
    data = codec.encode(SPOKEN[name])
    assert codec.decode_message(data) == SPOKEN[name]
    assert codec.decode_message(memoryview(data)) == SPOKEN[name]


@pytest.mark.parametrize("name", SPOKEN)
def test_no_part_of_a_message_is_a_message(name: str) -> None:
    data = codec.encode(SPOKEN[name])
    for end in {*range(min(len(data), 64)), len(data) - 1}:
        with pytest.raises(MalformedMessage):
            codec.decode_message(data[:end])
    with pytest.raises(MalformedMessage):
        codec.decode_message(data + b"\xc0")


@given(st.binary(max_size=200))
def test_noise_is_no_message(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        codec.decode_message(data)
    with pytest.raises(MalformedMessage):
        codec.decode_signed(data)


def raw(**fields: Any) -> bytes:
    return msgspec.msgpack.encode(fields)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (raw(type="Ceremony"), "Invalid value"),
        (raw(type="FreezeRequest"), "missing required field"),
        (raw(type="FreezeRequest", manifest_hash=HASH, more=1), "unknown field"),
        (raw(type="FreezeRequest", manifest_hash=HASH[:31]), "length >= 32"),
        (raw(type="FreezeRequest", manifest_hash="x" * 44), "does not decode"),
        (raw(manifest_hash=HASH, type="FreezeRequest"), "canonical"),
        (raw(type="PrekeyRequest", run=RUN, round=-1, attempt=0), ">= 0"),
        (raw(type="PrekeyRequest", run=RUN, round=1 << 50, attempt=0), "<= 1099511627776"),
        (raw(type="PrekeyRequest", run=RUN, round=True, attempt=0), "got `bool`"),
        (raw(type="Receipt", manifest_hash=HASH, owner="alice\n", report_id=HASH), "matching regex"),
        (raw(type="Receipt", manifest_hash=HASH, owner="../alice", report_id=HASH), "matching regex"),
        (raw(type="Receipt", manifest_hash=HASH, owner="", report_id=HASH), "length >= 1"),
        (raw(type="Receipt", manifest_hash=HASH, owner="a" * 65, report_id=HASH), "length <= 64"),
        (b"\x82\xa4type\xa2\xff\xff\xa1a\x01", "does not decode"),
        (b"\x91" * 5000 + b"\xc0", "does not decode"),
        (b"\xdf\xff\xff\xff\xff\xa4type", "does not decode"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        codec.decode_message(data, peer="bob")
    assert reason in caught.value.message
    assert caught.value.peer == "bob"


def test_a_number_has_one_spelling() -> None:
    data = codec.encode(PrekeyRequest(RUN, 5, 0))
    longer = data.replace(b"\xa5round\x05", b"\xa5round\xcd\x00\x05")
    assert longer != data
    with pytest.raises(MalformedMessage, match="canonical"):
        codec.decode_message(longer)


def test_over_long_messages_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_BODY", 80)
    codec.decode_message(codec.encode(FreezeRequest(HASH)))
    with pytest.raises(MalformedMessage, match="over the limit of 80"):
        codec.decode_message(codec.encode(Receipt(HASH, "alice", HASH)))


def test_a_structure_of_a_given_type() -> None:
    data = codec.encode(Receipt(HASH, "alice", HASH))
    assert codec.decode(data, Receipt).owner == "alice"
    with pytest.raises(MalformedMessage):
        codec.decode(data, FrozenList)


def test_an_envelope_binds_sender_federation_and_body() -> None:
    signed = codec.sign(Endorsement(HASH), identity=ME, sender="a", federation=FEDERATION)
    assert codec.decode_signed(codec.encode(signed)) == signed
    assert codec.verify(signed, ME.public, federation=FEDERATION) == Endorsement(HASH)
    other = codec.encode(FreezeRequest(HASH))
    for false in (
        Signed("b", signed.body, signed.signature),
        Signed("a", other, signed.signature),
        Signed("a", signed.body, bytes(64)),
    ):
        with pytest.raises(BadSignature):
            codec.verify(false, ME.public, federation=FEDERATION)
    with pytest.raises(BadSignature):
        codec.verify(signed, ME.public, federation=HASH)
    with pytest.raises(BadSignature):
        codec.verify(signed, Identity.generate(Draws("other")).public, federation=FEDERATION)


def test_a_signed_body_is_decoded_as_strictly() -> None:
    body = codec.encode(Endorsement(HASH)) + b"\0"
    signed = Signed("a", body, ME.sign(codec.signing_bytes(FEDERATION, "a", body)))
    with pytest.raises(MalformedMessage):
        codec.verify(signed, ME.public, federation=FEDERATION)


def test_the_expected_message_and_no_other() -> None:
    assert codec.expect(Endorsement(HASH), Endorsement) == Endorsement(HASH)
    with pytest.raises(MalformedMessage, match="expected Receipt, got Endorsement") as caught:
        codec.expect(Endorsement(HASH), Receipt, peer="bob", phase="report")
    assert (caught.value.peer, caught.value.phase) == ("bob", "report")


def test_a_party_refuses_within_the_limits_of_a_message() -> None:
    rig = Rig()
    signed = rig.parties["alice"].refuse(MalformedMessage("x" * 10_000), "offer", HASH)
    message = rig.parties[COORDINATOR].read(signed, "owner")
    assert message == Refusal("MalformedMessage", "x" * 4096, "offer", HASH)
    with pytest.raises(MalformedMessage, match="expected Receipt"):
        rig.parties[COORDINATOR].open(signed, Receipt, "owner", phase="report")
