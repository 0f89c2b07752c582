"""Ditto: a model of one's own beside the global one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from smpc_fl.learning.strategies.fedavg import FedAvg, NotNegative
from smpc_fl.learning.strategy import register

if TYPE_CHECKING:
    from smpc_fl.learning.local import Local
    from smpc_fl.plans.layout import Vector


@register
class Ditto(FedAvg, frozen=True, tag=True):
    """Li et al., ICML 2021, Algorithm 1: the global model by FedAvg, and at each owner a personal one that minimises
    Fₖ(v) + lam / 2 · ‖v - wᵗ‖². It never leaves; its metrics come out of evaluations, aggregated, as "personal_…"."""

    lam: NotNegative = 0.1

    KEEPS: ClassVar[bool] = True
    PERSONAL: ClassVar[bool] = True

    def local(self, owner: Local) -> dict[str, Vector]:
        trained = owner.train()
        start = owner.kept.get("personal", owner.model)
        personal = owner.train(start=start, pull=self.lam, use="personal")
        owner.keep["personal"] = personal.model
        return {"update": trained.delta}
