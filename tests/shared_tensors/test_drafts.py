"""Writing programs: each step once, only what is needed, and what is refused. What a run costs is what was said."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from operation_bed import uniform
from rooms_of_parties import Played, seeded

from smpc_fl.errors import BadInput, CapacityExceeded
from smpc_fl.shared_tensors.cost import TRANSCRIPT, cost
from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.functions import activations, losses, norms
from smpc_fl.shared_tensors.functions.exponential import exp, exp_within
from smpc_fl.shared_tensors.functions.logarithm import log
from smpc_fl.shared_tensors.functions.reciprocal import divide, reciprocal
from smpc_fl.shared_tensors.functions.roots import rsqrt, sqrt
from smpc_fl.shared_tensors.functions.softmax import log_softmax, softmax
from smpc_fl.shared_tensors.in_process import Room, evaluate
from smpc_fl.shared_tensors.words import encode


def test_equal_steps_are_written_once() -> None:
    draft = Draft()
    x, w = draft.input("x", (2, 3)), draft.input("w", (3, 4))
    first = x @ w
    steps = len(draft.steps)
    assert (x @ w).number == first.number
    assert len(draft.steps) == steps
    other = x @ draft.input("v", (3, 4))
    assert len(draft.steps) == steps + 3  # v, its mask and the product: the mask of x serves again
    assert other.number != first.number


def test_a_program_holds_only_what_its_outputs_need() -> None:
    draft = Draft()
    x = draft.input("x", (2,))
    unused = x * x
    program = draft.program(x + 1)
    assert [step.operation for step in program.steps] == ["input", "public", "add"]
    assert program.digest != draft.program(x + 2).digest
    assert program.digest == draft.program(x + 1).digest
    assert unused.number < len(draft.steps)


def test_public_values_of_equal_words_and_other_shapes_are_two() -> None:
    draft = Draft()
    x = draft.input("x", (2,))
    outputs = [x + torch.ones(1), x + torch.tensor(1.0), x + torch.ones(2)]
    found = evaluate(draft, outputs, {"x": torch.zeros(2)}, entropy=seeded(1))
    assert all(torch.equal(each, torch.ones(2, dtype=torch.float64)) for each in found)


def test_numbers_and_tensors_mix_with_values() -> None:
    draft = Draft()
    x = draft.input("x", (2, 2))
    matrix = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64)
    tensor = uniform(3, (2, 2), -5, 5)
    cases = {
        (1 - x): 1 - tensor,
        (2.5 + x): tensor + 2.5,
        (x * 3): tensor * 3,
        (x * -4.0): tensor * -4,
        (0.5 * x): tensor / 2,
        (x - matrix): tensor - matrix,
        x.__rmatmul__(matrix): matrix @ tensor,
        (x @ matrix): tensor @ matrix,
        (draft.public(matrix) + x): tensor + matrix,
        (draft.public(matrix) * x): tensor * matrix,
    }
    found = evaluate(draft, list(cases), {"x": tensor}, entropy=seeded(1))
    for result, expected in zip(found, cases.values(), strict=True):
        assert float((result - expected).abs().max()) <= 2.0**-18


def test_what_cannot_be_written_is_refused() -> None:
    draft, other = Draft(), Draft()
    x = draft.input("x", (2,))
    with pytest.raises(BadInput, match="two different programs"):
        x + other.input("x", (2,))
    with pytest.raises(BadInput, match="there is no step"):
        draft.step("open", x)
    with pytest.raises(CapacityExceeded, match="narrow its factors"):
        draft.step("rescale", x, by=44)
    with pytest.raises(BadInput, match="computed before it is shared"):
        draft.narrow(draft.public(torch.ones(2), 36))
    for outputs in ((), (draft.public(torch.ones(2)),), (draft.step("mask", x),)):
        with pytest.raises(BadInput, match="each is a shared value"):
            draft.program(*outputs)


def test_a_value_tells_no_number() -> None:
    draft = Draft()
    assert repr(draft.input("x", (2, 3))) == "Value(step 0, share [2, 3])"
    assert repr(draft.public(torch.ones(2))) == "Value(step 1, public [2])"


COSTED: list[Callable[[Value], Value]] = [
    lambda x: (x @ x) @ x,
    lambda x: x * x * x,
    lambda x: (x * x) * (x * x),
    activations.sigmoid,
    activations.tanh_within,
    activations.gelu,
    exp,
    lambda x: exp_within(x, -116, 0),
    lambda x: reciprocal(x, -3, 3),
    lambda x: divide(x, x + 1, 0, 4),
    lambda x: sqrt(x, 0, 1),
    rsqrt,
    log,
    lambda x: softmax(x, 1),
    lambda x: log_softmax(x, 0),
    lambda x: norms.layer_norm(x, [6], None, x),
    lambda x: losses.cross_entropy_gradient(x, x),
]


@pytest.mark.parametrize("number", range(len(COSTED)))
def test_a_run_costs_what_was_said(number: int) -> None:
    parties = 2 + number % 2
    draft = Draft()
    output = COSTED[number](draft.input("x", (6, 6)))
    said = cost(draft.program(output), parties)
    room = Room.of(draft, [output], {"x": encode(uniform(1, (6, 6), 1, 2))}, entropy=seeded(number), parties=parties)
    played = Played(room, order=number)
    played.play()
    assert sum(memoryview(correction.data).nbytes for _, correction in room.corrections()) == said.dealt
    assert [len(messages) for messages in played.said] == [said.rounds] * parties
    assert sum(len(message) for messages in played.said for message in messages) * (parties - 1) == said.online
    assert said.online == (said.opened + TRANSCRIPT) * parties * (parties - 1)
