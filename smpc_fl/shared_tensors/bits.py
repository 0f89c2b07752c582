"""Bits of many words at once: *planes*, uint64[planes, w], w = ceil(n / 64): bit i of word j belongs to element 64 j + i.

One operation on a plane is one on 64 elements. What lies beyond the n-th element means nothing.
"""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt
import torch

from smpc_fl.shared_tensors.words import Unsigned, Words

Planes = npt.NDArray[np.uint64]

_COLUMNS = 512
"""Words of a plane that are turned at a time: 64 planes of them, 256 KiB, stay in the cache."""
_HALVES = [(32, 0x00000000FFFFFFFF), (16, 0x0000FFFF0000FFFF), (8, 0x00FF00FF00FF00FF), (4, 0x0F0F0F0F0F0F0F0F),
           (2, 0x3333333333333333), (1, 0x5555555555555555)]  # fmt: skip


def plane_words(n: int) -> int:
    """Words of a plane over n elements."""
    return -(-n // 64)


def planes(values: Unsigned) -> Planes:
    """uint64[n] -> its bits, uint64[64, w], the lowest first.

    64 x 64 bits are turned by exchanging ever smaller blocks (Warren, "Hacker's Delight", 7-3), many at a time."""
    w = plane_words(values.size)
    padded = np.zeros(64 * w, np.uint64)
    padded[: values.size] = values
    rows = padded.reshape(w, 64)
    out = np.empty((64, w), np.uint64)
    for start in range(0, w, _COLUMNS):
        block = np.ascontiguousarray(rows[start : start + _COLUMNS].T)
        for half, mask in _HALVES:
            pairs = block.reshape(32 // half, 2, half, -1)
            low, high = pairs[:, 0], pairs[:, 1]
            swapped = ((low >> np.uint64(half)) ^ high) & np.uint64(mask)
            high ^= swapped
            low ^= swapped << np.uint64(half)
        out[:, start : start + _COLUMNS] = block
    return out


def flags(plane: Planes, shape: tuple[int, ...]) -> Words:
    """One plane, uint64[w] -> its bits as words, 0 or 1."""
    found = np.unpackbits(plane.astype("<u8", copy=False).view(np.uint8), count=prod(shape), bitorder="little")
    return torch.from_numpy(found.astype(np.int64)).reshape(shape)


def negated(words: Words, ones: Words) -> Words:
    """Minus each word where `ones` is -1, the word itself where it is 0: several times as fast as `torch.where`."""
    return (words ^ ones) - ones


def unmasked(beta: Words, ones: Words, first: bool) -> Words:
    """A party's share of the bit e + beta, from that of the bit beta and from e, as -1 or 0, which all know."""
    share = negated(beta, ones)
    return share - ones if first else share
