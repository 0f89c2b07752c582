"""Only the aggregate: what any m - 1 aggregators and the coordinator see together does not tell an owner's update.

In every recorded round one of alice and bob has an all-zero update and the other an extreme one, so that the sum, which
the coordinator may know, is the same. A linear classifier learns on some rounds, from every bit of the coalition's view,
who has which; on the others it must do no better than chance (a permutation test, with fixed seeds). A planted weak share
is found by the very same test.
"""

from __future__ import annotations

import base64
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from opened import carried, partial_sums, shared
from rig import OWNERS, Draws, Rig, powers

from smpc_fl import prg as prg_module
from smpc_fl import sealing
from smpc_fl import shares as sharing
from smpc_fl.errors import InternalError
from smpc_fl.protocols import owner as owner_module
from smpc_fl.protocols.coordinator import GivenUp, Released
from smpc_fl.protocols.envelopes import Channel
from smpc_fl.protocols.messages import FrozenLists, PartialSum, RoundOffer, SeedReport, VectorReport
from smpc_fl.protocols.records import Opened, Prepared, Reporting, SeedTaken
from smpc_fl.protocols.simulate import COORDINATOR, federation
from smpc_fl.ring import RING32, RingArray, ring
from smpc_fl.shares import Context, Shares, stream

Floats = NDArray[np.float64]
TRIO = ("alice", "bob", "carol")
DIMENSION = 32
LEARN, TEST = 48, 48
EXTREME = 0.98765 * np.where(np.arange(DIMENSION) % 3, 1.0, -1.0)


def record(aggregators: int, seed: int, parties: Any, zero: str) -> Rig:
    """One round in which `zero`, alice or bob, has the all-zero update."""
    vectors = {owner: EXTREME * (owner != zero) for owner in TRIO}
    vectors["carol"] = np.full(DIMENSION, 0.25)
    rig = Rig(vectors, seed=(aggregators, seed), aggregators=aggregators, ring_bits=32, parties=parties)
    assert isinstance(rig.run(), Released)
    return rig


def bits(data: bytes | NDArray[Any], width: int = 4) -> Floats:
    """The mean of every bit position in words of `width` bytes."""
    whole = np.frombuffer(bytes(data), np.uint8)
    words = np.unpackbits(whole[: whole.size // width * width].reshape(-1, width), axis=1)
    return np.asarray(words.mean(0), np.float64)


def share_at(rig: Rig, aggregator: str) -> tuple[RingArray, bytes]:
    """Alice's share at this aggregator, as elements and as the bytes that it was sent as."""
    for record in rig.written[aggregator]:
        if isinstance(record, SeedTaken) and record.owner == "alice":
            context = Context(rig.coordinator.manifest_hash, "alice")
            return stream(record.seed, context, aggregator).expand(RING32, DIMENSION), record.seed
    (vector,) = (words for owner, words in carried(rig, aggregator) if owner == "alice")
    return vector, vector.tobytes()


def view(rig: Rig, coalition: tuple[str, ...]) -> Floats:
    """Everything that these aggregators and the coordinator get hold of, as features: all bits of the messages that alice
    sent them, of her shares that they open (seeds expanded), of the sum of these, of what is on their disks, and of every
    partial sum."""
    features, total = [], RING32.zeros(DIMENSION)
    for name in coalition:
        share, sent = share_at(rig, name)
        RING32.add_into(total, share)
        features += [bits(share.tobytes()), bits(sent), *(bits(bulk) for _, bulk in rig.bulks[name])]
        for event in rig.received[name]:
            if event.sender == "alice" and isinstance(event.message, SeedReport | VectorReport):
                features += [bits(b"".join(event.message.commitments)), bits(event.message.sealed)]
                features += [bits(bytes(event.attachment or b"")) if event.attachment else np.zeros(0)]
    features.append(bits(total.tobytes()))
    features += [bits(words.tobytes()) for _, words in sorted(partial_sums(rig).items())]
    return np.concatenate(features)


def held_out_p(features: Floats, labels: Floats) -> float:
    """A ridge classifier learns on the first rounds; the p-value of its success on the others, by permuting their labels."""
    learn, test = slice(LEARN), slice(LEARN, None)
    centre, spread = features[learn].mean(0), features[learn].std(0) + 1e-9
    x = (features - centre) / spread
    kernel = x[learn] @ x[learn].T + 10.0 * np.eye(LEARN)
    scores = x[test] @ x[learn].T @ np.linalg.solve(kernel, labels[learn])
    scores -= scores.mean()
    draw = np.random.default_rng(len(scores))
    success = scores @ labels[test]
    chance = np.array([scores @ draw.permutation(labels[test]) for _ in range(4000)])
    return float((1 + (chance >= success).sum()) / 4001)


def worst_p(aggregators: int) -> float:
    """The smallest p-value over all coalitions of m - 1 aggregators with the coordinator."""
    names = [f"aggregator-{i}" for i in range(aggregators)]
    parties = federation(list(TRIO), names, Draws(aggregators))
    labels = np.random.default_rng(7).permutation(np.resize([1.0, -1.0], LEARN + TEST))
    rigs = [
        record(aggregators, seed, parties, "alice" if label > 0 else "bob") for seed, label in enumerate(labels)
    ]  # fmt: skip
    coalitions = list(combinations(names, aggregators - 1))
    return min(held_out_p(np.array([view(rig, coalition) for rig in rigs]), labels) for coalition in coalitions)


@pytest.mark.parametrize("aggregators", [2, 3])
def test_no_coalition_tells_zero_from_extreme(aggregators: int) -> None:
    assert worst_p(aggregators) > 1e-3


@pytest.mark.parametrize("unmasked", [0x000000FF, 0x00000100, 0x80000000], ids=["low byte", "one bit", "sign"])
def test_a_planted_weak_share_is_found(unmasked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def weak(x: Any, *rest: Any, absorb: Any, **more: Any) -> Shares:
        plain = x.copy()

        def leaking(chunk: Any) -> None:
            assert chunk.size == plain.size
            absorb((chunk & ~np.uint32(unmasked)) | (plain & np.uint32(unmasked)))

        return sharing.split(x, *rest, absorb=leaking, **more)

    monkeypatch.setattr(owner_module, "split", weak)
    assert worst_p(2) < 1e-3


# --- nothing repeats ---


class Ledger:
    """Every secret that a round draws or derives, with where it came from."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sealed: dict[bytes, set[bytes]] = defaultdict(set)
        self.streams: dict[bytes, set[tuple[Any, ...]]] = defaultdict(set)
        seal_small, stream_key, ledger = sealing.seal_small, prg_module.stream_key, self

        def small(key: bytes, plaintext: bytes) -> bytes:
            self.sealed[b"box" + key].add(plaintext)
            return seal_small(key, plaintext)

        class Stream(sealing.Stream):
            def __init__(self, key: bytes, *of: Any) -> None:
                super().__init__(key, *of)
                self.key = key

            def seal(self, number: int, plain: Any, sealed: memoryview) -> None:
                ledger.sealed[b"stream" + self.key + bytes([number])].add(bytes(plain))
                super().seal(number, plain, sealed)

        def prg(*context: Any) -> bytes:
            key = stream_key(*context)
            self.streams[key].add(context)
            return key

        monkeypatch.setattr("smpc_fl.protocols.envelopes.seal_small", small)
        monkeypatch.setattr("smpc_fl.protocols.vectors.Stream", Stream)
        monkeypatch.setattr("smpc_fl.shares.stream_key", prg)

    def repeated(self) -> set[bytes]:
        """The keys (of a stream, with the number of the chunk) that sealed more than one plaintext."""
        return {key for key, plaintexts in self.sealed.items() if len(plaintexts) > 1}

    def drawn(self, rigs: list[Rig]) -> Counter[bytes]:
        counted: Counter[bytes] = Counter()
        for rig in rigs:
            for records in rig.written.values():
                for record in records:
                    match record:
                        case Reporting(seeds=seeds, blinders=blinders, ephemeral=ephemeral, vector_key=key):
                            counted.update([*seeds.values(), *blinders, ephemeral, key])
                        case Prepared(private=private) | Opened(private=private):
                            counted[private] += 1
            counted.update(message.ephemeral for _, _, message in rig.said if isinstance(message, PartialSum))
            counted[rig.plan.run] += 1
        return counted


def some_rounds(**more: Any) -> list[Rig]:
    """Rounds of one federation, with crashes and second attempts."""
    parties = federation(list(OWNERS), [f"aggregator-{i}" for i in range(3)], Draws("parties"))
    rigs = []
    for number in range(4):
        rig = Rig(seed=number, round_number=number, parties=parties, **more)
        rig.begin()
        rig.until(FrozenLists if number % 2 else RoundOffer)
        if number % 2:
            rig.queue.clear()
        else:
            rig.crash("alice")
            rig.crash("aggregator-0")
        outcome = rig.finish()
        while isinstance(outcome, GivenUp):
            rig.next_attempt(outcome.aborts)
            outcome = rig.run()
        rig.crash("aggregator-1")
        rig.settle()
        rigs.append(rig)
    return rigs


def test_no_seed_key_or_nonce_ever_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Across owners, aggregators, rounds and attempts. A box's nonce is fixed and a stream's counts from zero, so it is the
    key that must seal one plaintext and no other; a seed's key must belong to one (seed, manifest, owner, aggregator)."""
    ledger = Ledger(monkeypatch)
    rigs = some_rounds()
    drawn = ledger.drawn(rigs)
    assert len(drawn) > 150
    assert {value for value, times in drawn.items() if times > 1} == set()
    assert len(ledger.sealed) > 100
    assert ledger.repeated() == set()
    assert {key for key, contexts in ledger.streams.items() if len(contexts) > 1} == set()


def test_the_ledger_finds_entropy_that_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(monkeypatch)
    draws = Draws("one source, wound back")

    def worn(n: int, /) -> bytes:
        draws.number %= 19
        return draws(n)

    drawn = ledger.drawn(some_rounds(entropy=worn))
    assert {value for value, times in drawn.items() if times > 1}


@pytest.mark.parametrize("name", ["vector_key", "partial_key"])
def test_the_ledger_finds_a_key_that_seals_two_vectors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not depend on the ephemeral key: the same for every report, or for every release."""
    ledger = Ledger(monkeypatch)
    monkeypatch.setattr(Channel, name, lambda self: self.manifest_hash)
    some_rounds()
    assert ledger.repeated()


def test_a_source_that_gives_one_seed_twice_is_not_used() -> None:
    with pytest.raises(InternalError, match="must not be used"):
        Rig(
            entropy=lambda n: bytes(n), parties=federation([*OWNERS], [f"aggregator-{i}" for i in range(3)], Draws(0))
        ).run()


# --- canaries ---

ROWS = {"alice": 1_234_567, "bob": 987_654, "carol": 765_433, "dave": 1_000_003}
CAP = 1 << 21


def spellings(number: float, unit: float) -> Iterator[bytes]:
    """A number as anybody might write it: floats of both byte orders, integers of the ring, decimal, hex, base64, msgpack."""
    for order in "<>":
        raw = [struct.pack(f"{order}f", number), struct.pack(f"{order}d", number)]
        raw.append(struct.pack(f"{order}q", round(number / unit)))
        if abs(round(number / unit)) < 1 << 31:
            raw.append(struct.pack(f"{order}i", round(number / unit)))
        for data in raw:
            yield from (data, data.hex().encode(), base64.b64encode(data).rstrip(b"=")[:-1])
    yield repr(number).encode()
    yield f"{number:.9g}".encode()
    yield msgspec.msgpack.encode(number)


def everything(rig: Rig, node: str) -> bytes:
    """All that a node receives, opens and keeps."""
    parts = [event.signed.body + bytes(event.attachment or b"") for event in rig.received[node]]
    parts += [msgspec.msgpack.encode(record) for record in rig.written[node]]
    parts += [bulk for _, bulk in rig.bulks[node]]
    if node in rig.plan.aggregators:
        parts += [words.tobytes() for _, words in carried(rig, node)]
    elif node == COORDINATOR:
        parts += [words.tobytes() for words in partial_sums(rig).values()]
    else:
        dtype = ring(rig.plan.numbers.ring_bits).dtype
        parts += [np.array(elements, dtype).tobytes() for elements in shared(rig, node)]
    return b"\0".join(parts)


@pytest.mark.parametrize("ring_bits", [32, 48, 64])
def test_no_update_and_no_row_count_leaves_its_owner(ring_bits: int) -> None:
    vectors = powers(ring_bits=ring_bits, max_samples=CAP, tolerance=1.0)
    for index, owner in enumerate(OWNERS):
        vectors[owner] = np.append(vectors[owner], [ROWS[owner] / CAP, 0.123456789 + index / 7])
    rig = Rig(vectors, ring_bits=ring_bits, max_samples=CAP if ring_bits == 64 else 128)
    outcome = rig.run()
    assert isinstance(outcome, Released)
    unit = 2.0**-rig.plan.numbers.fractional_bits
    for owner in OWNERS:
        numbers = [*map(float, vectors[owner][1:])]
        canaries = {spelling for number in numbers for spelling in spellings(number, unit)}
        canaries |= {str(ROWS[owner]).encode(), f"{ROWS[owner]:x}".encode(), msgspec.msgpack.encode(ROWS[owner])}
        own = everything(rig, owner)
        assert any(canary in own for canary in canaries), "the canaries are where they belong"
        for node in rig.nodes:
            if node != owner:
                found = everything(rig, node)
                assert not [canary for canary in canaries if canary in found], f"{owner}'s number at {node}"
