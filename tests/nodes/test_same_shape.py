"""What goes over the wire has the same shape whatever the numbers are: all zero or as large as can be, within the bound or cut
off at it, of few rows or many. Frames of real sockets, by length and order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from indoors import Indoors, indoors
from tap import Wire, messages

import smpc_fl as sf
from smpc_fl.protocols import messages as messages_module
from smpc_fl.protocols import owner as owner_module
from smpc_fl.protocols.codec import encode

pytestmark = pytest.mark.slow  # whole federations for minutes: ./scripts/test -m slow

OWNERS = [f"owner-{number}" for number in range(1, 5)]
BOUND = 8.0
POINTERS: list[sf.PointerTensor] = []
"""Kept: owners are told, some time, of those that are not."""
Shape = dict[tuple[str, str], object]


def tensors() -> dict[str, torch.Tensor]:
    """By name: rows and values. The names are as long as each other, for they are in the jobs."""
    return {
        "zero_few": torch.zeros(3, 50),
        "most_few": torch.full((3, 50), BOUND),
        "over_few": torch.full((3, 50), 1e6),
        "zero_all": torch.zeros(1 << 13, 50),
        "more_all": torch.ones(1 << 13, 50),
        "over_all": torch.cat([torch.full((1 << 12, 50), -1e30), torch.full((1 << 12, 50), -2e30)]),
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Indoors, sf.Federation]]:
    with indoors(tmp_path_factory.mktemp("shape"), {owner: tensors() for owner in OWNERS}) as made:
        # Whoever is asked first imports, connects and greets: what that takes is no value's.
        ask(made[1], "most_few", tolerance=2e-3)
        yield made


def ask(fed: sf.Federation, name: str, **more: Any) -> None:
    named = [owner.tensor(name) for owner in fed]
    operands = [pointer.mean(0) for pointer in named]
    POINTERS.extend((*named, *operands))
    sf.secure_mean(operands, bound=BOUND, **{"max_samples": 1 << 13, **more})


def shape(wires: list[Wire], before: list[tuple[int, int]]) -> Shape:
    """What passed since `before`: of owners, every frame in its order; of everybody, the sizes of each kind of message
    (whether the coordinator asks for a freeze, say, depends on who is quicker)."""
    found: Shape = {}
    for wire, (up, down) in zip(wires, before, strict=True):
        dialler, ways = wire.dialler, (wire.frames(up=True)[up:], wire.frames(up=False)[down:])
        if dialler.startswith("owner"):
            found[dialler, wire.listener] = [frame.size for frame in ways[0] if frame.opcode <= 2]
        for names, passed in zip(((dialler, wire.listener), (wire.listener, dialler)), ways, strict=True):
            kinds: dict[str, set[tuple[int, int]]] = defaultdict(set)
            for said in messages(passed):
                kinds[type(said.message).__name__].add((len(encode(said.signed)), len(said.attachment)))
            found[f"{names[0]} says", names[1]] = dict(kinds)
    return found


def shape_of(world: tuple[Indoors, sf.Federation], name: str) -> Shape:
    made, fed = world
    wires = made.wires()
    before = [(len(wire.frames(up=True)), len(wire.frames(up=False))) for wire in wires]
    ask(fed, name)
    made.wait_closed()
    return shape(wires, before)


@pytest.fixture(scope="module")
def ordinary(world: tuple[Indoors, sf.Federation]) -> Shape:
    return shape_of(world, "most_few")


@pytest.mark.parametrize("name", ["zero_few", "over_few", "zero_all", "over_all"])
@pytest.mark.filterwarnings("ignore::smpc_fl.pointers.aggregates.SaturatedWarning")
def test_no_frame_tells_a_value_or_a_number_of_rows(
    world: tuple[Indoors, sf.Federation], ordinary: Shape, name: str
) -> None:
    assert shape_of(world, name) == ordinary


def test_a_number_that_is_said_is_seen(
    world: tuple[Indoors, sf.Federation], ordinary: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: owners that say their number of rows, added to one that they say anyway."""
    reported = messages_module.Reported
    monkeypatch.setattr(
        owner_module, "Reported", lambda hash_, id_, uploaded: reported(hash_, id_, uploaded + (1 << 13) * 8)
    )
    told = shape_of(world, "more_all")
    assert told[OWNERS[0], "coordinator"] != ordinary[OWNERS[0], "coordinator"]
