"""A program of somebody else's is read step by step before anything runs; steps refuse values of the wrong sort."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch

from smpc_fl.errors import BadInput, ShapeMismatch
from smpc_fl.shared_tensors import order
from smpc_fl.shared_tensors.checking import check
from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.program import Program, Step, Type


def program() -> Program:
    draft = Draft()
    x, y = draft.input("x", (3, 4)), draft.input("y", (4, 2))
    z = order.relu(x @ y + 0.5)
    return draft.program(draft.narrow(z * z), order.argmax(z, 1))


def changed(made: Program, name: str, /, **changes: Any) -> Program:
    """Its first step of this operation is another."""
    number = [step.operation for step in made.steps].index(name)
    steps = list(made.steps)
    steps[number] = msgspec.structs.replace(steps[number], **changes)
    return msgspec.structs.replace(made, steps=tuple(steps))


def test_what_a_draft_wrote_passes() -> None:
    check(program())


WRONG: list[tuple[str, Callable[[Program], Program]]] = [
    ("later steps", lambda p: changed(p, "mask", inputs=(len(p.steps) - 1,))),
    ("later steps", lambda p: changed(p, "mask", inputs=(-1,))),
    ("impossible shape", lambda p: changed(p, "input", type=Type((3, -4), 18))),
    ("impossible shape", lambda p: changed(p, "input", type=Type((1 << 20, 1 << 20), 18))),
    ("is given, as share", lambda p: changed(p, "input", type=Type((3, 4), 18, "public"))),
    ("is given, as public", lambda p: changed(p, "public", type=Type((), 36))),
    ("no step 'open'", lambda p: changed(p, "mask", operation="open")),
    ("does not make what it says", lambda p: changed(p, "sign", type=Type((3, 2), 18, "flag"))),
    ("mean nothing", lambda p: changed(p, "sign", parameters={"drop": "all"})),
    ("mean nothing", lambda p: changed(p, "bit", parameters={})),
    ("mean nothing", lambda p: changed(p, "mask", inputs=())),
    ("no product 'div'", lambda p: changed(p, "product", parameters={"map": "div"})),
    ("has outputs", lambda p: msgspec.structs.replace(p, outputs=())),
    ("has outputs", lambda p: msgspec.structs.replace(p, outputs=(len(p.steps),))),
    ("is a share", lambda p: msgspec.structs.replace(p, outputs=([s.type.sort for s in p.steps].index("mask"),))),
]


@pytest.mark.parametrize(("sentence", "change"), WRONG)
def test_what_is_no_program(sentence: str, change: Callable[[Program], Program]) -> None:
    with pytest.raises(BadInput, match=sentence):
        check(change(program()))


def test_a_given_step_takes_nothing() -> None:
    with pytest.raises(BadInput, match="takes nothing"):
        check(Program((Step("input", (), {"name": "x"}, Type(())), Step("input", (0,), {"name": "y"}, Type(()))), (0,)))


def test_steps_take_values_of_their_sort() -> None:
    draft = Draft()
    x, public = draft.input("x", (3,)), draft.public(torch.zeros(3))
    narrow, mask = draft.input("y", (3,), 4), draft.step("mask", x)
    cut = draft.step("cut", x, drop=2)
    wrongs: list[Callable[[], Value]] = [
        lambda: draft.step("cat", x, narrow, dim=0),
        lambda: draft.step("cat", x, public, dim=0),
        lambda: draft.step("neg", mask),
        lambda: draft.step("add", x, narrow, public=False),
        lambda: draft.step("add", x, mask, public=True),
        lambda: draft.step("add", x, public, public=False),
        lambda: draft.step("add", public, x, public=True),
        lambda: draft.step("rescale", mask, by=1),
        lambda: draft.step("rescale", x, by=0),
        lambda: draft.step("public_product", x, x, map="mul"),
        lambda: draft.step("mask", public),
        lambda: draft.step("product", x, mask, map="mul"),
        lambda: draft.step("cut_product", mask, mask),
        lambda: draft.step("cut_square", mask),
        lambda: draft.step("uncut", x),
        lambda: draft.step("cut", cut, drop=1),
    ]
    for wrong in wrongs:
        with pytest.raises(BadInput):
            wrong()
    with pytest.raises(ShapeMismatch, match=r"\(3,\), \(2,\)"):
        draft.add(x, draft.input("z", (2,)))
