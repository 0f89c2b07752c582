"""Products of values that are truncated on the way: right, in one round each, and refused where they could not be right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operation_bed import PARTIES, SEEDS, SHAPES, Price, close, outcome, price, uniform

from smpc_fl.errors import BadInput, ShapeMismatch
from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.in_process import evaluate
from smpc_fl.shared_tensors.words import SCALE

ULP = 2.0**-SCALE


@given(seed=SEEDS, parties=PARTIES, shape=SHAPES)
@settings(max_examples=10)
def test_chains_of_products(seed: int, parties: int, shape: tuple[int, ...]) -> None:
    x, y, z = (uniform(seed + i, (*shape, 4), -8, 8) for i in range(3))
    # A factor of up to 64 is off by one unit in the last place, and so is the narrow one beside it of up to 8 or 64.
    close(outcome(lambda a, b, c: a * b * c, lambda a, b, c: a * b * c, x, y, z, parties=parties, seed=seed), 8 * ULP)
    close(
        outcome(lambda a, b, c: (a * b) * (b * c), lambda a, b, c: a * b * b * c, x, y, z, parties=parties), 129 * ULP
    )
    close(outcome(lambda a, b, c: (a * b) * (a * b), lambda a, b, c: (a * b) ** 2, x, y, z, parties=parties), 129 * ULP)


def test_shapes_are_broadcast() -> None:
    x, y = uniform(1, (3, 1, 4), -8, 8), uniform(2, (5, 1), -8, 8)
    found = outcome(lambda a, b: (a * a) * (b * b), lambda a, b: (a * a) * (b * b), x, y, parties=3)
    close(found, 129 * ULP)


@given(seed=SEEDS, parties=PARTIES, drops=st.tuples(st.integers(1, 40), st.integers(1, 40)))
@settings(max_examples=12)
def test_any_two_drops(seed: int, parties: int, drops: tuple[int, int]) -> None:
    """Large values on both sides of the ring's ends, so that masks wrap."""
    draft = Draft()
    a, b = (draft.input(name, (40,), 18 + drop) for name, drop in zip("ab", drops, strict=True))
    limits = [min(2.0 ** (61 - 18 - drop), 2.0**12) for drop in drops]
    x, y = (uniform(seed + i, (40,), -limit, limit) for i, limit in enumerate(limits))
    outputs = [a * b, a * a]
    found = evaluate(draft, outputs, {"a": x, "b": y}, entropy=np.random.default_rng(seed).bytes, parties=parties)
    assert float((found[0] - x * y).abs().max()) <= (sum(limits) + 1) * ULP
    assert float((found[1] - x * x).abs().max()) <= (2 * limits[0] + 1) * ULP


def test_one_round_and_one_opening_for_each_product() -> None:
    assert price(lambda x: x * x, (100,)) == Price(1, 8, 8)
    assert price(lambda x: (x * x) * x, (100,)) == Price(2, 16, 8 + 16 + 16)
    assert price(lambda x: (x * x) * (x * x), (100,)) == Price(2, 16, 8 + 16 + 16)
    assert price(lambda x: (x * x) * (x + 1) * (x * x), (100,)) == Price(3, 32, 8 + 16 + 16 + 16 + 24)
    # What was cut for a product is read for nothing.
    assert price(lambda x: (x * x) * x + x.draft.narrow(x * x), (100,)) == Price(2, 16, 8 + 16 + 16)


def _wide(draft: Draft, drop: int) -> Value:
    return draft.step("cut", draft.input(f"x{drop}", (3,), 18 + drop), drop=drop)


def test_what_has_no_room_in_a_program_is_refused_at_plan_time() -> None:
    draft = Draft()
    x, y = draft.input("x", (3,)), draft.input("y", (4,), 36)
    with pytest.raises(BadInput, match="at least one of them cut"):
        draft.step("cut_product", draft.step("mask", x), draft.step("mask", x))
    with pytest.raises(BadInput, match="two masked ones"):
        draft.step("cut_product", x, draft.step("cut", y, drop=18))
    with pytest.raises(ShapeMismatch):
        draft.step("cut_product", draft.step("mask", x), draft.step("cut", y, drop=18))
    for step in ("uncut", "cut_square"):
        with pytest.raises(BadInput, match="only a cut value"):
            draft.step(step, x)
    for drop in (0, 37, 63):
        with pytest.raises(BadInput, match="truncation takes"):
            draft.step("cut", y, drop=drop)


@pytest.mark.parametrize("drops", [(32, 33), (33, 33)])
def test_parties_refuse_products_of_what_dropped_too_much(drops: tuple[int, int]) -> None:
    """No draft writes them; a program from outside might."""
    draft = Draft()
    x, y = (_wide(draft, drop) for drop in drops)
    result = draft.step("cut_square", x) if x.number == y.number else draft.step("cut_product", x, y)
    with pytest.raises(BadInput, match="dropped 3"):
        evaluate(
            draft, [result], {f"x{drop}": torch.zeros(3) for drop in drops}, entropy=np.random.default_rng(1).bytes
        )
