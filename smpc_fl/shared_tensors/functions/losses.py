"""Losses, means over the batch as torch's default, and what training needs of them: their gradients."""

from __future__ import annotations

from smpc_fl.shared_tensors.draft import Value
from smpc_fl.shared_tensors.functions.activations import sigmoid, softplus
from smpc_fl.shared_tensors.functions.exact import over
from smpc_fl.shared_tensors.functions.shapes import sum
from smpc_fl.shared_tensors.functions.softmax import SPREAD, logsumexp, softmax
from smpc_fl.shared_tensors.functions.statistics import mean


def mse(prediction: Value, target: Value) -> Value:
    """Mean of squared differences, |difference| < 2^12. 1 round, 8 bytes, 8 dealt (32 where the prediction is a product)."""
    difference = prediction - target
    return mean(difference * difference)


def mse_gradient(prediction: Value, target: Value) -> Value:
    """Local, as `exact.over`."""
    return over((prediction - target) * 2, prediction.type.size)


def cross_entropy(logits: Value, target: Value, spread: int = SPREAD) -> Value:
    """Mean of log Σ e^x - x·y; logits (batch, classes), `target` a distribution over the classes. As `log_softmax`."""
    return mean(logsumexp(logits, 1, spread) - sum(logits * target, 1))


def cross_entropy_gradient(logits: Value, target: Value, spread: int = SPREAD) -> Value:
    """(softmax - target) / batch: as `softmax`, and as `exact.over`."""
    return over(softmax(logits, 1, spread) - target, logits.shape[0])


def binary_cross_entropy_with_logits(logits: Value, target: Value) -> Value:
    """Mean of log(1 + e^x) - x·y within 1.5e-4, |x| < 2^20. 4 rounds, as `softplus`."""
    return mean(softplus(logits) - logits * target)


def binary_cross_entropy_with_logits_gradient(logits: Value, target: Value) -> Value:
    """(sigmoid - target) / n: as `sigmoid`, and as `exact.over`."""
    return over(sigmoid(logits) - target, logits.type.size)
