"""Comparison: signs and zeros of shared words, exact on the whole ring, in four rounds for any number of parties.

`sign` opens c = x + r mod 2^64 under a uniform r. As x = c - r, bit 63 of x is that of c, plus that of r, plus the borrow
[c mod 2^63 < r mod 2^63], which takes two rounds (see borrows.py). The bit b is opened as e = b + beta under a uniform bit,
and what is wanted of b follows from e without another word, by what is dealt for beta:

    bit        b, as a word                         from beta
    rectify    (1 - b) · x, that is max(x, 0)       from r · beta, for x is c - r
    select     b · y, y = d + A masked              from A · beta

so a comparison that serves several of them is opened once. What is opened is uniform: c, e and all masked bits.

With `drop` = k the sign is that of x / 2^k, rounded down or up as a truncation does: the low k bits of c and r are not
compared, and `rectify` gives max(x / 2^k, 0), with no truncation of its own: x / 2^k is

    (c >> k) - (r >> k) + (1 - top(c)) · top(r) · 2^(64 - k)

wherever it is not negative. That is right for |x| < 2^63 - 2^k; with drop = 0 there is no error at all.

`zero` finds in the same way whether c = r, in as many rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import prod

from smpc_fl.shared_tensors import borrows
from smpc_fl.shared_tensors.bits import Planes, flags, negated, plane_words, planes, unmasked
from smpc_fl.shared_tensors.borrows import Chain, Nodes, Rows
from smpc_fl.shared_tensors.opening import Opening, Running
from smpc_fl.shared_tensors.products import Masked
from smpc_fl.shared_tensors.randomness import Shape, Source
from smpc_fl.shared_tensors.words import Words, shift_right, unsigned


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Dealt:
    """For `sign` and `zero`. Shares (at the provider: values)."""

    mask: Words
    """r"""
    above: Planes
    """Its bits above those that are compared: one, or none."""
    groups: list[Rows]
    levels: list[list[Chain]]
    flip: Planes
    """beta"""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Flag:
    """b = opened + beta, of an x = value - mask."""

    opened: Words
    """As words of ones or zeros, -1 or 0."""
    value: Words
    mask: Words
    """This party's share of r."""


def _levels(bits: int, *, less: bool) -> list[list[Nodes]]:
    """Of the tree over so many bits, down to one node, for G of all of them or for P."""
    groups = borrows.group_count(bits)
    found: list[list[Nodes]] = []
    while groups > 1:
        found.append(borrows.level(groups, less=less, lowest=less))
        groups = sum(nodes.count for nodes in found[-1])
    return found


def _opens(shape: Shape, bits: int, *, less: bool) -> list[int]:
    """Bytes, by round."""
    w = plane_words(prod(shape))
    levels = [sum(nodes.opened for nodes in level) for level in _levels(bits, less=less)]
    return [8 * prod(shape), *[8 * w * opened for opened in levels], 8 * w]


def _deal(source: Source, shape: Shape, start: int, bits: int, *, less: bool) -> Dealt:
    mask = source.uniform(shape)
    w = plane_words(prod(shape))
    known = cache(lambda: planes(unsigned(mask)))  # once, and at the provider only
    above = source.derived_bits((64 - start - bits, w), lambda: known()[start + bits :])
    groups = borrows.deal_groups(source, start, bits, w, known)
    levels = [[borrows.deal_chain(source, nodes, w) for nodes in level] for level in _levels(bits, less=less)]
    return Dealt(mask, above, groups, levels, source.uniform_bits((1, w)))


def sign_opens(shape: Shape, drop: int) -> list[int]:
    return _opens(shape, 63 - drop, less=True)


def zero_opens(shape: Shape) -> list[int]:
    return _opens(shape, 64, less=False)


def deal_sign(source: Source, shape: Shape, drop: int) -> Dealt:
    """41 bytes a value, 29 with `drop` = 18."""
    return _deal(source, shape, drop, 63 - drop, less=True)


def deal_zero(source: Source, shape: Shape) -> Dealt:
    """37 bytes a value."""
    return _deal(source, shape, 0, 64, less=False)


def sign(dealt: Dealt, x: Words, drop: int, first: bool) -> Running:
    """Whether x / 2^drop < 0. Opens c, 8 bytes a value, 33 bits of the tree, 24 with `drop` = 18, and e."""
    (value,) = yield [Opening(x + dealt.mask)]
    bits = planes(unsigned(value))
    less, same = borrows.compare_groups(dealt.groups, bits, drop, first)
    less, same = yield from _climb(dealt.levels, less, same, first)
    return (yield from _flagged(dealt, less ^ dealt.above ^ (bits[63:] & borrows.one(first)), value))


def zero(dealt: Dealt, x: Words, first: bool) -> Running:
    """Whether x = 0. Opens c, 8 bytes a value, 20 bits of the tree, and e."""
    (value,) = yield [Opening(x + dealt.mask)]
    less, same = borrows.compare_groups(dealt.groups, planes(unsigned(value)), 0, first)
    less, same = yield from _climb(dealt.levels, less, same, first)
    return (yield from _flagged(dealt, same, value))


def _climb(levels: list[list[Chain]], less: Planes, same: Planes, first: bool) -> Running:
    for chains in levels:
        opened = yield [chain.opening(less, same) for chain in chains]
        less, same = borrows.joined(chain.close(part, less, first) for chain, part in zip(chains, opened, strict=True))
    return less, same


def _flagged(dealt: Dealt, share: Planes, value: Words) -> Running:
    (opened,) = yield [Opening(share ^ dealt.flip)]
    return Flag(-flags(opened[0], value.shape), value, dealt.mask)


# --- what follows from a flag ---


def _beta(flag: Dealt) -> Words:
    """As words, at the provider."""
    return flags(flag.flip[0], flag.mask.shape)


def deal_bit(source: Source, shape: Shape, flag: Dealt) -> Words:
    """8 bytes a value."""
    return source.derived(shape, lambda: _beta(flag))


def bit(beta: Words, flag: Flag, inverted: bool, first: bool) -> Words:
    """b, or 1 - b."""
    return unmasked(beta, ~flag.opened if inverted else flag.opened, first)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Rectifying:
    """Shares of r >> drop and of bit 63 of r, and of both times beta."""

    high: Words
    high_flip: Words
    top: Words
    top_flip: Words


def deal_rectify(source: Source, shape: Shape, drop: int, flag: Dealt) -> Rectifying | Words:
    """32 bytes a value; without `drop` r · beta is enough, 8 bytes."""
    if not drop:
        return source.derived(shape, lambda: flag.mask * _beta(flag))
    high = source.derived(shape, lambda: shift_right(flag.mask, drop))
    high_flip = source.derived(shape, lambda: high * _beta(flag))
    top = source.derived(shape, lambda: shift_right(flag.mask, 63))
    return Rectifying(high, high_flip, top, source.derived(shape, lambda: top * _beta(flag)))


def rectify(dealt: Rectifying | Words, flag: Flag, negative: Words, drop: int, first: bool) -> Words:
    """(1 - b) · x / 2^drop; `negative`: this party's share of b."""
    if isinstance(dealt, Rectifying):
        public = shift_right(flag.value, drop)
        wraps = ~(flag.value >> 63)  # where the top bit of c is 0, x = c - r + 2^64 if that of r is 1
        mask = dealt.high - ((dealt.top << (64 - drop)) & wraps)
        flip = dealt.high_flip - ((dealt.top_flip << (64 - drop)) & wraps)
    else:
        public, mask, flip = flag.value, flag.mask, dealt
    zeros = ~flag.opened
    return (int(first) - negative) * public - negated(flip, zeros) - (mask & zeros)


def deal_select(source: Source, shape: Shape, flag: Dealt, mask: Words) -> Words:
    """8 bytes a value."""
    return source.derived(shape, lambda: _beta(flag) * mask)


def select(dealt: Words, flag: Flag, share: Words, y: Masked) -> Words:
    """b · y; `share`: this party's of b. Shapes are broadcast."""
    return share * y.opened + negated(dealt, flag.opened) + (y.mask & flag.opened)
