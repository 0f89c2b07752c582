"""What machines write before they speak."""

from __future__ import annotations

import msgspec
from rig import OWNERS, Rig, powers

from smpc_fl.protocols.codec import encode
from smpc_fl.protocols.records import KINDS, SECRET, Claim, Record, Reporting, SeedTaken, Summed, VectorAdded
from smpc_fl.protocols.simulate import COORDINATOR
from smpc_fl.sealing import TAG


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
    ledgers = [record for book in rig.books.values() for ledger in book.ledgers.values() for record in ledger]
    assert {type(record) for record in ledgers} == {Claim}
    assert kinds == set(KINDS) - {"Aborted", "Outdated", "Claim", "Withdrawn", "Decrypting", "SumDecrypted"}


def test_what_holds_a_secret_is_marked() -> None:
    assert set(KINDS) > SECRET
    public = {
        "report_id", "manifest", "entries", "choice", "agreed", "reason", "set_hash", "code", "text", "releases",
        "run", "round", "attempt", "owners", "number", "heard", "witness", "digest", "released", "owner", "uploaded",
    }  # fmt: skip
    holding = {name for name, kind in KINDS.items() if set(kind.__struct_fields__) - public}
    assert holding == SECRET


def test_a_closed_round_keeps_no_secret() -> None:
    rig = Rig()
    rig.run()
    rig.close(released=True)
    for id_, node in rig.nodes.items():
        left = {type(record).__name__ for record in node.journal} & SECRET
        if id_ == COORDINATOR:
            assert left == {"Opened"}, "the run erases the coordinator's, with the result"
        else:
            assert not left
            assert node.bulk is None
    assert any(isinstance(record, SeedTaken) for record in rig.written["aggregator-0"])
    assert any(isinstance(record, Reporting) for record in rig.written["alice"])
    assert all(isinstance(record, Record) for records in rig.written.values() for record in records)


def test_what_is_large_is_in_the_bulk_and_in_no_record() -> None:
    """A report's records are as small for a thousand slots as for four; only the newest bulk is kept, of one vector's size."""
    sizes = []
    for dimension in (4, 1000):
        rig = Rig(powers(dimension=dimension), ring_bits=32)
        rig.run()
        sizes.append({id_: [len(encode(record)) for record in records] for id_, records in rig.written.items()})
        with_bulk = {id_: [type(record) for record, _ in kept] for id_, kept in rig.bulks.items()}
        aggregators = {a: [VectorAdded] * (2 if a == "aggregator-0" else 1) for a in rig.plan.aggregators}
        assert with_bulk == {**{owner: [Reporting] for owner in OWNERS}, **aggregators, COORDINATOR: [Summed]}
        for id_, kept in rig.bulks.items():
            sealed = id_ in OWNERS
            assert {len(bulk) for _, bulk in kept} == {4 * dimension + TAG * sealed}
    small, large = sizes
    assert small.keys() == large.keys()
    for id_ in small:
        assert all(b - a <= 8 for a, b in zip(small[id_], large[id_], strict=True)), (
            "but for the numbers in the manifest"
        )
