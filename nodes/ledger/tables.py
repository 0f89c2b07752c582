"""Columns and arrays of a data set's file, by name: .csv, .parquet, .npz, .safetensors.

Errors are `DatasetInvalid` and name file, line or row, and column, never what stands there.
"""

from __future__ import annotations

import csv
import lzma
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from smpc_fl.errors import DatasetInvalid
from smpc_fl.nodes.ledger.base import Array

MISSING = frozenset({"", "na", "nan", "null", "none", "?"})
"""What stands for a missing value in a .csv cell, in any case, with spaces around it."""


def require(found: Iterable[str], wanted: Sequence[str], name: str) -> None:
    there = list(found)
    absent = [column for column in dict.fromkeys(wanted) if column not in there]
    if absent:
        hint = ": separate the columns by commas" if len(there) == 1 and any(c in there[0] for c in ";\t|") else ""
        listed = ", ".join(there[:20]) + (", …" if len(there) > 20 else "")
        raise DatasetInvalid(f"{name}: has no {', '.join(map(repr, absent))}, only {listed}{hint}")


def read_csv(path: Path, inputs: Sequence[str], target: str | None) -> dict[str, Array]:
    """Columns as float64[rows]; only those that are wanted need be numbers."""
    name = path.name
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [column.strip() for column in next(reader, [])]
            if len(set(header)) != len(header) or not header:
                raise DatasetInvalid(f"{name}: the first line must name every column, each name once")
            wanted = [*inputs, *([target] if target else [])] if inputs else header
            require(header, [*wanted, *([target] if target else [])], name)
            places = [header.index(column) for column in wanted]
            values: list[list[float]] = [[] for _ in wanted]
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DatasetInvalid(
                        f"{name}, line {reader.line_num}: has {len(row)} cells for {len(header)} columns"
                    )
                for column, place, into in zip(wanted, places, values, strict=True):
                    into.append(_number(row[place], name, reader.line_num, column))
    except UnicodeDecodeError:
        raise DatasetInvalid(f"{name}: is not UTF-8 text: save it as UTF-8") from None
    except csv.Error:
        raise DatasetInvalid(f"{name}: is not a table of comma-separated values (quotes that do not close?)") from None
    return {column: np.array(into, dtype=np.float64) for column, into in zip(wanted, values, strict=True)}


def _number(cell: str, name: str, line: int, column: str) -> float:
    text = cell.strip()
    if text.lower() in MISSING:
        return float("nan")
    try:
        return float(text)
    except ValueError:
        raise DatasetInvalid(
            f"{name}, line {line}, column {column!r}: is not a number: write categories as numbers, leave the cell "
            "empty if the value is missing, or leave the column out of --inputs",
        ) from None


def read_parquet(path: Path, inputs: Sequence[str], target: str | None) -> dict[str, Array]:
    try:
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as pq  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise DatasetInvalid(
            f"{path.name}: reading .parquet needs pyarrow: `pip install pyarrow`, or save the table as .csv",
        ) from None
    try:
        file = pq.ParquetFile(path)
        header = list(file.schema_arrow.names)
        if len(set(header)) != len(header):
            raise DatasetInvalid(f"{path.name}: names a column twice: name each once")
        wanted = [*inputs, *([target] if target else [])] if inputs else header
        require(header, [*wanted, *([target] if target else [])], path.name)
        read = file.read(columns=wanted)
        file.close()
        columns: dict[str, Array] = {}
        for column in wanted:
            kind = read.schema.field(column).type
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
                raise DatasetInvalid(
                    f"{path.name}, column {column!r}: holds {kind}, not numbers: write categories as numbers, or "
                    "leave the column out of --inputs",
                )
            numbers = read.column(column).cast(pa.float64(), safe=False)
            columns[column] = numbers.fill_null(float("nan")).to_numpy(zero_copy_only=False).astype(np.float64)
    except DatasetInvalid:
        raise
    except (pa.ArrowException, ValueError, KeyError, MemoryError):  # what damaged files have made pyarrow raise
        raise DatasetInvalid(f"{path.name}: is not a readable .parquet file") from None
    return columns


_NOT_ARRAYS = (
    ValueError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError, MemoryError,
    RuntimeError,  # encrypted, compressed in a way that there is no reader for, or nested without end
)  # fmt: skip
"""What damaged archives, and those that were made to do harm, make NumPy and zipfile raise."""


def read_npz(path: Path) -> dict[str, Array]:
    plain = DatasetInvalid(
        f"{path.name}: is not an .npz archive of plain arrays (Python objects are never read): write one with numpy.savez",
    )
    try:
        with open(path, "rb") as file:  # NumPy leaves a file that it opened itself open when it is damaged
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise plain
            with archive:
                arrays = {name: archive[name] for name in archive.files}
    except _NOT_ARRAYS:
        raise plain from None
    return _checked_arrays(arrays, path.name)


def read_safetensors(path: Path) -> dict[str, Array]:
    try:
        return _checked_arrays(safetensors.numpy.load(path.read_bytes()), path.name)
    except (safetensors.SafetensorError, KeyError, TypeError, AttributeError):
        raise DatasetInvalid(f"{path.name}: is not a .safetensors file of types that NumPy has") from None


def _checked_arrays(arrays: dict[str, Array], name: str) -> dict[str, Array]:
    for array, values in arrays.items():
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub" or not values.ndim:
            raise DatasetInvalid(f"{name}, array {array!r}: give numbers with rows as the first dimension")
    return arrays
