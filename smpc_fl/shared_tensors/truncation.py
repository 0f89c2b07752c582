"""Truncation: dividing by 2^k what a product has too many fractional bits of, for any number of parties, in one round.

x' = x + 2^62 is opened as c = x' + r mod 2^64 under a uniform r, of which the provider deals the high part r >> k and the
top bit t. As x' < 2^63, the sum leaves the ring exactly if t = 1 and the top bit of c is 0, so

    (x' >> k) + u = (c >> k) - (r >> k) + (1 - top(c)) · t · 2^(64 - k),

with u = 1 if the low parts carry, which happens with the probability of the fraction that is cut off: the result is x / 2^k
rounded down or up, x / 2^k on average (Escudero et al., "Improved primitives for MPC over mixed arithmetic-binary circuits",
CRYPTO 2020, section 5; the overflow bit is that of Dalskov, Escudero and Keller, "Secure evaluation of quantized neural
networks", PETS 2020). There is no other error while |x| < 2^62, however many parties there are; beyond it the result
means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from smpc_fl.shared_tensors.opening import Opening, Running
from smpc_fl.shared_tensors.randomness import Shape, Source
from smpc_fl.shared_tensors.words import RANGE_BITS, Words, shift_right


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Dealt:
    """Shares (at the provider: values) of r, r >> k and the top bit of r."""

    mask: Words
    high: Words
    top: Words


def deal(source: Source, shape: Shape, drop: int) -> Dealt:
    """16 bytes a value to one party: see the module's text."""
    mask = source.uniform(shape)
    high = source.derived(shape, lambda: shift_right(mask, drop))
    top = source.derived(shape, lambda: shift_right(mask, 63))
    return Dealt(mask, high, top)


def run(dealt: Dealt, x: Words, drop: int, first: bool) -> Running:
    """This party's share of x / 2^drop, 1 <= drop <= 62. Opens x + 2^62 + r, 8 bytes a value."""
    share = x + dealt.mask
    if first:
        share = share + (1 << RANGE_BITS)
    (opened,) = yield [Opening(share)]
    return truncated(dealt, opened, drop, first)


def truncated(dealt: Dealt, opened: Words, drop: int, first: bool) -> Words:
    """What follows from the opened value alone."""
    wrapped = dealt.top * ((1 - shift_right(opened, 63)) << (64 - drop))
    share = wrapped - dealt.high
    if first:
        share = share + shift_right(opened, drop) - (1 << (RANGE_BITS - drop))
    return share
