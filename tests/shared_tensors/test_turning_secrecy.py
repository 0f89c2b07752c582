"""Openings around a circle tell zeros from no other values: uniform for each party that does not know the mask."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from rooms_of_parties import Played, seeded
from sharings import balanced, linear, p_value

from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.functions.activations import sigmoid_within
from smpc_fl.shared_tensors.functions.exponential import exp_within
from smpc_fl.shared_tensors.in_process import Room
from smpc_fl.shared_tensors.randomness import Stream
from smpc_fl.shared_tensors.words import Unsigned

LEARN, HELD_OUT = 512, 4096
PROGRAMS: dict[str, Callable[[Value], Value]] = {
    "series": sigmoid_within,
    "exponential": lambda x: exp_within(x, -116, 0),
}


def least_p_value(name: str, held_out: int) -> float:
    """Of the bits of each party's message, and of their sum, on zeros and on extremes."""
    labels = balanced(LEARN + held_out, seed=5)
    extremes = torch.tensor([(1 << 62) - 1, 1 - (1 << 62)])[torch.arange(len(labels)) % 2]
    words = torch.where(torch.from_numpy(labels) > 0, extremes, 0)
    draft = Draft()
    output = PROGRAMS[name](draft.input("x", (len(words),)))
    played = Played(Room.of(draft, [output], {"x": words}, entropy=seeded(3), parties=2))
    played.play()
    first, second = (np.frombuffer(messages[0], "<u4") for messages in played.said)
    found = []
    for seen in (first, second, first + second):
        bits = np.unpackbits(seen.view(np.uint8).reshape(-1, 4), axis=1).astype(np.float32) * 2 - 1
        found.append(p_value(bits[LEARN:] @ linear(bits[:LEARN], labels[:LEARN]), labels[LEARN:], 1000))
    return float(min(found))


@pytest.mark.parametrize("name", PROGRAMS)
def test_openings_around_a_circle_tell_nothing(name: str) -> None:
    assert least_p_value(name, HELD_OUT) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_openings_around_a_circle_tell_nothing_to_many(name: str) -> None:
    assert least_p_value(name, 100_032) > 1e-3


def test_a_mask_of_too_few_bits_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Stream.take

    def weak(self: Stream, n: int) -> Unsigned:
        return whole(self, n) & np.uint64((1 << 60) - 1)

    monkeypatch.setattr(Stream, "take", weak)
    assert least_p_value("series", 2048) < 1e-6
