"""1 / y and x / y for positive y in a stated range of powers of two."""

from __future__ import annotations

from smpc_fl.shared_tensors.draft import Value
from smpc_fl.shared_tensors.functions.coefficients import RECIPROCAL
from smpc_fl.shared_tensors.functions.normal import normal

LOW, HIGH = -8, 12


def reciprocal(y: Value, low: int = LOW, high: int = HIGH) -> Value:
    """1 / y, 2^low <= y < 2^high, within 1e-5 of itself and 2^-17; beyond the range the result means nothing.

    6 rounds; for n = high - low - 1: 28 + 12.3 n bytes, 96 + 65 n dealt. For n = 0, 2 rounds and 20 bytes. The result has
    18 + high fractional bits."""
    y_normal = normal(y, low, high)
    inverse = RECIPROCAL.of(y_normal.fraction)
    return inverse * y_normal.of_exponent(lambda e: 2.0**-e, high)


def divide(x: Value, y: Value, low: int = LOW, high: int = HIGH) -> Value:
    """x / y, y as for `reciprocal` and of x's shape, within 1e-5 of itself and 2^-16. 6 rounds;
    36 + 12.3 n bytes, 120 + 65 n dealt."""
    y_normal = normal(y, low, high)
    inverse = RECIPROCAL.of(y_normal.fraction)
    return inverse * y_normal.times_exponent(x, lambda e: 2.0**-e, high)
