"""What any m - 1 parties see of a run does not tell zeros from extreme numbers, and the provider sees no more than shapes.

Each element of one long tensor is a sample, 0 or extreme as its label says. The coalition has its shares of the input and of all
that was dealt, what every party said, what was opened, and that less its own shares of the masks, which is what the last
party's masks alone hide. A classifier learns on some elements and is asked about others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rooms_of_parties import Played, seeded
from sharings import balanced, linear, p_value

from smpc_fl.shared_tensors import order
from smpc_fl.shared_tensors.bits import Planes
from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.in_process import Room
from smpc_fl.shared_tensors.primitives import TABLE, input_types
from smpc_fl.shared_tensors.program import Step
from smpc_fl.shared_tensors.randomness import Stream, Taking
from smpc_fl.shared_tensors.words import Unsigned, Words, unsigned

Shares = Words | Planes
Features = NDArray[np.float32]
LEARN, HELD_OUT = 512, 4096
EXTREMES = [(1 << 62) - 1, 1 - (1 << 62)]
PROGRAMS: dict[str, Callable[[Value], Value]] = {
    "relu": order.relu,
    "relu of a product": lambda x: order.relu(x, 0),
    "equal": lambda x: order.equal(x, x * 0),
    "product": lambda x: x.draft.step("product", *[x.draft.step("mask", x)] * 2, map="mul"),
    "truncation": lambda x: x.draft.narrow(x, 0),
    "exact truncation": lambda x: x.draft.step("truncate_exactly", x, drop=18),
}


def bits(shares: Shares, n: int) -> Features:
    """float32[n, features]: every bit of each element's words, or its bits of all planes, as ±1."""
    if isinstance(shares, np.ndarray):
        found = np.unpackbits(shares.reshape(-1, shares.shape[-1]).view(np.uint8), axis=1, bitorder="little").T
    else:
        words = unsigned(shares).reshape(-1, n).T
        found = np.unpackbits(np.ascontiguousarray(words).view(np.uint8).reshape(n, -1), axis=1)
    return found.astype(np.float32) * 2 - 1


def added(shares: Sequence[Shares]) -> Shares:
    if isinstance(shares[0], np.ndarray):
        return np.bitwise_xor.reduce(np.stack(shares))  # type: ignore[no-any-return]
    return torch.stack(list(shares)).sum(0)  # type: ignore[arg-type]


def flat(dealt: Any) -> Iterator[Shares]:
    """Every array in what was dealt."""
    if isinstance(dealt, np.ndarray | torch.Tensor):
        yield dealt
    elif isinstance(dealt, list | tuple):
        for each in dealt:
            yield from flat(each)
    elif is_dataclass(dealt):
        for field in fields(dealt):
            yield from flat(getattr(dealt, field.name))


def masks(step: Step, dealt: Any, w: int) -> list[Shares]:
    """What is added before each thing that a step opens, in order."""
    nothing = np.zeros((64, w), np.uint64)
    match step.operation:
        case "mask":
            return [-dealt]
        case "cut":
            return [dealt.mask]
        case "sign" | "zero":
            chains, last = [chain for level in dealt.levels for chain in level], [dealt.flip]
        case "truncate_exactly":
            chains, last = [*[chain for level in dealt.level for chain in level], dealt.root], [dealt.flips]
        case _:
            return []
    return [dealt.mask, *[chain.opening(nothing, nothing).share for chain in chains], *last]


def views(write: Callable[[Value], Value], words: Words, parties: int, seed: int) -> dict[tuple[int, ...], Features]:
    """By coalition of all but one."""
    n, w = words.numel(), words.numel() // 64
    draft = Draft()
    output = write(draft.input("x", (n,), 18))
    played = Played(Room.of(draft, [output], {"x": words}, entropy=seeded(seed), parties=parties))
    room = played.room
    corrections = {(party, correction.step): correction.data for party, correction in room.corrections()}
    played.play()
    dealt, hidden = [], []
    for party in range(parties):
        own: list[Shares] = []
        before: list[Shares] = []
        for number, step in enumerate(room.program.steps):
            if step.operation in TABLE:
                source = Taking(room.seeds[party], room.run, number, corrections.get((party, number)))
                types = input_types(room.program.steps, step)
                share = TABLE[step.operation].deal(source, types, step.parameters, [None] * len(types))
                own += flat(share)
                before += masks(step, share, w)
        dealt.append(own)
        hidden.append(before)
    said = [list(spoken(b"".join(played.said[party][:-1]), hidden[0])) for party in range(parties)]
    opened = [added(each) for each in zip(*said, strict=True)]
    found = {}
    for coalition in combinations(range(parties), parties - 1):
        (other,) = set(range(parties)) - set(coalition)
        # added twice, a plane is gone; a word has to be taken away
        own_masks = [added([hidden[party][i] for party in coalition]) for i in range(len(opened))]
        left = [
            whole ^ mask if isinstance(whole, np.ndarray) else whole - mask
            for whole, mask in zip(opened, own_masks, strict=True)
        ]
        inputs = [room.given[party][0] for party in coalition]
        seen = [*inputs, added(inputs), *said[other], *opened, *left]
        seen += [added([dealt[party][i] for party in coalition]) for i in range(len(dealt[0]))]
        found[coalition] = np.hstack([bits(each, n) for each in seen])
    return found


def spoken(data: bytes, like: Sequence[Shares]) -> Iterator[Shares]:
    """A party's openings, one after the other."""
    at = 0
    for each in like:
        size = each.nbytes
        part = np.frombuffer(data[at : at + size], np.uint64)
        yield part.reshape(each.shape) if isinstance(each, np.ndarray) else torch.from_numpy(part.view(np.int64).copy())
        at += size
    assert at == len(data)


def p_values(name: str, parties: int, held_out: int) -> dict[tuple[int, ...], float]:
    labels = balanced(LEARN + held_out, seed=parties)
    extremes = torch.tensor(EXTREMES)[torch.arange(len(labels)) % 2]
    words = torch.where(torch.from_numpy(labels) > 0, extremes, 0)
    found = {}
    for coalition, seen in views(PROGRAMS[name], words, parties, seed=17 + parties).items():
        weights = linear(seen[:LEARN], labels[:LEARN])
        found[coalition] = p_value(seen[LEARN:] @ weights, labels[LEARN:], 1000)
    return found


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("parties", [2, 3])
def test_no_coalition_can_tell(name: str, parties: int) -> None:
    found = p_values(name, parties, HELD_OUT if parties == 2 else 1024)
    assert len(found) == parties
    assert min(found.values()) > 1e-3, found


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("parties", [2, 3])
def test_no_coalition_can_tell_from_many(name: str, parties: int) -> None:
    found = p_values(name, parties, 100_032)
    assert min(found.values()) > 1e-3, found


WHOLE = Stream.take


def top_bits_are_zero(self: Stream, n: int) -> Unsigned:
    return WHOLE(self, n) & np.uint64((1 << 60) - 1)


def single_planes_are_zero(self: Stream, n: int) -> Unsigned:
    """As if no bit that is opened at the end were masked."""
    return WHOLE(self, n) * np.uint64(n != (LEARN + 2048) // 64)


def planes_are_zero(self: Stream, n: int) -> Unsigned:
    return WHOLE(self, n) * np.uint64(n == LEARN + 2048)


@pytest.mark.parametrize("weak", [top_bits_are_zero, single_planes_are_zero, planes_are_zero])
def test_a_weak_mask_is_told(weak: Callable[[Stream, int], Unsigned], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stream, "take", weak)
    assert p_values("relu", 2, 2048)[0,] < 1e-6


def test_what_the_provider_sends_is_the_same_whatever_the_values() -> None:
    sent = []
    for value in (0, *EXTREMES):
        draft = Draft()
        words = torch.full((64,), value)
        room = Room.of(draft, [order.relu(draft.input("x", (64,)))], {"x": words}, entropy=seeded(1), parties=3)
        sent.append([(party, correction.step, bytes(correction.data)) for party, correction in room.corrections()])
    assert sent[0] == sent[1] == sent[2]
