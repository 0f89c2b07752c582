"""Dropout from a stream of its own (Srivastava et al. 2014), so that a run can be repeated and torch's global generator
stays as its owner left it."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import torch

from smpc_fl.plans.operators import Function, table
from smpc_fl.prg import Prg
from smpc_fl.ring import RING32


class SeededDropout:
    """Stands in for torch's dropout operators. Every call takes the next numbers of the stream."""

    def __init__(self, numbers: Prg) -> None:
        self._numbers = numbers
        self._used = 0

    def elements(self, x: torch.Tensor, p: float, train: bool) -> torch.Tensor:
        """aten.dropout: each element zeroed with probability `p`, the others divided by 1 - p."""
        return self._apply(x, tuple(x.shape), p, train)

    def channels(self, x: torch.Tensor, p: float, train: bool) -> torch.Tensor:
        """aten.feature_dropout: whole channels, x[i, j], zeroed together."""
        return self._apply(x, (*x.shape[:2], *(1 for _ in x.shape[2:])), p, train)

    def _apply(self, x: torch.Tensor, shape: tuple[int, ...], p: float, train: bool) -> torch.Tensor:
        if not train or p == 0:
            return x
        if p == 1:
            return x * 0
        n = prod(shape)
        words = self._numbers.expand(RING32, n, offset=self._used)
        self._used += n
        kept = (words >= np.uint32(p * 2.0**32)).astype(np.float32).reshape(shape)
        return x * (torch.from_numpy(kept) / (1 - p))


def training_functions(numbers: Prg) -> Mapping[str, Function]:
    """The operators of plans (`operators.table`), with dropout that draws from `numbers`."""
    dropout = SeededDropout(numbers)
    return {
        **table(),
        "aten.dropout.default": dropout.elements,
        "aten.feature_dropout.default": dropout.channels,
    }
