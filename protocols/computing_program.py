"""A program's bytes, read strictly: every step is of the type that its primitive makes, so that nobody runs what he could
not have written.

Loads torch when it is called, not before: an aggregator that computes nothing never does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from smpc_fl.errors import BadInput, MalformedMessage
from smpc_fl.hashing import Buffer

if TYPE_CHECKING:
    from smpc_fl.shared_tensors.cost import Cost
    from smpc_fl.shared_tensors.program import Program, Step, Type
    from smpc_fl.shared_tensors.words import Words

PART = 1 << 20
"""Bytes of corrections that are sent together, at least; no correction is cut."""
_LARGEST = 1 << 40
"""Elements of a value, and all numbers that a step has."""

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
        from smpc_fl.hashing import digest
        from smpc_fl.shared_tensors.words import from_bytes

        view, at, found = memoryview(data).cast("B"), 0, {}
        for number in self.publics:
            step = self.program.steps[number]
            part = view[at : at + 8 * step.type.size]
            found[number] = from_bytes(part, step.type.shape)
            at += part.nbytes
            if digest("smpc-fl/1 public", part).hex() != step.parameters["digest"]:
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
        try:
            made = _type(steps, number)
        except BadInput as error:
            raise BadInput(f"step {number} of the program ({step.operation!r}): {error.message}") from None
        except (ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            raise BadInput(f"step {number} of the program ({step.operation!r}): its parameters do not fit") from None
        if step.type != made:
            raise BadInput(f"step {number} of the program ({step.operation!r}) is not of the type that it says")
    outputs = program.outputs
    if not outputs or any(not 0 <= output < len(steps) or steps[output].type.sort != "share" for output in outputs):
        raise BadInput("a program has outputs, and each is a shared value")
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


def _type(steps: Sequence[Step], number: int) -> Type:
    """What the step makes, if it is in order."""
    from smpc_fl.shared_tensors.primitives import GIVEN, input_types, type_of
    from smpc_fl.shared_tensors.words import RANGE_BITS

    step = steps[number]
    if any(not 0 <= value < number for value in step.inputs):
        raise BadInput("its inputs come after it")
    words = [word for value in step.parameters.values() for word in (value if isinstance(value, list) else [value])]
    if any(isinstance(word, int) and abs(word) > 1 << 63 for word in words):
        raise BadInput("a parameter is no 64-bit number")
    if step.type.size > _LARGEST or any(not 0 <= length <= _LARGEST for length in step.type.shape):
        raise BadInput("its value is too large")
    if not 0 <= step.type.scale < RANGE_BITS:
        raise BadInput(f"its value has {step.type.scale} fractional bits of {RANGE_BITS}")
    if step.operation not in GIVEN:
        return type_of(step.operation, input_types(steps, step), step.parameters)
    name, sort = {"input": ("name", "share"), "public": ("digest", "public")}[step.operation]
    if step.inputs or step.parameters.keys() != {name} or not isinstance(step.parameters[name], str):
        raise BadInput(f"it has a {name}, and no inputs")
    if step.type.sort != sort:
        raise BadInput("its value is given otherwise")
    return step.type
