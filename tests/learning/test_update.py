"""The secure vector: what goes in comes out as a weighted mean, and nothing is clipped in silence."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpc_fl.errors import BadInput, NotFinite, RoundAborted, ShapeMismatch, WeightOutOfRange
from smpc_fl.learning.update import METRIC_BOUND, VectorLayout, assemble, disassemble, row_weight

LAYOUT = VectorLayout(3, ("loss",))
FINE = {"loss": 0.5}


def one(
    payload: list[float], weight: float = 1.0, *, loss: float = 0.5, clip: float = 10.0, mode: str = "norm"
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    assert mode in ("norm", "saturate")
    vector = assemble(np.array(payload), weight, {"loss": loss}, layout=LAYOUT, clip=clip, mode=mode)  # type: ignore[arg-type]
    return vector.dense()


def test_slots() -> None:
    np.testing.assert_allclose(one([1.0, -2.0, 3.0], 0.5), [0.5, -1.0, 1.5, 0.5 * 0.5 / METRIC_BOUND, 0.5, 0.0])
    assert LAYOUT.length == 6


@given(st.lists(st.tuples(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.integers(1, 1000)), min_size=1))
def test_the_sum_is_the_weighted_mean(owners: list[tuple[list[float], int]]) -> None:
    total = np.sum([one(payload, row_weight(rows, 1000), loss=rows / 100) for payload, rows in owners], axis=0)
    aggregate = disassemble(total, LAYOUT)
    weights = np.array([rows for _, rows in owners], dtype=np.float64)
    payloads = np.array([payload for payload, _ in owners])
    np.testing.assert_allclose(aggregate.mean, weights @ payloads / weights.sum(), atol=1e-12)
    np.testing.assert_allclose(aggregate.sum, weights @ payloads / 1024, atol=1e-12)
    assert aggregate.metrics["loss"] == pytest.approx((weights @ weights) / weights.sum() / 100)
    assert aggregate.total_weight == pytest.approx(weights.sum() / 1024)
    assert aggregate.clipped == 0


@given(st.lists(st.floats(-1e30, 1e30), min_size=3, max_size=3), st.floats(1e-3, 100), st.floats(0.001, 1))
def test_an_update_is_scaled_to_the_norm_and_counted(payload: list[float], clip: float, weight: float) -> None:
    slots = one(payload, weight, clip=clip)
    norm = np.linalg.norm(payload)
    assert np.linalg.norm(slots[:3]) <= weight * clip * (1 + 1e-9)
    assert np.abs(slots[:3]).max() <= weight * clip
    if norm <= clip * (1 - 1e-9):
        np.testing.assert_allclose(slots[:3], weight * np.array(payload))
        assert slots[-1] == 0
    elif norm > clip * (1 + 1e-9):
        np.testing.assert_allclose(slots[:3], weight * clip / norm * np.array(payload), atol=1e-12 * clip)
        assert slots[-1] == 1


def test_huge_and_tiny_updates_neither_overflow_nor_vanish() -> None:
    np.testing.assert_allclose(one([3e200, 4e200, 0.0], clip=5.0)[:3], [3.0, 4.0, 0.0])
    np.testing.assert_allclose(one([3e-200, 4e-200, 0.0], clip=5e-250)[:3], [3e-250, 4e-250, 0.0])
    assert one([0.0, 0.0, 0.0], clip=1e-9)[-1] == 0


def test_saturation_is_slot_by_slot_and_counted() -> None:
    slots = one([1.0, -7.0, 9.0], 0.5, clip=2.0, mode="saturate")
    np.testing.assert_allclose(slots[:3], [0.5, -1.0, 1.0])
    assert slots[-1] == 1
    assert one([1.0, -2.0, 2.0], clip=2.0, mode="saturate")[-1] == 0


@pytest.mark.parametrize("loss", [1e6, -1e6])
def test_a_metric_beyond_its_bound_saturates_and_is_counted(loss: float) -> None:
    aggregate = disassemble(one([0.0, 0.0, 0.0], 0.5, loss=loss), LAYOUT)
    assert aggregate.metrics == {"loss": np.sign(loss) * METRIC_BOUND}
    assert aggregate.clipped == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("mode", ["norm", "saturate"])
def test_nan_and_infinity_are_refused(value: float, mode: str) -> None:
    with pytest.raises(NotFinite, match="learning rate"):
        one([0.0, value, 0.0], mode=mode)
    with pytest.raises(NotFinite):
        one([0.0, 0.0, 0.0], loss=value, mode=mode)


@pytest.mark.parametrize("weight", [0.0, -0.5, 1.0000001, float("nan"), float("inf")])
def test_a_weight_out_of_range_is_refused(weight: float) -> None:
    with pytest.raises(WeightOutOfRange):
        one([0.0, 0.0, 0.0], weight)


def test_other_lengths_and_metrics_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="3 slots"):
        one([0.0])
    with pytest.raises(BadInput, match="loss"):
        assemble(np.zeros(3), 1.0, {}, layout=LAYOUT, clip=1.0, mode="norm")
    with pytest.raises(ShapeMismatch, match="6 slots"):
        disassemble(np.zeros(7), LAYOUT)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_no_mean_without_weight(weight: float) -> None:
    total = np.zeros(LAYOUT.length)
    total[-2] = weight
    with pytest.raises(RoundAborted, match="weights"):
        disassemble(total, LAYOUT)


def test_a_vector_may_have_no_metrics_and_no_payload() -> None:
    layout = VectorLayout(0)
    slots = assemble(np.zeros(0), 0.25, {}, layout=layout, clip=1.0, mode="norm").dense()
    assert slots.tolist() == [0.25, 0.0]
    assert disassemble(slots, layout).total_weight == 0.25


@pytest.mark.parametrize("rows", [0, -77, 16_385])
def test_row_counts_out_of_range_are_refused_without_being_told(rows: int) -> None:
    with pytest.raises(WeightOutOfRange) as caught:
        row_weight(rows, 10_000)
    assert "max_samples" in str(caught.value)
    assert "77" not in str(caught.value)
    assert "16385" not in str(caught.value)


def test_a_search_for_the_number_of_rows_finds_its_order_of_magnitude() -> None:
    def accepted(rows: int) -> list[bool]:
        answers = []
        for cap in range(900, 1200):
            with contextlib.suppress(WeightOutOfRange):
                row_weight(rows, cap)
                answers.append(True)
                continue
            answers.append(False)
        return answers

    assert accepted(513) == accepted(901) == accepted(1000) == accepted(1024)
    assert accepted(1025) == accepted(1100) == accepted(2048) != accepted(1024)


def test_row_weights() -> None:
    assert row_weight(1, 4) == 0.25
    assert row_weight(4, 4) == 1.0
