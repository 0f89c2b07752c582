"""`smpc_fl.shares`: sharing, the carrier, commitments; and the exactness of a whole aggregation."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smpc_fl.errors import BadInput, InternalError, ShapeMismatch
from smpc_fl.fixed_point import FixedPoint, check_capacity, largest_fractional_bits, worst_error
from smpc_fl.prg import CHUNK, Prg, add_streams
from smpc_fl.ring import RING32, RING64, Ring, RingArray
from smpc_fl.shares import Context, carrier, commitment, report_id, split, stream

CONTEXT = Context(b"m" * 32, "alice")
RINGS = st.sampled_from([RING32, RING64])


def aggregator_ids(m: int) -> list[str]:
    return [f"agg{k}" for k in range(m)]


def add_seeds(acc: RingArray, ring: Ring, streams: list[Prg]) -> None:
    for _ in add_streams(ring, acc, streams):
        pass


# --- exact aggregation --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Aggregation:
    ring: Ring
    bound: float
    weights: list[float]
    shape: tuple[int, ...]
    m: int
    round_number: int
    seed: int


@st.composite
def aggregations(draw: st.DrawFn) -> Aggregation:
    weight = st.one_of(st.floats(2.0**-30, 1.0), st.integers(1, 10_000).map(lambda n: n / 10_000), st.just(1.0))
    owners = draw(st.integers(2, 50))
    return Aggregation(
        ring=draw(RINGS),
        bound=draw(st.one_of(st.floats(2.0**-10, 2.0**10), st.sampled_from([1.0, 8.0, 2.0**40]))),
        weights=draw(st.lists(weight, min_size=owners, max_size=owners)),
        shape=tuple(draw(st.lists(st.integers(0, 5), max_size=3))),
        m=draw(st.integers(2, 7)),
        round_number=draw(st.integers(0, 2**40)),
        seed=draw(st.integers(0, 2**32)),
    )


def tensors(case: Aggregation) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """One tensor an owner: uniform in ±bound, with many entries at the very bound, at zero, or tiny."""
    rng = np.random.default_rng(case.seed)
    choices = np.array([case.bound, -case.bound, 0.0, 2.0**-40, -(2.0**-40)])
    tensors = []
    for _ in case.weights:
        uniform = rng.uniform(-case.bound, case.bound, case.shape)
        tensors.append(np.where(rng.random(case.shape) < 0.3, rng.choice(choices, case.shape), uniform))
    return tensors


def aggregate(case: Aggregation, encoded: dict[str, RingArray]) -> RingArray:
    """What the aggregators and the coordinator do: each adds what it holds, the partial sums are added."""
    aggregators, entropy = aggregator_ids(case.m), np.random.default_rng(case.seed + 1).bytes
    n = next(iter(encoded.values())).size
    partial = {aggregator: case.ring.zeros(n) for aggregator in aggregators}
    for owner, x in encoded.items():
        context = Context(b"manifest".ljust(32), owner)
        carrying = carrier(owner, sorted(encoded), case.round_number, aggregators)
        shares = split(x, case.ring, context, aggregators, carrying, entropy)
        assert set(shares.seeds) | {carrying} == set(aggregators)
        case.ring.add_into(partial[carrying], shares.vector)
        for aggregator, seed in shares.seeds.items():
            add_seeds(partial[aggregator], case.ring, [stream(seed, context, aggregator)])
    total = case.ring.zeros(n)
    for part in partial.values():
        case.ring.add_into(total, part)
    return total


@settings(max_examples=150)
@given(aggregations())
def test_the_sum_is_exact_and_the_mean_within_its_bound(case: Aggregation) -> None:
    owners = len(case.weights)
    bits = largest_fractional_bits(case.ring, owners, case.bound)
    check_capacity(case.ring, bits, owners, case.bound)
    format_, scale = FixedPoint(case.ring, bits), Fraction(2) ** bits

    # [w · x ‖ w] of each owner, and the very integers that Python's rationals round it to.
    slots = [np.append(w * x.reshape(-1), w).tolist() for w, x in zip(case.weights, tensors(case), strict=True)]
    integers = [[round(Fraction(v) * scale) for v in row] for row in slots]
    encoded = {f"owner{k}": format_.encode(np.array(row)) for k, row in enumerate(slots)}

    total = aggregate(case, encoded)
    exact_integers = [sum(column) for column in zip(*integers, strict=True)]
    assert case.ring.to_signed(total).tolist() == exact_integers  # bit for bit

    decoded = format_.decode(total)
    for got, column in zip(decoded.tolist(), zip(*slots, strict=True), strict=True):
        exact_sum = sum(map(Fraction, column), Fraction(0))
        assert abs(Fraction(got) - exact_sum) <= Fraction(worst_error(bits, owners, 1.0)) + abs(Fraction(got)) / 2**53

    weights = sum(map(Fraction, case.weights), Fraction(0))
    stated = worst_error(bits, owners, float(weights) * (1 - 2.0**-50), bound=case.bound)
    if stated < math.inf:
        means = (decoded[:-1] / decoded[-1]).tolist()
        columns = zip(*(x.reshape(-1).tolist() for x in tensors(case)), strict=True)
        for got, column in zip(means, columns, strict=True):
            pairs = list(zip(case.weights, column, strict=True))
            exact = sum((Fraction(w) * Fraction(v) for w, v in pairs), Fraction(0)) / weights
            assert abs(Fraction(got) - exact) <= Fraction(stated)
            in_float64 = math.fsum(w * v for w, v in pairs) / math.fsum(case.weights)
            assert abs(got - in_float64) <= stated


@settings(max_examples=50)
@given(aggregations())
def test_weights_on_the_grid_leave_only_the_numerators_rounding(case: Aggregation) -> None:
    # Counts over a power of two: the divisor is exact, and the tighter bound holds.
    owners = len(case.weights)
    bits = largest_fractional_bits(case.ring, owners, min(case.bound, 8.0))
    counts = [max(1, int(w * 1024)) for w in case.weights]
    bounded = [np.clip(x.reshape(-1), -8.0, 8.0) for x in tensors(case)]
    format_ = FixedPoint(case.ring, bits)
    encoded = {
        f"owner{k}": format_.encode(np.append(n / 1024 * x, n / 1024))
        for k, (n, x) in enumerate(zip(counts, bounded, strict=True))
    }
    decoded = format_.decode(aggregate(case, encoded))
    assert decoded[-1] == sum(counts) / 1024
    stated = worst_error(bits, owners, sum(counts) / 1024, bound=min(case.bound, 8.0), exact_weights=True)
    for got, column in zip((decoded[:-1] / decoded[-1]).tolist(), zip(*bounded, strict=True), strict=True):
        terms = (n * Fraction(float(v)) for n, v in zip(counts, column, strict=True))
        exact = sum(terms, Fraction(0)) / sum(counts)
        assert abs(Fraction(got) - exact) <= Fraction(stated)


# --- one sharing --------------------------------------------------------------------------------------------------


@given(RINGS, st.integers(2, 7), st.lists(st.integers(0, 2**64 - 1), max_size=9), st.integers(0, 2**32))
def test_all_shares_add_up_to_any_vector(ring: Ring, m: int, values: list[int], seed: int) -> None:
    x = np.array([v % 2**ring.bits for v in values], ring.dtype)
    before = x.copy()
    aggregators = aggregator_ids(m)
    carrying = aggregators[seed % m]
    shares = split(x, ring, CONTEXT, aggregators, carrying, np.random.default_rng(seed).bytes)
    assert np.array_equal(x, before)
    assert list(shares.seeds) == [a for a in aggregators if a != carrying]
    assert {len(s) for s in shares.seeds.values()} == {32}
    total = shares.vector.copy()
    for aggregator, share_seed in shares.seeds.items():
        expanded = stream(share_seed, CONTEXT, aggregator).expand(ring, x.size)
        other = ring.zeros(x.size)
        add_seeds(other, ring, [stream(share_seed, CONTEXT, aggregator)])
        assert np.array_equal(expanded, other)
        ring.add_into(total, expanded)
    assert np.array_equal(total, x)


@pytest.mark.parametrize("n", [0, 1, CHUNK // 8, CHUNK // 2 + 3])
def test_a_sharing_in_place_is_the_same_and_is_absorbed_whole_and_in_order(n: int) -> None:
    x = np.random.default_rng(n).integers(0, 2**64, n, "<u8", endpoint=False)
    draws = [np.random.default_rng(1).bytes for _ in range(2)]
    apart = split(x, RING64, CONTEXT, ["a", "b", "c"], "b", draws[0])
    seen: list[RingArray] = []
    before = x.copy()
    shares = split(
        x,
        RING64,
        CONTEXT,
        ["a", "b", "c"],
        "b",
        draws[1],
        in_place=True,
        absorb=lambda chunk: seen.append(chunk.copy()),
    )
    assert shares.vector is x
    assert shares.seeds == apart.seeds
    assert np.array_equal(x, apart.vector)
    assert n == 0 or not np.array_equal(x, before)
    assert all(chunk.nbytes <= CHUNK for chunk in seen)
    assert np.array_equal(np.concatenate([*seen, x[:0]]), x)


def test_a_seed_means_nothing_in_another_context() -> None:
    seed = b"s" * 32
    contexts = [CONTEXT, Context(b"n" * 32, "alice"), Context(b"m" * 32, "bob"), Context(b"m" * 32, "alice", "metrics")]
    streams = {stream(seed, c, a).expand(RING64, 4).tobytes() for c in contexts for a in ("agg0", "agg1")}
    assert len(streams) == 8
    assert stream(b"t" * 32, CONTEXT, "agg0").expand(RING64, 4).tobytes() not in streams


@pytest.mark.parametrize("ring", [RING32, RING64])
def test_a_vector_share_looks_uniform_whatever_is_shared(ring: Ring) -> None:
    # Chi-squared over the bytes of the carrier's vector, 255 degrees of freedom, p = 1e-3; the entropy is fixed.
    for value in (0, 1, ring.largest):
        x = np.full(50_000, value, ring.dtype)
        shares = split(x, ring, CONTEXT, ["a", "b"], "a", np.random.default_rng(value % 97).bytes)
        counts = Counter(shares.vector.tobytes())
        expected = x.nbytes / 256
        assert sum((counts[b] - expected) ** 2 / expected for b in range(256)) < 330.5


def test_seeds_do_not_depend_on_what_is_shared() -> None:
    one, other = np.zeros(5, "<u4"), np.arange(5, dtype="<u4")
    shared = [split(x, RING32, CONTEXT, ["a", "b", "c"], "b", np.random.default_rng(1).bytes) for x in (one, other)]
    assert shared[0].seeds == shared[1].seeds
    assert np.array_equal(shared[1].vector - shared[0].vector, other)


def test_seeds_and_shares_are_not_printed() -> None:
    shares = split(RING32.zeros(2), RING32, CONTEXT, ["a", "b"], "b", np.random.default_rng(1).bytes)
    assert repr(shares) == "Shares()"


def test_known_answer() -> None:
    # Pinned: an upload made by one version must open at an aggregator of another.
    x = np.array([1, 2, 2**32 - 1], "<u4")
    shares = split(x, RING32, CONTEXT, ["a", "b", "c"], "b", iter_bytes())
    assert shares.seeds == {"a": b"\1" * 32, "c": b"\2" * 32}
    assert shares.vector.tobytes().hex() == "213a9c72dcba4b17141fd6fd"


class iter_bytes:
    """Entropy for known answers: 1, 1, 1, …, then 2, 2, 2, …"""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, n: int, /) -> bytes:
        self.calls += 1
        return bytes([self.calls]) * n


def test_wrong_arguments() -> None:
    entropy = np.random.default_rng(1).bytes
    x = RING32.zeros(2)
    for aggregators in ([], ["a"], ["a", "a"], ["a", "b", "a"]):
        with pytest.raises(BadInput, match="two or more aggregators"):
            split(x, RING32, CONTEXT, aggregators, "a", entropy)
    with pytest.raises(BadInput, match="carrier"):
        split(x, RING32, CONTEXT, ["a", "b"], "c", entropy)
    with pytest.raises(ShapeMismatch):
        split(x, RING64, CONTEXT, ["a", "b"], "a", entropy)
    with pytest.raises(InternalError, match="same seed twice"):
        split(x, RING32, CONTEXT, ["a", "b", "c"], "a", lambda n: bytes(n))
    with pytest.raises(BadInput, match="32 bytes"):
        split(x, RING32, CONTEXT, ["a", "b"], "a", lambda n: bytes(n - 1))
    with pytest.raises(BadInput, match="32 bytes"):
        stream(bytes(16), CONTEXT, "a")


# --- the carrier --------------------------------------------------------------------------------------------------


@given(st.integers(1, 50), st.integers(2, 7), st.integers(0, 2**40), st.randoms(use_true_random=False))
def test_carriers_are_even_and_rotate(n: int, m: int, round_number: int, random: object) -> None:
    cohort, aggregators = [f"owner{k:02}" for k in range(n)], aggregator_ids(m)
    load = Counter(carrier(owner, cohort, round_number, aggregators) for owner in cohort)
    assert max(load.values()) - min(load[a] for a in aggregators) <= 1
    over_rounds = [carrier(cohort[0], cohort, round_number + k, aggregators) for k in range(m)]
    assert sorted(over_rounds) == aggregators


def test_carrier_follows_the_formula() -> None:
    cohort, aggregators = ["alice", "bob", "carol"], ["z", "x", "y"]
    assert [carrier(o, cohort, 0, aggregators) for o in ("alice", "bob", "carol")] == ["x", "y", "z"]
    assert [carrier(o, cohort, 4, aggregators) for o in ("alice", "bob", "carol")] == ["y", "z", "x"]
    for stranger in ("aaron", "bill", "dave"):
        with pytest.raises(BadInput, match=f"{stranger} is not in the cohort"):
            carrier(stranger, cohort, 0, aggregators)
    with pytest.raises(BadInput, match="two or more"):
        carrier("bob", cohort, 0, ["x"])


# --- commitments --------------------------------------------------------------------------------------------------


def test_commitments_bind_and_blind() -> None:
    blinder, other = b"b" * 32, b"c" * 32
    made = commitment(blinder, bytearray(12))
    prefixed = b"".join(len(p).to_bytes(8, "little") + p for p in (blinder, bytes(12)))
    assert made == hashlib.blake2b(prefixed, digest_size=32, person=b"smpc-fl/1 share").digest()
    assert made == commitment(blinder, memoryview(bytes(12)))
    assert (
        len({made, commitment(other, bytes(12)), commitment(blinder, bytes(11)), commitment(blinder, b"\1" * 12)}) == 4
    )
    with pytest.raises(BadInput, match="32 bytes, not 31"):
        commitment(bytes(31), bytes(12))


def test_report_id_names_the_list() -> None:
    a, b = commitment(b"b" * 32, b"1"), commitment(b"b" * 32, b"2")
    assert len({report_id([a, b]), report_id([b, a]), report_id([a]), report_id([a, b, a])}) == 4
    assert len(report_id([a, b])) == 32
