"""Borrows: whether a public number c is less than a secret r, from shares of r's bits. What comparisons are made of.

The bits are cut into groups of four, the lowest group being the short one. Of each group one asks G = [c < r] and
P = [c = r]; with n = 1 - c and the exclusive or for addition,

    P = (n3 + r3) (n2 + r2) (n1 + r1) (n0 + r0),    G = n3 r3 + n2 r2 (n3 + r3) + ... + n0 r0 (n3 + r3) (n2 + r2) (n1 + r1),

both linear in the products of r's bits, the *monomials*, which are dealt: the parties say nothing for it. Up to four groups
then make one, twice over, from the highest:

    G = G3 + P3 G2 + P3 P2 G1 + P3 P2 P1 G0,    P = P3 P2 P1 P0.

Each factor is opened under a mask, P = e + m, and the products are again linear in the monomials of the masks, which are
dealt: one round whatever the number of factors (Damgard et al., "The TinyTable protocol", CRYPTO 2017; multi-operand ANDs
as in Patra et al., "ABY2.0", USENIX Security 2021). G and the lowest P of all are needed by nobody, so they are not opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from smpc_fl.shared_tensors.bits import Planes
from smpc_fl.shared_tensors.opening import Opening
from smpc_fl.shared_tensors.randomness import Source

FAN = 4
"""Bits of a group, and groups that make one."""

Rows = list[Planes]
"""Planes of one shape; as monomials, that of the factors in S at place S - 1, S read as a binary number."""

Bits = Planes | np.uint64

_ONES, _ZEROS = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0)


def one(first: bool) -> np.uint64:
    """A party's share of 1, in each bit."""
    return _ONES if first else _ZEROS


def monomials(factors: Iterable[Planes]) -> Rows:
    """The products of all subsets but the empty one."""
    rows: Rows = []
    for factor in factors:
        rows += [factor, *[row & factor for row in rows]]
    return rows


def products(rows: Rows, constant: Bits, public: Planes) -> list[Planes]:
    """Shares of k · Π (public_i + secret_i) over i >= j, for every j, from those of k and of k times the secrets' monomials."""
    found: list[Planes] = []
    for factor in public[::-1]:
        half = (len(rows) + 1) // 2
        product = rows[half - 1] ^ (factor & constant)
        rows = [high ^ (factor & low) for high, low in zip(rows[half:], rows[: half - 1], strict=True)]
        found.append(product)
        constant = product
    return found[::-1]


# --- groups of bits ---


def widths(bits: int) -> list[tuple[int, int]]:
    """(bits of a group, number of such groups) of a number, the lowest first."""
    full, short = divmod(bits, FAN)
    return [(width, count) for width, count in ((short, 1), (FAN, full)) if width and count]


def group_count(bits: int) -> int:
    return sum(count for _, count in widths(bits))


def deal_groups(source: Source, start: int, bits: int, w: int, mask: Callable[[], Planes]) -> list[Rows]:
    """The monomials of bits start .. start + bits - 1 of r, group by group: 3.75 bits for one. `mask()`: r's planes,
    uint64[64, w], which only the provider can compute."""
    found: list[Rows] = []
    for width, count in widths(bits):

        def value(start: int = start, width: int = width, count: int = count) -> Planes:
            return np.stack(monomials(_grouped(mask(), start, width, count)))

        found.append(list(source.derived_bits(((1 << width) - 1, count, w), value)))
        start += width * count
    return found


def compare_groups(dealt: list[Rows], opened: Planes, start: int, first: bool) -> tuple[Planes, Planes]:
    """Shares of G and P of the groups of bits, uint64[groups, w], from bit `start` of c on."""
    found = []
    for rows in dealt:
        width, count = len(rows).bit_length(), len(rows[0])
        found.append(_compare(rows, ~_grouped(opened, start, width, count), first))
        start += width * count
    return joined(found)


def _compare(rows: Rows, inverted: Planes, first: bool) -> tuple[Planes, Planes]:
    less: Planes = np.zeros_like(rows[0])
    same: Bits = one(first)
    for n in inverted[::-1]:
        half = (len(rows) + 1) // 2
        own = rows[half - 1]  # r_i · Π (n_j + r_j), j > i
        less ^= n & own
        same = own ^ (n & same)
        rows = [high ^ (n & low) for high, low in zip(rows[half:], rows[: half - 1], strict=True)]
    return less, np.asarray(same)


def _grouped(planes: Planes, start: int, width: int, count: int) -> Planes:
    """Bits start .. start + width · count - 1 as uint64[width, count, w], a view."""
    return planes[start : start + width * count].reshape(count, width, -1).transpose(1, 0, 2)


# --- groups of groups ---


@dataclass(frozen=True, slots=True)
class Nodes:
    """So many equal nodes of the tree side by side, each over `fan` groups, from group `start` on."""

    start: int
    fan: int
    count: int
    less: bool
    """Whether G is asked for."""
    same: bool
    """Whether P is."""

    @property
    def masked(self) -> tuple[range, range]:
        """The P's and the G's that are opened."""
        return range(0 if self.same else 1, self.fan), range(self.fan - 1 if self.less else 0)

    @property
    def opened(self) -> int:
        """Planes, of all nodes."""
        return sum(map(len, self.masked)) * self.count

    def of(self, groups: Planes, child: int) -> Planes:
        """uint64[count, w]: of each node, its child of this number."""
        return groups[self.start + child : self.start + self.fan * self.count : self.fan]


def level(groups: int, *, less: bool = True, lowest: bool = True) -> list[Nodes]:
    """The nodes over so many groups, as few and as equal as can be. `lowest`: nobody asks for P of the first."""
    count = -(-groups // FAN)
    small, larger = divmod(groups, count)
    kinds = [(small + (node < larger), not (lowest and node == 0)) for node in range(count)]
    found, start = [], 0
    for (fan, same), alike in groupby(kinds):
        number = len(list(alike))
        found.append(Nodes(start, fan, number, less, same))
        start += fan * number
    return found


def joined(parts: Iterable[tuple[Planes, Planes]]) -> tuple[Planes, Planes]:
    """G's and P's, the lowest first."""
    less, same = zip(*parts, strict=True)
    return np.concatenate(less), np.concatenate(same)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Chain:
    """What is dealt for some nodes: the masks of their P's and G's, and the monomials that they need."""

    nodes: Nodes
    same: Rows
    """Monomials of the P's masks."""
    less: list[tuple[Planes, Rows]]
    """By G: its mask, and the monomials of the P's above it, times its mask."""

    def opening(self, less: Planes, same: Planes) -> Opening:
        """Of all groups' G and P."""
        ps, gs = self.nodes.masked
        shares = [self.nodes.of(same, i) ^ self.same[(1 << n) - 1] for n, i in enumerate(ps)]
        shares += [self.nodes.of(less, i) ^ self.less[i][0] for i in gs]
        return Opening(np.stack(shares))

    def close(self, opened: Planes, less: Planes, first: bool, part: int | None = None) -> tuple[Planes, Planes]:
        """Shares of the nodes' G and P, uint64[count, w]; what is not asked for means nothing. `part`: over so many groups, the
        lowest, and no others."""
        ps, gs = self.nodes.masked
        top = (self.nodes.fan if part is None else part) - 1  # its G is only added
        same, below = opened[: top + 1 - ps.start], opened[len(ps) :]
        # above[i]: P_i P_(i+1) .. P_top
        above = dict(zip(ps, products(self.same[: (1 << len(same)) - 1], one(first), same), strict=False))
        total = self.nodes.of(less, top).copy()
        for i in gs[:top]:
            mask, rows = self.less[i]
            factors = same[i + 1 - ps.start :]
            total ^= products(rows[: (1 << len(factors)) - 1], mask, factors)[0] ^ (below[i] & above[i + 1])
        return total, above.get(0, total)


def deal_chain(source: Source, nodes: Nodes, w: int) -> Chain:
    """For four groups 22 bits a node, 15 without P, and its 7 or 6 masks, for which nothing is sent."""
    ps, gs = nodes.masked
    masks = list(source.uniform_bits((len(ps) + len(gs), nodes.count, w)))
    same, less = masks[: len(ps)], masks[len(ps) :]
    single = [(1 << i) - 1 for i in range(len(ps))]
    above = [len(ps) - (nodes.fan - 1 - i) for i in gs]  # where the P's above each G begin

    def value() -> Planes:
        rows = [row for place, row in enumerate(monomials(same)) if place not in single]
        for mask, start in zip(less, above, strict=True):
            rows += [row & mask for row in monomials(same[start:])]
        return np.stack(rows)

    sizes = [(1 << len(ps)) - 1 - len(ps), *[(1 << (len(ps) - start)) - 1 for start in above]]
    dealt = iter(source.derived_bits((sum(sizes), nodes.count, w), value))
    rows = [same[single.index(place)] if place in single else next(dealt) for place in range((1 << len(ps)) - 1)]
    return Chain(
        nodes, rows, [(mask, [next(dealt) for _ in range(size)]) for mask, size in zip(less, sizes[1:], strict=True)]
    )
