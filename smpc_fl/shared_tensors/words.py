"""Z_2^64 in torch: the words that shares of a tensor are made of, and real numbers as such words.

An element is an int64 whose arithmetic wraps, so torch's own +, -, * and @ are those of the ring (its int64 matrix product
is the fastest exact one on a CPU). As a signed number it is read in two's complement. A real number v at scale s is
round(v · 2^s); a product of two has the sum of their scales until it is truncated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from smpc_fl.errors import BadInput, CapacityExceeded, MalformedMessage, NotFinite

Words = torch.Tensor
"""int64[shape]."""
Unsigned = npt.NDArray[np.uint64]

SCALE = 18
"""Fractional bits of a number: rounding errors of 2^-19, and products below 2^(62 - 36) = 2^26 in absolute value."""
RANGE_BITS = 62
"""What is truncated or compared stays below 2^62 in absolute value, as an integer."""


def encode(values: torch.Tensor, scale: int = SCALE) -> Words:
    """Real tensor (any dtype but complex) -> int64[shape], each round(v · 2^scale), ties to even.

    Raises `NotFinite` for NaN and infinity, and `CapacityExceeded` for |v| >= 2^(62 - scale)."""
    if values.is_complex():
        raise BadInput("a shared tensor holds real numbers: share the real and the imaginary part")
    numbers = values.detach().to(torch.float64)
    if not bool(torch.isfinite(numbers).all()):
        raise NotFinite("a tensor to be shared holds NaN or infinity: replace them first")
    scaled = torch.round(numbers * 2.0**scale)
    if scaled.numel() and float(scaled.abs().max()) >= 2.0**RANGE_BITS:
        raise CapacityExceeded(
            f"a tensor to be shared holds values of 2^{RANGE_BITS - scale} or more in absolute value: scale it down"
        )
    return scaled.to(torch.int64)


def decode(words: Words, scale: int = SCALE) -> torch.Tensor:
    """int64[shape] -> float64[shape]: exact up to 53 significant bits."""
    return words.to(torch.float64) * 2.0**-scale


def unsigned(words: Words) -> Unsigned:
    """The elements one after the other as unsigned numbers, uint64[n]: a view where the words lie in one piece."""
    flat: Unsigned = words.contiguous().view(-1).numpy().view(np.uint64)
    return flat


def signed(values: npt.NDArray[Any], shape: tuple[int, ...]) -> Words:
    """uint64[n] -> int64[shape], a view."""
    return torch.from_numpy(values.view(np.int64)).reshape(shape)


def shift_right(words: Words, bits: int) -> Words:
    """Each element as an unsigned number over 2^bits, rounded down."""
    return signed(unsigned(words) >> np.uint64(bits), tuple(words.shape))


def to_bytes(words: Words | npt.NDArray[np.uint64]) -> memoryview:
    """Little-endian, 8 bytes an element: a view where that is possible."""
    flat = np.ascontiguousarray(words).reshape(-1) if isinstance(words, np.ndarray) else unsigned(words)
    return flat.astype("<u8", copy=False).view(np.uint8).data


def from_bytes(data: bytes | bytearray | memoryview, shape: tuple[int, ...]) -> Words:
    """A copy of what `to_bytes` gave. Raises `MalformedMessage` for another size."""
    expected = 8 * int(np.prod(shape, dtype=np.int64))
    if memoryview(data).nbytes != expected:
        raise MalformedMessage(f"a tensor of {expected} bytes is not {memoryview(data).nbytes} bytes long")
    return signed(np.frombuffer(data, "<u8").astype(np.uint64), shape)
