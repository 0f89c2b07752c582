"""Helper: many sharings at once, as each coalition of aggregators sees them, and whether what it sees tells what was shared.

A sample is one owner's report of a vector that is all zero or as large as can be, made by the very functions that owners call.
A coalition of m - 1 aggregators has: the shares of its own (seeds, expanded; the vector, if one of them carries it), their
blinders, the sum of these shares, all commitments, and every sealed byte that went over the wire, to the others as well."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from smpc_fl.prg import SEED_SIZE
from smpc_fl.protocols import vectors
from smpc_fl.ring import RING32, RingArray
from smpc_fl.sealing import seal_small
from smpc_fl.shares import BLINDER_SIZE, Context, commitment, report_id, split, stream

Floats = NDArray[np.float64]
Bits = NDArray[np.uint8]
DIMENSION = 8
LARGEST = (1 << 31) - 1
HASH = bytes(32)
Weakness = Callable[[RingArray, RingArray], RingArray]
"""What a weak sharing gives away: (the update, its vector share) -> the share that the carrier gets."""


class Draw:
    """Fixed entropy, fast: nobody guesses it here."""

    def __init__(self, seed: int) -> None:
        self._numbers = random.Random(seed)

    def __call__(self, n: int, /) -> bytes:
        return self._numbers.randbytes(n)


class Worn(Draw):
    """Draws every seed from few."""

    def __init__(self, seed: int, bits: int) -> None:
        super().__init__(seed)
        self._kept = (1 << bits) - 1

    def __call__(self, n: int, /) -> bytes:
        return (self._numbers.getrandbits(32) & self._kept).to_bytes(n, "little")


def coalitions(aggregators: int) -> list[tuple[str, ...]]:
    """All of m - 1 aggregators; the first aggregator carries."""
    return list(combinations([f"aggregator-{i}" for i in range(aggregators)], aggregators - 1))


def views(x: RingArray, aggregators: int, draw: Draw, weak: Weakness | None = None) -> dict[tuple[str, ...], bytes]:
    """All that each coalition has of one report."""
    names = [f"aggregator-{i}" for i in range(aggregators)]
    context, carrier = Context(HASH, "alice"), names[0]
    key, keys = draw(32), {name: draw(32) for name in names}
    sealer = vectors.VectorSealer(vectors.stream(key, HASH, RING32, x.size), RING32)
    shares = split(x, RING32, context, names, carrier, draw)
    vector = shares.vector if weak is None else weak(x, shares.vector)
    sealer(vector)
    blinders = {name: draw(BLINDER_SIZE) for name in names}
    of = [commitment(blinders[name], shares.seeds.get(name, sealer.tags)) for name in names]
    public = [*of, report_id(of), bytes(sealer.sealed)]
    public += [seal_small(keys[name], shares.seeds[name] + blinders[name]) for name in names[1:]]
    opened = {name: stream(seed, context, name).expand(RING32, x.size) for name, seed in shares.seeds.items()}
    opened[carrier] = vector
    own = {name: blinders[name] + opened[name].tobytes() + shares.seeds.get(name, key) for name in names}
    seen = {}
    for coalition in coalitions(aggregators):
        total = RING32.zeros(x.size)
        for name in coalition:
            RING32.add_into(total, opened[name])
        seen[coalition] = b"".join((*public, *(own[name] for name in coalition), total.tobytes()))
    return seen


def samples(
    labels: NDArray[np.int8], aggregators: int, draw: Draw, weak: Weakness | None = None
) -> dict[tuple[str, ...], Bits]:
    """By coalition, uint8[n, bytes of a view]: of the all-zero update where the label is -1, of the largest where it is 1."""
    updates = {-1: RING32.zeros(DIMENSION), 1: RING32.zeros(DIMENSION)}
    updates[1][:] = np.where(np.arange(DIMENSION) % 2, LARGEST, (1 << 32) - LARGEST)
    seen = [views(updates[int(label)], aggregators, draw, weak) for label in labels]
    return {
        coalition: np.frombuffer(b"".join(each[coalition] for each in seen), np.uint8).reshape(len(labels), -1)
        for coalition in coalitions(aggregators)
    }


def balanced(n: int, seed: int) -> NDArray[np.int8]:
    return np.random.default_rng(seed).permutation(np.resize(np.array([1, -1], np.int8), n))


def bits(seen: Bits) -> NDArray[np.float32]:
    """float32[n, features]: every bit of a view as ±1."""
    return np.unpackbits(seen, axis=1).astype(np.float32) * 2 - 1


def summary(seen: Bits) -> NDArray[np.float32]:
    """float32[n, features]: what a person would look at: every byte, and of every place the number of bits and of zeros."""
    words = seen[:, : seen.shape[1] // 4 * 4].reshape(len(seen), -1, 4)
    ones = np.unpackbits(seen, axis=1).reshape(len(seen), -1, 8).sum(2)
    return np.hstack(
        [seen, ones, words.max(2), words.min(2), seen.mean(1)[:, None], (seen == 0).sum(1)[:, None]]
    ).astype(np.float32)


def linear(x: NDArray[np.float32], labels: NDArray[np.int8]) -> NDArray[np.float32]:
    """The weights of a ridge classifier, by its dual: there are fewer samples than features."""
    kernel = x @ x.T + x.shape[1] * 0.1 * np.eye(len(x), dtype=np.float32)
    weights: NDArray[np.float32] = x.T @ np.linalg.solve(kernel, labels.astype(np.float32))
    return weights


def p_value(scores: NDArray[np.floating], labels: NDArray[np.int8], permutations: int = 2000) -> float:
    """Of a classifier's success on held-out samples, if it were blind: by permuting the labels; and where the observed one
    is beyond all permutations, by their normal limit (Hoeffding 1951, "A combinatorial central limit theorem")."""
    centred = np.asarray(scores - scores.mean(), np.float64)
    success = float(centred @ labels)
    draw = np.random.default_rng(len(labels))
    chance = np.array([centred @ draw.permutation(labels) for _ in range(permutations)])
    beyond = int((chance >= success).sum())
    if beyond:
        return (1 + beyond) / (1 + permutations)
    spread = math.sqrt(float(centred @ centred) * float(labels @ labels.astype(np.int64)) / (len(labels) - 1))
    return 0.5 * math.erfc(success / spread / math.sqrt(2)) if spread else 1.0


def zero_top_bits(x: RingArray, vector: RingArray) -> RingArray:
    """As if the generator left the top four bits of its words empty."""
    stream_words = x - vector
    return x - (stream_words & np.uint32(0x0FFFFFFF))


def weaknesses() -> Iterator[tuple[str, Weakness | None, Callable[[int], Draw]]]:
    yield "top bits are not masked", zero_top_bits, Draw
    yield "seeds of 4 bits", None, lambda seed: Worn(seed, 4)


assert SEED_SIZE == BLINDER_SIZE == 32
