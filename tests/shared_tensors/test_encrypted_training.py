"""Encrypted training steps from the joint graph, held against torch's autograd and optimizers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from rooms_of_parties import seeded
from torch import nn
from torch.nn import functional as F

from smpc_fl.errors import BadInput, PlanRejected
from smpc_fl.shared_tensors.cost import cost
from smpc_fl.shared_tensors.optimizers import SGD, Adam, Optimizer
from smpc_fl.shared_tensors.session import LocalParties
from smpc_fl.shared_tensors.tensor import Desk
from smpc_fl.shared_tensors.trainer import Trainer
from smpc_fl.shared_tensors.training import Gradients, TrainingStep

G = torch.Generator().manual_seed(5)
X = torch.randn(12, 6, generator=G)
LABELS = torch.randint(0, 3, (12,), generator=G)
ONE_HOT = torch.eye(3)[LABELS]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def network() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


class Encrypted(Trainer):
    """On the whole of X, again and again."""

    def __init__(self, net: nn.Module, loss: Loss, optimizer: Optimizer, *, parties: int) -> None:
        desk = Desk(LocalParties(seeded(parties), parties))
        super().__init__(desk, net, loss, optimizer)
        self.x, self.y = desk.share(X), desk.share(ONE_HOT)

    def go(self, steps: int) -> dict[str, torch.Tensor]:
        for _ in range(steps):
            assert self.step(self.x, self.y) is None
        return {name: tensor.get() for name, tensor in self.tensors.items()}


def in_clear(net: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer, steps: int) -> float:
    value = 0.0
    for _ in range(steps):
        optimizer.zero_grad()
        result = loss(net(X), ONE_HOT)
        result.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        value = float(result.detach())
    return value


@pytest.mark.parametrize("parties", [2, 3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(
    "loss",
    [F.mse_loss, F.cross_entropy, F.binary_cross_entropy_with_logits],
    ids=["mse", "cross-entropy", "binary cross-entropy"],
)
def test_steps_are_those_of_torch(loss: Loss, momentum: float, parties: int) -> None:
    net = network()
    found = Encrypted(net, loss, SGD(0.3, momentum), parties=parties)
    found.go(3)
    lost = found.step(found.x, found.y, tell_loss=True)
    assert lost is not None
    after = {name: tensor.get() for name, tensor in found.tensors.items()}
    clear = copy.deepcopy(net)
    told = in_clear(clear, loss, torch.optim.SGD(clear.parameters(), lr=0.3, momentum=momentum), 4)
    for name, weight in clear.named_parameters():
        torch.testing.assert_close(after[name], weight.detach().double(), atol=5e-4, rtol=0)
        assert (weight - net.get_parameter(name)).abs().max() > 0.01, "four steps that move nothing show nothing"
    assert float(lost.get()) == pytest.approx(told, abs=1e-3)


def test_adam_is_kingma_and_bas_without_the_correction_of_bias() -> None:
    net = network()
    after = Encrypted(net, F.mse_loss, Adam(0.02), parties=2).go(3)
    clear = copy.deepcopy(net)
    memory = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in clear.named_parameters()}
    for _ in range(3):
        clear.zero_grad()
        F.mse_loss(clear(X), ONE_HOT).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name, weight in clear.named_parameters():
                g = weight.grad
                assert g is not None
                mean, square = (0.9 * memory[name][0] + 0.1 * g, 0.99 * memory[name][1] + 0.01 * g * g)
                memory[name] = mean, square
                weight.sub_(0.02 * mean / torch.sqrt(square + 2.0**-16))
    moved = max(
        float((weight - net.get_parameter(name)).detach().abs().max()) for name, weight in clear.named_parameters()
    )
    for name, weight in clear.named_parameters():
        off = float((after[name] - weight.detach()).abs().max())
        assert off < moved / 20, name


def test_frozen_parameters_stay_and_nothing_is_said_for_them() -> None:
    net = network()
    whole = TrainingStep.of(net, F.mse_loss, SGD(0.1), X.shape, ONE_HOT.shape)
    net[0].requires_grad_(False)
    found = Encrypted(net, F.mse_loss, SGD(0.1), parties=2)
    assert found.cost(found.x, found.y).online < cost(whole.draft.program(*whole.outputs.values()), 2).online
    after = found.go(1)
    torch.testing.assert_close(
        after["0.weight"], net.get_parameter("0.weight").detach().double(), atol=2.0**-18, rtol=0
    )


def test_without_the_loss_no_logarithm_is_computed() -> None:
    prices = {
        tell: cost(step.draft.program(*step.outputs.values()), 2)
        for tell in (False, True)
        for step in [TrainingStep.of(network(), F.cross_entropy, SGD(0.1), X.shape, ONE_HOT.shape, tell_loss=tell)]
    }
    assert prices[False].opened < prices[True].opened


def test_what_cannot_be_trained_is_named() -> None:
    pooled = nn.Sequential(nn.Linear(6, 6), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(9, 3))
    with pytest.raises(PlanRejected, match=r"max_pool2d_with_indices.*train with average pooling"):
        Gradients.of(pooled, F.mse_loss, (4, 1, 6, 6), (4, 3))
    with pytest.raises(PlanRejected, match="one-hot targets of floats"):
        TrainingStep.of(network(), lambda p, y: F.cross_entropy(p, y.long()[:, 0]), SGD(0.1), X.shape, ONE_HOT.shape)
    with pytest.raises(PlanRejected, match=r"torch finds no gradients.*does not require gradients"):
        Gradients.of(network(), lambda p, y: p.detach().sum(), X.shape, ONE_HOT.shape)
    with pytest.raises(BadInput, match=r"node 'pow_1' \(aten\.pow\.Tensor_Scalar\): .*to the power of 0\.3"):
        TrainingStep.of(network(), lambda p, y: (p**0.3).sum(), SGD(0.1), X.shape, ONE_HOT.shape)


def test_types_that_are_changed_on_the_way_change_nothing() -> None:
    net = network()

    def loss(p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(p.double(), y.double())

    after = Encrypted(net, loss, SGD(0.3), parties=2).go(1)
    in_clear(net, loss, torch.optim.SGD(net.parameters(), lr=0.3), 1)
    torch.testing.assert_close(after["2.bias"], net.get_parameter("2.bias").detach().double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(0.0),
        lambda: SGD(0.1, 1.0),
        lambda: Adam(1.5),
        lambda: Adam(0.1, beta2=0.0),
        lambda: Adam(0.1, eps=1e-9),
    ],
)
def test_options_out_of_range_are_refused(make: Callable[[], Optimizer]) -> None:
    with pytest.raises(BadInput, match="takes"):
        make()
