"""Widths and containers are converted, kinds and shapes are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from smpc_fl.errors import ShapeMismatch
from smpc_fl.plans.document import TensorType
from smpc_fl.plans.tensors import conform, convert


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int8, torch.int64, torch.bool])
def test_numbers_become_float32(dtype: torch.dtype) -> None:
    result = convert("x", torch.tensor([0, 1]).to(dtype), "float32")
    assert result.dtype == torch.float32
    assert result.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64, np.bool_])
def test_whole_numbers_become_int64(dtype: type[np.generic]) -> None:
    assert convert("y", np.array([0, 1], dtype=dtype), "int64").dtype == torch.int64


def test_a_gradient_is_left_behind() -> None:
    assert not convert("x", torch.ones(2, requires_grad=True), "float32").requires_grad


def test_floats_become_whole_numbers_never() -> None:
    for tensor in (torch.tensor([0.25]), torch.tensor([1j])):
        with pytest.raises(ShapeMismatch, match="'y' holds") as caught:
            convert("y", tensor, "int64")
        assert "0.25" not in str(caught.value)


@pytest.mark.parametrize("shape", [(), (7,), (7, 3), (7, 2, 1)])
def test_other_columns_are_refused_without_telling_the_rows(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeMismatch, match=r"'x' has rows of shape \[.*\], the plan expects \[2\]") as caught:
        conform("x", torch.zeros(shape), TensorType("float32", [2]))
    assert "7" not in str(caught.value)


def test_fitting_columns_pass() -> None:
    assert conform("x", np.zeros((7, 2)), TensorType("float32", [2])).shape == (7, 2)
