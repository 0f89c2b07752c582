"""Federated gradient descent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec

from smpc_fl.chunks import Floats
from smpc_fl.learning.strategies.fedavg import Positive
from smpc_fl.learning.strategy import About, Strategy, Weights, register

if TYPE_CHECKING:
    from smpc_fl.learning.local import Local
    from smpc_fl.plans.layout import Vector


@register
class FedSGD(msgspec.Struct, Strategy, frozen=True, tag=True, kw_only=True, forbid_unknown_fields=True):
    """McMahan et al. 2017, section 2: one full-batch gradient a round, θ ← θ - lr · Σ wₖ gₖ / Σ wₖ."""

    lr: Positive = 0.1
    weights: Weights = "rows"

    SERVER: ClassVar[frozenset[str]] = frozenset({"lr"})

    def local(self, owner: Local) -> dict[str, Vector]:
        return {"update": owner.gradient().delta}

    def step(self, mean: Mapping[str, Floats], kept: dict[str, Floats], about: About) -> Floats:
        gradient = mean["update"]
        gradient *= -self.lr
        return gradient
