"""Dropout from a stream."""

from __future__ import annotations

import pytest
import torch

from smpc_fl.learning.dropout import SeededDropout, training_functions
from smpc_fl.learning.shuffle import stream
from smpc_fl.plans.operators import table


def fresh() -> SeededDropout:
    return SeededDropout(stream(bytes(16), "dropout", "alice"))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_of_zeros_and_the_mean(p: float) -> None:
    y = fresh().elements(torch.ones(200, 500), p, True)
    assert float((y == 0).float().mean()) == pytest.approx(p, abs=0.006)
    assert float(y.mean()) == pytest.approx(1.0, abs=0.04)
    assert sorted(set(y.flatten().tolist())) == pytest.approx([0.0, 1 / (1 - p)])


def test_channels_go_together() -> None:
    y = fresh().channels(torch.ones(50, 40, 3, 2), 0.3, True)
    assert torch.equal(y, y[:, :, :1, :1].expand(-1, -1, 3, 2))
    assert float((y == 0).float().mean()) == pytest.approx(0.3, abs=0.04)


def test_no_number_is_used_twice_and_a_run_can_be_repeated() -> None:
    ones = torch.ones(64)
    dropout = fresh()
    masks = [dropout.elements(ones, 0.5, True) for _ in range(3)]
    again = fresh()
    assert all(torch.equal(mask, again.elements(ones, 0.5, True)) for mask in masks)
    assert not torch.equal(masks[0], masks[1])
    both = fresh().elements(torch.ones(128), 0.5, True)
    assert torch.equal(both, torch.cat(masks[:2]))


def test_edges() -> None:
    x = torch.randn(5, generator=torch.Generator())
    dropout = fresh()
    assert dropout.elements(x, 0.5, False) is x
    assert dropout.elements(x, 0.0, True) is x
    assert dropout.elements(x, 1.0, True).tolist() == [0.0] * 5
    before = torch.get_rng_state()
    dropout.elements(x, 0.5, True)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_gradient_goes_through_what_is_kept() -> None:
    x = torch.ones(100, requires_grad=True)
    y = fresh().elements(x, 0.25, True)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


def test_only_dropout_is_replaced() -> None:
    functions = training_functions(stream(bytes(16), "dropout", "alice"))
    changed = {name for name, function in functions.items() if function is not table()[name]}
    assert changed == {"aten.dropout.default", "aten.feature_dropout.default"}
