"""The crypto provider's run of a program: the corrections of its steps, one after the other. It sees shapes, never data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from smpc_fl.shared_tensors.primitives import GIVEN, TABLE, input_types
from smpc_fl.shared_tensors.program import Program
from smpc_fl.shared_tensors.randomness import Dealing


def deal(program: Program, run: bytes, seeds: Sequence[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """(step, number of the party, correction) for each step that takes one. `seeds`: one a party, in the order of their
    sorted ids, drawn for this run and for no other."""
    dealt: dict[int, Any] = {}
    ends = program.last_uses()
    for number, step in enumerate(program.steps):
        if step.operation not in GIVEN:
            primitive = TABLE[step.operation]
            source = Dealing(seeds, run, number)
            masks = [dealt.get(value) for value in step.inputs]
            dealt[number] = primitive.deal(source, input_types(program.steps, step), step.parameters, masks)
            if primitive.corrected:
                yield number, number % len(seeds), source.correction()
        for value in ends[number]:
            dealt.pop(value, None)
