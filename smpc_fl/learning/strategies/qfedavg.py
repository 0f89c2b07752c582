"""q-FedAvg: fairness towards owners whose loss is large."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from smpc_fl.chunks import Floats
from smpc_fl.learning.strategies.fedavg import FedAvg, NotNegative
from smpc_fl.learning.strategy import About, Weights, register

if TYPE_CHECKING:
    from smpc_fl.learning.local import Local
    from smpc_fl.plans.layout import Vector

_LEAST_LOSS = 1e-10
"""As in the authors' code: an owner without any loss has a weight all the same."""


@register
class QFedAvg(FedAvg, frozen=True, tag=True):
    """Li et al., ICLR 2020, "Fair Resource Allocation in Federated Learning", Algorithm 2: minimises Σ Fₖ^(q+1) / (q+1).

    With L = 1 / lr: Δₖ = Fₖ^q L (w - w̄ₖ), hₖ = q Fₖ^(q-1) ‖L (w - w̄ₖ)‖² + L Fₖ^q, w ← w - ΣΔₖ / Σhₖ. Owners send both
    divided by L; q = 0 is FedAvg. Set `clip` for updates that are multiplied by Fₖ^q."""

    weights: Weights = "equal"
    q: NotNegative = 1.0

    def parts(self, size: int) -> dict[str, int]:
        return {"update": size, "h": 1}

    def local(self, owner: Local) -> dict[str, Vector]:
        before = max(owner.loss(), _LEAST_LOSS)
        trained = owner.train()
        moved = owner.parameters_of(trained.delta)
        squares = float(np.dot(moved.astype(np.float64), moved)) / owner.job.local.lr
        h = self.q * before ** (self.q - 1) * squares + before**self.q
        update = trained.delta + moved * np.float32(before**self.q - 1)  # running statistics stay as they are
        return {"update": update, "h": np.array([h], np.float32)}

    def step(self, mean: Mapping[str, Floats], kept: dict[str, Floats], about: About) -> Floats:
        change: Floats = mean["update"] * (self.server_lr / float(mean["h"][0]))
        return change
