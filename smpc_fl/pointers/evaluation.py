"""Run an expression on an owner's tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch

from smpc_fl.errors import BadInput
from smpc_fl.pointers.lineage import Apply, Expression, Literal, Registered
from smpc_fl.pointers.literals import tensor_of
from smpc_fl.pointers.operations import operation, run


def evaluate_expression(expression: Expression, tensor: Callable[[str], torch.Tensor]) -> torch.Tensor:
    """The value of an expression that `shapes.infer_expression` has accepted; `tensor(name)` is a registered tensor.

    Whatever goes wrong becomes one `BadInput` without a cause: torch's messages may show values or numbers of rows."""
    last_use: dict[int, int] = {}
    for index, node in enumerate(expression.nodes):
        for used in node.refs() if isinstance(node, Apply) else ():
            last_use[used] = index
    values: dict[int, torch.Tensor] = {}
    try:
        with torch.no_grad():
            for index, node in enumerate(expression.nodes):
                if isinstance(node, Registered):
                    values[index] = tensor(node.name)
                elif isinstance(node, Literal):
                    values[index] = tensor_of(node.dtype, node.shape, node.data)
                else:
                    values[index] = run(operation(node.function), node.arguments, values.__getitem__)
                    for used in {used for used in node.refs() if last_use[used] == index}:
                        del values[used]
    except Exception:
        raise BadInput("the computation failed at the owner; what went wrong stays there") from None
    return values[len(expression.nodes) - 1]


def operand(expression: Expression, tensors: Mapping[str, torch.Tensor], bound: float) -> npt.NDArray[np.float64]:
    """The value of an owner's operand of a secure aggregate: float64[size], row-major, every element finite.

    NaN and infinities become values beyond ±`bound`, so that they saturate and their owner is counted as clipped: to
    refuse them would tell, owner by owner, whether log(x - c) is NaN, and so where x lies."""
    value = evaluate_expression(expression, tensors.__getitem__).to(torch.float64)
    outside = 2.0 * bound
    return torch.nan_to_num(value, nan=outside, posinf=outside, neginf=-outside).contiguous().numpy().reshape(-1)
