"""A program's bytes, read strictly, and what follows from the program for those who run it or deal for it.

Loads torch when it is called, not before: an aggregator that computes nothing never does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from smpc_fl.errors import BadInput, MalformedMessage
from smpc_fl.hashing import Buffer

if TYPE_CHECKING:
    from smpc_fl.shared_tensors.cost import Cost
    from smpc_fl.shared_tensors.program import Program, Step
    from smpc_fl.shared_tensors.words import Words

PART = 1 << 20
"""Bytes of corrections that are sent together, at least; no correction is cut."""
_LONGEST = 1 << 40
"""Elements of a dimension."""

_encoder = msgspec.msgpack.Encoder(order="deterministic")


@dataclass(frozen=True, eq=False)
class Checked:
    """`inputs`, `publics`: numbers of those steps; `corrections`: bytes for each step that takes one; `size`: bytes of all
    values that the program makes."""

    program: Program
    data: bytes
    digest: bytes
    inputs: tuple[int, ...]
    publics: tuple[int, ...]
    corrections: Mapping[int, int]
    size: int

    def cost(self, parties: int) -> Cost:
        from smpc_fl.shared_tensors.cost import cost

        return cost(self.program, parties)

    def parts(self, party: int, parties: int) -> list[tuple[int, ...]]:
        """Which steps' corrections are dealt to party number `party` together."""
        found: list[tuple[int, ...]] = []
        steps: list[int] = []
        size = 0
        for step, length in self.corrections.items():
            if step % parties == party:
                steps.append(step)
                size += length
                if size >= PART:
                    found.append(tuple(steps))
                    steps, size = [], 0
        return [*found, tuple(steps)] if steps else found

    def public_words(self, data: Buffer) -> dict[int, Words]:
        """The words of the public steps, one after the other, each the one whose digest the program has."""
        from smpc_fl.shared_tensors.draft import public_name
        from smpc_fl.shared_tensors.words import from_bytes

        view, at, found = memoryview(data).cast("B"), 0, {}
        for number in self.publics:
            step = self.program.steps[number]
            part = view[at : at + 8 * step.type.size]
            found[number] = from_bytes(part, step.type.shape)
            at += part.nbytes
            if public_name(found[number]) != step.parameters["digest"]:
                raise MalformedMessage(f"the words of public step {number} are not those that the program names")
        if at != view.nbytes:
            raise MalformedMessage("there are more public words than the program has")
        return found


def write(program: Program) -> bytes:
    """The canonical bytes, over which the program's digest is."""
    return _encoder.encode(program)


@lru_cache(maxsize=8)
def read(data: bytes) -> Checked:
    """Raises `MalformedMessage`, or `BadInput` naming a step that is not as its primitive makes it."""
    from smpc_fl.shared_tensors.checking import check
    from smpc_fl.shared_tensors.primitives import GIVEN, TABLE, input_types
    from smpc_fl.shared_tensors.program import Program
    from smpc_fl.shared_tensors.randomness import Counting

    try:
        program = msgspec.msgpack.decode(data, type=Program)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedMessage(f"a program does not decode: {str(error).split(': ', 1)[0][:200]}") from None
    if _encoder.encode(program) != data:
        raise MalformedMessage("a program is not in its one canonical spelling")
    steps = program.steps
    for number, step in enumerate(steps):
        _check_numbers(number, step)
    check(program)
    corrections = {}
    for number, step in enumerate(steps):
        if step.operation not in GIVEN and TABLE[step.operation].corrected:
            counting = Counting()
            types = input_types(steps, step)
            TABLE[step.operation].deal(counting, types, step.parameters, [None] * len(types))
            corrections[number] = counting.bytes
    return Checked(
        program,
        data,
        program.digest,
        tuple(number for number, step in enumerate(steps) if step.operation == "input"),
        tuple(number for number, step in enumerate(steps) if step.operation == "public"),
        corrections,
        sum(8 * step.type.size for step in steps) + sum(corrections.values()),
    )


def _check_numbers(number: int, step: Step) -> None:
    """What would not fit into 64 bits where it is computed with, and the names of what is given."""
    from smpc_fl.shared_tensors.primitives import GIVEN
    from smpc_fl.shared_tensors.words import RANGE_BITS

    words = [word for value in step.parameters.values() for word in (value if isinstance(value, list) else [value])]
    if any(isinstance(word, int) and not -(1 << 62) < word < 1 << 62 for word in words):
        raise BadInput(f"step {number} of a program has a parameter that is too large")
    if not 0 <= step.type.scale < RANGE_BITS or any(length > _LONGEST for length in step.type.shape):
        raise BadInput(f"step {number} of a program is too large, or has too many fractional bits")
    if step.operation in GIVEN:
        name = "name" if step.operation == "input" else "digest"
        if step.parameters.keys() != {name} or not isinstance(step.parameters[name], str):
            raise BadInput(f"step {number} of a program is given, and has a {name} and nothing else")
