"""The server's step."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from serving import apply

from smpc_fl import chunks
from smpc_fl.errors import NotFinite, ShapeMismatch
from smpc_fl.learning.strategies import FedAvg, FedSGD
from smpc_fl.plans.document import Part
from smpc_fl.plans.layout import Layout

LAYOUT = Layout((Part("w", [2], "parameter"), Part("running_mean", [1], "buffer"), Part("b", [1], "parameter")))
MODEL = np.array([1.0, 2.0, 3.0, 4.0], dtype=np.float32)
MEAN = np.array([0.5, -1.0, 0.25, 2.0])


def test_fedavg_adds_the_mean_change() -> None:
    following = apply(FedAvg(), MODEL, MEAN, LAYOUT)
    assert following.dtype == np.float32
    np.testing.assert_array_equal(following, [1.5, 1.0, 3.25, 6.0])
    np.testing.assert_array_equal(MODEL, [1.0, 2.0, 3.0, 4.0])


def test_fedavg_scales_parameters_by_the_servers_rate_and_never_buffers() -> None:
    np.testing.assert_array_equal(apply(FedAvg(server_lr=2.0), MODEL, MEAN, LAYOUT), [2.0, 0.0, 3.25, 8.0])


def test_fedsgd_goes_down_the_mean_gradient_and_averages_buffers() -> None:
    np.testing.assert_array_equal(apply(FedSGD(lr=0.5), MODEL, MEAN, LAYOUT), [0.75, 2.5, 3.25, 3.0])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeMismatch):
        apply(FedAvg(), MODEL[:3], MEAN, LAYOUT)
    with pytest.raises(ShapeMismatch, match="update"):
        apply(FedAvg(), MODEL, MEAN[:3], LAYOUT)


def test_a_model_that_leaves_float32_is_refused() -> None:
    with pytest.raises(NotFinite, match="learning rate"):
        apply(FedAvg(), MODEL, np.array([1e39, 0.0, 0.0, 0.0]), LAYOUT)


PARTS = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["parameter", "buffer"])), min_size=1, max_size=6)


@given(PARTS, st.sampled_from([FedAvg(), FedAvg(server_lr=0.3), FedSGD(lr=0.7)]), st.floats(0.001, 100), st.data())
def test_part_by_part_is_whole_vectors_in_float64_bit_for_bit(
    sizes: Any, strategy: FedAvg | FedSGD, weight: float, data: st.DataObject
) -> None:
    layout = Layout(tuple(Part(f"t{place}", [size], kind) for place, (size, kind) in enumerate(sizes)))
    d = layout.size
    model = data.draw(hnp.arrays(np.float32, d, elements=st.floats(-1e6, 1e6, width=32)))
    total = data.draw(hnp.arrays(np.float64, d, elements=st.floats(-1e6, 1e6)))
    with patch.object(chunks, "CHUNK", 4):
        following = apply(strategy, model, total, layout, weight=weight)
        assert np.array_equal(following, apply(strategy, model, total / weight, layout))
    trained = np.repeat([kind == "parameter" for _, kind in sizes], [size for size, _ in sizes])
    rate = strategy.server_lr if isinstance(strategy, FedAvg) else -strategy.lr
    step = np.where(trained, rate * (total / weight), total / weight)
    assert np.array_equal(following, (model.astype(np.float64) + step).astype(np.float32))
