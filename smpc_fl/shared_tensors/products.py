"""Products of two shared tensors by Beaver triples whose masks belong to values (Beaver, CRYPTO 1991; masks that are reused,
as in Mohassel and Zhang, "SecureML", S&P 2017, IV-A).

`mask` opens a value x once, as d = x - A with a mask A that only the provider knows. Any number of products of x follow
without another word between the parties: for a bilinear map f and y = e + B,

    f(x, y) = f(d, e) + f(d, B) + f(A, e) + f(A, B),

where the provider deals the last term. The result has the sum of both scales.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from smpc_fl.errors import BadInput
from smpc_fl.shared_tensors.words import Words

Bilinear = Callable[[Words, Words], Words]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Masked:
    """x = opened + mask: `opened` is known to all parties, `mask` is this party's share."""

    opened: Words
    mask: Words


def bilinear(parameters: Mapping[str, Any]) -> Bilinear:
    """The map that a product step names by `parameters["map"]`: element by element with broadcasting, of matrices, or a
    convolution of (batch, channels, height, width) with (out, channels, h, w)."""
    match parameters["map"]:
        case "mul":
            return torch.mul
        case "matmul":
            return torch.matmul
        case "conv2d":
            stride, padding = parameters["stride"], parameters["padding"]
            return lambda x, weight: convolution(x, weight, stride, padding)
        case other:
            raise BadInput(f"there is no product {other!r}")


def product(f: Bilinear, x: Masked, y: Masked, dealt: Words, first: bool) -> Words:
    """This party's share of f(x, y); `dealt`: its share of f of both masks; `first`: whether it adds what is public."""
    # f(d, e + B) is one map less than f(d, e) + f(d, B).
    other = y.opened + y.mask if first else y.mask
    return f(x.opened, other) + f(x.mask, y.opened) + dealt


def convolution(x: Words, weight: Words, stride: list[int], padding: list[int]) -> Words:
    """int64 conv2d, which torch has for floats only: one matrix product over the windows."""
    padded = torch.nn.functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    out, _, height, width = weight.shape
    windows = padded.unfold(2, height, stride[0]).unfold(3, width, stride[1])  # batch, channels, rows, columns, h, w
    batch, _, rows, columns = windows.shape[:4]
    flat = windows.permute(0, 2, 3, 1, 4, 5).reshape(batch * rows * columns, -1)
    result = flat @ weight.reshape(out, -1).T
    return result.reshape(batch, rows, columns, out).permute(0, 3, 1, 2).contiguous()
