"""Public tensors as raw bytes with dtype and shape, and back: never a pickle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from smpc_fl.errors import BadInput
from smpc_fl.pointers.lineage import DTYPES, MAX_LITERAL, Literal

TORCH_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}
_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """The name that travels; `BadInput` for an element type that does not."""
    name = _NAMES.get(dtype)
    if name is None:
        raise BadInput(f"tensors of {dtype} do not travel: convert it to one of {', '.join(DTYPES)}")
    return name


def raw_bytes(tensor: torch.Tensor) -> bytes:
    """The elements, row-major, little-endian."""
    array: npt.NDArray[Any] = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().numpy()
    return array.astype(DTYPES[dtype_name(tensor.dtype)], copy=False).tobytes()


def literal_of(value: torch.Tensor | npt.NDArray[Any]) -> Literal:
    """A public tensor or array as a literal; `BadInput` when it is too large, sparse or of another kind of number."""
    if isinstance(value, np.ndarray):
        if value.dtype.name not in DTYPES:
            raise BadInput(f"arrays of {value.dtype} do not travel: convert it to one of {', '.join(DTYPES)}")
        value = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
    name = dtype_name(value.dtype)
    if value.layout is not torch.strided:
        raise BadInput(f"tensors of layout {value.layout} do not travel: call .to_dense() first")
    if value.numel() * value.element_size() > MAX_LITERAL:
        raise BadInput(
            f"a public tensor of {value.numel() * value.element_size()} bytes is too large to be part of a computation "
            f"at an owner: {MAX_LITERAL} bytes is the most"
        )
    return Literal(name, tuple(value.shape), raw_bytes(value))


def tensor_of(dtype: str, shape: Sequence[int], data: bytes) -> torch.Tensor:
    """A new tensor from raw bytes; `BadInput` when they do not fit the type and shape."""
    try:
        array = np.frombuffer(data, DTYPES[dtype]).reshape(tuple(shape))
    except (KeyError, ValueError):
        raise BadInput(f"{len(data)} bytes are not a tensor of {dtype} and shape {tuple(shape)}") from None
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
