"""Softmax and its logarithm over one dimension."""

from __future__ import annotations

from smpc_fl.shared_tensors.draft import Value
from smpc_fl.shared_tensors.functions.coefficients import RECIPROCAL
from smpc_fl.shared_tensors.functions.exponential import exp_within
from smpc_fl.shared_tensors.functions.largest import largest
from smpc_fl.shared_tensors.functions.logarithm import log
from smpc_fl.shared_tensors.functions.normal import normal

SPREAD = 116
"""How far below the largest of a row a logit may lie."""


def softmax(x: Value, dim: int, spread: int = SPREAD) -> Value:
    """Within 3e-5, for logits of a row that differ by less than `spread`. 7 rounds and those of `largest`."""
    parts, total = _exponentials(x - largest(x, dim), dim, spread)
    high = x.shape[dim].bit_length()
    denominator = normal(total, 0, high)
    # The reciprocal of u is ready a round after 2^-e: meanwhile this is multiplied.
    return parts * denominator.of_exponent(lambda e: 2.0**-e, high) * RECIPROCAL.of(denominator.fraction)


def log_softmax(x: Value, dim: int, spread: int = SPREAD) -> Value:
    """Within 3e-5, for logits of a row that differ by less than `spread`. 6 rounds and those of `largest`."""
    shifted = x - largest(x, dim)
    return shifted - log(_exponentials(shifted, dim, spread)[1], 0, x.shape[dim].bit_length())


def logsumexp(x: Value, dim: int, spread: int = SPREAD, *, keepdim: bool = False) -> Value:
    """As `log_softmax`."""
    most = largest(x, dim)
    total = _exponentials(x - most, dim, spread)[1]
    result = log(total, 0, x.shape[dim].bit_length()) + most
    dim %= len(x.shape)
    return result if keepdim else x.draft.step("reshape", result, shape=[*x.shape[:dim], *x.shape[dim + 1 :]])


def _exponentials(shifted: Value, dim: int, spread: int) -> tuple[Value, Value]:
    """e^x of logits of 0 and less, and their sum, of n between 1 and n."""
    parts = exp_within(shifted, -spread, 0)
    return parts, parts.draft.step("sum", parts, dims=[dim % len(parts.shape)], keepdim=True)
