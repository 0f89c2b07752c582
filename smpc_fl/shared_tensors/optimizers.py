"""Encrypted optimizers: a step from shared weights, gradients and memory to the next ones, written in a draft.

Memory starts at zero and never leaves the parties, as weights do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from smpc_fl.errors import BadInput
from smpc_fl.shared_tensors.draft import Value
from smpc_fl.shared_tensors.functions.exact import scaled
from smpc_fl.shared_tensors.functions.roots import rsqrt


class Optimizer(Protocol):
    """`memory`: names of the tensors that it keeps for each parameter."""

    @property
    def memory(self) -> tuple[str, ...]: ...

    def step(self, weight: Value, gradient: Value, memory: Mapping[str, Value]) -> tuple[Value, dict[str, Value]]:
        """The next weight, and the next memory."""


@dataclass(frozen=True, slots=True)
class SGD:
    """w <- w - lr · v with v <- momentum · v + g (torch's SGD; v = g without momentum). 1 round for each truncation."""

    lr: float
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.lr < 2**10 or not 0 <= self.momentum < 1:
            raise BadInput(
                f"SGD takes a learning rate above 0 and a momentum in [0, 1), not {self.lr}, {self.momentum}"
            )

    @property
    def memory(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

    def step(self, weight: Value, gradient: Value, memory: Mapping[str, Value]) -> tuple[Value, dict[str, Value]]:
        if not self.momentum:
            return weight - scaled(gradient, self.lr), {}
        velocity = weight.draft.narrow(scaled(memory["velocity"], self.momentum) + gradient)
        return weight - scaled(velocity, self.lr), {"velocity": velocity}


@dataclass(frozen=True, slots=True)
class Adam:
    """Kingma and Ba 2015, Algorithm 1, without the correction of the first steps' bias, which a program that is the same at
    every step cannot know: `lr` is reached after some 1 / (1 - beta2) steps. The memory of squares is kept times 2^8, and the
    root is right for squares in [2^-12, 2^12] of that; below, a step is shorter. 9 rounds more than SGD."""

    lr: float
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 2.0**-16

    def __post_init__(self) -> None:
        if not 0 < self.lr < 1 or not (0 <= self.beta1 < 1 and 0 < self.beta2 < 1) or not 2.0**-17 <= self.eps < 1:
            raise BadInput("Adam takes lr in (0, 1), beta1 and beta2 in [0, 1), eps in [2^-17, 1)")

    @property
    def memory(self) -> tuple[str, ...]:
        return ("mean", "square")

    def step(self, weight: Value, gradient: Value, memory: Mapping[str, Value]) -> tuple[Value, dict[str, Value]]:
        draft = weight.draft
        gradient = draft.narrow(gradient)
        mean = draft.narrow(scaled(memory["mean"], self.beta1) + scaled(gradient, 1 - self.beta1))
        grown = gradient * _GROWN
        square = draft.narrow(
            scaled(memory["square"], self.beta2) + scaled(draft.narrow(grown * grown), 1 - self.beta2)
        )
        root = draft.narrow(rsqrt(square + self.eps * _GROWN**2))
        return weight - scaled(draft.narrow(mean * root), self.lr * _GROWN), {"mean": mean, "square": square}


_GROWN = 16
"""Gradients are squared times this, for 18 fractional bits are few for squares."""
