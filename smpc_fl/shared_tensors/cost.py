"""What a program costs, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from smpc_fl.shared_tensors.primitives import GIVEN, TABLE, input_types
from smpc_fl.shared_tensors.program import Program
from smpc_fl.shared_tensors.randomness import Counting

TRANSCRIPT = 32
"""Bytes of the last round's message."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run: `rounds`, messages that wait for one another, with the comparison of transcripts; `online`, bytes that all
    parties together send to one another; `dealt`, bytes that the provider sends; `opened`, bytes opened under masks."""

    rounds: int
    online: int
    dealt: int
    opened: int


def cost(program: Program, parties: int) -> Cost:
    """Everything runs as early as it can; sizes are payload, without the transport's own."""
    ready: list[int] = []  # by step, the rounds after which its value is there
    opened = dealt = 0
    for step in program.steps:
        rounds = max((ready[value] for value in step.inputs), default=0)
        if step.operation not in GIVEN:
            primitive, types = TABLE[step.operation], input_types(program.steps, step)
            sizes = primitive.opens(types, step.parameters)
            rounds += len(sizes)
            opened += sum(sizes)
            counting = Counting()
            primitive.deal(counting, types, step.parameters, [None] * len(types))
            dealt += counting.bytes
        ready.append(rounds)
    return Cost(max(ready) + 1, (opened + TRANSCRIPT) * parties * (parties - 1), dealt, opened)
