"""Repeatable randomness: streams that differ, permutations that are permutations."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from smpc_fl.learning.shuffle import permutation, stream

SEED = bytes(range(16))


@given(st.integers(0, 300), st.integers(0, 5))
def test_every_row_comes_once(n: int, number: int) -> None:
    order = permutation(stream(SEED, "shuffle", "alice", 3), n, number)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))


def test_the_same_stream_gives_the_same_orders_and_another_gives_others() -> None:
    orders = {
        permutation(stream(seed, use, owner, round_number), 30, number).tobytes()
        for seed in (SEED, bytes(16))
        for use in ("shuffle", "dropout")
        for owner in ("alice", "bob")
        for round_number in (0, 1)
        for number in (0, 1)
    }
    assert len(orders) == 32
    assert permutation(stream(SEED, "shuffle", "alice"), 30).tobytes() in {
        permutation(stream(SEED, "shuffle", "alice", 0), 30, 0).tobytes()
    }


def test_orders_are_spread_evenly() -> None:
    random = stream(SEED, "shuffle", "alice")
    counts = np.zeros((4, 4))
    for number in range(4000):
        counts[np.arange(4), permutation(random, 4, number)] += 1
    assert np.abs(counts - 1000).max() < 150  # 5.5 standard deviations
