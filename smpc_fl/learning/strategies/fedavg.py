"""Federated averaging, and what differs from it in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
from msgspec import Meta

from smpc_fl.chunks import Floats
from smpc_fl.learning.shared import normalisation
from smpc_fl.learning.strategy import About, Strategy, Weights, register
from smpc_fl.plans.document import PlanDocument

if TYPE_CHECKING:
    from smpc_fl.learning.local import Local
    from smpc_fl.plans.layout import Vector

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]


@register
class FedAvg(msgspec.Struct, Strategy, frozen=True, tag=True, kw_only=True, forbid_unknown_fields=True):
    """McMahan et al. 2017, Algorithm 1: θ ← θ + server_lr · Σ wₖ Δₖ / Σ wₖ, wₖ = nₖ ("rows") or 1 ("equal")."""

    weights: Weights = "rows"
    server_lr: Positive = 1.0

    ONE_TRAINING: ClassVar[bool] = True

    def local(self, owner: Local) -> dict[str, Vector]:
        return {"update": owner.train().delta}

    def step(self, mean: Mapping[str, Floats], kept: dict[str, Floats], about: About) -> Floats:
        change = mean["update"]
        change *= self.server_lr
        return change


@register
class FedProx(FedAvg, frozen=True, tag=True):
    """Li et al. 2020, "Federated Optimization in Heterogeneous Networks" (MLSys), Algorithm 2: owners minimise
    Fₖ(w) + mu / 2 · ‖w - wᵗ‖², which holds them near the global model where their data differ."""

    mu: NotNegative = 0.1

    ONE_TRAINING: ClassVar[bool] = True

    def local(self, owner: Local) -> dict[str, Vector]:
        return {"update": owner.train(pull=self.mu).delta}


@register
class FedBN(FedAvg, frozen=True, tag=True):
    """Li et al., ICLR 2021, Algorithm 1: FedAvg in which each owner has normalisation layers of its own, for data that are
    scaled or measured differently from owner to owner. (The paper's are batch norm; here group and layer norm stay as well.)"""

    def stays(self, document: PlanDocument) -> frozenset[str]:
        return normalisation(document)
