"""Bits of many words at once, borrows among them, against single bits."""

from __future__ import annotations

from functools import reduce
from itertools import combinations, product
from operator import and_, xor

import numpy as np
import pytest
import torch
from rooms_of_parties import seeded

from smpc_fl.shared_tensors import borrows
from smpc_fl.shared_tensors.bits import Planes, flags, negated, plane_words, planes, unmasked
from smpc_fl.shared_tensors.borrows import Nodes
from smpc_fl.shared_tensors.randomness import Dealing, Taking

SEEDS = [bytes([party]) * 32 for party in range(2)]


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 64 * 512 + 1])
def test_turns_words_into_planes(n: int) -> None:
    words = np.frombuffer(seeded(n)(8 * n), np.uint64)
    found = planes(words)
    assert found.shape == (64, plane_words(n))
    for place in range(64):
        expected = (words >> np.uint64(place)) & np.uint64(1)
        assert np.array_equal(flags(found[place], (n,)).numpy().astype(np.uint64), expected)


def test_what_follows_from_an_opened_bit() -> None:
    ones = torch.tensor([0, -1, 0, -1])
    beta = torch.tensor([0, 0, 1, 1])
    assert negated(torch.tensor([5, 5, -7, -7]), ones).tolist() == [5, -5, -7, 7]
    shares = torch.tensor([11, -5, 7, 99])
    assert (unmasked(shares, ones, True) + unmasked(beta - shares, ones, False)).tolist() == [0, 1, 1, 0]


def test_monomials_stand_where_their_subset_says() -> None:
    factors = list(np.frombuffer(seeded(1)(32), np.uint64).reshape(4, 1))
    rows = borrows.monomials(factors)
    for size in range(1, 5):
        for subset in combinations(range(4), size):
            assert rows[sum(1 << i for i in subset) - 1] == reduce(and_, [factors[i] for i in subset])


def every_pair(width: int) -> tuple[Planes, Planes]:
    """All pairs of numbers of so many bits, as planes: (secret, public)."""
    pairs = np.array(list(product(range(1 << width), repeat=2)), np.uint64)
    return planes(np.ascontiguousarray(pairs[:, 0])), planes(np.ascontiguousarray(pairs[:, 1]))


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 7])
def test_groups_compare_every_pair(width: int) -> None:
    """G and P of each group of four bits or fewer."""
    secret, public = every_pair(width)
    w = secret.shape[-1]
    dealing = Dealing(SEEDS, b"run", 0)
    borrows.deal_groups(dealing, 0, width, w, lambda: secret)
    found = []
    for party, correction in enumerate([dealing.correction(), None]):
        dealt = borrows.deal_groups(Taking(SEEDS[party], b"run", 0, correction), 0, width, w, every_pair_is_unknown)
        found.append(borrows.compare_groups(dealt, public, 0, party == 0))
    less, same = (a ^ b for a, b in zip(*found, strict=True))
    pairs = list(product(range(1 << width), repeat=2))
    start = 0
    assert len(less) == borrows.group_count(width)
    for group, (bits, count) in enumerate(borrows.widths(width)):
        assert count == 1
        parts = [((r >> start) % (1 << bits), (c >> start) % (1 << bits)) for r, c in pairs]
        assert flags(less[group], (len(pairs),)).tolist() == [c < r for r, c in parts]
        assert flags(same[group], (len(pairs),)).tolist() == [c == r for r, c in parts]
        start += bits


def every_pair_is_unknown() -> Planes:
    raise AssertionError("a party asked for what only the provider knows")


@pytest.mark.parametrize("fan", [2, 3, 4, 5])
@pytest.mark.parametrize(("less", "same"), [(True, False), (True, True), (False, True)])
def test_chains_of_groups(fan: int, less: bool, same: bool) -> None:
    nodes = Nodes(1, fan, 2, less, same)
    groups, w = 1 + 2 * fan, 3
    draw = seeded(fan)
    g, p = (np.frombuffer(draw(8 * groups * w), np.uint64).reshape(groups, w) for _ in "GP")
    masks = [np.frombuffer(draw(8 * groups * w), np.uint64).reshape(groups, w) for _ in "GP"]
    dealing = Dealing(SEEDS, b"run", 0)
    borrows.deal_chain(dealing, nodes, w)
    chains = [
        borrows.deal_chain(Taking(SEEDS[party], b"run", 0, correction), nodes, w)
        for party, correction in enumerate([dealing.correction(), None])
    ]
    shares = [(masks[0], masks[1]), (g ^ masks[0], p ^ masks[1])]
    first, second = (chain.opening(*share) for chain, share in zip(chains, shares, strict=True))
    assert first.size == 8 * nodes.opened * w
    opened = first.join([second.encode()])
    assert isinstance(opened, np.ndarray)

    def expected(node: int, part: int) -> Planes:
        children = range(1 + node * fan, 1 + node * fan + part)
        return reduce(xor, [reduce(and_, [p[j] for j in children if j > i], g[i]) for i in children])

    for part in range(1, fan + 1):
        found = [
            chain.close(opened, share[0], party == 0, part)
            for party, (chain, share) in enumerate(zip(chains, shares, strict=True))
        ]
        for node in range(2):
            if less:
                assert np.array_equal(found[0][0][node] ^ found[1][0][node], expected(node, part))
            if same:
                every = reduce(and_, p[1 + node * fan : 1 + node * fan + part])
                assert np.array_equal(found[0][1][node] ^ found[1][1][node], every)


@pytest.mark.parametrize("lowest", [True, False])
@pytest.mark.parametrize("groups", range(2, 18))
def test_a_level_takes_each_group_once(groups: int, lowest: bool) -> None:
    level = borrows.level(groups, lowest=lowest)
    taken = [(nodes.start + node * nodes.fan, nodes.fan) for nodes in level for node in range(nodes.count)]
    assert [place for start, fan in taken for place in range(start, start + fan)] == list(range(groups))
    assert all(2 <= fan <= borrows.FAN for _, fan in taken)
    assert len(taken) == -(-groups // borrows.FAN)
    assert [nodes.same for nodes in level] == [not lowest or nodes.start > 0 for nodes in level]
