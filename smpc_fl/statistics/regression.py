"""What linear and logistic regression share: the design matrix at the owner, the coefficients' table, singular designs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from smpc_fl.errors import BadInput, ShapeMismatch
from smpc_fl.pointers.pointer import PointerTensor
from smpc_fl.statistics.cohort import Cohort
from smpc_fl.statistics.columns import Columns, columns, one_column
from smpc_fl.statistics.display import table as text_table
from smpc_fl.statistics.noise import Result
from smpc_fl.statistics.options import Bound
from smpc_fl.statistics.picture import Picture
from smpc_fl.statistics.remote import cat, ones, where

_SINGULAR = 1e-10
"""Of the least eigenvalue of a Gram matrix with ones on its diagonal: beyond that, float64 and the wire decide."""


@dataclass(frozen=True, repr=False, eq=False)
class Coefficients(Result, ABC):
    """Base of a fitted regression: float64[p] each, `names` beside them; `error` bounds, to first order, how far the
    rounding on the wire, or with privacy the noise, moved a coefficient."""

    names: list[str]
    coefficients: torch.Tensor
    standard_errors: torch.Tensor
    p_values: torch.Tensor
    error: torch.Tensor
    rows: int

    def __getitem__(self, name: str) -> float:
        """A coefficient by its name; `BadInput` where there is none."""
        if name not in self.names:
            raise BadInput(f"no coefficient is called {name!r}: there are {', '.join(self.names)}")
        return float(self.coefficients[self.names.index(name)])

    def interval(self, level: float = 0.95) -> torch.Tensor:
        """Confidence intervals float64[p, 2]."""
        if not 0 < level < 1:
            raise BadInput(f"level={level}: a confidence level is between 0 and 1, as 0.95")
        half = self.standard_errors * self._quantile(level)
        return torch.stack([self.coefficients - half, self.coefficients + half], 1)

    @abstractmethod
    def _quantile(self, level: float) -> float:
        """The half width of an interval, in standard errors."""

    @abstractmethod
    def _summary(self) -> str:
        """A line on the fit as a whole."""

    def picture(self) -> Picture:
        low, high = self.interval().T.tolist()
        return Picture(
            "intervals", f"Coefficients, {self.rows} rows", "95 % confidence interval", "", self.coefficients.tolist(),
            low=low, high=high, labels=self.names,
        )  # fmt: skip

    def __repr__(self) -> str:
        low, high = self.interval().T.tolist()
        parts = (self.coefficients.tolist(), self.standard_errors.tolist(), self.p_values.tolist(), low, high)
        header = ("", "coefficient", "standard error", "p", "2.5 %", "97.5 %")
        return f"{text_table(header, zip(self.names, *parts, strict=True))}\n{self._summary()}"


@dataclass(frozen=True)
class Design:
    """`z` float64[rows, p] within ±1, zero in rows with NaN, and the power of two that each of its columns was divided by."""

    names: list[str]
    x: Columns
    complete: PointerTensor
    z: PointerTensor
    scale: torch.Tensor


def design(cohort: Cohort, bound: Bound, intercept: bool, names: Sequence[str] | None) -> Design:
    """Of fields "x" float[rows, c] (or [rows]) and "y" [rows]; `complete` is true where neither has NaN."""
    x = columns(cohort.first["x"], bound, "x", cohort.settings, table=True)
    y = one_column(cohort.first["y"], "y")
    complete = x.valid.all(1) & ~y.to(torch.float64).isnan()
    scaled = x.values * (1 / x.scale)
    table = cat([ones(scaled[:, :1]), scaled], 1) if intercept else scaled
    z = where(complete.unsqueeze(1), table, 0.0)
    given = x.names if names is None else list(names)
    if len(set(given)) != len(x.names) or len(given) != len(x.names):
        raise ShapeMismatch(f"names: x has {len(x.names)} columns, give each a name of its own")
    scale = torch.cat([torch.ones(1, dtype=torch.float64), x.scale]) if intercept else x.scale
    return Design(["intercept"] * intercept + given, x, complete, z, scale)


def check_rows(rows: float, parameters: int, min_count: int) -> None:
    """`BadInput` unless there are more rows than unknowns, and `min_count`."""
    needed = max(min_count, parameters + 1)
    if rows < needed:
        raise BadInput(f"fewer than {needed} rows of x and y are complete over all owners: a fit needs more")


def inverse(matrix: torch.Tensor, names: Sequence[str], error: float, *, noisy: bool = False) -> torch.Tensor:
    """The inverse of a Gram or Hessian matrix whose elements may be off by `error`. Raises `BadInput` that names columns
    which are constant, or combinations of others, or may be for all that noise lets one tell."""
    hidden = ", as far as the noise lets one tell" if noisy else ""
    remedy = ", narrow its bound, or take less noise or more owners" if noisy else ""
    diagonal = matrix.diagonal()
    floor = 2 * error * len(names)
    if empty := [name for name, value in zip(names, diagonal.tolist(), strict=True) if value <= floor]:
        raise BadInput(f"x: {', '.join(empty)} is constant over all owners together{hidden}: leave it out{remedy}")
    scale = diagonal.rsqrt()
    values, vectors = torch.linalg.eigh(scale[:, None] * matrix * scale)
    least = max(_SINGULAR, floor / 2 * float((scale * scale).max()))
    if float(values[0]) <= least:
        involved = [name for name, part in zip(names, vectors[:, 0].abs().tolist(), strict=True) if part > 1e-3]
        raise BadInput(
            f"x: {', '.join(involved)} depend on each other over all owners together (a singular design matrix){hidden}: "
            f"leave one of them out{remedy}"
        )
    inverted: torch.Tensor = scale[:, None] * ((vectors / values) @ vectors.T) * scale
    return inverted
