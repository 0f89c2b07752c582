"""Products of values that are truncated on the way, without another opening.

Truncation by k bits (truncation.py) opens c, after which the result is

    x' = C - R + W · t,    C = (c >> k) - 2^(62 - k),  W = (1 - top(c)) · 2^(64 - k)  known to all,
                           R = r >> k and t, the top bit of r, dealt.

That is a mask: for another such value y' = D - S + V · u the provider deals R·S, R·u and t·S, and x'·y' follows from them
locally; W·V·t·u vanishes mod 2^64, as long as no more than 64 bits are dropped of both together. A value that was masked
for products (products.py), e + B, is one with no wrap. So a chain of products costs one round for each, not two.
"""

from __future__ import annotations

from dataclasses import dataclass

from smpc_fl.errors import BadInput
from smpc_fl.shared_tensors import truncation
from smpc_fl.shared_tensors.products import Masked
from smpc_fl.shared_tensors.randomness import Shape, Source
from smpc_fl.shared_tensors.truncation import Cut
from smpc_fl.shared_tensors.words import Words

Factor = Masked | Cut
DealtFactor = Words | truncation.Dealt
"""What the steps that made the factors dealt."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Cross:
    """Shares of the products of what was dealt: R · S, R · u where y was cut, t · S where x was."""

    high_high: Words
    high_top: Words | None
    top_high: Words | None


def _high(dealt: DealtFactor) -> Words:
    return dealt.high if isinstance(dealt, truncation.Dealt) else -dealt


def _top(dealt: DealtFactor) -> Words:
    assert isinstance(dealt, truncation.Dealt)
    return dealt.top


def deal(source: Source, shape: Shape, cuts: tuple[bool, bool], x: DealtFactor, y: DealtFactor) -> Cross:
    """8 bytes a value to one party, and 8 for each factor that was cut."""
    return Cross(
        source.derived(shape, lambda: _high(x) * _high(y)),
        source.derived(shape, lambda: _high(x) * _top(y)) if cuts[1] else None,
        source.derived(shape, lambda: _top(x) * _high(y)) if cuts[0] else None,
    )


def product(x: Factor, y: Factor, dealt: Cross, first: bool) -> Words:
    """This party's share of x · y, element by element with broadcasting. Raises `BadInput` where too much was dropped."""
    if isinstance(x, Cut) and isinstance(y, Cut) and x.drop + y.drop > 64:
        raise BadInput(f"factors that dropped {x.drop} and {y.drop} bits: a product takes 64 of both together")
    total = x.opened * _rest(y) + y.opened * _rest(x) + dealt.high_high
    if first:
        total += x.opened * y.opened
    if dealt.high_top is not None and isinstance(y, Cut):
        total -= y.wrap * dealt.high_top
    if dealt.top_high is not None and isinstance(x, Cut):
        total -= x.wrap * dealt.top_high
    return total


def _rest(x: Factor) -> Words:
    """This party's share of what is not known to all."""
    return x.share(first=False) if isinstance(x, Cut) else x.mask


def deal_square(source: Source, shape: Shape, x: truncation.Dealt) -> Cross:
    """16 bytes a value to one party."""
    return Cross(source.derived(shape, lambda: x.high * x.high), None, source.derived(shape, lambda: x.top * x.high))


def square(x: Cut, dealt: Cross, first: bool) -> Words:
    """This party's share of x², drop <= 32."""
    if x.drop > 32:
        raise BadInput(f"a factor that dropped {x.drop} bits: a square takes 32")
    assert dealt.top_high is not None
    total = 2 * (x.opened * _rest(x) - x.wrap * dealt.top_high) + dealt.high_high
    return total + x.opened * x.opened if first else total
