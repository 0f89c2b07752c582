"""torch's functions on pointers, with types: torch's own say what happens to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from smpc_fl.pointers.pointer import PointerTensor

_torch: Any = torch


def where(condition: PointerTensor, yes: Any, no: Any) -> PointerTensor:
    """The elements of one or the other."""
    chosen: PointerTensor = _torch.where(condition, yes, no)
    return chosen


def cat(pointers: Sequence[PointerTensor], dim: int = 0) -> PointerTensor:
    """Side by side."""
    joined: PointerTensor = _torch.cat(list(pointers), dim) if len(pointers) > 1 else pointers[0]
    return joined


def ones(pointer: PointerTensor) -> PointerTensor:
    """float64 ones of its shape."""
    made: PointerTensor = _torch.ones_like(pointer, dtype=torch.float64)
    return made


def below(ordered: PointerTensor, edges: torch.Tensor, *, or_at: bool = False) -> PointerTensor:
    """How many elements of what `msort` ordered are below (or at) each public edge."""
    counted: PointerTensor = _torch.searchsorted(ordered, edges, right=or_at)
    return counted


def logsigmoid(pointer: PointerTensor) -> PointerTensor:
    """log(1 / (1 + exp(-x))), exact for large |x|."""
    result: PointerTensor = _torch.nn.functional.logsigmoid(pointer)
    return result


def products(z: PointerTensor, other: PointerTensor) -> PointerTensor:
    """zᵀ · other: sums of products over the rows."""
    product: PointerTensor = z.T @ other
    return product
