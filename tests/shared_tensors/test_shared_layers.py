"""Layers, shapes, means, norms and losses on shares against torch in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operation_bed import PARTIES, SEEDS, Price, close, outcome, price, uniform

from smpc_fl.errors import BadInput, ShapeMismatch
from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.functions import layers, losses, norms, shapes, statistics
from smpc_fl.shared_tensors.functions.exact import halved, over

F = torch.nn.functional
ULP = 2.0**-18
EXACT = 1e-9
Pair = int | tuple[int, int]


@given(seed=SEEDS, parties=PARTIES, sizes=st.tuples(*[st.integers(1, 5)] * 3), biased=st.booleans())
@settings(max_examples=6)
def test_linear(seed: int, parties: int, sizes: tuple[int, int, int], biased: bool) -> None:
    rows, inner, out = sizes
    tensors = [uniform(seed, shape, -9, 9) for shape in ((rows, inner), (out, inner), (out,))[: 2 + biased]]
    close(outcome(layers.linear, F.linear, *tensors, parties=parties, seed=seed), EXACT)


@given(
    seed=SEEDS,
    parties=PARTIES,
    groups=st.integers(1, 2),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    biased=st.booleans(),
)
@settings(max_examples=10)
def test_convolutions(
    seed: int,
    parties: int,
    groups: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    biased: bool,
) -> None:
    x, weight = uniform(seed, (2, 4, 6, 5), -9, 9), uniform(seed + 1, (2 * groups, 4 // groups, *kernel), -9, 9)
    tensors = [x, weight, *([uniform(seed + 2, (2 * groups,), -9, 9)] if biased else [])]
    found = outcome(
        lambda v, w, b=None: layers.conv2d(v, w, b, stride, padding, groups),
        lambda v, w, b=None: F.conv2d(v, w, b, stride, padding, groups=groups),
        *tensors,
        parties=parties,
    )
    close(found, EXACT)
    row = outcome(
        lambda v, w: layers.conv1d(v, w, None, stride[1], padding[1], groups),
        lambda v, w: F.conv1d(v, w, None, stride[1], padding[1], groups=groups),
        x[:, :, 0],
        weight[:, :, 0],
        parties=parties,
    )
    close(row, EXACT)


def test_a_public_layer_takes_no_round() -> None:
    weight = uniform(1, (3, 2, 2, 2), -1, 1)
    x = uniform(2, (2, 2, 4, 4), -9, 9)
    close(
        outcome(lambda v: layers.conv2d(v, v.draft.public(weight)), lambda v: F.conv2d(v, weight), x, parties=2), EXACT
    )
    assert price(lambda v: layers.conv2d(v, v.draft.public(weight)), (2, 2, 4, 4)) == Price(0, 0, 0)
    assert price(layers.linear, (10, 5), (5, 5)) == Price(1, 8 * 75 / 50, 8)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, None, 0), (3, 2, 1), ((2, 3), (1, 2), (1, 0))])
def test_average_pools(kernel: Pair, stride: Pair | None, padding: Pair) -> None:
    x = uniform(3, (2, 3, 7, 8), -9, 9)
    found = outcome(
        lambda v: layers.avg_pool2d(v, kernel, stride, padding),
        lambda v: F.avg_pool2d(v, kernel, stride, padding),
        x,
        parties=3,
    )
    close(found, 0, ULP / 2)


@pytest.mark.parametrize("size", [1, (3, 4), (7, 8), (5, 3)])
def test_adaptive_average_pools(size: Pair) -> None:
    x = uniform(4, (2, 7, 8), -9, 9)
    found = outcome(
        lambda v: layers.adaptive_avg_pool2d(v, size), lambda v: F.adaptive_avg_pool2d(v, size), x, parties=2
    )
    close(found, 2 * ULP, ULP)


def test_layers_that_do_not_fit_are_refused() -> None:
    draft = Draft()
    x, weight = draft.input("x", (2, 4, 6, 6)), draft.input("w", (3, 2, 3, 3))
    for groups in (1, 2):
        with pytest.raises(ShapeMismatch, match="a convolution of"):
            layers.conv2d(x, weight, groups=groups)
    with pytest.raises(ShapeMismatch, match="a convolution of"):
        layers.conv2d(shapes.index(x, 0), weight)
    for bad in (draft.input("v", (3,)), x):
        with pytest.raises(BadInput, match="avg_pool2d takes"):
            layers.avg_pool2d(bad, 2, padding=2)


SHAPE_OPERATIONS: list[tuple[Callable[[Value], Value], Callable[[torch.Tensor], torch.Tensor]]] = [
    (lambda x: shapes.reshape(x, [-1, 6]), lambda x: x.reshape(-1, 6)),
    (lambda x: shapes.reshape(x, [24]), lambda x: x.reshape(24)),
    (shapes.flatten, torch.flatten),
    (lambda x: shapes.flatten(x, 1, 2), lambda x: torch.flatten(x, 1, 2)),
    (lambda x: shapes.squeeze(x, 1), lambda x: x.squeeze(1)),
    (lambda x: shapes.unsqueeze(x, -1), lambda x: x.unsqueeze(-1)),
    (lambda x: shapes.unsqueeze(x, 0), lambda x: x.unsqueeze(0)),
    (lambda x: shapes.permute(x, [3, -4, 1, 2]), lambda x: x.permute(3, -4, 1, 2)),
    (shapes.transpose, lambda x: x.mT),
    (lambda x: shapes.transpose(x, 0, 2), lambda x: x.transpose(0, 2)),
    (lambda x: shapes.expand(x, [5, 2, 3, 3, 4]), lambda x: x.expand(5, 2, 3, 3, 4)),
    (lambda x: shapes.flip(x, [0, -1]), lambda x: x.flip(0, -1)),
    (lambda x: shapes.cat([x, x * 0.5, x], -1), lambda x: torch.cat([x, x * 0.5, x], -1)),
    (lambda x: shapes.cat([x, x.draft.public(torch.ones(2, 1, 3, 4))]), lambda x: torch.cat([x, torch.ones_like(x)])),
    (lambda x: shapes.stack([x, -x], -1), lambda x: torch.stack([x, -x], -1)),
    (lambda x: shapes.sum(x), lambda x: x.sum()),
    (lambda x: shapes.sum(x, -1), lambda x: x.sum(-1)),
    (lambda x: shapes.sum(x, [0, 2], keepdim=True), lambda x: x.sum([0, 2], keepdim=True)),
    (lambda x: shapes.index(x, 1), lambda x: x[1]),
    (lambda x: shapes.index(x, (-1, ..., slice(1, 3))), lambda x: x[-1, ..., 1:3]),
    (
        lambda x: shapes.index(x, (None, slice(None), 0, slice(None, None, 2), [3, -1, 0])),
        lambda x: x[None, :, 0, ::2, [3, -1, 0]],
    ),
    (lambda x: shapes.index(x, (..., torch.tensor([2, 0]))), lambda x: x[..., torch.tensor([2, 0])]),
    (lambda x: shapes.index(x, (..., slice(3, 1), None)), lambda x: x[..., 3:1, None]),
]


@pytest.mark.parametrize("number", range(len(SHAPE_OPERATIONS)))
def test_shapes_are_those_of_torch(number: int) -> None:
    operation, reference = SHAPE_OPERATIONS[number]
    close(outcome(operation, reference, uniform(number, (2, 1, 3, 4), -9, 9), parties=2), EXACT)
    assert price(operation, (2, 1, 3, 4)) == Price(0, 0, 0)


def test_shapes_and_indices_that_do_not_fit_are_refused() -> None:
    x = Draft().input("x", (2, 3))
    for shape in ([-1, -1], [4, -1], [0, -1]):
        with pytest.raises(ShapeMismatch, match="cannot have the shape"):
            shapes.reshape(x, shape)
    with pytest.raises(ShapeMismatch, match="more than one element"):
        shapes.squeeze(x, 1)
    with pytest.raises(BadInput, match="no dimension 2"):
        shapes.sum(x, 2)
    with pytest.raises(BadInput, match="out of the 3 elements"):
        shapes.index(x, (0, 3))
    with pytest.raises(BadInput, match="positive step"):
        shapes.index(x, slice(None, None, -1))
    for key in ((0, 0, 0), ([0], [1])):
        with pytest.raises(BadInput, match="indexed by 2 keys"):
            shapes.index(x, key)
    with pytest.raises(BadInput, match=r"one \.\.\. is enough"):
        shapes.index(x, (..., ..., 0))


@given(seed=SEEDS, parties=PARTIES, n=st.sampled_from([1, 2, 3, 8, 10, 37]))
@settings(max_examples=8)
def test_means_and_variances(seed: int, parties: int, n: int) -> None:
    x = uniform(seed, (n, 3), -90, 90)
    close(outcome(lambda v: statistics.mean(v, 0), lambda v: v.mean(0), x, parties=parties), ULP / 2, ULP)
    close(outcome(lambda v: statistics.mean(v * v), lambda v: (v * v).mean(), x, parties=parties), 3 * ULP, ULP)
    if n > 1:
        close(outcome(lambda v: statistics.var(v, 0), lambda v: v.var(0), x, parties=parties), 200 * 2 * ULP, ULP)
    biased = outcome(
        lambda v: statistics.var(v, [0], correction=0, keepdim=True),
        lambda v: v.var([0], correction=0, keepdim=True),
        x,
        parties=parties,
    )
    close(biased, 200 * 2 * ULP, ULP)


def test_halves_and_parts_are_exact_where_they_can_be() -> None:
    x = uniform(1, (5,), -(2.0**30), 2.0**30)
    close(outcome(halved, lambda v: v / 2, x, parties=2), 0)
    close(outcome(lambda v: over(v, 64), lambda v: v / 64, x.round(), parties=2), 0)
    assert price(lambda v: over(v * v, 64), (4,)) == Price(1, 8, 8)
    assert price(lambda v: over(v * v, 5), (4,)) == Price(2, 16, 24)


def _channels(seed: int) -> tuple[torch.Tensor, ...]:
    return uniform(seed, (4,), -2, 2), uniform(seed, (4,), -2, 2)


@given(seed=SEEDS, parties=PARTIES, spread=st.sampled_from([0.5, 4.0, 60.0]), affine=st.booleans())
@settings(max_examples=4)
def test_norms(seed: int, parties: int, spread: float, affine: bool) -> None:
    x = uniform(seed, (8, 4, 6), -spread, spread)
    both = _channels(seed) if affine else ()
    found = outcome(
        lambda v, *wb: norms.batch_norm_training(v, *wb)[0],
        lambda v, *wb: F.batch_norm(v, None, None, wb[0] if wb else None, wb[1] if wb else None, True),
        x,
        *both,
        parties=parties,
    )
    close(found, 1e-4)
    given_statistics = outcome(
        norms.batch_norm,
        F.batch_norm,
        x,
        x.mean([0, 2]).mul(2**18).round().div(2**18),
        uniform(seed, (4,), spread / 4, spread),
        *both,
        parties=parties,
    )
    close(given_statistics, 1e-4, 1e-5)
    affine_rows = (uniform(seed, (4, 6), -2, 2), uniform(seed + 1, (4, 6), -2, 2)) if affine else ()
    layer = outcome(
        lambda v, *wb: norms.layer_norm(v, (4, 6), *wb),
        lambda v, *wb: F.layer_norm(v, (4, 6), *wb),
        x,
        *affine_rows,
        parties=parties,
    )
    close(layer, 1e-4)


def test_a_batch_tells_its_statistics() -> None:
    x = uniform(7, (8, 4, 4), -5, 5)
    for place, reference in ((1, lambda v: v.mean([0, 2])), (2, lambda v: v.var([0, 2], correction=0))):
        found = outcome(lambda v, i=place: norms.batch_norm_training(v)[i], reference, x, parties=2)
        close(found, 40 * ULP)


@pytest.mark.parametrize(("rounds", "n"), [(7, 8), (8, 6)])
def test_norms_take_six_rounds_and_those_of_the_variance(rounds: int, n: int) -> None:
    """One for squares, another where the count is no power of two."""
    found = price(lambda v, w: norms.batch_norm_training(v, w)[0], (n, 4), (4,))
    assert found.rounds == rounds


@given(seed=SEEDS, parties=PARTIES, rows=st.integers(1, 5))
@settings(max_examples=4)
def test_losses(seed: int, parties: int, rows: int) -> None:
    x, y = uniform(seed, (rows, 4), -12, 12), uniform(seed + 1, (rows, 4), 0, 1)
    shared = y / y.sum(1, keepdim=True).clamp(min=0.1)
    target = torch.round(shared * 2**18) / 2**18
    cases: list[tuple[Callable[..., Value], Callable[..., torch.Tensor], torch.Tensor, float]] = [
        (losses.mse, F.mse_loss, y, 1e-4),
        (losses.mse_gradient, lambda a, b: 2 * (a - b) / a.numel(), y, 1e-5),
        (losses.cross_entropy, lambda a, b: (torch.logsumexp(a, 1) - (a * b).sum(1)).mean(), target, 5e-5),
        (losses.cross_entropy_gradient, lambda a, b: (torch.softmax(a, 1) - b) / a.shape[0], target, 4e-5),
        (losses.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits, y, 1.6e-4),
        (
            losses.binary_cross_entropy_with_logits_gradient,
            lambda a, b: (torch.sigmoid(a) - b) / a.numel(),
            y,
            1.1e-4,
        ),
    ]
    for loss, reference, labels, bound in cases:
        close(outcome(loss, reference, x, labels, parties=parties, seed=seed), bound)


def test_losses_take_few_rounds() -> None:
    both = [(32, 2), (32, 2)]
    assert price(losses.mse, *both) == Price(1, 8, 8)
    assert price(losses.mse_gradient, *both) == Price(0, 0, 0)
    assert price(losses.cross_entropy, *both).rounds == 4 + 6
    assert price(losses.cross_entropy_gradient, *both).rounds == 4 + 7
    assert price(losses.binary_cross_entropy_with_logits, *both).rounds == 4
    assert price(losses.binary_cross_entropy_with_logits_gradient, *both).rounds == 4
