"""Additive secret sharing with seeds: x = v + Σ PRG(seed) in the ring, one summand for each aggregator.

Any m - 1 of the m summands are (pseudo-)random and independent of x; all m add up to it; and sums of sharings are
sharings of sums, which is all that aggregation needs. All summands but one are pseudo-random, so they travel as 32-byte
seeds (Corrigan-Gibbs and Boneh, "Prio", NSDI 2017, appendix I, "PRG secret sharing"; the helper shares of Prio3 in
draft-irtf-cfrg-vdaf): an upload costs what x itself costs, whatever m is. The one aggregator that gets v is the owner's
*carrier*.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from smpc_fl.entropy import Entropy
from smpc_fl.errors import BadInput, InternalError
from smpc_fl.hashing import Buffer, digest
from smpc_fl.prg import SEED_SIZE, Prg, stream_key, subtract_streams
from smpc_fl.ring import Ring, RingArray

BLINDER_SIZE = 32


@dataclass(frozen=True, slots=True)
class Context:
    """What one vector's sharing is bound to, so that a seed means nothing anywhere else."""

    manifest_hash: bytes
    owner: str
    vector: str = "update"


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """One vector, shared: `seeds` by aggregator (all but the carrier, sorted), `vector` (ring[n]) for the carrier."""

    seeds: dict[str, bytes] = field(repr=False)
    vector: RingArray = field(repr=False)


def carrier(owner: str, cohort: Sequence[str], round_number: int, aggregators: Sequence[str]) -> str:
    """The aggregator that gets `owner`'s vector: number (rank in the cohort, which is sorted, + round) mod m of the sorted
    aggregators.

    Load is even (each carries floor or ceil of N / m vectors in a round), and nobody can choose."""
    rank = bisect_left(cohort, owner)
    if rank == len(cohort) or cohort[rank] != owner:
        raise BadInput(f"{owner} is not in the cohort")
    ordered = _distinct(aggregators)
    return ordered[(rank + round_number) % len(ordered)]


def _ignore(chunk: RingArray) -> None:
    pass


def split(
    x: RingArray,
    ring: Ring,
    context: Context,
    aggregators: Sequence[str],
    carrier: str,
    entropy: Entropy,
    *,
    in_place: bool = False,
    absorb: Callable[[RingArray], None] = _ignore,
) -> Shares:
    """Shares ring[n] `x` among `aggregators` with 32 bytes of `entropy` for each but the `carrier`; `x` is left as it is,
    unless the vector is to be made `in_place` of it.

    `absorb` is given the vector chunk by chunk while each is in the cache, to seal it.

    Two different x must never be shared under the same seeds and context: whoever gets both vectors sees the difference."""
    ring.check(x)
    ordered = _distinct(aggregators)
    if carrier not in ordered:
        raise BadInput(f"the carrier {carrier} is not one of the aggregators")
    seeds = {aggregator: entropy(SEED_SIZE) for aggregator in ordered if aggregator != carrier}
    if len(set(seeds.values())) != len(seeds):
        raise InternalError("the source of entropy gave the same seed twice: it must not be used")
    vector = x if in_place else x.copy()
    streams = [stream(seed, context, aggregator) for aggregator, seed in seeds.items()]
    for place in subtract_streams(ring, vector, streams):
        absorb(vector[place])
    return Shares(seeds, vector)


def stream(seed: bytes, context: Context, aggregator: str) -> Prg:
    """The share that `seed` stands for at `aggregator`, as a stream that no one has to hold whole."""
    return Prg(stream_key(seed, context.manifest_hash, context.owner, aggregator, context.vector))


def commitment(blinder: bytes, share: Buffer) -> bytes:
    """32 bytes that bind to `share` (a seed, or the tags of the sealed vector: `vectors.VectorSealer`) and tell nothing of
    it to who lacks the `blinder`.

    Without the 32 random bytes, those who know all seeds could test guesses of a small x against the commitment."""
    if len(blinder) != BLINDER_SIZE:
        raise BadInput(f"a blinder has {BLINDER_SIZE} bytes, not {len(blinder)}")
    return digest("smpc-fl/1 share", blinder, share)


def report_id(commitments: Sequence[bytes]) -> bytes:
    """The 32-byte name of a report: the hash of its share commitments, in the order of the sorted aggregators."""
    return digest("smpc-fl/1 report", *commitments)


def _distinct(aggregators: Sequence[str]) -> list[str]:
    ordered = sorted(set(aggregators))
    if len(ordered) < 2 or len(ordered) != len(aggregators):
        raise BadInput("sharing needs two or more aggregators, each named once")
    return ordered
