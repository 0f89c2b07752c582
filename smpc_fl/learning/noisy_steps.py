"""Gradients with noise, for the privacy of each record: DP-SGD (Abadi et al. 2016, Algorithm 1).

A step's lot has each row with probability `sampling_rate`, independently of all others (Poisson sampling); it may be empty.
A record's gradient is taken of that record alone, scaled down to the L2 norm `max_grad_norm`, and each slot cut towards zero
to a whole number of units of max_grad_norm / 2^30. So a lot's sum is one of integers, which neither order nor rounding changes,
and what a record adds to it is a vector no longer than 2^30: exactly, whatever the plan computes. Noise is a discrete Gaussian
of variance (noise_multiplier · 2^30)^2 + 9, which is the continuous one, rounded afterwards (`privacy.mechanism`): the
accountant may be believed to the last digit.

What all that is divided by is the job's `batch_size`, never the number of rows or the lot's size, which are private.

Lots and noise follow from 32 secret bytes of the owner's, fresh for every training: who knew the lots would take away the
amplification that the accountant counts on, and who knew the noise, the privacy. So nothing here follows from the job's seed
(but dropout, which is public).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch.func import grad, vmap

from smpc_fl.errors import BadInput
from smpc_fl.hashing import derive_key
from smpc_fl.jobs import LocalTraining
from smpc_fl.plans.interpreter import run
from smpc_fl.plans.operators import Function
from smpc_fl.plans.plan import Plan
from smpc_fl.prg import Prg
from smpc_fl.privacy.discrete_gaussian import DiscreteGaussian
from smpc_fl.privacy.records import steps_of
from smpc_fl.ring import RING64

Integers = npt.NDArray[np.int64]
UNITS = 1 << 30
"""The longest that a record's vector is."""
_MARGIN = 2.0**-20
"""Relative, for float64's rounding where norms are taken."""
_ROUNDING = 9
"""Variance that the integers cost (`privacy.mechanism`)."""
_TOGETHER = 1 << 22
"""Numbers of the gradients that are held at once, about. A thousand times 2^30 and more of them add up exactly in float64."""
_RANDOM = ("aten.dropout.default", "aten.feature_dropout.default")
"""What is to differ from record to record, and would not in a batch of single ones."""


class NoisySteps:
    """One training's lots and gradients. `functions`: the plan's operators; `secret`: 32 bytes that are used once."""

    def __init__(self, plan: Plan, local: LocalTraining, functions: Mapping[str, Function], secret: bytes) -> None:
        assert local.privacy is not None
        assert local.privacy.noise_multiplier is not None
        self._plan, self._functions, self._local, self._privacy = plan, functions, local, local.privacy
        sigma = math.ceil(math.sqrt((local.privacy.noise_multiplier * UNITS) ** 2 + _ROUNDING))
        self._noise = DiscreteGaussian(sigma, derive_key("smpc-fl/1 records", secret, b"noise"))
        self._lots = Prg(derive_key("smpc-fl/1 records", secret, b"lots"))
        nodes = plan.document.train.nodes
        used = {word for node in nodes for word in node.args if isinstance(word, str)}
        self._trained = ["@" + p.name for p in plan.layout.parts if p.kind == "parameter" and "@" + p.name in used]
        self._one_by_one = any(node.operator in _RANDOM for node in nodes)

    def lots(self, rows: int) -> Iterator[torch.Tensor]:
        """The row numbers of every step."""
        most = math.floor(self._privacy.sampling_rate * 2.0**64) - 1  # of 2^64 words, so many + 1 are in
        for step in range(steps_of(self._local)):
            words = self._lots.expand(RING64, rows, offset=step * rows)
            yield torch.from_numpy(np.flatnonzero(words <= np.uint64(most)))

    def take(self, step: int, tensors: Mapping[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> None:
        """Gives the plan's parameters, by "@name" in `tensors`, the gradient of one lot."""
        size = sum(tensors[name].numel() for name in self._trained)
        total = self._noise.draw(step, size)
        together = max(1, min(self._local.batch_size, _TOGETHER // size))
        for start in range(0, len(x), together):
            gradients = self._gradients(tensors, x[start : start + together], y[start : start + together])
            total += clipped_sum(gradients, self._privacy.max_grad_norm)
        unit = self._privacy.max_grad_norm / (UNITS * (1 - _MARGIN)) / self._local.batch_size
        gradient = torch.from_numpy((total * unit).astype(np.float32))
        sizes = [tensors[name].numel() for name in self._trained]
        for name, part in zip(self._trained, torch.split(gradient, sizes), strict=True):
            tensors[name].grad = part.view_as(tensors[name])

    def _gradients(self, tensors: Mapping[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """float32[n, p], of each row alone."""
        values = {name: tensor.detach() for name, tensor in tensors.items()}

        def loss(trained: dict[str, torch.Tensor], one: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            alone = {**values, **trained, "$x": one.unsqueeze(0), "$y": target.unsqueeze(0)}
            found: torch.Tensor = run(self._plan.document.train, alone, self._functions)[0]
            return found

        trained, of_one = {name: values[name] for name in self._trained}, grad(loss)
        if not self._one_by_one:
            self._plan.check_room(len(x), training=True)
            try:
                return _flat(vmap(of_one, in_dims=(None, 0, 0))(trained, x, y), len(x))
            except BadInput:  # an operator that knows no batches of its own; if it is the row, it will say so again
                self._one_by_one = True
        self._plan.check_room(1, training=True)
        return torch.cat([_flat(of_one(trained, one, target), 1) for one, target in zip(x, y, strict=True)])


def clipped_sum(gradients: torch.Tensor, norm: float) -> Integers:
    """int64[p], in units of norm / 2^30: the sum of the rows of float32[n, p], each scaled down to the L2 norm `norm` and
    cut towards zero. A row with NaN or infinity in it adds nothing."""
    rows = gradients.double().numpy()
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    rows[~np.isfinite(lengths)], lengths[~np.isfinite(lengths)] = 0.0, 0.0
    rows *= (UNITS * (1 - _MARGIN) / np.maximum(lengths, norm))[:, None]
    return np.asarray(np.trunc(rows, out=rows).sum(0), np.int64)


def _flat(gradients: Mapping[str, torch.Tensor], rows: int) -> torch.Tensor:
    return torch.cat([gradient.reshape(rows, -1) for gradient in gradients.values()], 1)
