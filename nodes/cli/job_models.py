"""Building blocks of networks that job files name."""

from __future__ import annotations

import torch
from torch import nn


class FillMissing(nn.Module):
    """Missing values (NaN) become 0: the column's mean, where columns are centred."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nan_to_num(x, nan=0.0)
