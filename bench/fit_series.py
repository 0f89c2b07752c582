"""Makes smpc_fl/shared_tensors/functions/coefficients.py: `python bench/fit_series.py > …`, then ruff format.

Each function is fitted on its interval by cosines and sines of a longer period, which leaves them free beyond the interval
(a Fourier extension). The largest error is made small by Lawson's iteration: least squares on 3,000 Chebyshev nodes, each
weighed again by its error, with a ridge that keeps the coefficients small enough to be rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import erf

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Target:
    text: str
    f: Callable[[Floats], Floats]
    low: float
    high: float
    period: float
    terms: int
    kind: str
    """odd: sines only; even: cosines; both."""
    ridge: float


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


def _normal(x: Floats) -> Floats:
    return np.array([0.5 * (1 + erf(v / 2**0.5)) for v in x])


TARGETS = {
    "SIGMOID": Target("sigmoid(x) - 1/2", lambda x: _sigmoid(x) - 0.5, -9.25, 9.25, 25.0, 10, "odd", 1e-4),
    "GELU": Target("gelu(x) - x/2", lambda x: x * _normal(x) - x / 2, -4.25, 4.25, 12.75, 7, "even", 1e-6),
    "SILU": Target("silu(x) - x/2", lambda x: x * _sigmoid(x) - x / 2, -11.5, 11.5, 27.6, 13, "even", 1e-5),
    "SOFTPLUS": Target("softplus(x) - x/2", lambda x: np.logaddexp(0, x) - x / 2, -9.25, 9.25, 24.0, 9, "even", 1e-5),
    "RECIPROCAL": Target("1/x", lambda x: 1 / x, 0.5, 1.0, 2.0, 4, "both", 1e-7),
    "SQUARE_ROOT": Target("sqrt(x)", lambda x: x**0.5, 0.5, 1.0, 2.0, 4, "both", 1e-6),
    "INVERSE_ROOT": Target("1/sqrt(x)", lambda x: x**-0.5, 0.5, 1.0, 2.0, 4, "both", 1e-6),
    "LOGARITHM": Target("log(x)", np.log, 0.5, 1.0, 2.0, 4, "both", 1e-7),
}


def fit(target: Target, nodes: int = 3000, rounds: int = 100) -> tuple[float, float, Floats, Floats]:
    """Largest error at the nodes, constant, cosines, sines."""
    middle, half = (target.low + target.high) / 2, (target.high - target.low) / 2
    x = middle - half * np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes)
    angles = [2 * np.pi * j / target.period * x for j in range(1, target.terms + 1)]
    columns = [] if target.kind == "odd" else [np.ones(nodes), *(np.cos(angle) for angle in angles)]
    columns += [] if target.kind == "even" else [np.sin(angle) for angle in angles]
    matrix, y = np.stack(columns, 1), target.f(x)
    weights = np.full(nodes, 1 / nodes)
    best, error = np.zeros(len(columns)), np.inf
    for _ in range(rounds):
        root = np.sqrt(weights)
        system = np.vstack([matrix * root[:, None], target.ridge * np.eye(len(columns))])
        found = np.linalg.lstsq(system, np.concatenate([y * root, np.zeros(len(columns))]), rcond=None)[0]
        errors = np.abs(matrix @ found - y)
        if errors.max() < error:
            best, error = found, float(errors.max())
        weights = weights * errors
        weights /= weights.sum()
    zeros = np.zeros(target.terms)
    if target.kind == "odd":
        return error, 0.0, zeros, best
    if target.kind == "even":
        return error, float(best[0]), best[1:], zeros
    return error, float(best[0]), best[1 : 1 + target.terms], best[1 + target.terms :]


def main() -> None:
    print(
        '"""Fourier series of functions on intervals, made by bench/fit_series.py; tests check the errors that stand here."""\n'
    )
    print("from __future__ import annotations\n\nfrom smpc_fl.shared_tensors.functions.series import Series\n")
    for name, target in TARGETS.items():
        error, constant, cosines, sines = fit(target)
        parts = [tuple(round(float(v), 9) for v in values) for values in (cosines, sines)]
        print(f"{name} = Series({target.period}, {round(constant, 9)}, {parts[0]}, {parts[1]})")
        print(f'"""{target.text} on [{target.low}, {target.high}], within {error * 1.02:.2g}."""\n')


if __name__ == "__main__":
    main()
