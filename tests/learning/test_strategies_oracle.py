"""Every strategy over 20 whole secure rounds, against the paper's algorithm box written again in ordinary torch: no plan, no
vector, no interpreter in the oracle. Only the order of an owner's rows is taken from the package."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import smpc_fl as sf
from smpc_fl.learning.shuffle import permutation, stream
from smpc_fl.nodes.training_job import run_seed
from smpc_fl.protocols.work import train_round

ROUNDS, SEED, LR, BATCH = 20, 11, 0.1, 16
ROWS = {"alice": slice(0, 40), "bob": slice(40, 58), "carol": slice(58, 103), "dave": slice(103, 130)}
State = dict[str, torch.Tensor]


def make_data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(130, 6, generator=generator)
    y = (x @ torch.randn(6, 3, generator=generator)).argmax(1)
    for number, rows in enumerate(ROWS.values()):
        x[rows] = x[rows] * (0.5 + 0.5 * number) + 0.3 * number  # owners differ
    return x, y


X, Y = make_data()
OWNERS = {owner: {"x": X[rows], "y": Y[rows]} for owner, rows in ROWS.items()}


def network(norm: bool = False) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        middle = [nn.BatchNorm1d(8)] if norm else []
        return nn.Sequential(nn.Linear(6, 8), *middle, nn.Tanh(), nn.Linear(8, 3))


def batches(owner: str, number: int, use: str = "shuffle") -> list[torch.Tensor]:
    rows = ROWS[owner].stop - ROWS[owner].start
    order = permutation(stream(run_seed(SEED), use, owner, train_round(number)), rows)
    return list(torch.split(torch.from_numpy(order), BATCH))


Direction = Callable[[nn.Module], None]


def descend(net: nn.Module, owner: str, number: int, direction: Direction | None = None, use: str = "shuffle") -> int:
    """Plain steps of one epoch; `direction` corrects the gradients. How many there were."""
    x, y = OWNERS[owner]["x"], OWNERS[owner]["y"]
    steps = 0
    for batch in batches(owner, number, use):
        net.zero_grad()
        functional.cross_entropy(net(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
        if direction is not None:
            direction(net)
        with torch.no_grad():
            for parameter in net.parameters():
                assert parameter.grad is not None
                parameter.sub_(parameter.grad, alpha=LR)
        steps += 1
    return steps


def share_of(owner: str, equal: bool = False) -> float:
    return 1 / len(ROWS) if equal else (ROWS[owner].stop - ROWS[owner].start) / 130


def weights_of(net: nn.Module) -> State:
    return {name: value.detach().clone() for name, value in net.state_dict().items() if value.is_floating_point()}


def put(net: nn.Module, state: Mapping[str, torch.Tensor]) -> nn.Module:
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name in state:
                value.copy_(state[name])
    return net


def mean_change(before: State, after: Mapping[str, State], equal: bool = False) -> State:
    """Σ wₖ Δₖ / Σ wₖ in float64."""
    return {
        name: sum(
            (share_of(owner, equal) * (state[name].double() - value.double()) for owner, state in after.items()),
            start=torch.zeros_like(value, dtype=torch.float64),
        )
        for name, value in before.items()
    }


def add(state: State, change: Mapping[str, torch.Tensor], rate: float = 1.0) -> State:
    return {name: (value.double() + rate * change[name]).float() for name, value in state.items()}


def trained(state: State, number: int, make: Callable[[str, nn.Module], Direction | None] = lambda *_: None) -> Any:
    """{owner: state after one epoch from the global one}, and the steps of each."""
    after, steps = {}, {}
    for owner in ROWS:
        net = put(network(), state).train()
        steps[owner] = descend(net, owner, number, make(owner, net))
        after[owner] = weights_of(net)
    return after, steps


# --- the boxes ---


def fedavg(rate: float = 1.0) -> State:
    state = weights_of(network())
    for number in range(1, ROUNDS + 1):
        after, _ = trained(state, number)
        state = add(state, mean_change(state, after), rate)
    return state


def fedsgd() -> State:
    state = weights_of(network())
    for _ in range(ROUNDS):
        gradients = {}
        for owner in ROWS:
            net = put(network(), state).train()
            functional.cross_entropy(net(OWNERS[owner]["x"]), OWNERS[owner]["y"]).backward()  # type: ignore[no-untyped-call]
            gradients[owner] = {
                name: p.grad.double() * share_of(owner) for name, p in net.named_parameters() if p.grad is not None
            }
        state = {
            name: (value.double() - LR * sum(g[name] for g in gradients.values())).float()
            for name, value in state.items()
        }
    return state


def fedprox(mu: float) -> State:
    """Li et al. 2020 (MLSys), Algorithm 2, solved inexactly by the same steps as FedAvg's."""
    state = weights_of(network())
    for number in range(1, ROUNDS + 1):
        anchor = state

        def proximal(net: nn.Module, anchor: State = anchor) -> None:
            for name, parameter in net.named_parameters():
                assert parameter.grad is not None
                parameter.grad += mu * (parameter.detach() - anchor[name])

        after, _ = trained(state, number, lambda owner, net: proximal)
        state = add(state, mean_change(state, after))
    return state


def fedavgm(beta: float) -> State:
    state = weights_of(network())
    velocity = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in state.items()}
    for number in range(1, ROUNDS + 1):
        after, _ = trained(state, number)
        change = mean_change(state, after)
        velocity = {name: beta * velocity[name] + change[name] for name in state}
        state = add(state, velocity)
    return state


def adaptive(kind: str, eta: float, beta1: float, beta2: float, tau: float) -> State:
    """Reddi et al. 2021, Algorithm 2."""
    state = weights_of(network())
    m = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in state.items()}
    v = {name: torch.full_like(value, tau**2, dtype=torch.float64) for name, value in state.items()}
    for number in range(1, ROUNDS + 1):
        after, _ = trained(state, number)
        delta = mean_change(state, after)
        for name in state:
            m[name] = beta1 * m[name] + (1 - beta1) * delta[name]
            square = delta[name] ** 2
            if kind == "adagrad":
                v[name] = v[name] + square
            elif kind == "yogi":
                v[name] = v[name] - (1 - beta2) * square * torch.sign(v[name] - square)
            else:
                v[name] = beta2 * v[name] + (1 - beta2) * square
        state = add(state, {name: eta * m[name] / (v[name].sqrt() + tau) for name in state})
    return state


def scaffold(eta_g: float) -> State:
    """Karimireddy et al. 2020, Algorithm 1, option II; all owners take part in every round."""
    state = weights_of(network())
    c = {name: torch.zeros_like(value) for name, value in state.items()}
    own = {owner: {name: torch.zeros_like(value) for name, value in state.items()} for owner in ROWS}
    for number in range(1, ROUNDS + 1):

        def correct(owner: str, net: nn.Module, c: State = c, own: dict[str, State] = own) -> Direction:
            def direction(net: nn.Module) -> None:
                for name, parameter in net.named_parameters():
                    assert parameter.grad is not None
                    parameter.grad += c[name] - own[owner][name]

            return direction

        after, steps = trained(state, number, correct)
        new = {
            owner: {
                name: own[owner][name] - c[name] + (state[name] - after[owner][name]) / (steps[owner] * LR)
                for name in state
            }
            for owner in ROWS
        }
        c = {name: c[name] + sum(new[o][name] - own[o][name] for o in ROWS) / len(ROWS) for name in state}
        own = new
        state = add(state, mean_change(state, after, equal=True), eta_g)
    return state


def qfedavg(q: float) -> State:
    """Li et al. 2020 (ICLR), Algorithm 2, with L = 1 / lr."""
    state, lipschitz = weights_of(network()), 1 / LR
    for number in range(1, ROUNDS + 1):
        after, _ = trained(state, number)
        top, bottom = {name: torch.zeros_like(v, dtype=torch.float64) for name, v in state.items()}, 0.0
        for owner in ROWS:
            net = put(network(), state)
            loss = float(functional.cross_entropy(net(OWNERS[owner]["x"]), OWNERS[owner]["y"]).detach())
            step = {name: lipschitz * (state[name] - after[owner][name]).double() for name in state}
            squares = sum(float((value**2).sum()) for value in step.values())
            bottom += q * loss ** (q - 1) * squares + lipschitz * loss**q
            top = {name: top[name] + loss**q * step[name] for name in state}
        state = add(state, {name: -value / bottom for name, value in top.items()})
    return state


_BOXES: list[tuple[str, sf.FedAvg | sf.FedSGD, Callable[[], State]]] = [
    ("FedAvg", sf.FedAvg(), fedavg),
    ("FedAvg, half steps", sf.FedAvg(server_lr=0.5), lambda: fedavg(0.5)),
    ("FedSGD", sf.FedSGD(lr=LR), fedsgd),
    ("FedProx", sf.FedProx(mu=0.5), lambda: fedprox(0.5)),
    ("FedAvgM", sf.FedAvgM(momentum=0.7), lambda: fedavgm(0.7)),
    ("FedAdagrad", sf.FedAdagrad(server_lr=0.03), lambda: adaptive("adagrad", 0.03, 0.0, 0.0, 1e-3)),
    ("FedYogi", sf.FedYogi(server_lr=0.02), lambda: adaptive("yogi", 0.02, 0.9, 0.99, 1e-3)),
    ("FedAdam", sf.FedAdam(server_lr=0.02), lambda: adaptive("adam", 0.02, 0.9, 0.99, 1e-3)),
    ("SCAFFOLD", sf.Scaffold(server_lr=0.9), lambda: scaffold(0.9)),
    ("q-FedAvg", sf.QFedAvg(q=0.8), lambda: qfedavg(0.8)),
]
BOXES = [(name, strategy, functools.cache(box)) for name, strategy, box in _BOXES]


def run(strategy: Any, net: nn.Module | None = None, ring_bits: int = 64, **changes: Any) -> sf.Run:
    plan = sf.Plan.from_module(net or network(), example=(X[:4], Y[:4]))
    local = sf.LocalTraining(epochs=1, batch_size=BATCH, lr=LR)
    arguments: dict[str, Any] = {
        "rounds": ROUNDS, "local": local, "strategy": strategy, "seed": SEED, "clip": 1e4, "max_samples": 64,
        "ring_bits": ring_bits, "tolerance": 1.0, "workers": 1,
    }  # fmt: skip
    return sf.simulate(plan, OWNERS, **{**arguments, **changes}).wait()


def distance(state: State, run: sf.Run) -> float:
    got = {name: value.double() for name, value in run.model.state_dict().items() if name in state}
    off = sum(float(((got[name] - value.double()) ** 2).sum()) for name, value in state.items())
    return float((off / sum(float((value.double() ** 2).sum()) for value in state.values())) ** 0.5)


@pytest.mark.parametrize(("name", "strategy", "box"), BOXES, ids=[name for name, *_ in BOXES])
def test_twenty_secure_rounds_are_the_papers(name: str, strategy: Any, box: Callable[[], State]) -> None:
    got = run(strategy)
    assert all(len(round_.included) == len(ROWS) and not round_.clipped for round_ in got.rounds)
    assert distance(box(), got) <= 1e-4
    assert distance(weights_of(network()), got) > 1e-2, "twenty rounds that move nothing show nothing"


def test_no_two_of_them_are_the_same() -> None:
    ends = [box() for _, _, box in BOXES]
    for place, one in enumerate(ends):
        for other in ends[:place]:
            off = max(float((one[name] - other[name]).abs().max()) for name in one)
            assert off > 1e-3


def test_fedbn_keeps_its_norms_and_averages_the_rest() -> None:
    """Li et al. 2021, Algorithm 1: all but the batch norm is averaged."""
    first = weights_of(network(norm=True))
    norms = [name for name in first if name.startswith("1.")]
    state, own = first, {owner: {name: first[name] for name in norms} for owner in ROWS}
    for number in range(1, ROUNDS + 1):
        after = {}
        for owner in ROWS:
            net = put(put(network(norm=True), state), own[owner]).train()
            descend(net, owner, number)
            after[owner] = weights_of(net)
            own[owner] = {name: after[owner][name] for name in norms}
        shared = {name: value for name, value in state.items() if name not in norms}
        state = state | add(shared, mean_change(shared, after))
    got = run(sf.FedBN(), network(norm=True))
    assert distance(state, got) <= 1e-4
    kept = {name: value for name, value in got.model.state_dict().items() if name in norms}
    assert all(torch.equal(kept[name], first[name]) for name in norms), (
        "what never leaves cannot be in the global model"
    )


def test_ditto_has_the_global_model_of_fedavg_and_better_ones_at_home() -> None:
    """Li et al. 2021 (ICML), Algorithm 1."""
    lam = 0.2
    state = weights_of(network())
    personal = {owner: copy.deepcopy(state) for owner in ROWS}
    for number in range(1, ROUNDS + 1):
        anchor = state
        for owner in ROWS:

            def proximal(net: nn.Module, anchor: State = anchor) -> None:
                for name, parameter in net.named_parameters():
                    assert parameter.grad is not None
                    parameter.grad += lam * (parameter.detach() - anchor[name])

            net = put(network(), personal[owner]).train()
            descend(net, owner, number, proximal, use="personalshuffle")
            personal[owner] = weights_of(net)
        after, _ = trained(state, number)
        state = add(state, mean_change(state, after))
    got = run(sf.Ditto(lam=lam), evaluation=sf.Evaluation(inputs="x", targets="y", every=ROUNDS))
    assert distance(state, got) <= 1e-4
    right = {
        owner: float(
            (put(network(), personal[owner])(OWNERS[owner]["x"]).argmax(1) == OWNERS[owner]["y"]).float().mean()
        )
        for owner in ROWS
    }
    metrics = got.rounds[-1].metrics
    assert metrics["personal_accuracy"] == pytest.approx(
        sum(share_of(owner) * right[owner] for owner in ROWS), abs=1e-5
    )
    assert metrics["personal_loss"] < metrics["val_loss"]


_ONE = [  # one in every run, the others in the long one
    pytest.param(*one, id=one[0], marks=() if one[0] == "SCAFFOLD" else pytest.mark.slow) for one in BOXES
]


@pytest.mark.parametrize(("name", "strategy", "box"), _ONE)
def test_thirty_two_bits_are_near(name: str, strategy: Any, box: Callable[[], State]) -> None:
    """b = 32, as most would run it: docs/strategies.md has the figures."""
    assert distance(box(), run(strategy, ring_bits=32, clip=10.0)) <= 1e-5
