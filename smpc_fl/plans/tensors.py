"""Data of the types that a plan was made for: widths and containers are converted, kinds and shapes are not guessed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from smpc_fl.errors import ShapeMismatch
from smpc_fl.plans.document import Dtype, TensorType
from smpc_fl.plans.operators import DTYPES

Data = torch.Tensor | npt.NDArray[np.generic]


def convert(name: str, data: Data, dtype: Dtype) -> torch.Tensor:
    """`data` as a tensor of `dtype` in main memory, without a gradient. Whole numbers and truth values may become
    floats; floats become whole numbers never (`ShapeMismatch`, naming the tensor and what is expected)."""
    tensor = torch.as_tensor(data).detach().cpu()
    if tensor.is_complex() or (dtype == "int64" and tensor.is_floating_point()):
        raise ShapeMismatch(
            f"tensor {name!r} holds {tensor.dtype}, the plan expects {dtype}: convert it before it is registered, "
            "or make the plan with such an example"
        )
    return tensor.to(DTYPES[dtype])


def conform(name: str, data: Data, kind: TensorType) -> torch.Tensor:
    """`data` as the plan expects it, `kind` with rows in front. Raises `ShapeMismatch`; the row count is not told."""
    tensor = convert(name, data, kind.dtype)
    if tensor.dim() == 0 or list(tensor.shape[1:]) != list(kind.shape):
        raise ShapeMismatch(
            f"tensor {name!r} has rows of shape {list(tensor.shape[1:])}, the plan expects {list(kind.shape)}: "
            "publish the same columns as the plan's example has"
        )
    return tensor
