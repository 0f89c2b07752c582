"""Runs of whole programs on integers of the ring, in one process."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.in_process import Room, evaluate_words
from smpc_fl.shared_tensors.party import Broadcast, Command, Event, Openings
from smpc_fl.shared_tensors.sharing import join
from smpc_fl.shared_tensors.words import Words

LEAST, LARGEST = -(1 << 63), (1 << 63) - 1
EDGES = [
    LEAST, LEAST + 1, LARGEST - 1, LARGEST, 0, 1, -1,
    *(sign * (1 << place) + by for place in (1, 17, 18, 31, 32, 47, 61, 62) for sign in (1, -1) for by in (-1, 0, 1)),
]  # fmt: skip
"""Where a carry or a sign goes wrong if it does."""


def seeded(seed: int) -> Callable[[int], bytes]:
    return np.random.default_rng(seed).bytes


def whole_ring(n: int, seed: int) -> Words:
    """The edges, and numbers of every length."""
    generator = np.random.default_rng(seed)
    numbers = generator.integers(LEAST, LARGEST, n, np.int64, endpoint=True) >> generator.integers(0, 63, n)
    return torch.cat([torch.tensor(EDGES), torch.from_numpy(numbers)])


def computed(
    write: Callable[..., Value | Sequence[Value]], *inputs: Words, parties: int = 2, scale: int = 0, seed: int = 1
) -> list[Words]:
    """What the program that `write(*inputs)` writes makes of these integers, read at `scale`."""
    draft = Draft()
    values = [draft.input(str(number), tuple(words.shape), scale) for number, words in enumerate(inputs)]
    written = write(*values)
    outputs = [written] if isinstance(written, Value) else written
    named = {str(number): words for number, words in enumerate(inputs)}
    return evaluate_words(draft, outputs, named, entropy=seeded(seed), parties=parties)


class Played:
    """A room in which all is delivered, each link in its order, the links in an order that is drawn."""

    def __init__(self, room: Room, order: int = 0) -> None:
        self.room = room
        self.said: list[list[bytes]] = [[] for _ in room.names]
        """By party, what it sent to each other one, by round."""
        self.finished: dict[int, dict[int, Words]] = {}
        self.links: dict[tuple[int, int], deque[Event]] = {}
        self._draw = random.Random(order)
        for party, correction in room.corrections():
            self.links.setdefault((-1, party), deque()).append(correction)
        for party, machine in enumerate(room.machines):
            self.take(party, machine.start())

    def take(self, party: int, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Broadcast):
                self.said[party].append(bytes(command.data))
                for peer in range(len(self.room.names)):
                    if peer != party:
                        event = Openings(party, command.round, self.changed(party, peer, command))
                        self.links.setdefault((party, peer), deque()).append(event)
            else:
                self.finished[party] = command.outputs

    def changed(self, party: int, peer: int, command: Broadcast) -> bytes:
        """What arrives."""
        return command.data

    def play(self) -> list[Words]:
        while any(self.links.values()):
            link = self._draw.choice([link for link, waiting in self.links.items() if waiting])
            self.take(link[1], self.room.machines[link[1]].receive(self.links[link].popleft()))
        shares = [self.finished[party] for party in range(len(self.room.names))]
        return [join([mine[step] for mine in shares]) for step in self.room.program.outputs]


def room_of(write: Callable[..., Value], inputs: Mapping[str, Words], parties: int = 2, seed: int = 1) -> Room:
    draft = Draft()
    values = [draft.input(name, tuple(words.shape), 0) for name, words in inputs.items()]
    return Room.of(draft, [write(*values)], inputs, entropy=seeded(seed), parties=parties)
