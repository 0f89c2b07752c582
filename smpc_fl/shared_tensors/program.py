"""A program over shared tensors: steps in the order in which they were written, each making one immutable value.

Everybody who takes part reads the same program, the parties to run it and the crypto provider to deal for it, and none of
them sees more of a tensor than its shape. A value is never overwritten (static single assignment), so a mask that belongs
to a step belongs to one value. The digest of the canonical bytes is what parties agree to run and owners agree to open.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from smpc_fl.hashing import digest

Sort = Literal["share", "public", "mask", "cut", "flag", "sign"]
"""Of a value at a party: its share of the words; words that all know; the opened difference to a mask, with its share of the
mask; the same of a value that was truncated; one bit an element, opened under a mask; the same, and the opened value whose
sign it is."""
Parameter = int | str | bool | list[int]


class Type(msgspec.Struct, frozen=True):
    """What is public of a value: its shape, the fractional bits of its words, and how parties hold it."""

    shape: tuple[int, ...]
    scale: int = 0
    sort: Sort = "share"

    @property
    def size(self) -> int:
        """Elements."""
        n = 1
        for length in self.shape:
            n *= length
        return n


class Step(msgspec.Struct, frozen=True):
    """`operation` (a name of `primitives.TABLE`) on earlier steps, by number."""

    operation: str
    inputs: tuple[int, ...]
    parameters: dict[str, Parameter]
    type: Type


class Program(msgspec.Struct, frozen=True):
    """Steps, and the numbers of those whose values come out."""

    steps: tuple[Step, ...]
    outputs: tuple[int, ...]

    @property
    def digest(self) -> bytes:
        """32 bytes that name the program."""
        return digest("smpc-fl/1 program", _ENCODER.encode(self))

    def last_uses(self) -> list[list[int]]:
        """By step, the values that nothing needs after it."""
        last: dict[int, int] = {}
        for number, step in enumerate(self.steps):
            for value in step.inputs:
                last[value] = number
            last.setdefault(number, number)
        ends: list[list[int]] = [[] for _ in self.steps]
        kept = set(self.outputs)
        for value, number in last.items():
            if value not in kept:
                ends[number].append(value)
        return ends


_ENCODER = msgspec.msgpack.Encoder(order="deterministic")
