"""Files of data: tables and archives, damaged, or made to run code, to take all memory, or to be taken for something else."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from random import Random

import mutations
import numpy as np
from engine import Target, Wrong
from file_targets import nearly_bytes, written

from smpc_fl.errors import DatasetInvalid
from smpc_fl.nodes.ledger import datasets


def _archive(arrays: dict[str, object], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, array in arrays.items():
            archive.writestr(name, array if isinstance(array, bytes) else _npy(np.asarray(array)))
    return out.getvalue()


def _npy(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def _header(shape: str, descr: str = "'<f4'", data: bytes = b"") -> bytes:
    """An .npy whose header says what it likes."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n" + data


@cache
def _npz() -> list[bytes]:
    x, y = np.arange(12.0, dtype=np.float32).reshape(4, 3), np.arange(4)
    return [
        _archive({"x.npy": x, "y.npy": y}),
        _archive({"x.npy": x, "y.npy": y}, zipfile.ZIP_DEFLATED),
        _archive({"x.npy": x, "y.npy": y}, zipfile.ZIP_LZMA),
        _archive({"x.npy": np.array([{}, os.system], dtype=object), "y.npy": y}),
        _archive({"x.npy": _header("(1152921504606846976, 8)"), "y.npy": y}),
        _archive({"x.npy": _header("(0, 9223372036854775807)"), "y.npy": y}),
        _archive({"x.npy": _header("(4, 3)", "'O'", b"cos\nsystem\n(S'id'\ntR."), "y.npy": y}),
        _archive({"x.npy": _header("(" * 3000 + ")" * 3000), "y.npy": y}),
        _archive({"x.npy": _header("(4,)", "[('a', '<f4'), ('b', 'O')]", bytes(48)), "y.npy": y}),
        _archive({"x.npy": _npy(np.zeros((1 << 16, 16), np.float32)), "y.npy": y}, zipfile.ZIP_DEFLATED),
        _archive({"x.npy": b"not an array", "../../y.npy": y}),
        _npy(x),
    ]


def _safetensors(header: object, data: bytes = bytes(64)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@cache
def _tensors() -> list[bytes]:
    def one(**changed: object) -> dict[str, object]:
        return {
            "x": {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48], **changed},
            "y": {"dtype": "I64", "shape": [2], "data_offsets": [48, 64]},
        }

    return [
        _safetensors(one()),
        _safetensors(one(shape=[1 << 62, 16])),
        _safetensors(one(shape=[0, 1 << 63])),
        _safetensors(one(data_offsets=[0, 1 << 63])),
        _safetensors(one(data_offsets=[48, 0])),
        _safetensors(one(dtype="BF16", shape=[24])),
        _safetensors(one(dtype="F8_E4M3", shape=[48])),
        _safetensors(one(dtype="F64", shape=[6])),
        _safetensors({"__metadata__": {"a": "b"}, **one()}),
        _safetensors(b"[" * 3000),
        struct.pack("<Q", 1 << 62) + b"{}",
    ]


_CELLS = (
    b"",
    b"nan",
    b"?",
    b"1e400",
    b"-0",
    b"1_0",
    b"0x10",
    b"\xd9\xa1",
    b'"',
    b'"a""b"',
    b"\0",
    b"1;2",
    b"\xff",
    b"9" * 400,
    b"9" * 140_000,
)


def _make_csv(rng: Random) -> bytes:
    rows = [b"a,b,y", b"1,2,0", b"3,,1", b"-1.5,2e3,1"]
    if rng.random() < 0.3:
        return mutations.mutate_bytes(rng, b"\r\n".join(rows), rows)
    cells = [row.split(b",") for row in rows]
    row = rng.choice(cells)
    row[rng.randrange(3)] = rng.choice(_CELLS)
    if rng.random() < 0.2:
        rng.choice(cells).append(rng.choice(_CELLS))
    return rng.choice((b"", b"\xef\xbb\xbf", b"\xff\xfe")) + rng.choice((b"\n", b"\r\n", b"\r")).join(
        b",".join(row) for row in cells
    )


@cache
def _parquets() -> list[bytes]:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    found = []
    tables = [
        {"a": [1.0, 2.0], "b": [1, None], "y": [True, False]},
        {"a": [1.0], "b": ["text"], "y": [0]},
        {"a": [[1.0]], "b": [1], "y": [0]},
    ]
    for table in tables:
        for compression in ("none", "snappy", "gzip"):
            out = io.BytesIO()
            pq.write_table(pa.table(table), out, compression=compression)
            found.append(out.getvalue())
    twice = io.BytesIO()
    pq.write_table(pa.table([pa.array([1.0]), pa.array([2.0]), pa.array([1])], names=["a", "a", "y"]), twice)
    return [*found, twice.getvalue()]


def _take_dataset(ending: str) -> Callable[[bytes], None]:
    def take(data: bytes) -> None:
        path, failed = written("data" + ending, data), 0
        inputs: Sequence[str] = ("a", "b") if ending in (".csv", ".parquet") else ("x",)
        for wanted, target in ((inputs, "y"), ((), None)):
            try:
                found = datasets.read_dataset(path, wanted, target)
            except DatasetInvalid:
                failed += 1
                continue
            if any(array.dtype.hasobject for array in found.values()):
                raise Wrong("Python objects were read")
        if failed == 2:
            raise DatasetInvalid("neither way")

    return take


def targets() -> list[Target]:
    found = []
    for ending, make in (
        (".csv", _make_csv), (".npz", nearly_bytes(_npz)), (".safetensors", nearly_bytes(_tensors)),
        (".parquet", nearly_bytes(_parquets)),
    ):  # fmt: skip
        found.append(Target("dataset" + ending, make, _take_dataset(ending), (DatasetInvalid,), 0.2))
    return found
