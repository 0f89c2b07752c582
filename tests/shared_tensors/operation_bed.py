"""Runs an operation on shares and in float64, on values that fixed point holds exactly, and counts what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from smpc_fl.shared_tensors.cost import cost
from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.in_process import evaluate
from smpc_fl.shared_tensors.words import SCALE

PARTIES = st.sampled_from([2, 3, 5])
SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.lists(st.integers(1, 4), min_size=0, max_size=3).map(tuple)


def grid(x: torch.Tensor) -> torch.Tensor:
    """The nearest numbers with 18 fractional bits."""
    return torch.round(x.to(torch.float64) * 2.0**SCALE) * 2.0**-SCALE


def uniform(seed: int, shape: tuple[int, ...], low: float, high: float) -> torch.Tensor:
    """On the grid; where there is room, both ends and zero are among them."""
    values = np.random.default_rng(seed).uniform(low, high, shape)
    flat = values.reshape(-1)
    corners = [low, high, min(max(0.0, low), high)]
    if flat.size >= 6:
        flat[:3] = corners
    return grid(torch.from_numpy(values)).clamp(np.ceil(low * 2**18) * 2.0**-18, np.floor(high * 2**18) * 2.0**-18)


def powers(seed: int, shape: tuple[int, ...], low: int, high: int) -> torch.Tensor:
    """2^low to 2^high, spread evenly over the exponents; 2^high itself is not among them."""
    values = 2.0 ** uniform(seed, shape, low, high)
    return grid(values).clamp(2.0**low, 2.0**high - 2.0**-SCALE)


@dataclass(frozen=True)
class Outcome:
    error: torch.Tensor
    expected: torch.Tensor
    result: torch.Tensor


def outcome(
    operation: Callable[..., Value],
    reference: Callable[..., torch.Tensor],
    *tensors: torch.Tensor,
    parties: int,
    seed: int = 0,
) -> Outcome:
    """Of `operation` on shares of `tensors`; asserts that the shapes are torch's."""
    draft = Draft()
    values = [draft.input(str(i), tuple(tensor.shape)) for i, tensor in enumerate(tensors)]
    inputs = {str(i): tensor for i, tensor in enumerate(tensors)}
    entropy = np.random.default_rng(seed + 1).bytes
    (result,) = evaluate(draft, [operation(*values)], inputs, entropy=entropy, parties=parties)
    expected = reference(*tensors)
    assert result.shape == expected.shape
    return Outcome((result - expected).abs(), expected, result)


def close(found: Outcome, absolute: float, relative: float = 0.0) -> None:
    """Asserts that every element is within its bound."""
    excess = found.error - absolute - relative * found.expected.abs()
    assert found.error.numel() == 0 or float(excess.max()) <= 0, f"{float(found.error.max()):.3g} at most is too much"


@dataclass(frozen=True)
class Price:
    """Of an operation alone; bytes a value of the first input."""

    rounds: int
    opened: float
    dealt: int


def price(operation: Callable[..., Value], *shapes: tuple[int, ...]) -> Price:
    draft = Draft()
    values = [draft.input(str(i), shape) for i, shape in enumerate(shapes)]
    found = cost(draft.program(operation(*values)), 2)
    n = values[0].type.size
    return Price(found.rounds - 1, round(found.opened / n, 2), round(found.dealt / n))
