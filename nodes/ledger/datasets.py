"""Data sets from files: columns of a table, or arrays, become the tensors "x" (inputs) and "y" (target).

    .csv            first line names the columns; cells are numbers; empty, NA, NaN, null, None and ? are missing values
    .parquet        numeric or boolean columns (needs pyarrow)
    .npz            arrays by name, never pickled objects
    .safetensors    arrays by name

With `inputs` and `target`: "x" is float32[rows, inputs] in the order given, missing values are NaN (impute them before
training: an update with NaN is refused); "y" is [rows], int64 where every value is a whole number >= 0 (class labels),
else float32, and may not miss a value. In a file of arrays `inputs` names arrays: one of any shape is taken as it is,
several are joined along the columns. Without `inputs`: a table's other columns in the file's order; a file of arrays
keeps its tensors, names and dtypes.

Errors name file, row and column, never what stands there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from smpc_fl.errors import DatasetInvalid
from smpc_fl.hashing import digest
from smpc_fl.nodes.ledger.base import Array, Dataset, Ledger
from smpc_fl.nodes.ledger.tables import read_csv, read_npz, read_parquet, read_safetensors, require

TargetType = Literal["auto", "class", "number"]

MOCK_ROWS = 32
"""Rows of an automatic mock, whatever the number of private rows."""

_READ = ".csv, .npz, .parquet or .safetensors"


def read_dataset(
    path: Path, inputs: Sequence[str] = (), target: str | None = None, *, target_type: TargetType = "auto"
) -> dict[str, Array]:
    """The tensors of a file, see above. `target_type` "class" or "number" fixes what "auto" takes from the values,
    which owners who train together should do where some may see whole numbers only."""
    name = path.name
    if target is not None and target in inputs:
        raise DatasetInvalid(f"{name}: column {target!r} is the target and an input as well: name it once")
    if len(set(inputs)) != len(inputs):
        raise DatasetInvalid(f"{name}: an input is named twice: name each column once")
    suffix = path.suffix.lower()
    try:
        if suffix in (".csv", ".parquet"):
            read = read_csv if suffix == ".csv" else read_parquet
            table = read(path, inputs, target)
            wanted = list(inputs) or [column for column in table if column != target]
            if not wanted:
                raise DatasetInvalid(f"{name}: there is no input column beside the target: name some with --inputs")
            tensors: dict[str, Array] = {"x": _inputs(np.stack([table[c] for c in wanted], axis=1), name, wanted)}
        elif suffix in (".npz", ".safetensors"):
            table = read_npz(path) if suffix == ".npz" else read_safetensors(path)
            if not inputs and target is None:
                return table
            wanted = list(inputs) or [array for array in table if array != target]
            require(table, [*wanted, *([target] if target else [])], name)
            tensors = {"x": _joined(table, wanted, name)}
        else:
            raise DatasetInvalid(f"{name}: cannot be read by its ending {suffix or '(none)'!r}: give {_READ}")
    except OSError as error:
        raise DatasetInvalid(f"{path}: cannot be read: {error.strerror or 'it is damaged'}") from None
    if target is not None:
        tensors["y"] = _target(table[target], name, target, target_type)
        if len(tensors["y"]) != len(tensors["x"]):
            raise DatasetInvalid(f"{name}: inputs and target have different numbers of rows: give each row both")
    if not len(tensors["x"]):
        raise DatasetInvalid(f"{name}: has no rows: there is nothing to publish")
    return tensors


def auto_mock(private: dict[str, Array], name: str, *, classes: int = 2, rows: int = MOCK_ROWS) -> dict[str, Array]:
    """Invented data of the same tensors, columns and dtypes, from public ranges only: nothing of it depends on a private
    value. Floats are standard normal, integers uniform in 0..classes-1, bools coin tosses. One name, one mock."""
    random = np.random.default_rng(list(digest("smpc-fl/1 mock", name.encode())))
    mock: dict[str, Array] = {}
    for tensor, array in sorted(private.items()):
        shape = (rows, *array.shape[1:])
        if array.dtype.kind == "f":
            mock[tensor] = random.standard_normal(shape).astype(array.dtype)
        else:
            mock[tensor] = random.integers(0, 2 if array.dtype.kind == "b" else classes, shape).astype(array.dtype)
    return mock


def add_from_files(
    ledger: Ledger,
    name: str,
    private: Path,
    mock: str = "auto",
    *,
    inputs: Sequence[str] = (),
    target: str | None = None,
    tags: Sequence[str] = (),
    summary: str = "",
    publish_rows: bool = False,
    target_type: TargetType = "auto",
    classes: int = 2,
) -> Dataset:
    """Publish the file `private` under `name`, with the file `mock`, or invented data where that says "auto"."""
    tensors = read_dataset(private, inputs, target, target_type=target_type)
    return ledger.add_dataset(
        name,
        tensors,
        _mock_of(tensors, name, mock, inputs, target, target_type, classes),
        tags,
        summary,
        publish_rows=publish_rows,
    )


class DatasetSource(Protocol):
    """What a node's configuration says of a data set (`config.DatasetConfig`)."""

    @property
    def name(self) -> str: ...
    @property
    def private(self) -> Path: ...
    @property
    def mock(self) -> str: ...
    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def target(self) -> str: ...
    @property
    def tags(self) -> tuple[str, ...]: ...
    @property
    def summary(self) -> str: ...
    @property
    def publish_rows(self) -> bool: ...


def publish_configured(ledger: Ledger, sources: Iterable[DatasetSource]) -> list[str]:
    """Bring the ledger up to a configuration's data sets, when a node starts: those that are new or changed are
    published (again); others stay as they are. Returns the names that were published."""
    known = {dataset.name: dataset for dataset in ledger.datasets()}
    published = []
    for source in sources:
        target = source.target or None
        tensors = read_dataset(source.private, source.inputs, target)
        mock = _mock_of(tensors, source.name, source.mock, source.inputs, target, "auto", 2)
        old = known.get(source.name)
        if old is not None:
            same = (old.tags, old.summary, old.rows_published) == (source.tags, source.summary, source.publish_rows)
            if same and _equal(ledger.load_private(old.name), tensors) and _equal(ledger.load_mock(old.name), mock):
                continue
            ledger.remove_dataset(old.name)
        ledger.add_dataset(source.name, tensors, mock, source.tags, source.summary, publish_rows=source.publish_rows)
        published.append(source.name)
    return published


def _mock_of(
    private: dict[str, Array],
    name: str,
    mock: str,
    inputs: Sequence[str],
    target: str | None,
    target_type: TargetType,
    classes: int,
) -> dict[str, Array]:
    if mock == "auto":
        return auto_mock(private, name, classes=classes)
    if target is not None and target_type == "auto":
        # The private part decides, so that a mock of few rows does not look like another type.
        target_type = "class" if private["y"].dtype.kind == "i" else "number"
    return read_dataset(Path(mock), inputs, target, target_type=target_type)


def _equal(one: dict[str, Array], other: dict[str, Array]) -> bool:
    return one.keys() == other.keys() and all(
        a.dtype == other[k].dtype and a.shape == other[k].shape and a.tobytes() == other[k].tobytes()
        for k, a in one.items()
    )


def _joined(arrays: dict[str, Array], wanted: Sequence[str], name: str) -> Array:
    """One array as it is, or several [rows] and [rows, columns] side by side."""
    if len(wanted) == 1:
        only = arrays[wanted[0]]
        return _inputs(only if only.ndim > 1 else only[:, None], name, wanted)
    parts = [values if values.ndim > 1 else values[:, None] for values in (arrays[array] for array in wanted)]
    for array, part in zip(wanted, parts, strict=True):
        if part.ndim != 2 or len(part) != len(parts[0]):
            raise DatasetInvalid(
                f"{name}, array {array!r}: arrays that are joined have shape [rows] or [rows, columns] and equal rows",
            )
    return _inputs(np.concatenate(parts, axis=1), name, wanted)


def _inputs(values: Array, name: str, columns: Sequence[str]) -> Array:
    """float32 with NaN for what is missing; infinity and what float32 cannot hold are errors."""
    with np.errstate(over="ignore", invalid="ignore"):
        x = values.astype(np.float32)
    bad = np.argwhere(np.isinf(x))
    if len(bad):
        row = int(bad[0][0])
        column = columns[int(bad[0][1])] if len(columns) == x.shape[1] else columns[0]
        raise DatasetInvalid(
            f"{name}, data row {row + 1}, column {column!r}: is infinite or too large for float32: scale the column, "
            "or mark the value as missing",
        )
    return x


def _target(values: Array, name: str, column: str, target_type: TargetType) -> Array:
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DatasetInvalid(
            f"{name}, target {column!r}: has shape {values.shape[1:]} behind the rows: give one column"
        )
    numbers: Any = values.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise DatasetInvalid(
            f"{name}, data row {int(bad[0]) + 1}, target {column!r}: is missing or infinite: leave out rows "
            "without a target",
        )
    labels = (numbers == np.floor(numbers)) & (numbers >= 0) & (numbers < 2**53)
    if target_type == "class" and not labels.all():
        row = int(np.flatnonzero(~labels)[0]) + 1
        raise DatasetInvalid(
            f"{name}, data row {row}, target {column!r}: is not a class label: number the classes 0, 1, 2, …",
        )
    if target_type == "class" or (target_type == "auto" and labels.all()):
        return np.asarray(numbers, dtype=np.int64)
    return _inputs(numbers[:, None], name, [column])[:, 0]
