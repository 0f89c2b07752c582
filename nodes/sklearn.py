"""`sf.sklearn.fit`: train a scikit-learn estimator over a federation, or over simulated owners, and have it back fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from smpc_fl.errors import BadInput
from smpc_fl.frameworks.estimators import EstimatorPlan, estimator_plan
from smpc_fl.jobs import LocalTraining
from smpc_fl.nodes.simulation.data import arrays
from smpc_fl.nodes.simulation.run import simulate

if TYPE_CHECKING:
    from smpc_fl.nodes.client import Federation
    from smpc_fl.nodes.training_run import Run

__all__ = ["EstimatorPlan", "estimator_plan", "fit"]


def fit(
    estimator: Any,
    owners: Federation | Mapping[str, Mapping[str, Any]],
    *,
    inputs: str = "x",
    targets: str = "y",
    classes: Sequence[Any] | None = None,
    rounds: int = 20,
    local: LocalTraining | None = None,
    rows: int | None = None,
    **options: Any,
) -> Any:
    """A fitted copy of `estimator`, trained on the tensors `inputs` (float[rows, columns]) and `targets` of all owners.

    `owners`: a federation, or {name: tensors} to simulate. `classes`: of a classifier, all labels, sorted; owners' targets are
    their positions. `local`: what owners do in a round, in the place of what the estimator's options say. `rows`: see
    `estimator_plan`; counted where owners are simulated. `options`: as of `Federation.train` or `simulate`.

    Raises `BadInput` for what is not supported, by name; and what the training raises."""
    columns, counted = _known(owners, inputs)
    made = estimator_plan(estimator, features=columns, classes=classes, rows=counted if rows is None else rows)
    settings: dict[str, Any] = {
        "inputs": inputs, "targets": targets, "rounds": rounds, "local": local or made.local, **options
    }  # fmt: skip
    train: Callable[..., Run] = partial(simulate, owners=owners) if isinstance(owners, Mapping) else owners.train
    run = train(made.plan, **settings)
    done = run.wait().rounds
    losses = [round_.metrics["loss"] for round_ in done if "loss" in round_.metrics]
    return made.fitted(run.tensors, len(done) * settings["local"].epochs, losses)


def _known(owners: Federation | Mapping[str, Mapping[str, Any]], inputs: str) -> tuple[int, int | None]:
    """(columns of the first owner's inputs, rows of all simulated owners). Raises `BadInput` naming owner and field."""
    if not isinstance(owners, Mapping):
        first = owners.owners[0]
        return _columns(first, inputs, owners[first].tensor(inputs).known_shape), None
    tables = {owner: arrays(tensors) for owner, tensors in owners.items()}
    for owner, table in tables.items():
        if inputs not in table:
            raise BadInput(f"owner {owner} has no tensor {inputs!r}; it has: {', '.join(sorted(table)) or 'none'}")
    if not tables:
        raise BadInput("owners: there is none: give {name: {tensor: array, …}, …}")
    first = min(tables)
    return _columns(first, inputs, tables[first][inputs].shape), sum(len(table[inputs]) for table in tables.values())


def _columns(owner: str, inputs: str, shape: Sequence[Any]) -> int:
    if len(shape) != 2:
        raise BadInput(
            f"owner {owner}: {inputs!r} must be a table, [rows, columns], not of shape {list(shape)}: reshape it"
        )
    return int(shape[1])
