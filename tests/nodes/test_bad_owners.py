"""Owners whose data do not fit a job: each is named with what is wrong and what to do, and the others go on."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import smpc_fl as sf
from smpc_fl.errors import BadInput

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] > 0).long()
GOOD = {f"good-{n}": {"x": X[n * 10 : n * 10 + 10], "y": Y[n * 10 : n * 10 + 10]} for n in range(3)}
HOLES = torch.where(torch.arange(10)[:, None] == 3, torch.nan, X[:10])
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({"x": X[:0], "y": Y[:0]}, "no rows.*publish some, or leave this owner out"),
    "columns": ({"x": X[:10, :3], "y": Y[:10]}, r"'x' has rows of shape \[3\], the plan expects \[4\]: publish"),
    "type": ({"x": X[:10], "y": X[:10, 0]}, "'y' holds torch.float32, the plan expects int64: convert it"),
    "rows": ({"x": X[:10], "y": Y[:9]}, "do not have one row each: publish them together"),
    "labels": ({"x": X[:10], "y": Y[:10] + 7}, r"not classes 0\.\.1.*relabel them"),
    "holes": ({"x": HOLES, "y": Y[:10]}, "NaN or infinity.*fill in missing values"),
    "crowd": ({"x": X.repeat(4, 1), "y": Y.repeat(4)}, r"rows is not in 1\.\.64: raise the job's max_samples"),
    "tableless": ({"z": X[:10], "y": Y[:10]}, "no tensor 'x'; it has: y, z"),
}


def plan() -> sf.Plan:
    return sf.Plan.from_module(torch.nn.Linear(4, 2), example=(X[:4], Y[:4]))


def test_each_is_named_and_the_others_go_on() -> None:
    owners = GOOD | {name: tensors for name, (tensors, _) in BAD.items()}
    owners["one-class"] = {"x": X[:10], "y": torch.zeros(10).long()}  # which is no fault: it trains
    run = sf.simulate(plan(), owners, rounds=2, max_samples=64, seed=1, workers=1).wait()
    for round_ in run.rounds:
        assert round_.included == [*GOOD, "one-class"]
        assert round_.missing.keys() == BAD.keys()
        for owner, (_, said) in BAD.items():
            assert re.search(said, round_.missing[owner]), round_.missing


@pytest.mark.parametrize(("options", "said"), [
    ({"strategy": sf.FedAvgM(momentum=1.0)}, "momentum"),
    ({"strategy": sf.FedAdam(tau=0.0)}, "tau"),
    ({"strategy": sf.QFedAvg(q=-1.0)}, r"\$\.q"),
    ({"local": sf.LocalTraining(lr=-0.1)}, "local.lr"),
    ({"local": sf.LocalTraining(epochs=0)}, "local.epochs"),
    ({"clip": 0.0}, "clip"),
    ({"fraction": 0.0}, "fraction"),
    ({"compression": sf.Compression(bits=1)}, "compression.bits"),
    ({"evaluation": sf.Evaluation(fraction=1.0)}, "evaluation.fraction"),
    ({"stop": sf.Stop(patience=0)}, "stop.patience"),
])  # fmt: skip
def test_options_out_of_range_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=f"out of range.*{said}"):
        sf.simulate(plan(), GOOD, **options)
