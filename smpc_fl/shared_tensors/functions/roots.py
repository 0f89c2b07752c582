"""sqrt(y) and 1 / sqrt(y) for positive y in a stated range of powers of two."""

from __future__ import annotations

from smpc_fl.shared_tensors.draft import Value
from smpc_fl.shared_tensors.functions.coefficients import INVERSE_ROOT, SQUARE_ROOT
from smpc_fl.shared_tensors.functions.normal import normal
from smpc_fl.shared_tensors.words import SCALE

LOW, HIGH = -12, 12


def sqrt(y: Value, low: int = LOW, high: int = HIGH) -> Value:
    """Square root, 2^low <= y < 2^high, within 1e-5 of itself and 2^-17; below 2^low, from 0 on, between 0 and 2^(low / 2).

    6 rounds; for n = high - low - 1: 12.3 n + 28 bytes, 57 n + 112 dealt. 36 fractional bits."""
    y_normal = normal(y, low, high)
    return SQUARE_ROOT.of(y_normal.fraction) * y_normal.of_exponent(lambda e: 2.0 ** (e / 2), SCALE)


def rsqrt(y: Value, low: int = LOW, high: int = HIGH) -> Value:
    """1 / sqrt(y), 2^low <= y < 2^high, within 1e-5 of itself and 2^-17. Rounds and bytes as `sqrt`."""
    part, power = rsqrt_parts(y, low, high)
    return part * power


def rsqrt_parts(y: Value, low: int, high: int) -> tuple[Value, Value]:
    """1 / sqrt(y) as a product that is still to be made: the first after 5 rounds, between 1 and 1.42, the second after 4."""
    y_normal = normal(y, low, high)
    power = y_normal.of_exponent(lambda e: 2.0 ** (-e / 2), SCALE + max(0, high) // 2)
    return INVERSE_ROOT.of(y_normal.fraction), power
