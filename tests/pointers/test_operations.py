"""Every operation of the allow-list, spelt as torch spells it, against torch's own result at the owner."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pointer_world import World, at, three

from smpc_fl.errors import BadInput, PermissionDenied
from smpc_fl.pointers.lineage import Apply, decode_expression
from smpc_fl.pointers.operations import OPERATIONS, operation
from smpc_fl.pointers.pointer import PointerTensor

Case = Callable[[Any, Any], Any]
C = torch.tensor([0.5, -1.0, 2.0, 0.0])
W = torch.arange(12.0).reshape(3, 4) / 10
PARAMETER = torch.nn.Parameter(torch.ones(4))

# x: float32[rows, 4] with a NaN and an infinity in it, y: int64[rows]
T: Any = torch
CASES: dict[str, Case] = {
    "mean 0": lambda x, y: x.mean(0),
    "torch.mean": lambda x, y: torch.mean(x, 0),
    "mean dim": lambda x, y: torch.mean(x, dim=(0,)),
    "mean axis": lambda x, y: x.mean(axis=1, keepdims=True),
    "mean dtype": lambda x, y: y.mean(dtype=torch.float64),
    "mean all": lambda x, y: x.mean(),
    "mean both": lambda x, y: x.mean((0, 1)),
    "mean none": lambda x, y: torch.mean(input=x, dim=()),
    "sum": lambda x, y: x.sum(0) + y.sum(),
    "sum keepdim": lambda x, y: x.sum(1, True),
    "nanmean": lambda x, y: torch.nanmean(x, 0),
    "nansum": lambda x, y: x.nansum(0),
    "prod": lambda x, y: x.prod(0) * y.prod(),
    "prod dtype": lambda x, y: torch.prod(y, 0, dtype=torch.float32),
    "var": lambda x, y: x.var(0),
    "var unbiased": lambda x, y: x.var(0, False),
    "var whole": lambda x, y: x.var(unbiased=False),
    "var keepdim": lambda x, y: torch.var(x, 1, True, True),
    "var correction": lambda x, y: torch.var(x, dim=0, correction=0),
    "var newer": lambda x, y: torch.var(x, 0, correction=None, keepdim=True),
    "std": lambda x, y: torch.std(x, 0, unbiased=False),
    "std all": lambda x, y: x.std(),
    "std dims": lambda x, y: x.std((0, 1), correction=2),
    "amax": lambda x, y: x.amax(1),
    "amin": lambda x, y: torch.amin(x, dim=0, keepdim=True),
    "max all": lambda x, y: x.max(),
    "max values": lambda x, y: torch.max(x, 1).values,
    "max indices": lambda x, y: x.max(dim=1).indices,
    "min keepdim": lambda x, y: x.min(0, keepdim=True)[0],
    "max two": lambda x, y: torch.max(x, C),
    "min other": lambda x, y: torch.min(x, other=C),
    "argmax": lambda x, y: x.argmax(1),
    "argmin": lambda x, y: torch.argmin(x),
    "median": lambda x, y: x.median(),
    "median values": lambda x, y: torch.median(x, 0).values,
    "median indices": lambda x, y: x.median(1).indices,
    "nanmedian": lambda x, y: x.nanmedian(dim=0).values,
    "nanmedian indices": lambda x, y: torch.nanmedian(x, 0).indices,
    "logsumexp": lambda x, y: torch.logsumexp(x, 0),
    "all": lambda x, y: (x > -9).all(),
    "any": lambda x, y: (x > 1).any(1),
    "count_nonzero": lambda x, y: (y > 0).count_nonzero(),
    "vector_norm": lambda x, y: torch.linalg.vector_norm(x, 1, dim=1),
    "norm": lambda x, y: torch.norm(x),
    "norm p": lambda x, y: x.norm(p=1, dim=0),
    "norm position": lambda x, y: x.norm(3, 1),
    "cumsum": lambda x, y: x.cumsum(0) + torch.cumsum(x, 1, dtype=torch.float64),
    "msort": lambda x, y: torch.msort(x) + y.msort()[:, None],
    "searchsorted": lambda x, y: torch.searchsorted(torch.stack([y.msort(), y.msort()]), W[:2].long()).sum() + y,
    "searchsorted rows": lambda x, y: torch.searchsorted(y.msort(), y),
    "searchsorted right": lambda x, y: torch.searchsorted(y.msort(), torch.tensor([0, 1]), right=True),
    "searchsorted public": lambda x, y: torch.searchsorted(torch.sort(C).values, x.sum(1)),
    "softmax": lambda x, y: x.softmax(1),
    "F.softmax": lambda x, y: F.softmax(x, dim=1, dtype=torch.float64),
    "log_softmax": lambda x, y: F.log_softmax(x, dim=1),
    "elu": lambda x, y: F.elu(x),
    "leaky_relu": lambda x, y: F.leaky_relu(x, 0.2) + F.leaky_relu(x),
    "gelu": lambda x, y: F.gelu(x) + F.gelu(x, approximate="tanh"),
    "silu": lambda x, y: F.silu(x),
    "relu": lambda x, y: F.relu(x) + torch.relu(x) + x.relu(),
    "relu6": lambda x, y: F.relu6(x),
    "softplus": lambda x, y: F.softplus(x),
    "logsigmoid": lambda x, y: F.logsigmoid(x),
    "sigmoid": lambda x, y: torch.special.expit(x),
    "add": lambda x, y: x + 1 + C,
    "radd": lambda x, y: 1 + x,
    "tensor add": lambda x, y: C + x,
    "add alpha": lambda x, y: torch.add(x, C, alpha=2),
    "sub": lambda x, y: x - 1,
    "rsub": lambda x, y: 1 - x,
    "torch.rsub": lambda x, y: torch.rsub(x, 2.5),
    "tensor rsub": lambda x, y: C - x,
    "mul": lambda x, y: 3 * x * y[:, None] * 2.0 * True,
    "div": lambda x, y: x / 3 + 3 / x + C / x + y[:, None] / 2 + torch.div(1, x),
    "pow": lambda x, y: x**2 + x.pow(0.5) + torch.pow(y[:, None], 3),
    "neg": lambda x, y: -x + (+x),
    "abs": lambda x, y: abs(x),
    "invert": lambda x, y: ~(x > 0),
    "eq": lambda x, y: (y == 1) & (y != 2),
    "order": lambda x, y: ((x < 0) | (x >= 1)) ^ (x <= 2) ^ (x > 0.5),
    "reflected order": lambda x, y: (0 < x) & (C >= x),  # noqa: SIM300
    "reflected bits": lambda x, y: (C > 0) & (x > 0) | True,
    "logical": lambda x, y: torch.logical_or(torch.logical_and(x, C), torch.logical_xor(x, x)).logical_not(),
    "maximum": lambda x, y: torch.maximum(x, C) - x.minimum(C),
    "atan2": lambda x, y: torch.atan2(x, C),
    "where": lambda x, y: torch.where(x > 0, x, 0.0),
    "where numbers": lambda x, y: torch.where(x > 0, 1.0, -1.0),
    "method where": lambda x, y: x.where(x > 0, C),
    "tensor where": lambda x, y: C.where(x > 0, x),
    "public condition": lambda x, y: torch.where(C > 0, x, 0.0),
    "clamp": lambda x, y: x.clamp(-1, 1) + torch.clamp(x, max=0.5) + torch.clip(x, min=C, max=C + 1),
    "nan_to_num": lambda x, y: x.nan_to_num() + x.nan_to_num(1.0) + torch.nan_to_num(x, nan=0.0, posinf=9, neginf=-9),
    "to": lambda x, y: x.to(torch.float64) + y.to(dtype=torch.float16)[:, None] + x.type(torch.float32),
    "casts": lambda x, y: y.double() + y.float() + y.half() + y.long() + y.int() + y.short() + y.char() + y.byte(),
    "bool": lambda x, y: y.bool(),
    "like": lambda x, y: torch.ones_like(x, dtype=torch.int64).sum(0) + torch.zeros_like(x),
    "matmul": lambda x, y: x.T @ x,
    "matmul right": lambda x, y: W @ x.t() + torch.mm(W, x.mT) + W.matmul(torch.transpose(x, 0, 1)),
    "matmul public": lambda x, y: x @ C + torch.mv(x, C) + torch.matmul(x, C),
    "linear": lambda x, y: F.linear(x, W) + F.linear(x, W, torch.ones(3)),
    "parameter": lambda x, y: x @ PARAMETER,
    "private weight": lambda x, y: F.linear(C, x.T @ x, bias=C),
    "outer": lambda x, y: torch.outer(x.sum(0), C),
    "column": lambda x, y: x[:, 3],
    "columns": lambda x, y: x[:, 1:3] + x[:, [0, 2]] + x[..., torch.tensor([1, 3])] + x[:, ::2] + x[:, range(2)],
    "new dimension": lambda x, y: x[:, None, -1:] + x[None].permute(1, 0, 2),
    "all rows": lambda x, y: x[0:, 0] + x[::1, 1] + x[:][:, 2],
    "cat": lambda x, y: torch.cat([x, x * 2, y[:, None]], 1),
    "concat": lambda x, y: T.concat((x, C.expand(1, 4) + 0 * x), axis=-1),
    "stack": lambda x, y: torch.stack([x, x], dim=1),
    "transpose": lambda x, y: x.transpose(0, 1) + torch.swapaxes(x, axis0=0, axis1=1),
    "permute": lambda x, y: x.permute(1, 0) + x.permute((1, 0)) + torch.permute(x, dims=(1, 0)),
    "reshape": lambda x, y: x.reshape(-1, 2, 2) + x.view((-1, 2, 2)),
    "flatten": lambda x, y: x.reshape(-1, 2, 2).flatten(1) + x[:, :, None].flatten(start_dim=1, end_dim=2),
    "squeeze": lambda x, y: x[:, 3:].squeeze(1) + x.unsqueeze(0).squeeze(0)[:, 0],
    "unsqueeze": lambda x, y: torch.unsqueeze(x, dim=-1),
    "standardise": lambda x, y: (x - x.nanmean(0)) / (x.nan_to_num(0.0, 0.0, 0.0).std(0) + 1e-6),
    "class means": lambda x, y: (y[:, None] == torch.arange(3)).float().T @ x.nan_to_num(0.0, 9.0, -9.0),
} | {
    name: lambda x, y, _run=name: getattr(torch, _run)(x)
    for name in (
        "abs", "acos", "asin", "atan", "ceil", "cos", "cosh", "erf", "exp", "expm1", "floor", "isfinite", "isinf", "isnan",
        "log", "log10", "log1p", "log2", "logical_not", "neg", "reciprocal", "round", "rsqrt", "sign", "sin", "sinh",
        "sqrt", "square", "tan", "tanh", "trunc",
    )
}  # fmt: skip


def tensors(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn((rows, 4), generator=torch.Generator().manual_seed(rows))
    if rows > 1:
        x[0, 1], x[1, 2] = torch.nan, torch.inf
    return x, torch.arange(rows) % 3


def world(rows: int) -> World:
    from smpc_fl.nodes.registered import holding

    made = three()
    x, y = tensors(rows)
    made.registered["alice"] = {"x": holding("x", x, group="d"), "y": holding("y", y, group="d")}
    return made


def value(made: World, pointer: PointerTensor) -> torch.Tensor:
    pointer.request("for the test")
    made.books["alice"].decide("approved")
    return pointer.get()


@pytest.mark.filterwarnings("ignore:(var|std)\\(\\).*degrees of freedom:UserWarning")
@pytest.mark.parametrize("rows", [1, 2, 6])
@pytest.mark.parametrize("name", CASES)
def test_equals_torch(name: str, rows: int) -> None:
    made = world(rows)
    pointer = CASES[name](at(made, "alice"), at(made, "alice", "y"))
    assert isinstance(pointer, PointerTensor)
    expected = CASES[name](*tensors(rows)).detach()
    assert pointer.dtype == expected.dtype
    known = pointer.known_shape
    assert len(known) == expected.ndim
    assert all(k in (None, n) for k, n in zip(known, expected.shape, strict=True))
    got = value(made, pointer)
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


def test_every_operation_is_tried() -> None:
    made = world(4)
    used: set[str] = set()
    for case in CASES.values():
        pointer = case(at(made, "alice"), at(made, "alice", "y"))
        used |= {node.function for node in decode_expression(pointer.expression).nodes if isinstance(node, Apply)}
    assert used == set(OPERATIONS)
    assert all(op.doc for op in OPERATIONS.values())


def test_what_is_not_listed_is_named() -> None:
    with pytest.raises(PermissionDenied, match=r"'nonzero' is not on the list.*mean"):
        operation("nonzero")


@pytest.mark.parametrize(
    ("spellings", "text"),
    [
        (
            [
                lambda p: p.mean(0), lambda p: torch.mean(p, 0), lambda p: torch.mean(p, dim=0), lambda p: p.mean(dim=(0,)),
                lambda p: p.mean(axis=[0]), lambda p: p.mean(0, False), lambda p: torch.mean(input=p, dim=0),
            ],
            "mean(x, 0)",
        ),
        ([lambda p: p[:, 3], lambda p: p[0:, 3], lambda p: p[::1, 3]], "x[:, 3]"),
        (
            [lambda p: p.var(0, False), lambda p: p.var(0, correction=0), lambda p: torch.var(p, 0, unbiased=False)],
            "var(x, 0, 0)",
        ),
        ([lambda p: p.T, lambda p: p.t(), lambda p: p.transpose(0, 1)], "transpose(x, 0, 1)"),
        ([lambda p: p.double(), lambda p: p.to(torch.float64)], "to(x, 'float64')"),
        ([lambda p: 1 - p, lambda p: torch.rsub(p, 1), lambda p: torch.sub(1, p)], "sub(1, x)"),
    ],
)  # fmt: skip
def test_one_lineage_for_all_spellings(spellings: list[Callable[[Any], Any]], text: str) -> None:
    pointer = at(three(), "alice")
    made = [spell(pointer) for spell in spellings]
    assert {each.describe() for each in made} == {text}
    assert len({each.lineage for each in made}) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda p: p.add_(1), lambda p: p.relu_(), lambda p: F.relu(p, inplace=True), lambda p: torch.ones(4).add_(p),
        lambda p: torch.add(p, 1, out=torch.ones(4)), lambda p: p.__iadd__(1), lambda p: p.__isub__(1),
        lambda p: p.__imul__(1), lambda p: p.__itruediv__(1), lambda p: p.__ipow__(2), lambda p: p.__setitem__(0, 1),
        lambda p: p.__delitem__(0), lambda p: p.zero_(),
    ],
)  # fmt: skip
def test_in_place_is_refused(call: Callable[[Any], Any]) -> None:
    made = three()
    pointer = at(made, "alice")
    sent = len(made.sent)
    with pytest.raises(PermissionDenied, match="out-of-place"):
        call(pointer)
    assert len(made.sent) == sent


@pytest.mark.parametrize(
    "call",
    [
        lambda p: p.nonzero(), lambda p: torch.nonzero(p), lambda p: torch.masked_select(p, p > 0), lambda p: p.unique(),
        lambda p: torch.equal(p, p), lambda p: torch.allclose(p, p), lambda p: torch.where(p > 0), lambda p: p // 2,
        lambda p: 2 // p, lambda p: p % 2, lambda p: 2 % p, lambda p: divmod(p, 2), lambda p: torch.numel(p),
        lambda p: torch.rand_like(p), lambda p: F.dropout(p), lambda p: p.cuda(), lambda p: p.clone(),
        lambda p: torch.einsum("ij->j", p), lambda p: torch.save(p, io.BytesIO()), lambda p: p.backward(),
        lambda p: F.embedding(p, torch.ones(3, 2)), lambda p: p.sort(), lambda p: torch.ones(3)[p],
        lambda p: p[p[:, 0] > 50], lambda p: p[p], lambda p: p[torch.ones(5) > 0], lambda p: p[:, p[:, 0]],
    ],
)  # fmt: skip
def test_what_would_show_values_is_refused(call: Callable[[Any], Any]) -> None:
    pointer = at(three(), "alice")
    with pytest.raises(PermissionDenied):
        call(pointer)


@pytest.mark.parametrize(
    "call",
    [
        lambda p: p.mean(0, False, None, 1, 2), lambda p: p.mean(device="cpu"), lambda p: p.mean("0"),
        lambda p: p.mean(0.5), lambda p: p.transpose(0), lambda p: p.transpose(), lambda p: p + "a", lambda p: p + {1: 2},
        lambda p: p + object(), lambda p: p + 1j, lambda p: p + 2**70, lambda p: p**p, lambda p: 2**p,
        lambda p: T.rsub(p), lambda p: p.to("cpu"), lambda p: p.to(torch.float64, copy=True), lambda p: p.to(),
        lambda p: p.to(torch.complex64), lambda p: p.var(0, True, False, 1), lambda p: p.var(0, dim=1), lambda p: p[:, "a"],
        lambda p: p[:, []], lambda p: p[:, [0.5]], lambda p: p[:, [[0]]], lambda p: p[:, 0.5 :], lambda p: p[:, True],
        lambda p: p[()], lambda p: p[:, ::-1], lambda p: F.softmax(p, dim=None), lambda p: torch.div(p, 2, rounding_mode="floor"),
        lambda p: p + torch.ones(4).to_sparse(), lambda p: p + torch.ones(1 << 19), lambda p: T.where(True, p, p),
        lambda p: torch.rsub(input=p, other=1), lambda p: p.mean(0, x=1), lambda p: torch.cat(p),
        lambda p: p.norm(p="nuc"), lambda p: p.reshape(4.0, -1),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit(call: Callable[[Any], Any]) -> None:
    made = three()
    pointer = at(made, "alice")
    sent = len(made.sent)
    with pytest.raises((BadInput, TypeError)):
        call(pointer)
    assert len(made.sent) == sent


def test_numpy_operands_are_public() -> None:
    import numpy as np

    made = three()
    pointer = at(made, "alice")
    row = np.array([1, 2, 3, 4], ">f4")
    left: Any = row
    assert (left + pointer).describe() == "add(float32 [1.0, 2.0, 3.0, 4.0], x)"
    assert (left / pointer).describe() == "div(float32 [1.0, 2.0, 3.0, 4.0], x)"
    assert (left @ pointer.T).describe() == "matmul(float32 [1.0, 2.0, 3.0, 4.0], transpose(x, 0, 1))"
    assert (pointer * np.float32(2)).describe() == "mul(x, 2.0)"
    assert pointer[:, np.int64(1)].lineage == pointer[:, 1].lineage
    assert pointer[:, np.array([0, 1])].lineage == pointer[:, [0, 1]].lineage
    assert pointer[:, np.int64(1) :].lineage == pointer[:, 1:].lineage
    with pytest.raises(BadInput, match="complex128"):
        pointer + np.ones(4, np.complex128)
