"""The server's step: from the model and the weighted mean of the owners' updates to the next model. NumPy only.

Buffers (batch norm's running statistics, frozen weights) are averaged whatever the strategy: model + mean of changes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from smpc_fl.chunks import Floats, chunks
from smpc_fl.errors import NotFinite, ShapeMismatch
from smpc_fl.jobs import FedAvg, FedSGD
from smpc_fl.plans.layout import Layout, Vector


def apply(
    strategy: FedAvg | FedSGD, model: Vector, total: Floats, layout: Layout, *, weight: float = 1.0
) -> npt.NDArray[np.float32]:
    """float32[d], the next model, from the owners' weighted `total` float64[d] and the sum of their weights (or from
    their mean, and 1); computed in float64, rounded once.

    FedAvg (McMahan et al. 2017, Algorithm 1): θ + server_lr · mean of changes. FedSGD (section 2): θ - lr · mean of
    gradients. Raises `ShapeMismatch`; `NotFinite` when the step leaves float32."""
    layout.check(model)
    if total.shape != model.shape:
        raise ShapeMismatch(f"the update has shape {total.shape}, the model {model.shape}")
    rate = strategy.server_lr if isinstance(strategy, FedAvg) else -strategy.lr
    following = np.empty_like(model)
    with np.errstate(over="ignore"):  # an overflow is reported below, by name
        for trained, stretch in layout.stretches():
            before, change, after = model[stretch], total[stretch], following[stretch]
            for place in chunks(after.size):
                step = change[place] / weight
                if trained:
                    step *= rate
                step += before[place]
                after[place] = step
    if not np.isfinite(following).all():
        raise NotFinite("the next model holds NaN or infinity: lower the learning rate")
    return following
