"""What each operation opens, in bytes: as many as `cost` says, which are those of its docstring. And no step but these opens."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from rooms_of_parties import Played, seeded

from smpc_fl.shared_tensors import order
from smpc_fl.shared_tensors.cost import TRANSCRIPT, cost
from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.in_process import Room
from smpc_fl.shared_tensors.primitives import TABLE

N = 128

CASES: list[tuple[Callable[..., object], Callable[[Value, Value], Value], float, float, int]] = [
    # documented by, program, bytes opened a value, dealt a value, rounds
    (order.negative, lambda x, y: order.negative(x), 12.25, 49, 4),
    (order.less, order.less, 12.25, 49, 4),
    (order.equal, order.equal, 10.625, 45, 4),
    (order.relu, lambda x, y: order.relu(x), 12.25, 57, 4),
    (order.relu, lambda x, y: order.relu(wide(x)), 11.125, 69, 4),
    (order.abs, lambda x, y: order.abs(x), 12.25, 57, 4),
    (order.sign, lambda x, y: order.sign(x), 24.5, 98, 4),
    (order.maximum, order.maximum, 12.25, 57, 4),
    (order.maximum, order.minimum, 12.25, 57, 4),
    (order.clamp, lambda x, y: order.clamp(x, y), 12.25, 57, 4),
    (order.round_down, lambda x, y: order.round_down(wide(x), 18), 12.75, 67, 4),
    (order.where, lambda x, y: order.where(order.less(x, y), x, y), 12.25 + 8, 49 + 8, 4),
    (order.max, lambda x, y: order.max(x, 1), 12.25 / 2, 57 / 2, 4),
]
"""Of N rows of two."""


def wide(x: Value) -> Value:
    return x.draft.step("rescale", x, by=18)


@pytest.mark.parametrize("parties", [2, 3])
@pytest.mark.parametrize(("documented", "write", "opened", "dealt", "rounds"), CASES)
def test_opens_what_it_says(
    documented: Callable[..., object],
    write: Callable[[Value, Value], Value],
    opened: float,
    dealt: float,
    rounds: int,
    parties: int,
) -> None:
    draft = Draft()
    output = write(draft.input("x", (N, 2)), draft.input("y", (N, 2)))
    said = cost(draft.program(output), parties)
    assert said.opened == opened * 2 * N
    assert said.rounds == rounds + 1
    assert abs(said.dealt / (2 * N) - dealt) < 0.5
    assert said.online == (said.opened + TRANSCRIPT) * parties * (parties - 1)

    words = torch.arange(2 * N).reshape(N, 2) - N
    played = Played(Room.of(draft, [output], {"x": words, "y": -words}, entropy=seeded(1), parties=parties))
    corrections = sum(len(correction.data) for _, correction in played.room.corrections())
    played.play()
    assert corrections == said.dealt
    for each in played.said:
        assert len(each) == said.rounds
        assert sum(map(len, each)) == said.opened + TRANSCRIPT


@pytest.mark.parametrize(("documented", "write", "opened", "dealt", "rounds"), CASES)
def test_docstrings_say_so(
    documented: Callable[..., object],
    write: Callable[[Value, Value], Value],
    opened: float,
    dealt: float,
    rounds: int,
) -> None:
    text = " ".join((documented.__doc__ or "").split())
    if documented is order.where:
        assert "8 bytes and 8 dealt" in text
        return
    if documented is order.max:
        opened, dealt = 2 * opened, 2 * dealt
    found = [(float(a), int(b)) for a, b in re.findall(r"([\d.]+) bytes, (\d+) dealt", text)]
    assert any(abs(a - opened) <= 0.08 and b == dealt for a, b in found), text


ELSEWHERE = {"series", "exponential"}
"""Have tests of their own."""
SILENT = {name for name, primitive in TABLE.items() if primitive.opens.__name__ == "_no_openings"}
OPENING = {"mask", "cut", "sign", "zero", "truncate_exactly"}


def test_no_other_step_opens() -> None:
    assert set(TABLE) - SILENT == OPENING | ELSEWHERE


@pytest.mark.parametrize("drop", [1, 2, 17, 18, 30, 34, 45, 61])
@pytest.mark.parametrize("operation", ["sign", "truncate_exactly", "cut"])
def test_every_width_opens_what_it_says(operation: str, drop: int) -> None:
    draft = Draft()
    x = draft.input("x", (70,), 61)
    value = draft.step(operation, x, drop=drop)
    output = {"sign": lambda: draft.step("bit", value, inverted=False), "cut": lambda: draft.step("uncut", value)}.get(
        operation, lambda: value
    )()
    program = draft.program(output)
    played = Played(Room.of(draft, [output], {"x": torch.arange(70)}, entropy=seeded(1), parties=2))
    played.play()
    sizes = TABLE[operation].opens([x.type], {"drop": drop})
    assert [len(data) for data in played.said[0]] == [*sizes, TRANSCRIPT]
    assert cost(program, 2).opened == sum(sizes)
