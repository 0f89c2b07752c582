"""torch's operators on shared values: the third reading of a plan's graph, and what `torch.relu(x @ w)` means.

One table by the operator's name, with torch's own arguments; the same for a graph (`aten.relu.default`), a function
(`torch.relu`) and a method (`x.relu()`). Operands are shared values, public tensors or numbers. What only public tensors
take part in is computed by torch itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from smpc_fl.errors import BadInput, PlanRejected
from smpc_fl.shared_tensors import order
from smpc_fl.shared_tensors.draft import Value
from smpc_fl.shared_tensors.functions import activations, layers, losses, norms, shapes, statistics
from smpc_fl.shared_tensors.functions.exact import scaled
from smpc_fl.shared_tensors.functions.exponential import exp as exponential
from smpc_fl.shared_tensors.functions.logarithm import log
from smpc_fl.shared_tensors.functions.reciprocal import divide, reciprocal
from smpc_fl.shared_tensors.functions.roots import rsqrt, sqrt
from smpc_fl.shared_tensors.functions.softmax import log_softmax, softmax

Operand = Value | torch.Tensor | float
Function = Callable[..., Any]


# --- element by element ---


def _mul(x: Operand, y: Operand) -> Any:
    if not isinstance(x, Value):
        x, y = y, x
    if not isinstance(x, Value):
        return x * y
    return scaled(x, float(y)) if isinstance(y, int | float) else x * y


def _add(x: Operand, y: Operand, alpha: float = 1) -> Any:
    return x + (y if alpha == 1 else _mul(y, alpha))


def _sub(x: Operand, y: Operand, alpha: float = 1) -> Any:
    return x - (y if alpha == 1 else _mul(y, alpha))


def _div(x: Operand, y: Operand, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None:
        raise BadInput("a shared tensor is not divided into whole numbers")
    if isinstance(y, Value):
        if isinstance(x, Value) and x.shape == y.shape:
            return divide(x, y)
        return _mul(reciprocal(y), x)
    return _mul(x, 1 / y)


def _pow(x: Value, exponent: float) -> Any:
    if exponent in (-1, -0.5, 0.5):
        return {-1: reciprocal, -0.5: rsqrt, 0.5: sqrt}[exponent](x)
    if exponent != int(exponent) or not 1 <= exponent <= 64:
        raise BadInput(f"a shared tensor to the power of {exponent}: use 1 to 64, -1, 1/2 or -1/2")
    result, square, left = None, x, int(exponent)
    while True:
        if left & 1:
            result = square if result is None else result * square
        left >>= 1
        if not left:
            return result
        square = square * square


def _relu(x: Value) -> Value:
    return order.relu_with_mask(x)[0]  # the mask is dealt only where something reads it


def _negative_part(x: Value) -> Value | None:
    """x < 0 where `relu` made what is asked about: by the same comparison, for nothing more. (At 0 itself, torch has a slope
    of 0 and this of 1.)"""
    step = x.draft.steps[x.number]
    if step.operation != "rectify":
        return None
    return x.draft.step("bit", Value(x.draft, step.inputs[0]), inverted=False)


def _le(x: Value, y: Operand) -> Value:
    if isinstance(y, int | float) and y == 0 and (found := _negative_part(x)) is not None:
        return found
    return order.less_equal(x, y)


def _gt(x: Value, y: Operand) -> Value:
    if isinstance(y, int | float) and y == 0 and (found := _negative_part(x)) is not None:
        return 1 - found
    return order.greater(x, y)


def _where(condition: Operand, x: Operand, y: Operand) -> Any:
    if isinstance(condition, Value):
        return order.where(condition, x, y)
    assert isinstance(condition, torch.Tensor)
    kept = condition.to(torch.float64)
    return _mul(x, kept) + _mul(y, 1 - kept) if isinstance(x, Value) else _mul(y, 1 - kept) + x * kept


def _leaky_relu(x: Value, negative_slope: float = 0.01) -> Value:
    return scaled(x, negative_slope) + scaled(_relu(x), 1 - negative_slope)


def _gelu(x: Value, approximate: str = "none") -> Value:
    return activations.gelu(x)


def _clamp(x: Value, min: Operand | None = None, max: Operand | None = None) -> Value:
    return order.clamp(x, min, max)


# --- over dimensions ---


def _sum(x: Value, dim: Sequence[int] | int | None = None, keepdim: bool = False, dtype: object = None) -> Value:
    return shapes.sum(x, _dims(dim), keepdim=keepdim)


def _mean(x: Value, dim: Sequence[int] | int | None = None, keepdim: bool = False, dtype: object = None) -> Value:
    return statistics.mean(x, _dims(dim), keepdim=keepdim)


def _var(
    x: Value, dim: Sequence[int] | int | None = None, unbiased: bool = True, keepdim: bool = False, correction: int | None = None
) -> Value:  # fmt: skip
    return statistics.var(
        x, _dims(dim), correction=int(unbiased) if correction is None else correction, keepdim=keepdim
    )


def _amax(x: Value, dim: Sequence[int] | int = (), keepdim: bool = False) -> Value:
    dims = [dim] if isinstance(dim, int) else list(dim) or list(range(len(x.shape)))
    for one in sorted((shapes.dimension(x, d) for d in dims), reverse=True):
        x = order.max(x, one, keepdim=keepdim)
    return x


def _dims(dim: Sequence[int] | int | None) -> Sequence[int] | int | None:
    return None if dim is None or (not isinstance(dim, int) and not list(dim)) else dim


# --- layers ---


def _addmm(bias: Operand, x: Operand, y: Operand) -> Any:
    return x @ y + bias  # type: ignore[operator]


def _bilinear(f: Function) -> Function:
    """Of a layer whose weights may be public tensors."""

    def layer(x: Operand, *args: Any, **kwargs: Any) -> Any:
        draft = next(value.draft for value in (x, *args, *kwargs.values()) if isinstance(value, Value))
        shared = [draft.value(value) if isinstance(value, torch.Tensor) else value for value in (x, *args)]
        named = {k: draft.value(value) if isinstance(value, torch.Tensor) else value for k, value in kwargs.items()}
        return f(*shared, **named)

    return layer


def _conv2d(
    x: Value, weight: Value, bias: Value | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Value:  # fmt: skip
    _check_dilation(dilation)
    return layers.conv2d(x, weight, bias, stride, _padding(padding, weight.shape[2:]), groups)


def _conv1d(
    x: Value, weight: Value, bias: Value | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Value:  # fmt: skip
    _check_dilation(dilation)
    return layers.conv1d(x, weight, bias, _pair(stride)[0], _pair(_padding(padding, weight.shape[2:]))[0], groups)


def _check_dilation(dilation: Any) -> None:
    if set(_pair(dilation)) != {1}:
        raise BadInput("a convolution of shared tensors has no dilation")


def _padding(padding: Any, kernel: Sequence[int]) -> Any:
    if padding == "valid":
        return [0] * len(kernel)
    if padding == "same":
        if any(size % 2 == 0 for size in kernel):
            raise BadInput('padding="same" needs a kernel of odd size here')
        return [size // 2 for size in kernel]
    return padding


def _batch_norm(
    x: Value, weight: Operand | None, bias: Operand | None, mean: Operand | None, var: Operand | None,
    training: bool = False, momentum: float = 0.1, eps: float = norms.EPS, cudnn: bool = False,
) -> Value:  # fmt: skip
    to = [1, -1] + [1] * (len(x.shape) - 2)
    if isinstance(mean, torch.Tensor) and isinstance(var, torch.Tensor) and not training:
        # Public statistics: the root is no secret.
        factor = torch.rsqrt(var.to(torch.float64) + eps).reshape(to)
        result = (x - mean.reshape(to)) * (factor if weight is None else _mul(_along(weight, to), factor))
        return result if bias is None else result + _along(bias, to)
    w, b, m, v = (x.draft.value(t) if isinstance(t, torch.Tensor) else t for t in (weight, bias, mean, var))
    if training or m is None or v is None:
        return norms.batch_norm_training(x, w, b, eps)[0]  # type: ignore[arg-type]
    return norms.batch_norm(x, m, v, w, b, eps)  # type: ignore[arg-type]


def _along(x: Operand, to: list[int]) -> Operand:
    assert not isinstance(x, int | float)
    return shapes.reshape(x, to) if isinstance(x, Value) else x.reshape(to)


def _layer_norm(
    x: Value, shape: Sequence[int], weight: Value | None = None, bias: Value | None = None, eps: float = norms.EPS,
    cudnn: bool = False,
) -> Value:  # fmt: skip
    return norms.layer_norm(x, shape, weight, bias, eps)


def _max_pool2d(
    x: Value, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Value:
    size, pad = _pair(kernel), _pair(padding)
    if ceil_mode or _pair(dilation) != (1, 1):
        raise BadInput("max_pool2d of shared tensors has neither dilation nor ceil_mode")
    return order.max_pool2d(x, size, _pair(stride) if stride or stride == 0 else None, pad)


def _avg_pool2d(
    x: Value, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False, include: bool = True,
    divisor: object = None,
) -> Value:  # fmt: skip
    if ceil_mode or divisor is not None or (not include and _pair(padding) != (0, 0)):
        raise BadInput("avg_pool2d of shared tensors counts padding, and has neither ceil_mode nor a divisor")
    return layers.avg_pool2d(x, kernel, stride or None, padding)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _dropout(x: Value, p: float = 0.5, training: bool = False) -> Value:
    if training and p:
        raise BadInput("dropout of shared tensors is for evaluation: train without it")
    return x


# --- shapes ---


def _sizes(f: Callable[[Value, Sequence[int]], Value]) -> Function:
    """`f(x, [2, 3])`, and `x.f(2, 3)` as methods have it."""
    return lambda x, *sizes: f(x, sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else list(sizes))


def _expand(x: Value, sizes: Sequence[int]) -> Value:
    new = len(sizes) - len(x.shape)
    return shapes.expand(x, [x.shape[i - new] if size == -1 else size for i, size in enumerate(sizes)])


def _squeeze(x: Value, dim: Sequence[int] | int | None = None) -> Value:
    rank = len(x.shape)
    dims = range(rank) if dim is None else [shapes.dimension(x, d) for d in ([dim] if isinstance(dim, int) else dim)]
    return shapes.reshape(x, [size for i, size in enumerate(x.shape) if i not in dims or size != 1])


def _unflatten(x: Value, dim: int, sizes: Sequence[int]) -> Value:
    dim = shapes.dimension(x, dim)
    return shapes.reshape(x, [*x.shape[:dim], *sizes, *x.shape[dim + 1 :]])


def _select(x: Value, dim: int, index: int) -> Value:
    return shapes.index(x, (*[slice(None)] * shapes.dimension(x, dim), index))


def _slice(x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Value:
    return shapes.index(x, (*[slice(None)] * shapes.dimension(x, dim), slice(start, end, step)))


def _pad(x: Value, widths: Sequence[int], mode: str = "constant", value: float | None = None) -> Value:
    if mode != "constant" or value:
        raise BadInput("a shared tensor is padded with zeros")
    return x.draft.step("pad", x, widths=list(widths))


def _joined(f: Callable[[Sequence[Value], int], Value]) -> Function:
    def join(values: Sequence[Operand], dim: int = 0) -> Value:
        draft = next(value.draft for value in values if isinstance(value, Value))
        return f([draft.value(value) for value in values], dim)

    return join


def _softmax(x: Value, dim: int, dtype: object = None) -> Value:
    return softmax(x, dim)


def _log_softmax(x: Value, dim: int, dtype: object = None) -> Value:
    return log_softmax(x, dim)


# --- losses ---


def _mean_only(f: Callable[[Value, Value], Value]) -> Function:
    def loss(prediction: Value, target: Operand, *rest: Any, reduction: object = "mean", **others: Any) -> Value:
        if reduction not in ("mean", 1) or any(
            value not in (None, 1, -100, 0.0) for value in (*rest, *others.values())
        ):
            raise BadInput("a loss of shared tensors is the plain mean over the batch")
        return f(prediction, prediction.draft.value(target))

    return loss


FUNCTIONS: Mapping[str, Function] = MappingProxyType(
    {
        # products
        "linear": _bilinear(layers.linear),
        "matmul": lambda x, y: x @ y,
        "mm": lambda x, y: x @ y,
        "bmm": lambda x, y: x @ y,
        "addmm": _addmm,
        "conv1d": _bilinear(_conv1d),
        "conv2d": _bilinear(_conv2d),
        # activations
        "relu": _relu,
        "leaky_relu": _leaky_relu,
        "relu6": lambda x: order.clamp(x, 0, 6),
        "gelu": _gelu,
        "hardtanh": lambda x, min_val=-1, max_val=1: order.clamp(x, min_val, max_val),
        "hardsigmoid": lambda x: order.clamp(scaled(x, 1 / 6) + 0.5, 0, 1),
        "silu": activations.silu,
        "softplus": lambda x, beta=1, threshold=20: activations.softplus(x),
        "tanh": activations.tanh,
        "sigmoid": activations.sigmoid,
        "softmax": _softmax,
        "log_softmax": _log_softmax,
        # normalisation
        "batch_norm": _batch_norm,
        "layer_norm": _bilinear(_layer_norm),
        "dropout": _dropout,
        "feature_dropout": _dropout,
        # pooling
        "max_pool2d": _max_pool2d,
        "avg_pool2d": _avg_pool2d,
        "adaptive_avg_pool2d": layers.adaptive_avg_pool2d,
        # shapes
        "flatten": lambda x, start=0, end=-1: shapes.flatten(x, start, end),
        "unflatten": _unflatten,
        "view": _sizes(shapes.reshape),
        "reshape": _sizes(shapes.reshape),
        "permute": _sizes(shapes.permute),
        "transpose": shapes.transpose,
        "t": shapes.transpose,
        "numpy_T": lambda x: shapes.permute(x, range(len(x.shape))[::-1]),
        "unsqueeze": shapes.unsqueeze,
        "squeeze": _squeeze,
        "expand": _sizes(_expand),
        "select": _select,
        "slice": _slice,
        "flip": _sizes(shapes.flip),
        "cat": _joined(shapes.cat),
        "stack": _joined(shapes.stack),
        "pad": _pad,
        "sym_size": lambda x, dim: x.shape[dim],
        # element by element
        "add": _add,
        "sub": _sub,
        "rsub": lambda x, y, alpha=1: _sub(y, x, alpha),
        "mul": _mul,
        "div": _div,
        "neg": lambda x: -x,
        "reciprocal": reciprocal,
        "abs": order.abs,
        "sign": order.sign,
        "square": lambda x: x * x,
        "pow": _pow,
        "sqrt": sqrt,
        "rsqrt": rsqrt,
        "exp": exponential,
        "log": log,
        "log1p": lambda x: log(x + 1),
        "clamp": _clamp,
        "clamp_min": lambda x, low: order.clamp(x, low),
        "clamp_max": lambda x, high: order.clamp(x, None, high),
        "maximum": lambda x, y: _commuting(order.maximum, x, y),
        "minimum": lambda x, y: _commuting(order.minimum, x, y),
        "lt": order.less,
        "le": _le,
        "gt": _gt,
        "ge": order.greater_equal,
        "eq": order.equal,
        "ne": order.not_equal,
        "where": _where,
        "masked_fill": lambda x, condition, y: _where(condition, y, x),
        # over dimensions
        "sum": _sum,
        "mean": _mean,
        "var": _var,
        "amax": _amax,
        "argmax": lambda x, dim, keepdim=False: order.argmax(x, dim, keepdim=keepdim),
        # the same numbers
        "to": lambda x, *rest, **others: x,
        "_to_copy": lambda x, **others: x,
        "contiguous": lambda x, **others: x,
        "clone": lambda x, **others: x,
        "detach": lambda x: x,
        "alias": lambda x: x,
        "zeros_like": lambda x, **others: torch.zeros(x.shape),
        "ones_like": lambda x, **others: torch.ones(x.shape),
        "full_like": lambda x, number, **others: torch.full(x.shape, float(number)),
        # losses
        "mse_loss": _mean_only(losses.mse),
        "cross_entropy_loss": _mean_only(losses.cross_entropy),
        "cross_entropy": _mean_only(losses.cross_entropy),
        "binary_cross_entropy_with_logits": _mean_only(losses.binary_cross_entropy_with_logits),
    }
)
"""By torch's name, without what tells its overloads apart."""


def _commuting(f: Callable[[Value, Operand], Value], x: Operand, y: Operand) -> Value:
    return f(x, y) if isinstance(x, Value) else f(y, x)  # type: ignore[arg-type]


_REMEDIES = {
    "elu": "use relu, gelu, silu or softplus", "selu": "use relu, gelu, silu or softplus",
    "embedding": "multiply one-hot rows by the table", "group_norm": "use layer_norm or batch_norm",
    "max_pool1d": "use max_pool2d", "avg_pool1d": "use avg_pool2d", "adaptive_avg_pool1d": "use adaptive_avg_pool2d",
    "isnan": "replace missing values before they are shared",
    "nan_to_num": "replace missing values before they are shared",
    "nll_loss_nd": "use cross_entropy with one-hot targets", "gather": "use one-hot targets of floats",
    "scatter": "use one-hot targets of floats",
    "convolution": "train the dense layers, and leave convolutions frozen in a part that runs in clear",
    "max_pool2d_with_indices": "train with average pooling", "native_layer_norm": "train without normalisation",
    "_native_batch_norm_legit_functional": "train without normalisation, or freeze it in evaluation mode",
}  # fmt: skip


def remedy(name: str) -> str:
    """What to use instead."""
    return _REMEDIES.get(name, "build it from linear, conv2d, norms, pooling, activations and arithmetic")


def packet(operator: str) -> str:
    """`relu` of `aten.relu.default`."""
    return operator.split(".")[1] if operator.startswith(("aten.", "int.")) else operator


def is_shared(arguments: Sequence[Any]) -> bool:
    return any(
        isinstance(value, Value) or (isinstance(value, list | tuple) and is_shared(value)) for value in arguments
    )


def check(operator: str, node: str) -> None:
    """Raises `PlanRejected` naming the node, and what to use instead."""
    name = packet(operator)
    if name not in FUNCTIONS and not operator.startswith("int."):
        raise PlanRejected(f"node {node!r}: {operator} is not supported on shared tensors: {remedy(name)}")


def function(operator: str, public: Function) -> Function:
    """`operator` on shared values, or as `public` has it where there is none among its arguments."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if not is_shared(args) and not is_shared(list(kwargs.values())):
            return public(*args, **kwargs)
        return FUNCTIONS[packet(operator)](*args, **kwargs)

    return call
