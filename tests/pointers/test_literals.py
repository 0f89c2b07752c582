from __future__ import annotations

import numpy as np
import pytest
import torch

from smpc_fl.errors import BadInput
from smpc_fl.pointers.lineage import DTYPES, MAX_LITERAL
from smpc_fl.pointers.literals import TORCH_DTYPES, dtype_name, literal_of, raw_bytes, tensor_of


@pytest.mark.parametrize("name", DTYPES)
def test_there_and_back(name: str) -> None:
    values = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(TORCH_DTYPES[name]).t()
    leaf = literal_of(values)
    assert (leaf.dtype, leaf.shape) == (name, (3, 2))
    again = tensor_of(leaf.dtype, leaf.shape, leaf.data)
    assert again.dtype == values.dtype
    assert torch.equal(again, values)
    again += 1 if name != "bool" else True  # its own memory
    assert dtype_name(again.dtype) == name


def test_bytes_are_little_endian_whatever_they_come_from() -> None:
    expected = np.array([1.0, -2.0], "<f8").tobytes()
    assert literal_of(np.array([1.0, -2.0], ">f8")).data == expected
    assert raw_bytes(torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)) == expected
    assert literal_of(np.asarray(3.0)).shape == ()


def test_views_and_empty_tensors() -> None:
    lazy = torch.ones(2, dtype=torch.complex64).conj().imag
    assert lazy.is_neg()
    assert torch.equal(tensor_of("float32", (2,), raw_bytes(lazy)), torch.zeros(2))
    assert literal_of(torch.ones(0, 3)).shape == (0, 3)


def test_what_does_not_travel() -> None:
    with pytest.raises(BadInput, match="complex64"):
        literal_of(torch.ones(1, dtype=torch.complex64))
    with pytest.raises(BadInput, match="datetime64"):
        literal_of(np.zeros(1, "datetime64[s]"))
    with pytest.raises(BadInput, match="to_dense"):
        literal_of(torch.eye(2).to_sparse())
    with pytest.raises(BadInput, match="too large"):
        literal_of(torch.zeros(MAX_LITERAL + 1, dtype=torch.uint8))
    for bad in (("float32", (3,), bytes(8)), ("object", (1,), bytes(8)), ("int8", (-2,), bytes(2))):
        with pytest.raises(BadInput, match="not a tensor"):
            tensor_of(*bad) if bad[1] != (-2,) else tensor_of("int8", (-2, 3), bytes(2))
