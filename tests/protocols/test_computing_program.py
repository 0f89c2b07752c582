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
from smpc_fl.shared_tensors.program import Program, Step, Type


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
        ("sign", {"inputs": (99,)}, "come after"),
        ("sign", {"inputs": (-1,)}, "come after"),
        ("sign", {"operation": "reveal"}, "no step"),
        ("sign", {"parameters": {}}, "not of the type"),
        ("sign", {"parameters": {"drop": "much"}}, "do not fit"),
        ("sign", {"parameters": {"drop": 1 << 63}}, "fractional bits"),
        ("mask", {"type": Type((2, 3), 17, "mask")}, "not of the type"),
        ("mask", {"type": Type((1 << 41, 0), 18, "mask")}, "too large"),
        ("mask", {"type": Type((-2, 3), 18, "mask")}, "too large"),
        ("mask", {"type": Type((2, 3), 62, "mask")}, "fractional bits"),
        ("mask", {"inputs": ()}, "do not fit"),
        ("input", {"type": Type((2, 3), 18, "public")}, "given otherwise"),
        ("input", {"parameters": {"digest": "x"}}, "has a name"),
        ("input", {"parameters": {"name": 1}}, "has a name"),
        ("public", {"type": Type((3,), 18, "share")}, "given otherwise"),
        ("public", {"inputs": (0,)}, "has a digest"),
    ],
)
def test_a_step_that_no_primitive_makes_is_named(operation: str, changes: dict[str, Any], text: str) -> None:
    data = changed(of(operation), **changes)
    with pytest.raises((BadInput, MalformedMessage), match=text):
        read(data)


@pytest.mark.parametrize("outputs", [(), (99,), (-1,), (of("sign"),)])
def test_outputs_are_shared_values(outputs: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="outputs"):
        read(write(Program(good().program.steps, outputs)))


def test_a_parameter_is_a_64_bit_number() -> None:
    step = Step("input", (), {"name": "x"}, Type((1,), 18))
    wide = Step("times", (0,), {"factor": (1 << 63) + 1}, Type((1,), 18))
    with pytest.raises(BadInput, match="64-bit"):
        read(write(Program((step, wide), (1,))))
