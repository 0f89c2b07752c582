"""Programs on shared tensors, as a party and a crypto provider read those of a researcher that they do not know."""

from __future__ import annotations

from functools import cache

from engine import Target, Wrong
from wire_targets import nearly

from smpc_fl.errors import BadInput, MalformedMessage
from smpc_fl.protocols.computing_program import read, write


@cache
def _programs() -> list[bytes]:
    import torch

    from smpc_fl.shared_tensors import order
    from smpc_fl.shared_tensors.draft import Draft
    from smpc_fl.shared_tensors.functions import activations

    draft = Draft()
    x, w = draft.input("x", (4, 6)), draft.input("w", (6, 3))
    found = [
        order.relu(x @ w + torch.ones(3)),
        draft.narrow(x * x),
        activations.sigmoid(x),
        order.argmax(x, 1),
        order.max_pool2d(draft.input("y", (2, 4, 4)), (2, 2)),
        order.where(order.less(x, 0.5), x, -x),
    ]
    return [write(draft.program(value)) for value in found]


def take_program(data: bytes) -> None:
    checked = read(data)
    if write(checked.program) != data or checked.digest != checked.program.digest:
        raise Wrong("what was decoded encodes to other bytes")
    dealt = [step for party in range(3) for part in checked.parts(party, 3) for step in part]
    if sorted(dealt) != list(checked.corrections):
        raise Wrong("a correction is dealt to nobody, or to two")


def targets() -> list[Target]:
    return [Target("program", nearly(_programs), take_program, (MalformedMessage, BadInput), 0.5)]
