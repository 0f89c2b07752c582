"""What the crypto provider deals: correlated randomness, as seeds, so that only one party gets a correction.

The provider gives each of the m parties a seed of its own for one run. A *uniform* value is the sum (or, for bits, the
exclusive or) of what all parties expand from their seeds: nobody sends anything. A *derived* value, such as the product of
two uniform ones, is shared in the same way, and the provider sends one party, the step's number mod m, what is missing
(Beaver, "Commodity-based cryptography", STOC 1997; pseudo-random correlations as in Damgard et al., "Asymmetric
commodity-based protocols").

What is dealt for a step is written down once, as one function of a `Source`, and read twice: with the provider's source it
computes the values and leaves the corrections, with a party's it gives that party's shares. Each step of a program has a
stream of its own and is taken once: a step makes one immutable value, so no mask can serve two. The seeds are drawn for one
run, so what was dealt in another, or before a restart, has nothing to do with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import torch

from smpc_fl.errors import InternalError, MalformedMessage
from smpc_fl.hashing import derive_key
from smpc_fl.prg import Reader
from smpc_fl.shared_tensors.bits import Planes
from smpc_fl.shared_tensors.words import Unsigned, Words, signed, to_bytes

Shape = tuple[int, ...]


class Stream:
    """One party's bytes for one step, read from front to back."""

    def __init__(self, seed: bytes, run: bytes, step: int) -> None:
        self._reader = Reader(derive_key("smpc-fl/1 deal", seed, run, step.to_bytes(8, "little")))

    def take(self, n: int) -> Unsigned:
        """The next n words."""
        out = np.empty(n, "<u8")
        self._reader.read(out.view(np.uint8).data)
        return out.astype(np.uint64, copy=False)


class Source(ABC):
    """What one step draws, in one order at the provider and at every party."""

    @abstractmethod
    def uniform(self, shape: Shape) -> Words:
        """Uniform words."""

    @abstractmethod
    def uniform_bits(self, shape: Shape) -> Planes:
        """Uniform bits, as planes."""

    @abstractmethod
    def derived(self, shape: Shape, value: Callable[[], Words]) -> Words:
        """`value()`, which only the provider can compute."""

    @abstractmethod
    def derived_bits(self, shape: Shape, value: Callable[[], Planes]) -> Planes:
        """`value()`, which only the provider can compute."""


class Dealing(Source):
    """The provider's source for one step: values, and the correction that one party needs."""

    def __init__(self, seeds: Sequence[bytes], run: bytes, step: int) -> None:
        self._streams = [Stream(seed, run, step) for seed in seeds]
        self._corrections: list[memoryview] = []

    def uniform(self, shape: Shape) -> Words:
        first, *rest = self._streams
        total = first.take(prod(shape))
        for stream in rest:
            total += stream.take(prod(shape))
        return signed(total, shape)

    def uniform_bits(self, shape: Shape) -> Planes:
        first, *rest = self._streams
        total = first.take(prod(shape))
        for stream in rest:
            total ^= stream.take(prod(shape))
        return total.reshape(shape)

    def derived(self, shape: Shape, value: Callable[[], Words]) -> Words:
        result = value()
        self._corrections.append(to_bytes(result - self.uniform(shape)))
        return result

    def derived_bits(self, shape: Shape, value: Callable[[], Planes]) -> Planes:
        result = value()
        missing = result ^ self.uniform_bits(shape)
        self._corrections.append(to_bytes(missing))
        return result

    def correction(self) -> bytes:
        """For party number step mod m: what its shares of the derived values lack, one after the other."""
        return b"".join(self._corrections)


class Taking(Source):
    """A party's source for one step: its shares. `correction` is None at the parties that need none."""

    def __init__(self, seed: bytes, run: bytes, step: int, correction: bytes | bytearray | memoryview | None) -> None:
        self._stream = Stream(seed, run, step)
        self._rest = None if correction is None else memoryview(correction).cast("B")

    def uniform(self, shape: Shape) -> Words:
        return signed(self._stream.take(prod(shape)), shape)

    def uniform_bits(self, shape: Shape) -> Planes:
        return self._stream.take(prod(shape)).reshape(shape)

    def derived(self, shape: Shape, value: Callable[[], Words]) -> Words:
        share = self._stream.take(prod(shape))
        if self._rest is not None:
            share += self._next(share.nbytes)
        return signed(share, shape)

    def derived_bits(self, shape: Shape, value: Callable[[], Planes]) -> Planes:
        share = self._stream.take(prod(shape))
        if self._rest is not None:
            share ^= self._next(share.nbytes)
        return share.reshape(shape)

    def finish(self) -> None:
        """Raises `MalformedMessage` where the provider sent more than the step takes."""
        if self._rest:
            raise MalformedMessage("the crypto provider's correction of a step is too long", phase="dealing")

    def _next(self, size: int) -> Unsigned:
        assert self._rest is not None
        if self._rest.nbytes < size:
            raise MalformedMessage("the crypto provider's correction of a step is too short", phase="dealing")
        part, self._rest = self._rest[:size], self._rest[size:]
        return np.frombuffer(part, "<u8")


class Counting(Source):
    """Nobody's source: how many bytes of correction a step takes."""

    def __init__(self) -> None:
        self.bytes = 0

    def uniform(self, shape: Shape) -> Words:
        return torch.empty(shape, dtype=torch.int64, device="meta")

    def uniform_bits(self, shape: Shape) -> Planes:
        return np.broadcast_to(np.uint64(0), shape)

    def derived(self, shape: Shape, value: Callable[[], Words]) -> Words:
        self.bytes += 8 * prod(shape)
        return self.uniform(shape)

    def derived_bits(self, shape: Shape, value: Callable[[], Planes]) -> Planes:
        self.bytes += 8 * prod(shape)
        return self.uniform_bits(shape)


class Once:
    """The steps whose randomness was taken. A second time would use a mask for two values: refused."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def take(self, step: int) -> None:
        if step in self._taken:
            raise InternalError(f"the randomness of step {step} was taken before: it serves one value only")
        self._taken.add(step)
