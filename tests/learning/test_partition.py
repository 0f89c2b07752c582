"""Partitions: every row once, the same from the same seed, the skew that was asked for, and refusals that help."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import smpc_fl as sf
from smpc_fl.errors import BadInput
from smpc_fl.learning.partition import Indices, Partition, by_column, dirichlet, iid, quantity

SEEDS = st.integers(0, 2**32)
LABELS = np.random.default_rng(0).integers(0, 10, 2000)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rows_of(partition: Partition) -> list[int]:
    return sorted(int(row) for rows in partition.rows.values() for row in rows)


def entropies(partition: Partition, labels: Indices) -> float:
    """Mean over owners of the entropy of their labels, in bits: log2(10) for ten classes alike."""
    _, counts = partition.counts(labels)
    shares = counts / counts.sum(1, keepdims=True)
    return float(-(shares * np.log2(np.where(shares > 0, shares, 1))).sum(1).mean())


@settings(max_examples=40)
@given(st.integers(1, 300), st.integers(1, 20), SEEDS)
def test_iid_deals_every_row_once(rows: int, owners: int, seed: int) -> None:
    owners = min(rows, owners)
    partition = iid(rows, owners, rng=rng(seed))
    assert rows_of(partition) == list(range(rows))
    assert len(partition.rows) == owners
    assert max(partition.sizes.values()) - min(partition.sizes.values()) <= 1


@settings(max_examples=40)
@given(st.integers(60, 300), st.integers(1, 10), st.floats(0.2, 100), SEEDS, st.integers(0, 2))
def test_quantity_keeps_the_fewest_rows(rows: int, owners: int, alpha: float, seed: int, least: int) -> None:
    partition = quantity(rows, owners, alpha=alpha, rng=rng(seed), min_rows=least)
    assert rows_of(partition) == list(range(rows))
    assert min(partition.sizes.values()) >= least


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 4), min_size=60, max_size=200), st.integers(1, 6), st.floats(0.3, 100), SEEDS, st.booleans()
)
def test_dirichlet_deals_every_row_once(labels: list[int], owners: int, alpha: float, seed: int, equal: bool) -> None:
    partition = dirichlet(labels, owners, alpha=alpha, rng=rng(seed), min_rows=2, equal=equal)
    assert rows_of(partition) == list(range(len(labels)))
    assert min(partition.sizes.values()) >= 2
    if equal:
        assert max(partition.sizes.values()) - min(partition.sizes.values()) <= 1
    _, counts = partition.counts(labels)
    assert counts.sum(0).tolist() == np.unique(labels, return_counts=True)[1].tolist()


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["north", "south", "east"]), min_size=1, max_size=50))
def test_a_column_gives_each_value_its_owner(values: list[str]) -> None:
    partition = by_column(values)
    assert rows_of(partition) == list(range(len(values)))
    assert all({values[row] for row in rows} == {owner} for owner, rows in partition.rows.items())


@pytest.mark.parametrize("equal", [False, True])
def test_alpha_says_how_much_owners_differ(equal: bool) -> None:
    drawn = [
        np.mean([entropies(dirichlet(LABELS, 8, alpha=a, rng=rng(s), equal=equal), LABELS) for s in range(5)])
        for a in (0.1, 1, 1000)
    ]
    assert drawn == sorted(drawn)
    assert drawn[0] < 2
    assert drawn[2] > 3.2  # of log2(10) = 3.32


def test_a_class_is_dealt_out_by_shares_of_the_paper() -> None:
    """The share of one owner in one class is Beta(alpha, (k - 1) alpha): its mean and variance, over many draws."""
    drawn = [dirichlet(LABELS, 5, alpha=0.5, rng=rng(seed), min_rows=0).counts(LABELS)[1][0] for seed in range(400)]
    shares = np.array(drawn) / np.bincount(LABELS)
    assert shares.mean() == pytest.approx(1 / 5, abs=0.01)
    assert shares.var() == pytest.approx((1 / 5) * (4 / 5) / (5 * 0.5 + 1), rel=0.07)


def test_equal_owners_draw_mixtures_of_the_paper() -> None:
    """The first owner's share of a class is Beta(alpha p, alpha (1 - p)), while there is enough of each."""
    labels = np.repeat([0, 1], [3000, 1000])
    drawn = [dirichlet(labels, 40, alpha=4, rng=rng(seed), equal=True).counts(labels)[1][0, 1] for seed in range(200)]
    shares = np.array(drawn) / 100
    assert shares.mean() == pytest.approx(1 / 4, abs=0.03)
    assert shares.var() == pytest.approx((1 / 4) * (3 / 4) / 5, rel=0.25)


def test_a_small_alpha_makes_sizes_differ() -> None:
    def spread(alpha: float) -> float:
        return float(np.mean([np.std([*quantity(2000, 8, alpha=alpha, rng=rng(s)).sizes.values()]) for s in range(5)]))

    assert spread(0.3) > 3 * spread(10)


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: iid(100, 4, rng=rng(seed)),
        lambda seed: quantity(100, 4, alpha=1, rng=rng(seed)),
        lambda seed: dirichlet(LABELS, 4, alpha=1, rng=rng(seed)),
        lambda seed: dirichlet(LABELS, 4, alpha=1, rng=rng(seed), equal=True),
    ],
)
def test_a_seed_is_a_partition(make: Any) -> None:
    def bytes_of(partition: Partition) -> dict[str, bytes]:
        return {owner: rows.tobytes() for owner, rows in partition.rows.items()}

    assert bytes_of(make(3)) == bytes_of(make(3))
    assert bytes_of(make(3)) != bytes_of(make(4))


def test_names_are_counted_or_given() -> None:
    assert list(iid(30, 3, rng=rng()).rows) == ["owner-0", "owner-1", "owner-2"]
    assert list(iid(30, 11, rng=rng()).rows)[:2] == ["owner-00", "owner-01"]
    assert list(iid(30, ["b", "a"], rng=rng()).rows) == ["b", "a"]
    assert list(by_column(["VA Long Beach", "Zürich", "VA Long Beach"]).rows) == ["VA-Long-Beach", "Z-rich"]


def test_small_values_may_share_an_owner() -> None:
    partition = by_column([*"aaaa", *"bbb", "c", "d"], min_rows=2, rest="others")
    assert partition.sizes == {"a": 4, "b": 3, "others": 2}
    assert by_column([1, 1, 2], min_rows=2, rest="1").sizes == {"1": 3}
    assert by_column(np.array(["a", "b", "a"], dtype=object)).sizes == {"a": 2, "b": 1}
    assert by_column([True, False]).sizes == {"False": 1, "True": 1}


def test_tensors_are_split_whole_and_in_order() -> None:
    x, y = torch.arange(40.0).reshape(20, 2), np.arange(20)
    split = sf.partition.iid(20, 3, rng=rng()).split({"x": x, "y": y})
    assert sorted(split) == ["owner-0", "owner-1", "owner-2"]
    for tensors in split.values():
        assert tensors["x"][:, 0].tolist() == (2 * tensors["y"]).tolist()
        assert tensors["y"].tolist() == sorted(tensors["y"].tolist())


def test_counts_know_classes_that_an_owner_lacks() -> None:
    kinds, counts = Partition({"a": np.array([0, 1]), "b": np.array([2])}).counts(["x", "y", "y"])
    assert kinds.tolist() == ["x", "y"]
    assert counts.tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: iid(3, 4, rng=rng()), "3 rows for 4 owners"),
        (lambda: iid(3, 0, rng=rng()), "fewer owners|for 0 owners"),
        (lambda: iid(3, ["a", "a"], rng=rng()), "all different"),
        (lambda: iid(3, "ab", rng=rng()), "list of names"),
        (lambda: quantity(100, 3, alpha=1, rng=rng(), min_rows=-1), "lower min_rows"),
        (lambda: quantity(100, 3, alpha=0, rng=rng()), "alpha=0"),
        (lambda: quantity(100, 3, alpha=float("nan"), rng=rng()), "alpha=nan"),
        (lambda: quantity(30, 3, alpha=0.01, rng=rng(), min_rows=10), "raise alpha"),
        (lambda: dirichlet([0, 1] * 10, 3, alpha=1, rng=rng()), "20 rows for 3 owners with 10"),
        (lambda: dirichlet([0, 1] * 50, 3, alpha=float("inf"), rng=rng()), "alpha=inf"),
        (lambda: dirichlet([[0], [1]], 1, alpha=1, rng=rng()), r"not shape \(2, 1\)"),
        (lambda: dirichlet([], 1, alpha=1, rng=rng()), "one row at least"),
        (lambda: dirichlet([0.0, float("nan")], 1, alpha=1, rng=rng()), "fill in"),
        (lambda: dirichlet([0, 1, 2], 2, alpha=1, rng=rng(), min_rows=2, equal=True), "3 rows for 2 owners with 2"),
        (lambda: by_column(["a", None]), "fill in"),
        (lambda: by_column(["a b", "a-b"]), "'a-b'"),
        (lambda: by_column(["--", "b"]), "rename"),
        (lambda: by_column(["a", "b", "b"], min_rows=2), "a: fewer than min_rows=2"),
        (lambda: by_column(["a", "b", "b"], min_rows=2, rest="c"), "'c' would have fewer"),
        (lambda: Partition({"a": np.array([0, 1]), "b": np.array([1])}), "exactly once"),
        (lambda: Partition({"a": np.array([0, 2])}), "exactly once"),
        (lambda: iid(3, 1, rng=rng()).split({"x": [1, 2]}), "tensor 'x': 2 rows, and the partition is of 3"),
        (lambda: iid(3, 1, rng=rng()).counts([1, 2]), "labels: 2 rows"),
    ],
)
def test_a_refusal_says_what_to_do(call: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        call()
