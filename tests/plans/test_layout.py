"""Tensors to one vector and back."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from smpc_fl.errors import ShapeMismatch
from smpc_fl.plans.document import Part
from smpc_fl.plans.layout import Layout

LAYOUT = Layout((Part("a", [2, 3], "parameter"), Part("b", [], "buffer"), Part("c", [4], "parameter")))


def test_slices_lie_one_behind_the_other() -> None:
    assert [(part.name, place) for part, place in LAYOUT.slices()] == [
        ("a", slice(0, 6)),
        ("b", slice(6, 7)),
        ("c", slice(7, 11)),
    ]
    assert LAYOUT.size == 11


def test_parameters_and_buffers_are_stretches_of_their_own() -> None:
    weights = [Part(f"w{size}", [size], "parameter") for size in (1, 2, 3)]
    statistics = [Part(f"s{size}", [size], "buffer") for size in (4, 5)]
    assert list(Layout((*weights, *statistics)).stretches()) == [(True, slice(0, 6)), (False, slice(6, 15))]
    assert [trained for trained, _ in LAYOUT.stretches()] == [True, False, True]


@given(
    st.lists(
        hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)), min_size=1, max_size=5
    )
)
def test_unflatten_undoes_flatten(arrays: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> None:
    tensors = {f"t{number}": array for number, array in enumerate(arrays)}
    layout = Layout(tuple(Part(name, list(array.shape), "parameter") for name, array in tensors.items()))
    vector = layout.flatten(dict(reversed(tensors.items())))
    assert vector.dtype == np.float32
    assert vector.shape == (layout.size,)
    back = layout.unflatten(vector)
    assert back.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(back[name], array)
        assert not np.shares_memory(back[name], vector)


def test_what_does_not_fit_is_named() -> None:
    fitting = LAYOUT.unflatten(np.zeros(11, dtype=np.float32))
    with pytest.raises(ShapeMismatch, match="'b'"):
        LAYOUT.flatten({name: value for name, value in fitting.items() if name != "b"})
    with pytest.raises(ShapeMismatch, match="'d'"):
        LAYOUT.flatten({**fitting, "d": fitting["b"]})
    with pytest.raises(ShapeMismatch, match=r"'c' has shape \(2, 2\)"):
        LAYOUT.flatten({**fitting, "c": np.zeros((2, 2), dtype=np.float32)})
    with pytest.raises(ShapeMismatch, match=r"float32\[11\]"):
        LAYOUT.unflatten(np.zeros(12, dtype=np.float32))
    with pytest.raises(ShapeMismatch, match="float64"):
        LAYOUT.unflatten(np.zeros(11))


def test_the_coordinators_part_loads_no_torch() -> None:
    modules = "smpc_fl.plans.layout, smpc_fl.learning.update, smpc_fl.learning.strategies, smpc_fl.learning.stopping"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
