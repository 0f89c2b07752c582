"""Steps that a party does alone: sums, public factors, other shapes. A linear map of shares is a share of the linear map.

Each is a function of words and parameters, the same for a share as for a public tensor, and on torch's meta device, where
it tells the shape of its result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from smpc_fl.shared_tensors.words import Words

Local = Callable[[list[Words], Mapping[str, Any]], Words]

LOCAL: Mapping[str, Local] = {
    # of one tensor, each element
    "neg": lambda xs, p: -xs[0],
    "times": lambda xs, p: xs[0] * p["factor"],
    # of one tensor, over dimensions
    "sum": lambda xs, p: xs[0].sum(p["dims"], keepdim=p["keepdim"]),
    # the same numbers in another shape
    "reshape": lambda xs, p: xs[0].reshape(p["shape"]),
    "permute": lambda xs, p: xs[0].permute(p["dims"]),
    "expand": lambda xs, p: xs[0].expand(p["shape"]),
    "flip": lambda xs, p: xs[0].flip(p["dims"]),
    "slice": lambda xs, p: _slice(xs[0], p["dim"], p["start"], p["stop"], p["step"]),
    "take": lambda xs, p: xs[0].index_select(p["dim"], torch.tensor(p["indices"], device=xs[0].device)),
    "pad": lambda xs, p: torch.nn.functional.pad(xs[0], p["widths"]),
    "windows": lambda xs, p: xs[0].unfold(p["dim"], p["size"], p["step"]),
    # of several
    "cat": lambda xs, p: torch.cat(xs, p["dim"]),
    "stack": lambda xs, p: torch.stack(xs, p["dim"]),
}
"""By name. `times` takes a whole number; scales are the program's affair."""


def _slice(x: Words, dim: int, start: int, stop: int, step: int) -> Words:
    return x[(slice(None),) * dim + (slice(start, stop, step),)]
