"""Data and a plan for tests with real processes: a linear rule that every owner has some rows of."""

from __future__ import annotations

from collections.abc import Mapping

import torch

import smpc_fl as sf

FEATURES = 10


def owners(count: int, *, rows: int = 60) -> dict[str, dict[str, torch.Tensor]]:
    """{"owner-1": {"x": float32[rows…, 10], "y": int64[rows…]}, …}: sizes differ by owner."""
    generator = torch.Generator().manual_seed(7)
    rule = torch.randn(FEATURES, generator=generator)
    made = {}
    for number in range(1, count + 1):
        x = torch.randn(rows + 10 * number, FEATURES, generator=generator)
        made[f"owner-{number}"] = {"x": x, "y": ((x @ rule) > 0).long()}
    return made


def linear_plan(outputs: int = 2) -> sf.Plan:
    torch.manual_seed(3)
    net = torch.nn.Linear(FEATURES, outputs)
    return sf.Plan.from_module(net, loss="cross_entropy", example=(torch.zeros(4, FEATURES), torch.zeros(4).long()))


def plain_fedavg(
    plan: sf.Plan, data: Mapping[str, Mapping[str, torch.Tensor]], job: object, rounds: int, included: list[list[str]]
) -> list[torch.Tensor]:
    """The models of FedAvg in the clear, in float64 sums over the same owners' updates, after each round."""
    from smpc_fl.jobs import TrainJob
    from smpc_fl.learning.training import train_locally
    from smpc_fl.protocols.work import train_round

    assert isinstance(job, TrainJob)
    model, models = plan.initial, []
    for number in range(1, rounds + 1):
        total, weight = torch.zeros(len(model), dtype=torch.float64), 0.0
        for owner in included[number - 1]:
            result = train_locally(
                plan, model, data[owner]["x"], data[owner]["y"], job, round_number=train_round(number), owner=owner
            )
            total += result.rows * torch.from_numpy(result.delta).double()
            weight += result.rows
        model = (torch.from_numpy(model).double() + total / weight).float().numpy()
        models.append(torch.from_numpy(model.copy()))
    return models
