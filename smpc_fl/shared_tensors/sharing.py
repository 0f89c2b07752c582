"""Additive shares of a tensor: words that add up to it, any m - 1 of them uniform and independent of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smpc_fl.entropy import Entropy
from smpc_fl.errors import BadInput
from smpc_fl.shared_tensors.words import Words, signed


def split(words: Words, parties: int, entropy: Entropy) -> list[Words]:
    """int64[shape] -> one share a party."""
    if parties < 2:
        raise BadInput("sharing needs two or more parties")
    shape = tuple(words.shape)
    shares = [
        signed(np.frombuffer(entropy(8 * words.numel()), "<u8").astype(np.uint64), shape) for _ in range(parties - 1)
    ]
    return [*shares, words - sum(shares)]


def join(shares: Sequence[Words]) -> Words:
    """The tensor that all shares add up to."""
    first, *rest = shares
    return first + sum(rest)
