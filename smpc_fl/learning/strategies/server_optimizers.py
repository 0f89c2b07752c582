"""Servers that treat the mean update as a gradient, with a memory. Owners send what they send in FedAvg."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from smpc_fl.chunks import Floats
from smpc_fl.learning.strategies.fedavg import FedAvg, Positive
from smpc_fl.learning.strategy import About, register

Decay = Annotated[float, Meta(ge=0, lt=1)]


@register
class FedAvgM(FedAvg, frozen=True, tag=True):
    """Hsu et al. 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
    section 2: v ← momentum · v + Δ, θ ← θ + server_lr · v."""

    momentum: Decay = 0.9

    SERVER: ClassVar[frozenset[str]] = FedAvg.SERVER | {"momentum"}

    def keeps(self) -> dict[str, float]:
        return {"velocity": 0.0}

    def step(self, mean: Mapping[str, Floats], kept: dict[str, Floats], about: About) -> Floats:
        kept["velocity"][:] = self.momentum * kept["velocity"] + mean["update"]
        return self.server_lr * kept["velocity"]


class _Adaptive(FedAvg, frozen=True):
    """Reddi et al., ICLR 2021, "Adaptive Federated Optimization", Algorithm 2: m ← β₁m + (1 - β₁)Δ, v by `second`,
    θ ← θ + server_lr · m / (√v + tau), with v = tau² before the first round."""

    server_lr: Positive = 0.1
    beta1: Decay = 0.9
    tau: Positive = 1e-3

    SERVER: ClassVar[frozenset[str]] = FedAvg.SERVER | {"beta1", "beta2", "tau"}

    def keeps(self) -> dict[str, float]:
        return {"m": 0.0, "v": self.tau**2}

    def second(self, v: Floats, square: Floats) -> Floats:
        """The next v, from this one and Δ²."""
        raise NotImplementedError

    def step(self, mean: Mapping[str, Floats], kept: dict[str, Floats], about: About) -> Floats:
        change = mean["update"]
        kept["m"][:] = self.beta1 * kept["m"] + (1 - self.beta1) * change
        kept["v"][:] = self.second(kept["v"], change * change)
        return self.server_lr * kept["m"] / (np.sqrt(kept["v"]) + self.tau)


@register
class FedAdagrad(_Adaptive, frozen=True, tag=True):
    """v ← v + Δ² (the paper's Algorithm 2, FedAdagrad, with β₁ = 0)."""

    beta1: Decay = 0.0

    def second(self, v: Floats, square: Floats) -> Floats:
        return v + square


@register
class FedYogi(_Adaptive, frozen=True, tag=True):
    """v ← v - (1 - β₂) Δ² sign(v - Δ²)."""

    beta2: Decay = 0.99

    def second(self, v: Floats, square: Floats) -> Floats:
        return v - (1 - self.beta2) * square * np.sign(v - square)


@register
class FedAdam(_Adaptive, frozen=True, tag=True):
    """v ← β₂v + (1 - β₂) Δ²."""

    beta2: Decay = 0.99

    def second(self, v: Floats, square: Floats) -> Floats:
        return self.beta2 * v + (1 - self.beta2) * square
