"""What of a model travels, and what stays at home."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import smpc_fl as sf
from smpc_fl.errors import BadInput
from smpc_fl.learning.cohort import drawn
from smpc_fl.learning.shared import normalisation, shared_of

X, Y = torch.zeros(4, 6), torch.zeros(4, dtype=torch.long)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.norm, self.head = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)
        self.layer = nn.LayerNorm(5)
        self.frozen.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.layer(self.norm(self.frozen(x))))
        return scores


PLAN = sf.Plan.from_module(Net(), example=(X, Y))
NORMS = {"norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "layer.weight", "layer.bias"}


def names(strategy: sf.FedAvg, *private: str) -> set[str]:
    return {part.name for part in shared_of(PLAN.data, strategy, private).layout.parts}


def test_frozen_layers_do_not_travel_and_statistics_do() -> None:
    assert names(sf.FedAvg()) == NORMS | {"head.weight", "head.bias"}


def test_private_tensors_and_fedbns_norms_stay() -> None:
    assert names(sf.FedAvg(), "head.*") == NORMS
    assert names(sf.FedBN()) == {"head.weight", "head.bias"}
    assert names(sf.FedBN(), "head.bias") == {"head.weight"}
    assert normalisation(PLAN.document) == NORMS


def test_what_cannot_be_private_is_named() -> None:
    with pytest.raises(BadInput, match=r"private='tail.\*' matches none .*head.weight"):
        shared_of(PLAN.data, sf.FedAvg(), ("tail.*",))
    with pytest.raises(BadInput, match="no tensor of the model would travel"):
        shared_of(PLAN.data, sf.FedAvg(), ("*",))


def test_parts_go_apart_and_together() -> None:
    shared = shared_of(PLAN.data, sf.FedAvg(), ("head.*",))
    model = np.arange(PLAN.layout.size, dtype=np.float32)
    travels, own = shared.gather(model), shared.own(model)
    assert travels.size == shared.size
    assert own.size == 5 * 3 + 3
    np.testing.assert_array_equal(shared.scatter(travels, model), model)
    moved = shared.scatter(travels + 1, shared.with_own(model, own * 2))
    parts, before = PLAN.layout.unflatten(moved), PLAN.layout.unflatten(model)
    np.testing.assert_array_equal(parts["head.weight"], before["head.weight"] * 2)
    np.testing.assert_array_equal(parts["norm.weight"], before["norm.weight"] + 1)
    np.testing.assert_array_equal(parts["frozen.weight"], before["frozen.weight"])


def test_where_all_travels_nothing_is_copied() -> None:
    plan = sf.Plan.from_module(nn.Linear(6, 3), example=(X, Y))
    shared, model = shared_of(plan.data, sf.FedAvg()), plan.initial
    assert shared.whole
    assert shared.gather(model) is model
    assert shared.scatter(model, model) is model
    assert shared.own(model).size == 0


def test_a_round_draws_its_owners_from_the_public_seed() -> None:
    owners = [f"owner-{number}" for number in range(20)]
    one = drawn(owners, 0.3, 3, bytes(16), 0)
    assert one == drawn(list(reversed(owners)), 0.3, 3, bytes(16), 0)
    assert len(one) == 6
    assert one == sorted(set(one))
    assert one != drawn(owners, 0.3, 3, bytes(16), 2)
    assert one != drawn(owners, 0.3, 3, bytes(15) + b"1", 0)
    assert len(drawn(owners, 0.01, 3, bytes(16), 0)) == 3
    assert drawn(owners, 1.0, 3, bytes(16), 0) == sorted(owners)
    counts = dict.fromkeys(owners, 0)
    for number in range(400):
        for owner in drawn(owners, 0.25, 2, bytes(16), number):
            counts[owner] += 1
    assert all(60 <= count <= 140 for count in counts.values())  # 100 expected, 4.6 standard deviations
