"""Bytes of programs: read strictly, each step as its primitive makes it, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch
from computing_rig import compiled

from smpc_fl.errors import BadInput, MalformedMessage
from smpc_fl.protocols.computing_program import Checked, read, write
from smpc_fl.shared_tensors import order
from smpc_fl.shared_tensors.draft import Draft
from smpc_fl.shared_tensors.program import Program, Type


def good() -> Checked:
    draft = Draft()
    x = draft.input("x", (2, 3))
    return compiled(draft, [draft.narrow(order.relu(x) * x + torch.ones(3))])[0]


def changed(number: int, **changes: Any) -> bytes:
    program = good().program
    steps = list(program.steps)
    steps[number] = msgspec.structs.replace(steps[number], **changes)
    return write(Program(tuple(steps), program.outputs))


def of(operation: str) -> int:
    return next(number for number, step in enumerate(good().program.steps) if step.operation == operation)


def test_what_was_written_is_read() -> None:
    checked = good()
    assert read(write(checked.program)).program == checked.program
    assert checked.digest == checked.program.digest
    assert sum(checked.corrections.values()) == checked.cost(2).dealt
    parts = [step for party in range(3) for part in checked.parts(party, 3) for step in part]
    assert sorted(parts) == list(checked.corrections)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        msgspec.msgpack.encode({"steps": [], "outputs": [], "more": 1}),
        good().data + b"\0",
        b"\x91" * 2000,
    ],
)
def test_what_is_no_program_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        read(data)


@pytest.mark.parametrize(
    ("operation", "changes", "text"),
    [
        ("sign", {"inputs": (99,)}, "later steps"),
        ("sign", {"operation": "reveal"}, "no step"),
        ("sign", {"parameters": {"drop": 1 << 63}}, "too large"),
        ("sign", {"parameters": {"drop": [0, -(1 << 63)]}}, "too large"),
        ("sign", {"type": Type((2, 3), 62, "sign")}, "fractional bits"),
        ("sign", {"type": Type((1 << 41, 0), 18, "sign")}, "too large"),
        ("input", {"parameters": {"digest": "x"}}, "has a name"),
        ("input", {"parameters": {"name": 1}}, "has a name"),
        ("public", {"parameters": {}}, "has a digest"),
        ("public", {"inputs": (0,)}, "takes nothing"),
    ],
)
def test_a_step_that_no_primitive_makes_is_named(operation: str, changes: dict[str, Any], text: str) -> None:
    data = changed(of(operation), **changes)
    with pytest.raises(BadInput, match=text):
        read(data)


@pytest.mark.parametrize("outputs", [(), (99,), (-1,), (of("sign"),)])
def test_outputs_are_shared_values(outputs: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="output"):
        read(write(Program(good().program.steps, outputs)))
