"""Writing a program: values with arithmetic, each operation a step or a few; equal steps are written once.

That is how masks come to be reused: masking one value twice is one step. A product keeps the scale of both factors until
something needs it narrow, so a sum of products is truncated once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import torch

from smpc_fl.errors import BadInput, CapacityExceeded
from smpc_fl.hashing import digest
from smpc_fl.shared_tensors import primitives
from smpc_fl.shared_tensors.program import Program, Step, Type
from smpc_fl.shared_tensors.words import RANGE_BITS, SCALE, Words, encode, to_bytes

Number = int | float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Value:
    """What a step of a draft makes."""

    draft: Draft
    number: int

    @property
    def type(self) -> Type:
        return self.draft.steps[self.number].type

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def scale(self) -> int:
        return self.type.scale

    def __repr__(self) -> str:
        return f"Value(step {self.number}, {self.type.sort} {list(self.shape)})"

    def __neg__(self) -> Value:
        return self.draft.step("neg", self)

    def __add__(self, other: Value | torch.Tensor | Number) -> Value:
        return self.draft.add(self, other)

    __radd__ = __add__

    def __sub__(self, other: Value | torch.Tensor | Number) -> Value:
        return self.draft.add(self, -other)

    def __rsub__(self, other: torch.Tensor | Number) -> Value:
        return self.draft.add(-self, other)

    def __mul__(self, other: Value | torch.Tensor | Number) -> Value:
        return self.draft.multiply("mul", self, other)

    __rmul__ = __mul__

    def __matmul__(self, other: Value | torch.Tensor) -> Value:
        return self.draft.multiply("matmul", self, other)

    def __rmatmul__(self, other: torch.Tensor) -> Value:
        return self.draft.multiply("matmul", self.draft.public(other), self)


@dataclass(eq=False, repr=False)
class Draft:
    """The steps so far. `given`: the words of its public values, by step."""

    steps: list[Step] = field(default_factory=list)
    given: dict[int, Words] = field(default_factory=dict)
    _known: dict[bytes, int] = field(default_factory=dict)

    # --- values from outside ---

    def input(self, name: str, shape: Sequence[int], scale: int = SCALE) -> Value:
        """A tensor that is given as shares, once by each name."""
        return self._write("input", (), {"name": name}, Type(tuple(shape), scale))

    def public(self, values: torch.Tensor, scale: int = SCALE) -> Value:
        """A tensor that every party knows. Its digest is a part of the program."""
        words = encode(values, scale)
        value = self._write("public", (), {"digest": public_name(words)}, Type(tuple(words.shape), scale, "public"))
        self.given[value.number] = words
        return value

    # --- arithmetic ---

    def add(self, a: Value, b: Value | torch.Tensor | Number) -> Value:
        if isinstance(b, int | float) and float(b).is_integer():
            other = self.public(torch.tensor(float(b), dtype=torch.float64), a.scale)  # 1 - a truth value is one
        else:
            other = self.value(b)
        if other.type.sort == "share" and a.type.sort == "public":
            a, other = other, a
        scale = max(a.scale, other.scale)
        a, other = self.at(a, scale), self.at(other, scale)
        return self.step("add", a, other, public=a.type.sort != other.type.sort)

    def multiply(self, map: str, a: Value, b: Value | torch.Tensor | Number, **parameters: Any) -> Value:
        """`map`: mul, matmul or conv2d. The result has both scales: `narrow` it when it is to be a factor again."""
        if isinstance(b, int) or (isinstance(b, float) and b.is_integer() and abs(b) < 2.0**31):
            return self.step("times", a, factor=int(b))  # exact, and nothing to truncate
        if map == "mul" and isinstance(b, Value):
            return self.elementwise(a, self.value(b))
        x, y = self.narrow(a), self.narrow(self.value(b))
        if "public" in (x.type.sort, y.type.sort):
            return self.step("public_product", x, y, map=map, **parameters)
        return self.step("product", self.step("mask", x), self.step("mask", y), map=map, **parameters)

    def narrow(self, x: Value, scale: int = SCALE) -> Value:
        """x with at most `scale` fractional bits: truncated (±1 unit in the last place) if it has more."""
        if x.scale <= scale:
            return x
        if x.type.sort == "public":
            raise BadInput("a product of public values is computed before it is shared")
        return self.step("uncut", self.step("cut", x, drop=x.scale - scale))

    def elementwise(self, a: Value, b: Value, a_scale: int = SCALE, b_scale: int = SCALE) -> Value:
        """a · b with so many fractional bits of each, or fewer: what is wider is truncated in the same round (cut.py)."""
        excess = [max(0, x.scale - scale) for x, scale in ((a, a_scale), (b, b_scale))]
        if "public" in (a.type.sort, b.type.sort):
            return self.step("public_product", self.narrow(a, a_scale), self.narrow(b, b_scale), map="mul")
        if sum(excess) > 64 or (a.number == b.number and excess[0] > 32):
            b, excess[1] = self.narrow(b, b_scale), 0
        if a.number == b.number and excess[0]:
            return self.step("cut_square", self.step("cut", a, drop=excess[0]))
        x, y = (
            self.step("cut", x, drop=drop) if drop else self.step("mask", x)
            for x, drop in zip((a, b), excess, strict=True)
        )
        return self.step("cut_product" if any(excess) else "product", x, y, **({} if any(excess) else {"map": "mul"}))

    def at(self, x: Value, scale: int) -> Value:
        """The same number with `scale` fractional bits, no fewer than it has: exact."""
        return x if x.scale == scale else self.step("rescale", x, by=scale - x.scale)

    def value(self, operand: Value | torch.Tensor | Number) -> Value:
        if isinstance(operand, Value):
            if operand.draft is not self:
                raise BadInput("values of two different programs do not mix")
            return operand
        if isinstance(operand, torch.Tensor):
            return self.public(operand)
        return self.public(torch.tensor(float(operand), dtype=torch.float64))

    # --- steps ---

    def step(self, operation: str, *inputs: Value, **parameters: Any) -> Value:
        """Any primitive. Raises as it does, and `CapacityExceeded` where numbers would have too many fractional bits."""
        types = [self.value(value).type for value in inputs]
        made = primitives.type_of(operation, types, parameters)
        if made.scale >= RANGE_BITS:
            raise CapacityExceeded(
                f"{operation} would leave {made.scale} fractional bits of {RANGE_BITS}: narrow its factors first"
            )
        return self._write(operation, tuple(value.number for value in inputs), parameters, made)

    def _write(self, operation: str, inputs: tuple[int, ...], parameters: dict[str, Any], made: Type) -> Value:
        step = Step(operation, inputs, parameters, made)
        key = _KEY.encode(step)
        number = self._known.get(key)
        if number is None:
            number = self._known[key] = len(self.steps)
            self.steps.append(step)
        return Value(self, number)

    def program(self, *outputs: Value) -> Program:
        """What is needed for `outputs`, which come out as they are: narrow them first. Steps are numbered anew."""
        if not outputs or any(value.type.sort != "share" for value in outputs):
            raise BadInput("a program has outputs, and each is a shared value")
        needed: set[int] = set()
        stack = [self.value(value).number for value in outputs]
        while stack:
            number = stack.pop()
            if number not in needed:
                needed.add(number)
                stack += self.steps[number].inputs
        new = {number: index for index, number in enumerate(sorted(needed))}
        steps = tuple(
            msgspec.structs.replace(self.steps[number], inputs=tuple(new[value] for value in self.steps[number].inputs))
            for number in new
        )
        return Program(steps, tuple(new[value.number] for value in outputs))

    def public_words(self, program: Program) -> dict[int, Words]:
        """The words of the public steps of a program of this draft."""
        by_digest = {str(self.steps[number].parameters["digest"]): words for number, words in self.given.items()}
        return {
            number: by_digest[str(step.parameters["digest"])]
            for number, step in enumerate(program.steps)
            if step.operation == "public"
        }


_KEY = msgspec.msgpack.Encoder(order="deterministic")


def public_name(words: Words) -> str:
    """What a program calls a public value."""
    return digest("smpc-fl/1 public", _KEY.encode(tuple(words.shape)), to_bytes(words)).hex()
