"""Who keeps shares and runs programs on them: what a `SharedTensor` calls. In one process here (`LocalParties`).

Shares stay with the parties from one program to the next, under a name that means nothing else. Only `open` lets a tensor
out; each run has a name and seeds of its own, so a stored tensor gets a new mask in each program that reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Protocol

from smpc_fl.entropy import Entropy
from smpc_fl.errors import BadInput
from smpc_fl.shared_tensors.in_process import Room, converse
from smpc_fl.shared_tensors.party import Broadcast
from smpc_fl.shared_tensors.program import Program
from smpc_fl.shared_tensors.sharing import join, split
from smpc_fl.shared_tensors.words import Words


class Session(Protocol):
    """Raises `BadInput` for a name that is not stored, and as the parties do."""

    @property
    def parties(self) -> tuple[str, ...]:
        """Their ids, sorted."""

    def store(self, words: Words) -> str:
        """Shares a tensor; the name under which the parties keep it."""

    def run(self, program: Program, public: Mapping[int, Words], inputs: Mapping[str, str]) -> list[str]:
        """The names of the outputs. `public`: words by step; `inputs`: by the name of an input step, a stored tensor."""

    def open(self, name: str) -> Words:
        """The tensor itself."""

    def forget(self, name: str) -> None:
        """Its shares are deleted."""


class LocalParties:
    """The machines of `parties` parties and of the provider in this process; `watch` sees every message between parties."""

    def __init__(
        self, entropy: Entropy, parties: int = 3, watch: Callable[[int, Broadcast], None] = lambda sender, said: None
    ) -> None:
        self.parties = tuple(f"party-{number}" for number in range(parties))
        self._entropy, self._watch = entropy, watch
        self._stored: dict[str, list[Words]] = {}
        self._names = (f"tensor-{number}" for number in count())

    def store(self, words: Words) -> str:
        return self._keep(split(words, len(self.parties), self._entropy))

    def open(self, name: str) -> Words:
        return join(self._shares(name))

    def forget(self, name: str) -> None:
        self._stored.pop(name, None)

    def run(self, program: Program, public: Mapping[int, Words], inputs: Mapping[str, str]) -> list[str]:
        given: list[dict[int, Words]] = [dict(public) for _ in self.parties]
        for number, step in enumerate(program.steps):
            if step.operation == "input":
                name = str(step.parameters["name"])
                if name not in inputs:
                    raise BadInput(f"the program's input {name!r} is not given")
                for mine, share in zip(given, self._shares(inputs[name]), strict=True):
                    mine[number] = share
        room = Room(program, self.parties, given, self._entropy)
        shares = converse(room.machines, room.corrections(), self._watch)
        return [self._keep([share[step] for share in shares]) for step in program.outputs]

    def _keep(self, shares: list[Words]) -> str:
        name = next(self._names)
        self._stored[name] = shares
        return name

    def _shares(self, name: str) -> list[Words]:
        if name not in self._stored:
            raise BadInput(f"no shared tensor {name!r} is stored: it was forgotten, or belongs to another session")
        return self._stored[name]
