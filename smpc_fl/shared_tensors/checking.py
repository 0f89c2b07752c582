"""Whether a program that came from somebody else is one: every step known, of earlier values, of the type that it says."""

from __future__ import annotations

from smpc_fl.errors import BadInput
from smpc_fl.shared_tensors.primitives import GIVEN, input_types, type_of
from smpc_fl.shared_tensors.program import Program

_MOST_ELEMENTS = 1 << 32


def check(program: Program) -> None:
    """Raises `BadInput` naming the step. A program that a `Draft` wrote passes."""
    for number, step in enumerate(program.steps):
        if any(not 0 <= value < number for value in step.inputs):
            raise BadInput(f"step {number} of a program takes values of later steps")
        if any(length < 0 for length in step.type.shape) or step.type.size > _MOST_ELEMENTS:
            raise BadInput(f"step {number} of a program has an impossible shape")
        if step.operation in GIVEN:
            sort = "share" if step.operation == "input" else "public"
            if step.inputs or step.type.sort != sort:
                raise BadInput(f"step {number} of a program is given, as {sort}, and takes nothing")
            continue
        try:
            made = type_of(step.operation, input_types(program.steps, step), step.parameters)
        except BadInput as error:
            raise BadInput(f"step {number} of a program: {error}") from None
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError):
            raise BadInput(f"step {number} of a program, {step.operation}, has parameters that mean nothing") from None
        if made != step.type:
            raise BadInput(f"step {number} of a program, {step.operation}, does not make what it says")
    if not program.outputs or any(not 0 <= output < len(program.steps) for output in program.outputs):
        raise BadInput("a program has outputs, which are steps of its own")
    if any(program.steps[output].type.sort != "share" for output in program.outputs):
        raise BadInput("an output of a program is a share")
