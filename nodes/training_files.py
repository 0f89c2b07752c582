"""A run's model and history as files that other programs read.

Model: `.safetensors` (the plan's tensors by name), or `.pt2` (`torch.export`: graph and weights). History: a line or a row
for each round as `.jsonl` or `.parquet`, which `smpc-fl plot` draws.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smpc_fl.errors import BadInput, Unavailable
from smpc_fl.plans.layout import Vector

if TYPE_CHECKING:
    from smpc_fl.nodes.training_run import Round
    from smpc_fl.plans.plan import Plan
    from smpc_fl.plans.update_plan import UpdatePlan

MODELS, HISTORIES = (".safetensors", ".pt2"), (".jsonl", ".parquet")
_EXAMPLE = 2
"""Rows of the example that a graph is exported with; their number stays free."""


def save_model(path: str | os.PathLike[str], plan: Plan | UpdatePlan, model: Vector) -> None:
    """The model float32[d] into `path`, .safetensors or .pt2. Raises `BadInput` for another suffix."""
    path = _suffixed(path, MODELS, "a model")
    if path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file({name: np.ascontiguousarray(part) for name, part in plan.layout.unflatten(model).items()}, path)
        return
    import torch

    from smpc_fl.plans.operators import DTYPES
    from smpc_fl.plans.plan import Plan

    if not isinstance(plan, Plan):
        raise BadInput(f"{path}: an update function has no graph that a .pt2 file could hold: use .safetensors")
    about = plan.document.inputs
    example = torch.zeros(_EXAMPLE, *about.shape, dtype=DTYPES[about.dtype])
    shapes = ({0: torch.export.Dim("rows")},)
    torch.export.save(torch.export.export(plan.module_with(model).eval(), (example,), dynamic_shapes=shapes), path)


def save_history(path: str | os.PathLike[str], rounds: Sequence[Round]) -> None:
    """What is known of each round into `path`, .jsonl or .parquet. Raises `BadInput`, `Unavailable` without pyarrow."""
    path = _suffixed(path, HISTORIES, "a history")
    lines = [line_of(round_) for round_ in rounds]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return
    arrow, parquet = _arrow()
    rows = [{**line, **{name: json.dumps(line[name]) for name in ("uploaded", "missing")}} for line in lines]
    for row in rows:
        row |= row.pop("metrics")
    names = sorted({name for row in rows for name in row}, key=lambda name: (name != "round", name))
    parquet.write_table(arrow.table({name: [row.get(name) for row in rows] for name in names}), path)


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """The metrics of each round in a history. Raises `BadInput` naming file and line, `Unavailable` without pyarrow."""
    path = _suffixed(path, HISTORIES, "a history")
    if not path.is_file():
        raise BadInput(f"{path}: there is no such history: `run.save_history` and `smpc-fl run` write one")
    if path.suffix == ".parquet":
        arrow, parquet = _arrow()
        try:
            rows = parquet.read_table(path).to_pylist()
        except (arrow.ArrowInvalid, OSError) as error:
            raise BadInput(f"{path}: is no Parquet file: {error}") from None
        about = set(line_fields())
        return [{k: v for k, v in row.items() if k not in about and v is not None} for row in rows]
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            metrics: dict[str, float] = {name: float(value) for name, value in json.loads(line)["metrics"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadInput(f"{path}, line {number}: is no round of a history (an object with `metrics`)") from None
        found.append(metrics)
    return found


def line_fields() -> tuple[str, ...]:
    """What a history tells of a round besides its metrics."""
    return (
        "round", "seconds", "uploaded", "included", "missing", "clipped", "attempts", "ring_bits", "total_weight", "worst_error",
        "clip",
    )  # fmt: skip


def line_of(round_: Round) -> dict[str, Any]:
    values: Mapping[str, Any] = {"round": round_.number, "uploaded": round_.traffic.uploaded}
    about = {name: values[name] if name in values else getattr(round_, name) for name in line_fields()}
    return about | {"metrics": round_.metrics}


def _suffixed(path: str | os.PathLike[str], suffixes: Sequence[str], what: str) -> Path:
    path = Path(path)
    if path.suffix not in suffixes:
        raise BadInput(f"{path}: {what} is a file of kind {' or '.join(suffixes)}")
    return path


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet as parquet  # type: ignore[import-untyped]
    except ImportError:
        raise Unavailable("Parquet files need pyarrow: pip install pyarrow, or use a .jsonl file") from None
    return pyarrow, parquet
