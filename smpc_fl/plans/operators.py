"""The operators that a plan may use: a fixed table, the only way from a name on the wire to a function.

None of them reads a file, draws random numbers for anything but dropout (which the node seeds itself), changes a tensor
in place other than batch norm's running statistics, or has an output whose shape depends on values.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import torch

Function = Callable[..., Any]

ALLOWED: Mapping[str, str] = MappingProxyType(
    {
        # products with weights
        "aten.linear.default": "x Wᵀ + b",
        "aten.matmul.default": "product of matrices, broadcast over leading dimensions",
        "aten.mm.default": "product of two matrices",
        "aten.bmm.default": "products of a batch of matrices",
        "aten.addmm.default": "input + A B",
        "aten.conv1d.default": "convolution over one dimension",
        "aten.conv1d.padding": 'convolution over one dimension, padding "same" or "valid"',
        "aten.conv2d.default": "convolution over two dimensions",
        "aten.conv2d.padding": 'convolution over two dimensions, padding "same" or "valid"',
        "aten.embedding.default": "rows of a table by whole number",
        # activations
        "aten.relu.default": "max(x, 0)",
        "aten.leaky_relu.default": "x, scaled down where negative",
        "aten.relu6.default": "x limited to 0..6",
        "aten.elu.default": "x, eˣ - 1 where negative",
        "aten.selu.default": "elu, scaled so that it keeps mean and variance",
        "aten.gelu.default": "x Φ(x)",
        "aten.silu.default": "x · sigmoid(x)",
        "aten.softplus.default": "log(1 + eˣ)",
        "aten.hardtanh.default": "x limited to an interval",
        "aten.tanh.default": "hyperbolic tangent",
        "aten.sigmoid.default": "1 / (1 + e⁻ˣ)",
        "aten.hardsigmoid.default": "x / 6 + 1/2, limited to 0..1",
        "aten.softmax.int": "eˣ / Σ eˣ along a dimension",
        "aten.log_softmax.int": "logarithm of softmax",
        # normalisation and regularisation
        "aten.batch_norm.default": "normalise over the batch; keeps running statistics in buffers",
        "aten.layer_norm.default": "normalise over the last dimensions",
        "aten.group_norm.default": "normalise over groups of channels",
        "aten.dropout.default": "zero each element with probability p, in training",
        "aten.feature_dropout.default": "zero each channel with probability p, in training",
        # pooling
        "aten.max_pool1d.default": "largest value of each window",
        "aten.max_pool2d.default": "largest value of each window",
        "aten.avg_pool1d.default": "mean of each window",
        "aten.avg_pool2d.default": "mean of each window",
        "aten.adaptive_avg_pool1d.default": "means on a grid of given size",
        "aten.adaptive_avg_pool2d.default": "means on a grid of given size",
        # shapes
        "aten.flatten.using_ints": "several dimensions into one",
        "aten.unflatten.int": "one dimension into several",
        "aten.view.default": "the same elements in another shape",
        "aten.reshape.default": "the same elements in another shape",
        "aten.permute.default": "dimensions in another order",
        "aten.transpose.int": "two dimensions exchanged",
        "aten.t.default": "a matrix transposed",
        "aten.numpy_T.default": "dimensions in reverse order",
        "aten.unsqueeze.default": "a new dimension of size 1",
        "aten.squeeze.default": "without dimensions of size 1",
        "aten.squeeze.dim": "without a dimension of size 1",
        "aten.squeeze.dims": "without given dimensions of size 1",
        "aten.expand.default": "dimensions of size 1 repeated",
        "aten.select.int": "one index of a dimension",
        "aten.slice.Tensor": "a range of a dimension",
        "aten.cat.default": "tensors one behind the other",
        "aten.stack.default": "tensors along a new dimension",
        "aten.pad.default": "a border of given width",
        "aten.sym_size.int": "size of a dimension, a whole number",
        "int.add": "sum of two sizes",
        "int.sub": "difference of two sizes",
        "int.mul": "product of two sizes",
        "int.floordiv": "quotient of two sizes, rounded down",
        # element by element
        "aten.add.Tensor": "x + y",
        "aten.add.Scalar": "x + number",
        "aten.sub.Tensor": "x - y",
        "aten.sub.Scalar": "x - number",
        "aten.rsub.Scalar": "number - x",
        "aten.mul.Tensor": "x · y",
        "aten.mul.Scalar": "x · number",
        "aten.div.Tensor": "x / y",
        "aten.div.Scalar": "x / number",
        "aten.reciprocal.default": "1 / x",
        "aten.neg.default": "-x",
        "aten.abs.default": "|x|",
        "aten.square.default": "x²",
        "aten.pow.Tensor_Scalar": "x to the power of a number",
        "aten.sqrt.default": "√x",
        "aten.rsqrt.default": "1 / √x",
        "aten.exp.default": "eˣ",
        "aten.log.default": "natural logarithm",
        "aten.log1p.default": "log(1 + x)",
        "aten.clamp.default": "x limited to an interval",
        "aten.clamp_min.default": "x, at least a number",
        "aten.maximum.default": "the larger of x and y",
        "aten.minimum.default": "the smaller of x and y",
        "aten.gt.Scalar": "x > number",
        "aten.lt.Scalar": "x < number",
        "aten.isnan.default": "whether x is missing",
        "aten.nan_to_num.default": "NaN and infinities replaced by numbers",
        "aten.logical_not.default": "not x",
        "aten.where.self": "x where a condition holds, y elsewhere",
        "aten.masked_fill.Scalar": "a number where a condition holds, x elsewhere",
        "aten.zeros_like.default": "zeros of the same shape",
        "aten.ones_like.default": "ones of the same shape",
        # over dimensions
        "aten.mean.default": "mean of all elements",
        "aten.mean.dim": "mean along dimensions",
        "aten.sum.default": "sum of all elements",
        "aten.sum.dim_IntList": "sum along dimensions",
        "aten.amax.default": "largest element along dimensions",
        "aten.var.dim": "variance along dimensions",
        "aten.var.correction": "variance along dimensions, with another divisor",
        # the same numbers in another form
        "aten.to.dtype": "another type",
        "aten.contiguous.default": "the same elements, next to each other in memory",
        "aten.clone.default": "a copy",
        "aten.detach.default": "the same numbers, without a gradient",
        # losses
        "aten.cross_entropy_loss.default": "-log softmax of the right class, averaged over rows",
        "aten.nll_loss_nd.default": "minus the score of the right class, averaged over rows",
        "aten.mse_loss.default": "squared error, averaged",
        "aten.binary_cross_entropy_with_logits.default": "-log sigmoid of the right answer, averaged",
    }
)

BUFFERS_ONLY: Mapping[str, tuple[int, ...]] = MappingProxyType({"aten.batch_norm.default": (3, 4)})
"""Arguments, by position, that an operator changes in place: they must be buffers of the model, or null."""

FORBIDDEN: Mapping[tuple[str, int, str], str] = MappingProxyType(
    {("aten.embedding.default", 4, "sparse"): "sparse gradients do not fit the vector of an update; use sparse=False"}
)
"""(operator, position, name) of arguments that must be absent or false, and why."""

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"float32": torch.float32, "float64": torch.float64, "int32": torch.int32, "int64": torch.int64, "bool": torch.bool}
)
"""Types that a plan may name."""

WORDS = frozenset({"none", "tanh", "same", "valid", "constant", "reflect", "replicate", "circular", "floor", "trunc"})
"""Words that a plan may use as an argument (approximations, paddings, roundings)."""

_LARGEST_SIZE = 1 << 40


def _sizes(function: Callable[[int, int], int]) -> Function:
    """`function` of two whole numbers of bounded size: never of lists or tensors, and no number without end."""

    def bounded(a: object, b: object) -> int:
        if not (isinstance(a, int) and isinstance(b, int)):
            raise TypeError("sizes are whole numbers")
        result = function(a, b)
        if abs(result) > _LARGEST_SIZE:
            raise ValueError("a size is too large")
        return result

    return bounded


INTEGER_OPERATORS: Mapping[str, Callable[[int, int], int]] = MappingProxyType(
    {
        "int.add": operator.add,
        "int.sub": operator.sub,
        "int.mul": operator.mul,
        "int.floordiv": operator.floordiv,
    }
)
"""Arithmetic on sizes, by name."""


@lru_cache(maxsize=1)
def table() -> Mapping[str, Function]:
    """The function of every allowed name, as torch has it."""
    functions: dict[str, Function] = {}
    for name in ALLOWED:
        if name in INTEGER_OPERATORS:
            functions[name] = _sizes(INTEGER_OPERATORS[name])
        else:
            _, packet, overload = name.split(".")
            functions[name] = getattr(getattr(torch.ops.aten, packet), overload)
    return MappingProxyType(functions)


_REMEDIES = (
    (
        ("lstm", "gru", "rnn"),
        "recurrent layers are not supported; use convolutions, or a linear layer over the window",
    ),
    (
        ("scaled_dot_product", "native_multi_head"),
        "attention layers are not supported; write them out with matmul and softmax",
    ),
    (
        ("alpha_dropout", "bernoulli", "rand", "normal", "multinomial"),
        "a plan draws no random numbers; use nn.Dropout",
    ),
    (
        ("item", "nonzero", "masked_select", "unique", "local_scalar", "index", "assert"),
        "no step may depend on values; compute with torch.where on whole tensors",
    ),
    (
        ("lift_fresh", "zeros", "ones", "full", "arange", "scalar_tensor", "empty", "eye"),
        "register constants with register_buffer as float32, or use plain numbers",
    ),
    (
        ("sort", "topk", "argmax", "max"),
        "use amax, maximum or max_pool",
    ),
)


def remedy(name: str) -> str:
    """What to use instead of an operator that is not allowed."""
    for stems, advice in _REMEDIES:
        if any(stem in name for stem in stems):
            return advice
    return "build it from linear, conv1d, conv2d, norms, pooling, activations and arithmetic (smpc_fl.plans.operators)"
