"""log(y) for positive y in a stated range of powers of two."""

from __future__ import annotations

from math import log as _log

from smpc_fl.shared_tensors.draft import Value
from smpc_fl.shared_tensors.functions.coefficients import LOGARITHM
from smpc_fl.shared_tensors.functions.normal import normal

LOW, HIGH = -12, 12


def log(y: Value, low: int = LOW, high: int = HIGH) -> Value:
    """Natural logarithm, 2^low <= y < 2^high, within 1e-5. 5 rounds; for n = high - low - 1: 12 + 12.3 n bytes, 64 + 65 n
    dealt. 40 fractional bits."""
    y_normal = normal(y, low, high)
    part = LOGARITHM.of(y_normal.fraction)
    return part + y_normal.of_exponent(lambda e: e * _log(2), part.scale)
