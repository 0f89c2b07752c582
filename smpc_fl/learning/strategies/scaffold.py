"""SCAFFOLD: control variates against the drift of owners whose data differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from smpc_fl.chunks import Floats
from smpc_fl.errors import BadInput
from smpc_fl.learning.strategies.fedavg import FedAvg
from smpc_fl.learning.strategy import About, register

if TYPE_CHECKING:
    import torch

    from smpc_fl.jobs import LocalTraining
    from smpc_fl.learning.local import Local
    from smpc_fl.plans.layout import Vector


@register
class Scaffold(FedAvg, frozen=True, tag=True):
    """Karimireddy et al., ICML 2020, Algorithm 1 with option II: every step of owner k goes along g - cₖ + c, where cₖ is
    its mean gradient of the last round it was in, and c their mean over all owners.

    The control variates travel as a part of the secure vector, as lr · (cₖ⁺ - cₖ), which is of the update's size; an upload
    is twice that of FedAvg. Owners of a cohort weigh the same, as in the paper."""

    weights: Literal["equal"] = "equal"

    KEEPS: ClassVar[bool] = True
    ONE_TRAINING: ClassVar[bool] = True
    SHOWS: ClassVar[tuple[str, ...]] = ("control",)

    def check(self, local: LocalTraining) -> None:
        if local.optimizer != "sgd" or local.momentum or local.weight_decay:
            raise BadInput(
                "Scaffold corrects plain gradient steps: use LocalTraining(optimizer='sgd') without momentum and weight_decay"
            )

    def parts(self, size: int) -> dict[str, int]:
        return {"update": size, "control": size}

    def keeps(self) -> dict[str, float]:
        return {"control": 0.0}

    def local(self, owner: Local) -> dict[str, Vector]:
        control = owner.shown["control"]
        own = owner.kept.get("control", np.zeros_like(control))
        correction = owner.whole(control - own)

        def correct(gradient: torch.Tensor, parameter: torch.Tensor, place: slice) -> None:
            gradient += owner.tensor(correction[place]).view_as(gradient)

        trained = owner.train(correct=correct)
        # cₖ⁺ = cₖ - c + (x - y) / (K · lr), in the parameters' slots; running statistics have no gradient.
        change = -control - owner.parameters_of(trained.delta) / np.float32(trained.steps * owner.job.local.lr)
        owner.keep["control"] = own + change
        return {"update": trained.delta, "control": change * np.float32(owner.job.local.lr)}

    def step(self, mean: Mapping[str, Floats], kept: dict[str, Floats], about: About) -> Floats:
        kept["control"] += mean["control"] * (about.included / about.cohort / about.local.lr)
        change: Floats = mean["update"] * self.server_lr
        return change
