"""sqrt(y) and 1 / sqrt(y) for positive y in a stated range of powers of two."""

from __future__ import annotations

from smpc_fl.shared_tensors.draft import Value
from smpc_fl.shared_tensors.functions.coefficients import INVERSE_ROOT, SQUARE_ROOT
from smpc_fl.shared_tensors.functions.normal import normal
from smpc_fl.shared_tensors.words import SCALE

LOW, HIGH = -12, 12


def sqrt(y: Value, low: int = LOW, high: int = HIGH) -> Value:
    """Square root, 2^low <= y < 2^high, within 1e-5 of itself and 2^-17; from 0 to 2^low, between 0 and
    2^(low / 2) but for that.

    6 rounds; for n = high - low - 1: 28 + 12.3 n bytes, 96 + 65 n dealt. 36 fractional bits."""
    y_normal = normal(y, low, high)
    return SQUARE_ROOT.of(y_normal.fraction) * y_normal.of_exponent(lambda e: 2.0 ** (e / 2), SCALE)


def rsqrt(y: Value, low: int = LOW, high: int = HIGH) -> Value:
    """1 / sqrt(y), 2^low <= y < 2^high, within 1e-5 of itself and 2^-17. As `sqrt`, and 24
    dealt."""
    part, power = rsqrt_parts(y, low, high)
    return part * power


def rsqrt_parts(y: Value, low: int, high: int, weight: Value | None = None) -> tuple[Value, Value]:
    """weight / sqrt(y) as a product that is still to be made: the first factor is there after 5 rounds and between 1 and 1.42,
    the second after 4. `weight` costs 8 bytes, and 8 dealt for each power of two inside the range and element."""
    y_normal = normal(y, low, high)
    scale = SCALE + high // 2

    def root(e: int) -> float:
        return float(2.0 ** (-e / 2))

    power = y_normal.of_exponent(root, scale) if weight is None else y_normal.times_exponent(weight, root, scale)
    return INVERSE_ROOT.of(y_normal.fraction), power
