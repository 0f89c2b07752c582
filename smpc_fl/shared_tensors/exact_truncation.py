"""Exact truncation: x / 2^k rounded down, for every x of the ring, with no error at all, in four rounds.

u = x + 2^63, from 0 to 2^64 - 1, is opened as c = u + r mod 2^64 under a uniform r. As whole numbers u = c - r, and 2^64 more
where c < r, so

    u >> k = (c >> k) - (r >> k) - [c mod 2^k < r mod 2^k] + 2^(64 - k) · [c < r].

Both borrows come from one tree (borrows.py): the low k bits make its lowest nodes, and the first is the borrow of these
alone. Each is opened as e = b + beta under a uniform bit, of which the provider has dealt the word.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from math import prod

import numpy as np

from smpc_fl.shared_tensors import borrows
from smpc_fl.shared_tensors.bits import Planes, flags, plane_words, planes, unmasked
from smpc_fl.shared_tensors.borrows import Chain, Nodes, Rows
from smpc_fl.shared_tensors.opening import Opening, Running
from smpc_fl.shared_tensors.randomness import Shape, Source
from smpc_fl.shared_tensors.words import Words, shift_right, unsigned

_TOP = -(1 << 63)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Dealt:
    """Shares (at the provider: values). By part of r, the low k bits and the others: `groups`, `level`."""

    mask: Words
    high: Words
    """r >> k"""
    groups: list[list[Rows]]
    level: list[list[Chain]]
    root: Chain
    flips: Planes
    """Both beta, uint64[2, w]."""
    flip_words: list[Words]


def _parts(drop: int) -> list[tuple[int, int]]:
    """(first bit, bits) of the low part and of the high one."""
    return [(0, drop), (drop, 64 - drop)]


def _tree(drop: int) -> tuple[list[list[Nodes]], Nodes]:
    """The nodes over the groups of each part, none over a single group, and that over these nodes, five at most."""
    counts = [borrows.group_count(bits) for _, bits in _parts(drop)]
    levels = [borrows.level(count, lowest=part == 0) if count > 1 else [] for part, count in enumerate(counts)]
    fan = sum(sum(nodes.count for nodes in level) if level else 1 for level in levels)
    return levels, Nodes(0, fan, 1, less=True, same=False)


def opens(shape: Shape, drop: int) -> list[int]:
    """Bytes, by round."""
    w = plane_words(prod(shape))
    levels, root = _tree(drop)
    return [
        8 * prod(shape),
        8 * w * sum(nodes.opened for level in levels for nodes in level),
        8 * w * root.opened,
        16 * w,
    ]


def deal(source: Source, shape: Shape, drop: int) -> Dealt:
    """69 bytes a value."""
    mask = source.uniform(shape)
    w = plane_words(prod(shape))
    known = cache(lambda: planes(unsigned(mask)))  # once, and at the provider only
    groups = [borrows.deal_groups(source, start, bits, w, known) for start, bits in _parts(drop)]
    levels, root = _tree(drop)
    chains = [[borrows.deal_chain(source, nodes, w) for nodes in level] for level in levels]
    last = borrows.deal_chain(source, root, w)
    flips = source.uniform_bits((2, w))
    high = source.derived(shape, lambda: shift_right(mask, drop))
    return Dealt(
        mask,
        high,
        groups,
        chains,
        last,
        flips,
        [source.derived(shape, partial(flags, plane, shape)) for plane in flips],
    )


def run(dealt: Dealt, x: Words, drop: int, first: bool) -> Running:
    """This party's share of x / 2^drop, rounded down, 1 <= drop <= 62. Opens c, 8 bytes a value, 36 bits of the tree at most, and
    both e."""
    share = x + dealt.mask
    (opened,) = yield [Opening(share + _TOP if first else share)]
    bits = planes(unsigned(opened))
    parts = [
        borrows.compare_groups(groups, bits, start, first)
        for groups, (start, _) in zip(dealt.groups, _parts(drop), strict=True)
    ]
    answers = iter(
        (yield [chain.opening(*part) for part, level in zip(parts, dealt.level, strict=True) for chain in level])
    )
    parts = [
        borrows.joined([chain.close(next(answers), part[0], first) for chain in level]) if level else part
        for part, level in zip(parts, dealt.level, strict=True)
    ]
    less, same = borrows.joined(parts)
    (answer,) = yield [dealt.root.opening(less, same)]
    low, _ = dealt.root.close(answer, less, first, part=len(parts[0][0]))
    full, _ = dealt.root.close(answer, less, first)
    (answer,) = yield [Opening(np.concatenate([low, full]) ^ dealt.flips)]
    below, wraps = (
        unmasked(beta, -flags(plane, tuple(x.shape)), first)
        for plane, beta in zip(answer, dealt.flip_words, strict=True)
    )
    result = (wraps << (64 - drop)) - dealt.high - below
    return result + shift_right(opened, drop) - (1 << (63 - drop)) if first else result
