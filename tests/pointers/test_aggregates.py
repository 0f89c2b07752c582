from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pointer_world import World, at, three

from smpc_fl.errors import BadInput, CohortTooSmall, IsolationRefused, ShapeMismatch, WeightOutOfRange
from smpc_fl.jobs import AggregateJob, Privacy
from smpc_fl.nodes.registered import holding
from smpc_fl.pointers.aggregates import OwnersMissingWarning, SaturatedWarning, secure_mean, secure_sum
from smpc_fl.pointers.pointer import PointerTensor
from smpc_fl.pointers.session import AggregateResult

OWNERS = ["alice", "bob", "carol"]


def means(made: World, owners: list[str] = OWNERS) -> list[PointerTensor]:
    return [at(made, owner).mean(0) for owner in owners]


def clear(made: World) -> list[torch.Tensor]:
    return [made.registered[owner]["x"].private() for owner in OWNERS]


def test_the_mean_is_weighed_by_rows() -> None:
    made = three()
    result = secure_mean(means(made), bound=8.0)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, torch.cat(clear(made)).mean(0))
    (job,) = made.jobs
    assert job.weights is None
    assert job.max_samples == 1_000_000


def test_given_weights_follow_their_owners() -> None:
    made = three()
    result = secure_mean(means(made, ["carol", "alice", "bob"]), weights=[30, 10, 20], bound=8.0)
    a, b, c = (x.mean(0) for x in clear(made))
    torch.testing.assert_close(result, (10 * a + 20 * b + 30 * c) / 60)
    assert made.jobs[0].weights == [10 / 30, 20 / 30, 1.0]


def test_the_sum_and_its_type() -> None:
    made = three()
    counts = [torch.ones_like(at(made, owner)[:, 0], dtype=torch.int64).sum() for owner in OWNERS]
    total = secure_sum(counts, bound=1000.0, ring_bits=64)  # type: ignore[arg-type]
    assert total.dtype == torch.float64
    assert total.shape == ()
    assert total.item() == 23
    assert made.jobs[0].ring_bits == 64
    assert secure_mean([p.double() for p in means(made)], bound=8, max_samples=100).dtype == torch.float64
    assert made.jobs[1].max_samples == 100
    assert secure_sum([p.reshape(2, 2) for p in means(made)], bound=8.0).shape == (2, 2)


def test_noise_goes_with_the_job_and_silences_a_count_that_it_drowns() -> None:
    made = three()
    secure_mean(means(made), bound=0.01, max_samples=16, privacy=Privacy(delta=1e-5, noise_multiplier=3.0))
    secure_sum(means(made), bound=8.0, privacy=Privacy(delta=1e-5, epsilon=1.0))
    given, found = (job.privacy for job in made.jobs)
    assert given == Privacy(delta=1e-5, noise_multiplier=3.0)
    assert found is not None
    assert found.noise_multiplier is not None
    assert found.noise_multiplier > 5
    with pytest.raises(BadInput, match=r"takes an sf.Privacy"):
        secure_sum(means(made), bound=8.0, privacy="much")  # type: ignore[arg-type]


def test_saturation_is_not_silent() -> None:
    made = three()
    with pytest.warns(SaturatedWarning, match="of 3 owners had elements beyond ±0.001"):
        result = secure_sum(means(made), bound=0.001)
    assert result.abs().max() <= 0.003 + 1e-6


@pytest.mark.parametrize(
    ("weights", "kind"),
    [
        ([1, 0, 0], IsolationRefused),
        ([1, 1, -1], IsolationRefused),
        ([5, 1, 1], IsolationRefused),
        ([1, 1e-9, 1e-9], IsolationRefused),
        ([2, 1, 0.999], IsolationRefused),
        ([1, 1], WeightOutOfRange),
        ([1, 1, float("nan")], WeightOutOfRange),
        ([1, 1, float("inf")], WeightOutOfRange),
        ([1, 1, None], WeightOutOfRange),
        ([1, 1, "one"], WeightOutOfRange),
        ([1e300, 1e300, 5e-324], BadInput),
    ],
)
def test_weights_that_isolate(weights: list[Any], kind: type[Exception]) -> None:
    made = three()
    pointers = means(made)
    sent = len(made.sent)
    with pytest.raises(kind):
        secure_mean(pointers, weights=weights, bound=8.0)
    assert (len(made.sent), made.jobs) == (sent, [])


def test_the_largest_may_be_just_half() -> None:
    made = three()
    secure_mean(means(made), weights=[1, 1, 2], bound=8.0)
    secure_mean(means(made), weights=[0.1, 0.2, 0.3], bound=8.0)


def test_operands_of_different_lineage() -> None:
    made = three()
    a, b, c = means(made)
    with pytest.raises(IsolationRefused, match=r"alice has mean\(x, 0\), bob has mul\(mean\(x, 0\), 0\)"):
        secure_sum([a, b * 0, c * 0], bound=8.0)
    with pytest.raises(IsolationRefused):
        secure_sum([a[1:3], b[0:2], c[1:3]], bound=8.0)
    with pytest.raises(IsolationRefused):
        secure_sum([torch.where(p > limit, p, 0.0) for p, limit in zip(means(made), (0, 9, 9), strict=True)], bound=8.0)  # type: ignore[call-overload]
    assert made.jobs == []


def test_cohorts() -> None:
    made = three()
    a, b, c = means(made)
    with pytest.raises(CohortTooSmall, match="at least 3"):
        secure_mean([a, b], bound=8.0)
    with pytest.raises(IsolationRefused, match="alice would be counted twice"):
        secure_mean([a, a, b, c], bound=8.0)
    with pytest.raises(BadInput, match="list of pointers"):
        secure_mean([], bound=8.0)
    with pytest.raises(BadInput, match="list of pointers"):
        secure_mean([a, b, torch.ones(4)], bound=8.0)  # type: ignore[list-item]
    with pytest.raises(BadInput, match="different sessions"):
        secure_mean([a, b, means(three())[2]], bound=8.0)
    assert made.jobs == []


def test_shapes() -> None:
    made = three()
    with pytest.raises(ShapeMismatch, match="reduce over them first"):
        secure_mean([at(made, owner) for owner in OWNERS], bound=8.0)
    made.registered["carol"]["x"] = holding("x", torch.ones(7, 5), group="data")
    with pytest.raises(ShapeMismatch, match=r"carol has torch\.float32 of shape"):
        secure_mean(means(made), bound=8.0)
    made.registered["carol"]["x"] = holding("x", torch.ones(7, 4, dtype=torch.float64), group="data")
    with pytest.raises(ShapeMismatch, match="float64"):
        secure_mean(means(made), bound=8.0)
    assert made.jobs == []


@pytest.mark.parametrize(
    "settings",
    [
        {"bound": 0}, {"bound": -1.0}, {"bound": float("inf")}, {"bound": float("nan")}, {"bound": "8"},
        {"bound": 8.0, "tolerance": 0.0}, {"bound": 8.0, "max_samples": 0}, {"bound": 8.0, "ring_bits": 7},
    ],
)  # fmt: skip
def test_settings(settings: dict[str, Any]) -> None:
    made = three()
    with pytest.raises(BadInput):
        secure_mean(means(made), **settings)
    assert made.jobs == []


def test_owners_that_dropped_out_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    world = three()
    whole = world.aggregate

    def without_carol(job: AggregateJob, owners: Sequence[str]) -> AggregateResult:
        return dataclasses.replace(whole(job, owners), included=["alice", "bob"])

    monkeypatch.setattr(world, "aggregate", without_carol)
    with pytest.warns(OwnersMissingWarning, match="carol dropped out: the sum is over alice, bob only"):
        secure_sum(means(world), bound=8.0)
