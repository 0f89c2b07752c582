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


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Cut:
    """x / 2^drop = opened - high + wrap · top: `opened` and `wrap` are known to all, `high` and `top` are shares."""

    opened: Words
    wrap: Words
    high: Words
    top: Words
    drop: int

    def share(self, first: bool) -> Words:
        """This party's, of x / 2^drop."""
        share = self.wrap * self.top - self.high
        return share + self.opened if first else share


def run(dealt: Dealt, x: Words, drop: int, first: bool) -> Running:
    """A `Cut`, 1 <= drop <= 62. Opens x + 2^62 + r, 8 bytes a value."""
    share = x + dealt.mask
    (c,) = yield [Opening(share + (1 << RANGE_BITS) if first else share)]
    known = shift_right(c, drop) - (1 << (RANGE_BITS - drop))
    return Cut(known, (1 - shift_right(c, 63)) << (64 - drop), dealt.high, dealt.top, drop)
