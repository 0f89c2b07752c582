"""Update functions: NumPy code that an owner registers by name, and that jobs name. The code never travels.

    @sf.register_update("ridge_step")
    def ridge_step(model, tensors, about):
        x, y = tensors["x"], tensors["y"]
        error = x @ model["w"] - y
        gradient = x.T @ error / len(x) + about.options["penalty"] * model["w"]
        return {"w": -about.options["lr"] * gradient}, len(x), {"loss": np.mean(error**2)}

in a Python file that the owner's node runs at its start (`extensions`). What it gives back goes the way of every update:
clipped, weighed by its rows, encoded, shared, added. What it raises is told by its type alone; a sentence that may leave the
owner is raised as `sf.BadInput`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from smpc_fl.errors import BadInput, NotFinite, ShapeMismatch, SmpcError
from smpc_fl.learning.local_result import LocalResult
from smpc_fl.learning.shuffle import stream
from smpc_fl.plans.layout import Layout, Vector
from smpc_fl.plans.update_document import UpdateDocument
from smpc_fl.ring import RING64

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class UpdateAbout:
    """A training round as an update function sees it: its number (from 1), the job's options, this owner's id, and a seed for
    `np.random.default_rng` that is the same when the run is repeated."""

    round: int
    options: Mapping[str, Any]
    owner: str
    seed: int


Update = Callable[[dict[str, Vector], dict[str, Array], UpdateAbout], Any]
"""(model, float32 arrays of its own; the owner's tensors, read-only; about) -> (change, rows), or (change, rows, metrics)."""
F = TypeVar("F", bound=Callable[..., Any])
_known: dict[str, Update] = {}


def register_update(name: str) -> Callable[[F], F]:
    """Decorator: jobs may name this function in this process. Raises `BadInput` for a name that is taken."""

    def register(function: F) -> F:
        taken = _known.setdefault(name, function)
        if (taken.__module__, taken.__qualname__) != (function.__module__, function.__qualname__):
            raise BadInput(f"there is an update function {name!r} already, of {taken.__module__}: choose another name")
        _known[name] = function  # a module that is loaded again
        return function

    return register


def function_of(update: UpdateDocument) -> Update:
    """The function that a job names. Raises `BadInput`, which says what there is instead."""
    if update.update not in _known:
        raise BadInput(
            f"this owner has no update function {update.update!r}; it has: {', '.join(sorted(_known)) or 'none'}. Write one, "
            f"with @sf.register_update({update.update!r}), into a file that this node's config lists under extensions",
            phase="job",
        )
    return _known[update.update]


def run_update(
    update: UpdateDocument,
    model: Vector,
    tensors: Mapping[str, Array],
    *,
    seed: bytes,
    owner: str,
    number: int,
) -> LocalResult:
    """One owner's part of training round `number` (from 1) by its own function.

    `model`: float32[d]; `seed`: the job's. Raises `ShapeMismatch`, `NotFinite`, `BadInput` naming the function."""
    function, name = function_of(update), update.update
    layout = Layout(tuple(update.layout))
    layout.check(model)
    drawn = int(stream(seed, "update", owner, number).expand(RING64, 1)[0])
    about = UpdateAbout(number, dict(update.options), owner, drawn)
    try:
        result = function(layout.unflatten(model), {key: _read_only(array) for key, array in tensors.items()}, about)
    except SmpcError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise BadInput(
            f"the update function {name!r} failed at this owner: {type(error).__name__} in {last.name}, line {last.lineno}: its "
            "people have to mend it, or the tensors that it reads"
        ) from None
    match result:
        case (change, rows):
            metrics: Any = {}
        case (change, rows, metrics):
            pass
        case _:
            raise BadInput(f"the update function {name!r} must return (change, rows), or (change, rows, metrics)")
    delta = _flat(name, layout, change)
    if isinstance(rows, bool) or not isinstance(rows, int | np.integer) or rows < 1:
        raise BadInput(f"the update function {name!r} must return a whole number of rows, one at least")
    return LocalResult(delta, int(rows), _metrics(update, metrics))


def _read_only(array: Array) -> Array:
    """A view that cannot be written to: the owner's tensors are read once for all rounds."""
    view = array.view()
    view.flags.writeable = False
    return view


def _flat(name: str, layout: Layout, change: Any) -> Vector:
    if not isinstance(change, Mapping):
        raise BadInput(f"the update function {name!r} must return the change as {{tensor: array}}")
    arrays = {part: np.asarray(value) for part, value in change.items()}
    strange = sorted(str(part) for part, array in arrays.items() if array.dtype.kind not in "fiu")
    if strange:
        raise BadInput(f"the update function {name!r} returns something other than numbers for {strange[0]!r}")
    try:
        with np.errstate(over="ignore"):  # what overflows is not finite
            delta = layout.flatten(arrays)
    except ShapeMismatch as error:
        raise ShapeMismatch(f"the update function {name!r}: {error.message}") from None
    if not np.isfinite(delta).all():
        raise NotFinite(
            f"the update function {name!r} returns NaN or infinity: fill in missing values, or take smaller steps"
        )
    return delta


def _metrics(update: UpdateDocument, metrics: Any) -> dict[str, float]:
    if not isinstance(metrics, Mapping) or set(metrics) != set(update.metrics):
        raise BadInput(
            f"the update function {update.update!r} must return the job's metrics, {update.metrics or 'none'}, as a third value"
        )
    found = {name: np.asarray(value) for name, value in metrics.items()}
    if not all(value.ndim == 0 and value.dtype.kind in "fiu" and np.isfinite(value) for value in found.values()):
        raise NotFinite(f"a metric of the update function {update.update!r} is not one finite number")
    return {name: float(value) for name, value in found.items()}
