"""Secure rounds between real processes over real websockets: exactness, dropouts, crashes, upload size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sample_federation import linear_plan, owners, plain_fedavg

import smpc_fl as sf
from smpc_fl.jobs import TrainJob
from smpc_fl.nodes.training_job import run_seed

DATA = owners(5)


@pytest.fixture(scope="module")
def fed() -> Iterator[sf.LocalFederation]:
    with sf.LocalFederation(DATA, aggregators=3, ledger="own", round_deadline=15.0) as federation:
        yield federation


def _job(plan: sf.Plan, rounds: int, seed: int) -> TrainJob:
    return TrainJob(plan=plan.to_bytes(), inputs="x", targets="y", rounds=rounds, seed=run_seed(seed))


def _assert_equals_plain(run: sf.Run, plan: sf.Plan, seed: int) -> None:
    """Every weight after every round within 1e-4 of plain FedAvg over the same owners."""
    rounds = run.rounds
    plain = plain_fedavg(plan, DATA, _job(plan, len(rounds), seed), len(rounds), [r.included for r in rounds])
    for secure, clear in zip(rounds, plain, strict=True):
        np.testing.assert_allclose(secure.model, clear.numpy(), atol=1e-4, rtol=0)


def test_training_equals_plain_fedavg_after_every_round(fed: sf.LocalFederation) -> None:
    plan = linear_plan()
    run = fed.train(plan, inputs="x", targets="y", rounds=3, seed=1)
    assert [r.number for r in run] == [1, 2, 3]
    assert all(r.included == sorted(DATA) and not r.missing and r.clipped == 0 for r in run.rounds)
    assert run.rounds[-1].metrics["loss"] < run.rounds[0].metrics["loss"]
    _assert_equals_plain(run, plan, seed=1)
    assert torch.equal(torch.from_numpy(run.vector), torch.from_numpy(run.rounds[-1].model))
    state = run.model.state_dict()
    assert state["weight"].shape == (2, 10)


def test_evaluation_metrics_come_out_aggregated_and_stop_ends_the_run(fed: sf.LocalFederation) -> None:
    run = fed.train(
        linear_plan(),
        inputs="x",
        targets="y",
        rounds=50,
        evaluation=sf.Evaluation(fraction=0.25),
        stop=sf.Stop(metric="val_accuracy", target=0.7),
    ).wait()
    assert 1 <= len(run.rounds) < 50
    last = run.rounds[-1].metrics
    assert last["val_accuracy"] >= 0.7
    assert {"loss", "val_loss", "val_auc", "val_auc_error"} <= set(last)


def test_fedsgd_takes_one_gradient_step_a_round(fed: sf.LocalFederation) -> None:
    plan = linear_plan()
    run = fed.train(plan, inputs="x", targets="y", rounds=1, strategy=sf.FedSGD(lr=0.5, weights="equal")).wait()
    net = plan.module_with(plan.initial)
    losses = []
    for tensors in DATA.values():
        losses.append(torch.nn.functional.cross_entropy(net(tensors["x"]), tensors["y"]))
    torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
    expected = torch.cat([(p - 0.5 * p.grad).flatten() for p in net.parameters() if p.grad is not None]).detach()
    np.testing.assert_allclose(run.vector, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(("member", "seed"), [("aggregator-2", 2), ("coordinator", 12), ("owner-3", 22)])
def test_a_node_killed_in_mid_run_comes_back_and_the_run_ends_exact(
    fed: sf.LocalFederation, member: str, seed: int
) -> None:
    """Each with a seed of its own: an owner that comes back too late is missing, and of two sums over one computation that
    differ by one owner the second is refused."""
    plan = linear_plan()
    run = fed.train(plan, inputs="x", targets="y", rounds=6, seed=seed)
    for round_ in run:
        if round_.number == 2:
            fed.kill(member)
    assert len(run.rounds) == 6
    _assert_equals_plain(run, plan, seed=seed)


def test_everything_killed_at_once_and_the_run_goes_on(fed: sf.LocalFederation) -> None:
    plan = linear_plan()
    run = fed.train(plan, inputs="x", targets="y", rounds=4, seed=3)
    for round_ in run:
        if round_.number == 2:
            for member in fed.processes:
                fed.kill(member)
    _assert_equals_plain(run, plan, seed=3)


def test_an_owner_that_is_gone_is_left_out_without_a_recovery_round(fed: sf.LocalFederation) -> None:
    fed.wait_for_owners()
    plan = linear_plan()
    run = fed.train(plan, inputs="x", targets="y", rounds=3, seed=4)
    for round_ in run:
        if round_.number == 1:
            fed.kill("owner-5", restart=False)
        if round_.number == 2:
            fed.revive("owner-5")
            fed.wait_for_owners()
    assert run.rounds[1].included == ["owner-1", "owner-2", "owner-3", "owner-4"]
    assert "owner-5" in run.rounds[1].missing
    assert run.rounds[1].attempts == 1
    _assert_equals_plain(run, plan, seed=4)


def test_status_names_everybody(fed: sf.LocalFederation) -> None:
    status = fed.status()
    assert {m.id for m in status.members} >= {"coordinator", "aggregator-1", "owner-1", "researcher"}
    assert all(run.state == "finished" for run in status.runs)


@pytest.mark.parametrize(
    ("aggregators", "rings"), [(2, {32: None, 18: 16}), pytest.param(5, {32: None}, marks=pytest.mark.slow)]
)
def test_upload_is_what_plain_fedavg_sends(aggregators: int, rings: dict[int, int | None]) -> None:
    """At b = 32, d = 10^6: at most 1.01 x 4d bytes for each owner on the socket, whatever m is. Updates of 16 bits take two
    more for the sum of three owners, and so little over half."""
    width = 1000
    net = torch.nn.Sequential(torch.nn.Linear(10, width), torch.nn.Linear(width, 996), torch.nn.Linear(996, 2))
    plan = sf.Plan.from_module(net, example=(torch.zeros(4, 10), torch.zeros(4).long()))
    d = plan.layout.size
    assert d >= 1_000_000
    data = owners(3, rows=10)
    with sf.LocalFederation(data, aggregators=aggregators, ledger="own") as fed:
        for bits, update_bits in rings.items():
            job: dict[str, Any] = {"update_bits": update_bits, "clip": 1.0, "strategy": sf.FedAvg(weights="equal")}
            (round_,) = fed.train(plan, inputs="x", targets="y", rounds=1, **job).wait().rounds
            assert round_.ring_bits == bits
            vector = d * bits / 8
            assert all(vector < sent <= 1.01 * vector for sent in round_.traffic.uploaded.values()), round_.traffic
