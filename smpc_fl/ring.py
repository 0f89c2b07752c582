"""The rings Z_2^32 and Z_2^64: what shares and sums are made of.

An element is an unsigned little-endian machine word, so addition modulo 2^b is the processor's own and b uniform bits
are a uniform element. Vectors are one-dimensional NumPy arrays. As a signed number an element is read in two's
complement: 0 .. 2^(b-1) - 1, then -2^(b-1) .. -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from smpc_fl.errors import BadInput, MalformedMessage, ShapeMismatch

RingArray = npt.NDArray[np.unsignedinteger[Any]]
"""uint32[n] or uint64[n], little-endian."""


@dataclass(frozen=True, slots=True)
class Ring:
    """Z_2^bits, bits = 32 or 64."""

    bits: int

    def __post_init__(self) -> None:
        if self.bits not in (32, 64):
            raise BadInput(f"there is no ring of {self.bits} bits: use 32 or 64")

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        return np.dtype(f"<u{self.itemsize}")

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.bits // 8

    @property
    def modulus(self) -> int:
        return 1 << self.bits

    @property
    def largest(self) -> int:
        """2^(bits-1) - 1: a sum whose absolute value is at most this is read back as it was."""
        return (1 << (self.bits - 1)) - 1

    def zeros(self, n: int) -> RingArray:
        """A vector of n zeros."""
        return np.zeros(n, self.dtype)

    def add_into(self, acc: RingArray, other: RingArray) -> None:
        """acc <- acc + other, in place. Raises `ShapeMismatch`."""
        self.check(acc, other.size)
        self.check(other)
        np.add(acc, other, out=acc)

    def subtract_from(self, acc: RingArray, other: RingArray) -> None:
        """acc <- acc - other, in place. Raises `ShapeMismatch`."""
        self.check(acc, other.size)
        self.check(other)
        np.subtract(acc, other, out=acc)

    def to_signed(self, a: RingArray) -> npt.NDArray[np.int64]:
        """The elements as signed numbers, in a new array."""
        self.check(a)
        return a.view(f"<i{self.itemsize}").astype(np.int64)

    def from_bytes(self, buffer: bytes | bytearray | memoryview, n: int) -> RingArray:
        """The n elements that `to_bytes` wrote: a view of `buffer`, writable if that is. Raises `MalformedMessage`."""
        size = memoryview(buffer).nbytes
        if size != n * self.itemsize:
            raise MalformedMessage(f"a vector of {n} elements of {self.bits} bits is not {size} bytes long")
        return np.frombuffer(buffer, self.dtype)

    def to_bytes(self, a: RingArray) -> bytes:
        """The elements one after the other, little-endian."""
        self.check(a)
        return a.tobytes()

    def as_buffer(self, a: RingArray) -> memoryview:
        """The same bytes as `to_bytes`, without a copy. Raises `ShapeMismatch` unless `a` is contiguous."""
        self.check(a)
        if not a.flags.c_contiguous:
            raise ShapeMismatch("a strided vector has no buffer of its own: copy it first")
        return a.view(np.uint8).data

    def check(self, a: RingArray, n: int | None = None) -> None:
        """Raises `ShapeMismatch` unless `a` is a vector over this ring (of n elements)."""
        if a.ndim != 1 or a.dtype != self.dtype:
            raise ShapeMismatch(f"expected a vector of {self.dtype}, got {a.ndim} dimensions of {a.dtype}")
        if n is not None and a.size != n:
            raise ShapeMismatch(f"expected a vector of {n} elements, got {a.size}")


RING32 = Ring(32)
RING64 = Ring(64)


def ring(bits: int) -> Ring:
    """The ring of 32 or 64 bits; `BadInput` for another number."""
    return Ring(bits)
