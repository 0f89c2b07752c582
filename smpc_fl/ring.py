"""The rings Z_2^b, b = 8 to 64: what shares and sums are made of.

In memory an element is an unsigned little-endian machine *word* of 32 bits (b <= 32) or 64, so addition is the
processor's own and uniform bits are a uniform element. Only its low b bits mean anything: Z_2^b is a quotient of
Z_2^word, so what arithmetic leaves above them never reaches down. Vectors are one-dimensional NumPy arrays. As a signed
number an element is read in two's complement: 0 .. 2^(b-1) - 1, then -2^(b-1) .. -1.

On the wire and on disk a vector is *packed*: b bits an element, in blocks of `BLOCK` elements that stand alone. A block
is b cut into planes of 32, 16, 8, 4, 2 and 1 bits (23 = 16 + 4 + 2 + 1), the lowest bits first, one plane after the
other:

- a plane of whole bytes holds its bits of every element, little-endian;
- a plane of p < 8 bits holds, in bits j·p .. j·p + p - 1 of its byte i, those of element i + j · m, where m = p · M / 8
  is the plane's size in bytes and M the number of elements, rounded up to a multiple of 8 with elements that are 0.

So every step works on contiguous halves, at the speed of memory, where a stream of bits would visit single elements.
With 32 and 64 bits the packed vector is the words themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from smpc_fl.errors import BadInput, MalformedMessage, ShapeMismatch

LEAST_BITS, MOST_BITS = 8, 64
BLOCK = 1 << 15
"""Elements that are packed together: 128 or 256 KiB of words, which stay in the cache. Sizes add up over blocks."""

Buffer = bytes | bytearray | memoryview
RingArray = npt.NDArray[np.unsignedinteger[Any]]
"""uint32[n] or uint64[n], little-endian."""
_Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Ring:
    """Z_2^bits, bits = 8 to 64."""

    bits: int

    def __post_init__(self) -> None:
        if not LEAST_BITS <= self.bits <= MOST_BITS:
            raise BadInput(f"there is no ring of {self.bits} bits: use {LEAST_BITS} to {MOST_BITS}")

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        return np.dtype(f"<u{self.itemsize}")

    @property
    def itemsize(self) -> int:
        """Bytes of one word."""
        return 4 if self.bits <= 32 else 8

    @property
    def packed(self) -> bool:
        """Does an element take fewer bits on the wire than in memory?"""
        return self.bits not in (32, 64)

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

    def to_signed(self, a: RingArray) -> npt.NDArray[np.int64]:
        """The elements as signed numbers, in a new array."""
        self.check(a)
        spare = 8 * self.itemsize - self.bits
        signed = a.view(f"<i{self.itemsize}")
        if spare:
            signed = signed << spare  # the sign where the word has its own ...
            signed >>= spare  # ... and copied back over what was above
        return signed.astype(np.int64, copy=not spare)

    def packed_size(self, n: int) -> int:
        """Bytes that n elements take when they are packed."""
        return n * (self.bits // 8) + -(-n // 8) * (self.bits % 8)

    def pack_into(self, words: RingArray, out: memoryview) -> None:
        """Writes the packed elements to `out`, of `packed_size` bytes. Raises `ShapeMismatch`."""
        self.check(words)
        data = np.frombuffer(out, np.uint8)
        if data.size != self.packed_size(words.size):
            raise ShapeMismatch(f"{words.size} elements of {self.bits} bits do not pack into {data.size} bytes")
        if not self.packed:
            data.view(self.dtype)[:] = words
            return
        for part, target in self._blocks(words, data):
            _pack(self.bits, part, target)

    def unpack_into(self, data: Buffer, words: RingArray) -> None:
        """Fills `words` with the elements that `pack_into` wrote, each below 2^bits.

        Raises `MalformedMessage` for another size and for padding that is not 0."""
        self.check(words)
        source = np.frombuffer(data, np.uint8)
        if source.size != self.packed_size(words.size):
            raise MalformedMessage(
                f"a vector of {words.size} elements of {self.bits} bits is not {source.size} bytes long"
            )
        if not self.packed:
            words[:] = source.view(self.dtype)
            return
        for part, packed in self._blocks(words, source):
            _unpack(self.bits, packed, part)

    def _blocks(self, words: RingArray, data: _Bytes) -> Iterator[tuple[RingArray, _Bytes]]:
        step = self.packed_size(BLOCK)
        for number, start in enumerate(range(0, words.size, BLOCK)):
            yield words[start : start + BLOCK], data[number * step : (number + 1) * step]

    def from_bytes(self, buffer: Buffer, n: int) -> RingArray:
        """The n words whose bytes (`as_buffer`) these are: a view of `buffer`, writable if that is. Raises `MalformedMessage`."""
        size = memoryview(buffer).nbytes
        if size != n * self.itemsize:
            raise MalformedMessage(f"a vector of {n} words of {8 * self.itemsize} bits is not {size} bytes long")
        return np.frombuffer(buffer, self.dtype)

    def as_buffer(self, a: RingArray) -> memoryview:
        """The words one after the other, little-endian, without a copy. Raises `ShapeMismatch` unless `a` is contiguous."""
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
    """The ring of 8 to 64 bits; `BadInput` for another number."""
    return Ring(bits)


def _planes(bits: int, n: int, data: _Bytes) -> list[tuple[int, npt.NDArray[Any]]]:
    """A block's planes of whole bytes, the lowest bits first: (bits of an element, unsigned[n], a view of `data`)."""
    planes: list[tuple[int, npt.NDArray[Any]]] = []
    first = 0
    for width in (32, 16, 8):
        if bits & width:
            end = first + width
            planes.append((width, data[first // 8 * n : end // 8 * n].view(f"<u{width // 8}")))
            first = end
    return planes


def _pack(bits: int, words: RingArray, out: _Bytes) -> None:
    """One block."""
    n, first = words.size, 0
    for width, plane in _planes(bits, n, out):
        if first == 0:
            np.copyto(plane, words, casting="unsafe")  # the cast drops what is above
        else:
            np.right_shift(words, first, out=plane, casting="unsafe")
        first += width
    if bits > first:
        rest = _rest(n)
        np.right_shift(words, first, out=rest[:n], casting="unsafe")
        _fold(bits - first, rest, out[first // 8 * n :])


def _unpack(bits: int, data: _Bytes, words: RingArray) -> None:
    """One block: the highest bits come first and move up for those below."""
    n = words.size
    planes = _planes(bits, n, data)
    if bits % 8:
        rest = _rest(n)
        _unfold(bits % 8, data[bits // 8 * n :], rest)
        if rest[n:].any():
            raise MalformedMessage("the padding of a packed vector is not 0")
        planes.append((bits % 8, rest[:n]))
    words[:] = planes.pop()[1]
    for width, plane in reversed(planes):
        np.left_shift(words, width, out=words)
        np.bitwise_or(words, plane, out=words)


def _rest(n: int) -> _Bytes:
    """Bytes for the last 1 to 7 bits of n elements and of the padding, which is 0."""
    rest = np.empty(-(-n // 8) * 8, np.uint8)
    rest[n:] = 0
    return rest


def _lanes(a: _Bytes, padded: int) -> tuple[npt.NDArray[Any], int]:
    """Bytes, eight at a time where an eighth of the block is whole words; and what repeats a byte in all of a lane."""
    return (a.view("<u8"), 0x0101010101010101) if padded % 64 == 0 else (a, 1)


_LOW = {4: 0x0F, 2: 0x33, 1: 0x55}
"""By width, the lower one of every two neighbouring fields of that width in a byte."""


def _fold(bits: int, rest: _Bytes, out: _Bytes) -> None:
    """Writes the planes of 4, 2 and 1 bits of `rest` to `out`.

    Each step halves the width of the field that a byte has for an element, 8 bits at first: the upper half of the
    elements moves into the spare bits of the lower one, those of the plane apart from those that are left."""
    lanes, ones = _lanes(rest, rest.size)
    target, _ = _lanes(out, rest.size)
    width, at = 8, 0
    while bits:
        width //= 2
        low, size = ones * _LOW[width], lanes.size // 2
        lower, upper = lanes[:size], lanes[size:]
        lanes = (lower & low) | ((upper & low) << width)
        if bits & width:
            target[at : at + size] = lanes
            bits, at = bits - width, at + size
            if bits:
                lanes = ((lower >> width) & low) | (upper & (low << width))


def _unfold(bits: int, data: _Bytes, rest: _Bytes) -> None:
    """Undoes `_fold`, from its last step to its first."""
    lanes, ones = _lanes(rest, rest.size)
    source, _ = _lanes(data, rest.size)
    above, at = lanes[:0], source.size  # fields of the bits above the plane's, once there are some
    for width in (1, 2, 4):
        low, size = ones * _LOW[width], lanes.size * width // 8
        both = lanes if width == 4 else np.empty(2 * size, lanes.dtype)
        lower, upper = both[:size], both[size:]
        if bits & width:
            plane, at = source[at - size : at], at - size
            np.bitwise_and(plane, low, out=lower)
            np.bitwise_and(plane >> width, low, out=upper)
            if above.size:
                lower |= (above & low) << width
                upper |= above & (low << width)
        elif above.size:
            np.bitwise_and(above, low, out=lower)
            np.bitwise_and(above >> width, low, out=upper)
        else:
            continue
        above = both
