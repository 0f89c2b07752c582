"""What machines write before they speak."""

from __future__ import annotations

import msgspec
from rig import Rig

from smpc_fl.protocols.codec import encode
from smpc_fl.protocols.records import KINDS, SECRET, Record, Reporting, ShareTaken


def test_every_record_of_a_round_comes_back_and_shows_nothing() -> None:
    rig = Rig()
    rig.run()
    rig.close(released=True)
    kinds = set()
    for records in rig.written.values():
        for record in records:
            kind = type(record).__name__
            kinds.add(kind)
            assert msgspec.msgpack.decode(encode(record), type=KINDS[kind]) == record
            assert repr(record) == f"<{kind}>"
    assert kinds == set(KINDS) - {"Aborted"}


def test_what_holds_a_secret_is_marked() -> None:
    assert set(KINDS) > SECRET
    holding = {
        name
        for name, kind in KINDS.items()
        if {"private", "share", "encoded", "seeds", "ephemeral", "total"} & set(kind.__struct_fields__)
    }
    assert holding == SECRET


def test_a_closed_round_keeps_no_secret() -> None:
    rig = Rig()
    rig.run()
    rig.close(released=True)
    for node in rig.nodes.values():
        left = {type(record).__name__ for record in node.journal} & SECRET
        assert left <= {"Opened", "PartialTaken"}, "the run erases the coordinator's, with the result"
    assert any(isinstance(record, ShareTaken) for record in rig.written["aggregator-0"])
    assert any(isinstance(record, Reporting) for record in rig.written["alice"])
    assert all(isinstance(record, Record) for records in rig.written.values() for record in records)
