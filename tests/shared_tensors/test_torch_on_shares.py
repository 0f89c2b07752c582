"""torch's functions, methods and operators on shared tensors, against torch itself: one program for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from operation_bed import uniform
from rooms_of_parties import seeded
from torch.nn import functional as F

from smpc_fl.errors import BadInput, PermissionDenied, PlanRejected, ShapeMismatch
from smpc_fl.shared_tensors import aten
from smpc_fl.shared_tensors.session import LocalParties
from smpc_fl.shared_tensors.tensor import Desk, SharedTensor

X = uniform(1, (4, 6), -2.0, 2.0)
Y = uniform(2, (4, 6), 0.6, 3.0)
W = uniform(3, (6, 3), -1.0, 1.0)
B = uniform(4, (3,), -1.0, 1.0)
IMAGE = uniform(5, (2, 3, 6, 6), -1.0, 1.0)
KERNEL = uniform(6, (4, 3, 3, 3), -0.5, 0.5)
LINE, FILTER = uniform(7, (2, 3, 8), -1.0, 1.0), uniform(8, (2, 3, 3), -0.5, 0.5)
ONE_HOT = torch.eye(3, dtype=torch.float64)[[0, 2, 1, 1]]

Case = Callable[..., Any]


def masked(r: Any, y: Any) -> Any:
    return torch.where(r <= 0, torch.zeros(4, 6), y) + r + (r > 0) * 1


CASES: dict[str, Case] = {
    "arithmetic": lambda x, y: (2 - x) * y + x / 3 - y * 0.3 + 1.5 * x + x / 4,
    "division": lambda x, y: x / y,
    "division of a row": lambda x, y: x / y[:1, :1].squeeze() + 1 / y,
    "functions of arithmetic": lambda x, y: torch.add(x, y, alpha=2) + torch.sub(x, y, alpha=3) + torch.rsub(x, y),
    "mixed with public tensors": lambda x, y: x * torch.ones(6) + torch.ones(4, 1) * y - torch.full((6,), 0.5),
    "public first": lambda x, y: torch.ones(2, 4, dtype=torch.float64) @ x,
    "powers": lambda x, y: x**3 + torch.square(x) + x.pow(2) + y**-1 + y**0.5 + y**-0.5 + x**1,
    "roots": lambda x, y: torch.sqrt(y) + torch.rsqrt(y) + torch.reciprocal(y) + torch.log(y) + torch.log1p(y) + torch.exp(x),
    "order": lambda x, y: torch.maximum(x, y - 1) + torch.minimum(x, y) + torch.abs(x) + abs(-x) + torch.sign(x),
    "order with public": lambda x, y: torch.maximum(torch.zeros(6), x) + torch.minimum(x, torch.ones(4, 6)),
    "comparisons": lambda x, y: (x < y) * 1 + (x > 0.5) * 2 + (x <= 0) * 4 + (x >= y) * 8 + (x == y) * 16 + (x != y) * 32,
    "where": lambda x, y: torch.where(x > 0, x, y) + y.where(x < y, x) + torch.where(torch.arange(6) > 2, x, y),
    "where, public first": lambda x, y: torch.where(torch.arange(6) > 2, torch.ones(6), y) + torch.ones(4, 6).where(x > 0, y),
    "masked_fill": lambda x, y: x.masked_fill(x > 0, 0.0),
    "relu and its mask": lambda x, y: masked(torch.relu(x + 0.125), y),
    "clamp": lambda x, y: torch.clamp(x, -1, 1) + torch.clamp_min(x, 0) + torch.clamp_max(x, 0) + x.clamp(min=-0.5),
    "activations": lambda x, y: F.leaky_relu(x, 0.1) + F.relu6(x * 5) + F.hardtanh(x) + F.hardsigmoid(x) + torch.relu(x),
    "smooth": lambda x, y: F.gelu(x) + F.silu(x) + F.softplus(x) + torch.tanh(x) + torch.sigmoid(x),
    "softmax": lambda x, y: torch.softmax(x, 1) + F.log_softmax(x, dim=1),
    "sums": lambda x, y: x.sum() + x.mean() + x.sum(0).sum() + torch.mean(x, (0, 1)) + x.var() + x.var(dim=1).sum(),
    "variances": lambda x, y: torch.var(x, 1, correction=0) + x.var(1, unbiased=False) + x.sum(1, keepdim=True)[:, 0],
    "largest": lambda x, y: torch.amax(x, 1) + x.amax((0, 1)) + torch.amax(x, 0, True).sum(),
    "argmax": lambda x, y: x.argmax(1) + x.argmax(dim=1, keepdim=True)[:, 0],
    "shapes": lambda x, y: (x.T.reshape(4, 6) + x.view([4, 6]) + x.t().permute(1, 0) + x.transpose(0, 1).mT)[None].squeeze(0),
    "more shapes": lambda x, y: x.unsqueeze(0).expand(2, -1, -1)[1] + x.flatten().unflatten(0, (4, 6)) + x.contiguous().detach(),
    "squeezed": lambda x, y: x[:, None].squeeze() + x.unsqueeze(2).squeeze((2,)) + x.clone().to(torch.float32),
    "joined": lambda x, y: torch.cat([x, torch.ones(1, 6)], 0)[:4] + torch.stack((x, y), 1)[:, 1] + F.pad(x, (1, 0))[:, 1:],
    "selected": lambda x, y: x.select(1, 2) + torch.select(y, 1, -1),
    "flipped": lambda x, y: x.flip(0) + torch.flip(y, [0, 1]),
    "likes": lambda x, y: x + torch.zeros_like(x) + torch.ones_like(x) + torch.full_like(x, 2.0),
    "layers": lambda x, y: F.layer_norm(x, (6,)) + F.dropout(x, 0.5, False),
}  # fmt: skip


@pytest.fixture(scope="module")
def desk() -> Desk:
    return Desk(LocalParties(seeded(1), 2))


def both(desk: Desk, cases: dict[str, Case], *tensors: torch.Tensor) -> None:
    """One program; every result within 2^-10 of torch's (the functions' own bounds have tests of their own)."""
    shared = [desk.share(tensor) for tensor in tensors]
    results = {name: case(*shared) for name, case in cases.items()}
    assert all(isinstance(result, SharedTensor) for result in results.values())
    desk.compute(*results.values())
    for name, case in cases.items():
        expected, got = case(*tensors).to(torch.float64), results[name].get()
        assert got.shape == expected.shape == results[name].shape, name
        torch.testing.assert_close(got, expected, rtol=2.0**-12, atol=2.0**-10, msg=name)


def test_functions_methods_and_operators(desk: Desk) -> None:
    both(desk, CASES, X, Y)


def test_a_graphs_slice(desk: Desk) -> None:
    x = desk.share(X)
    part = desk.wrap(aten.FUNCTIONS["slice"](desk.value(x), 1, 1, 2**63 - 1, 2)).get()
    torch.testing.assert_close(part, X[:, 1::2], atol=2.0**-18, rtol=0)


def test_layers(desk: Desk) -> None:
    both(
        desk,
        {
            "linear": lambda x, w, b: F.linear(x, w.T, b) + torch.addmm(b, x, w) + torch.mm(x, w) + torch.matmul(x, w),
            "public weights": lambda x, w, b: F.linear(x, W.T, B),
            "public input": lambda x, w, b: F.linear(X, w.T, b),
            "losses": lambda x, w, b: F.mse_loss(x @ w, ONE_HOT) + F.cross_entropy(x @ w, ONE_HOT),
            "binary": lambda x, w, b: F.binary_cross_entropy_with_logits(x @ w, ONE_HOT),
        },
        X, W, B,
    )  # fmt: skip


def test_convolutions_and_pools(desk: Desk) -> None:
    mean, var = uniform(9, (3,), -0.1, 0.1), uniform(10, (3,), 0.5, 1.5)
    both(
        desk,
        {
            "conv2d": lambda i, k, n, f: F.conv2d(i, k, None, 2, 1) + F.conv2d(i, k, stride=(2, 2), padding=[1, 1]),
            "same, valid": lambda i, k, n, f: F.conv2d(i, k, padding="same")[:, :, 1:-1, 1:-1] + F.conv2d(i, k, padding="valid"),
            "conv1d": lambda i, k, n, f: F.conv1d(n, f, None, 1, 1) + F.conv1d(n, f, padding="same"),
            "pools": lambda i, k, n, f: F.max_pool2d(i, 2) + F.avg_pool2d(i, 2) + F.max_pool2d(i, (2, 2), 2, 0),
            "adaptive": lambda i, k, n, f: F.adaptive_avg_pool2d(i, (3, 2)),
            "norms": lambda i, k, n, f: F.batch_norm(i, mean, var) + F.batch_norm(i, None, None, training=True),
            "bmm": lambda i, k, n, f: torch.bmm(i[0], i[1]),
        },
        IMAGE, KERNEL, LINE, FILTER,
    )  # fmt: skip


REFUSED: dict[str, Case] = {
    r"torch\.sin is not supported on shared tensors: build it": torch.sin,
    r"torch\.elu is not supported on shared tensors: use relu": F.elu,
    "not divided into whole numbers": lambda x: torch.div(x, 2.0, rounding_mode="floor"),
    "to the power of 0.3": lambda x: x**0.3,
    "times inf means nothing": lambda x: x * float("inf"),
    "padded with zeros": lambda x: F.pad(x, (1, 1), value=1.0),
    "dropout of shared tensors is for evaluation": lambda x: F.dropout(x, 0.5, True),
    "the plain mean over the batch": lambda x: F.mse_loss(x, X, reduction="sum"),
    "has no dilation": lambda x: F.conv2d(x[None, None], torch.ones(1, 1, 2, 2), dilation=2),
    "a kernel of odd size": lambda x: F.conv2d(x[None, None], torch.ones(1, 1, 2, 2), padding="same"),
    "neither dilation nor ceil_mode": lambda x: F.max_pool2d(x[None], 2, ceil_mode=True),
    "counts padding": lambda x: F.avg_pool2d(x[None], 2, ceil_mode=True),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_is_not_there_is_named(desk: Desk, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        REFUSED[said](desk.share(X))


def test_shapes_are_checked_before_anything_runs(desk: Desk) -> None:
    with pytest.raises(ShapeMismatch, match="do not fit together"):
        desk.share(X) @ desk.share(X)


def test_an_operator_of_a_graph_is_named_with_what_to_use_instead() -> None:
    aten.check("aten.relu.default", "relu")
    aten.check("int.mul", "size")
    with pytest.raises(PlanRejected, match=r"'emb'.*aten\.embedding\.default.*one-hot rows"):
        aten.check("aten.embedding.default", "emb")


# --- the tensor itself ---


def test_it_shows_its_shape_and_no_number(desk: Desk) -> None:
    x = desk.share(X)
    assert repr(x) == "<SharedTensor of 2 parties, shape=[4, 6], stored>"
    y = x + 1
    assert repr(y) == "<SharedTensor of 2 parties, shape=[4, 6], drafted>"
    assert (x.ndim, x.dim(), x.size(), x.size(1), x.numel(), len(x), x.dtype) == (
        2,
        2,
        X.shape,
        6,
        24,
        4,
        torch.float64,
    )
    with pytest.raises(TypeError, match="no length"):
        len(x.sum())
    with pytest.raises(AttributeError, match="no attribute 'sinh'"):
        x.sinh()
    with pytest.raises(TypeError):
        x + "text"


@pytest.mark.parametrize(
    "read", [bool, float, int, lambda x: x.item(), lambda x: x.numpy(), lambda x: X[0, x], lambda x: 1.0 in x]
)
def test_nothing_reads_it_but_get(desk: Desk, read: Callable[[SharedTensor], object]) -> None:
    with pytest.raises((PermissionDenied, BadInput)):
        read(desk.share(X).sum())


def test_computed_once_and_forgotten_with_its_tensor() -> None:
    rounds: list[int] = []
    session = LocalParties(seeded(2), 3, lambda sender, said: rounds.append(said.round))
    desk = Desk(session)
    x = desk.share(X)
    y = x * x
    price = y.cost()
    assert y.compute() is y
    spoken = len(rounds)
    assert spoken == 3 * price.rounds
    first, again = y.get(), y.get()
    assert torch.equal(first, again)
    assert len(rounds) == spoken, "what is computed stays with the parties"
    z = (y + x).get()
    torch.testing.assert_close(z, X * X + X, atol=2.0**-15, rtol=0)
    assert desk.cost(y).rounds == 1, "nothing is left to run"
    assert len(session._stored) == 3 - 1, "the sum's shares went with it"
    del y, x
    assert not session._stored


def test_what_is_drafted_goes_on_after_others_are_computed(desk: Desk) -> None:
    x = desk.share(X)
    later = x * 2
    (x + 1).compute()
    torch.testing.assert_close(later.get(), X * 2, atol=2.0**-16, rtol=0)


def test_what_a_draft_reads_stays_until_it_is_computed() -> None:
    session = LocalParties(seeded(5), 2)
    y = Desk(session).share(X) * 2  # the tensor itself is gone
    torch.testing.assert_close(y.get(), X * 2, atol=2.0**-16, rtol=0)
    assert len(session._stored) == 1, "and goes then"


def test_sessions_do_not_mix(desk: Desk) -> None:
    other = Desk(LocalParties(seeded(3), 2)).share(X)
    with pytest.raises(BadInput, match="two sessions do not mix"):
        desk.share(X) + other


def test_a_program_asks_for_its_inputs() -> None:
    session = LocalParties(seeded(4), 2)
    desk = Desk(session)
    y = desk.share(X) + 1
    program = desk._program([y])
    with pytest.raises(BadInput, match="is not given"):
        session.run(program, desk._draft.public_words(program), {})
    with pytest.raises(BadInput, match="no shared tensor 'gone' is stored"):
        session.open("gone")
