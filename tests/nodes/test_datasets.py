"""Files become tensors; what is wrong with a file is said by place, never by value."""

from __future__ import annotations

import builtins
import pickle
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from smpc_fl.errors import DatasetInvalid
from smpc_fl.nodes.ledger.base import Array
from smpc_fl.nodes.ledger.datasets import MOCK_ROWS, add_from_files, auto_mock, publish_configured, read_dataset
from smpc_fl.nodes.ledger.own import OwnLedger

TABLE = "age,sex,chol,sick\n63,1,233,0\n67,0,,1\n41, 1 ,?,2\n"
CANARY = "78123.4599"


def csv_file(folder: Path, text: str = TABLE, name: str = "heart.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def parquet_file(folder: Path, columns: dict[str, list[Any]], name: str = "heart.parquet") -> Path:
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
    import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

    path = folder / name
    pq.write_table(pa.table(columns), path)
    return path


def npz_file(folder: Path, name: str = "heart.npz", **arrays: Array) -> Path:
    path = folder / name
    np.savez(path, **arrays)  # type: ignore[arg-type, unused-ignore]
    return path


def safetensors_file(folder: Path, name: str = "heart.safetensors", **arrays: Array) -> Path:
    path = folder / name
    safetensors.numpy.save_file(arrays, path)
    return path


def same(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)


NAN = float("nan")
HEART: dict[str, Array] = {
    "x": np.array([[63, 1, 233], [67, 0, NAN], [41, 1, NAN]], np.float32),
    "y": np.array([0, 1, 2], np.int64),
}


# --- .csv -------------------------------------------------------------------------------------------------------------


def test_csv_columns_become_x_and_y(tmp_path: Path) -> None:
    same(read_dataset(csv_file(tmp_path), ["age", "sex", "chol"], "sick"), HEART)


def test_csv_without_inputs_takes_the_other_columns_in_order(tmp_path: Path) -> None:
    same(read_dataset(csv_file(tmp_path), target="sick"), HEART)
    same(read_dataset(csv_file(tmp_path), ["chol", "age"]), {"x": HEART["x"][:, [2, 0]]})
    assert read_dataset(csv_file(tmp_path))["x"].shape == (3, 4)


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    text = '\ufeff"age", sex\r\n"63",1\r\n\r\n"1e2",-0.5\r\n'
    same(read_dataset(csv_file(tmp_path, text)), {"x": np.array([[63, 1], [100, -0.5]], np.float32)})


@pytest.mark.parametrize("missing", ["", " ", "NA", "na", "NaN", "null", "None", "?", " ? "])
def test_csv_missing_values_are_nan_in_inputs_and_errors_in_the_target(tmp_path: Path, missing: str) -> None:
    path = csv_file(tmp_path, f"age,sick\n1,0\n{missing},1\n")
    assert np.isnan(read_dataset(path, ["age"], "sick")["x"][1, 0])
    with pytest.raises(DatasetInvalid, match="data row 2, target 'age': is missing"):
        read_dataset(path, ["sick"], "age")


def test_csv_columns_that_are_not_wanted_may_hold_text(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "name,age\nJane Doe,63\n")
    same(read_dataset(path, ["age"]), {"x": np.array([[63]], np.float32)})


@pytest.mark.parametrize(
    ("text", "inputs", "target", "says"),
    [
        (f"age,sick\n1,0\nabc{CANARY},1\n", ["age"], "sick", r"heart.csv, line 3, column 'age': is not a number"),
        (f"age\n1\n{CANARY}e99\n", ["age"], None, r"data row 2, column 'age': is infinite or too large"),
        ("age\ninf\n", ["age"], None, "infinite"),
        (f"age,sick\n1,0\n{CANARY}\n", [], "sick", "line 3: has 1 cells for 2 columns"),
        ("age,age\n1,2\n", [], None, "each name once"),
        ("", [], None, "first line must name every column"),
        ("age,sick\n", [], "sick", "has no rows"),
        ("age\n1\n", [], "age", "no input column"),
        ("age\n1\n", ["weight"], None, r"has no 'weight', only age"),
        ("age;sick\n1;2\n", ["age"], "sick", "separate the columns by commas"),
        ("age,sick\n1,2\n", ["age"], "age", "the target and an input"),
        ("age,sick\n1,2\n", ["age", "age"], "sick", "named twice"),
        (f'age\n"{CANARY}\n', [], None, "quotes"),
    ],
)
def test_csv_errors_say_where_and_never_what(
    tmp_path: Path, text: str, inputs: list[str], target: str | None, says: str
) -> None:
    with pytest.raises(DatasetInvalid, match=says) as caught:
        read_dataset(csv_file(tmp_path, text), inputs, target)
    assert CANARY not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_table_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "heart.csv").write_bytes(b"age\n\xff\xfe\n")
    with pytest.raises(DatasetInvalid, match="UTF-8"):
        read_dataset(tmp_path / "heart.csv")


def test_many_columns_are_not_all_listed(tmp_path: Path) -> None:
    header = ",".join(f"c{n}" for n in range(50))
    with pytest.raises(DatasetInvalid, match="c19, …"):
        read_dataset(csv_file(tmp_path, header + "\n"), ["weight"])


# --- .parquet ---------------------------------------------------------------------------------------------------------


def test_parquet_reads_like_csv(tmp_path: Path) -> None:
    path = parquet_file(
        tmp_path,
        {
            "age": [63.0, 67.0, 41.0],
            "sex": [True, False, True],
            "chol": [233, None, None],
            "sick": [0, 1, 2],
            "id": ["a", "b", "c"],
        },
    )
    same(read_dataset(path, ["age", "sex", "chol"], "sick"), HEART)
    with pytest.raises(DatasetInvalid, match="column 'id': holds string, not numbers"):
        read_dataset(path, target="sick")
    with pytest.raises(DatasetInvalid, match="has no 'weight'"):
        read_dataset(path, ["weight"])


def test_parquet_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "heart.parquet").write_bytes(b"age\n1\n")
    with pytest.raises(DatasetInvalid, match=r"not a readable \.parquet"):
        read_dataset(tmp_path / "heart.parquet")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(DatasetInvalid, match="pip install pyarrow"):
        read_dataset(tmp_path / "heart.parquet")


# --- .npz and .safetensors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [npz_file, safetensors_file])
def test_arrays_by_name(tmp_path: Path, write: Any) -> None:
    images = np.arange(3 * 2 * 4 * 4, dtype=np.float64).reshape(3, 2, 4, 4)
    labels = np.array([[2], [0], [1]], np.uint8)
    ages, rest = HEART["x"][:, 0].copy(), HEART["x"][:, 1:].copy()
    path = write(tmp_path, images=images, labels=labels, ages=ages, rest=rest)
    same(read_dataset(path), {"images": images, "labels": labels, "ages": ages, "rest": rest})
    same(
        read_dataset(path, ["images"], "labels"),
        {"x": images.astype(np.float32), "y": np.array([2, 0, 1], np.int64)},
    )
    same(read_dataset(path, ["ages", "rest"]), {"x": HEART["x"]})
    same(read_dataset(path, ["ages"]), {"x": HEART["x"][:, :1]})
    for inputs, target, says in (
        (["weights"], None, "has no 'weights'"),
        (["ages"], "sick", "has no 'sick'"),
        (["ages", "images"], None, "array 'images': arrays that are joined"),
        (["ages"], "rest", r"target 'rest': has shape \(2,\)"),
    ):
        with pytest.raises(DatasetInvalid, match=says):
            read_dataset(path, inputs, target)


def test_arrays_with_a_target_only(tmp_path: Path) -> None:
    same(read_dataset(npz_file(tmp_path, features=HEART["x"], sick=HEART["y"]), target="sick"), HEART)


def test_arrays_of_unequal_rows(tmp_path: Path) -> None:
    path = npz_file(tmp_path, x=HEART["x"], y=HEART["y"][:2])
    with pytest.raises(DatasetInvalid, match="different numbers of rows"):
        read_dataset(path, ["x"], "y")


@pytest.mark.parametrize("array", [np.array(["text"]), np.float32(1).reshape(()), np.array([1j])])
def test_arrays_that_are_no_rows_of_numbers(tmp_path: Path, array: Array) -> None:
    with pytest.raises(DatasetInvalid, match="array 'x': give numbers"):
        read_dataset(npz_file(tmp_path, x=array))


class _Trap:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (pytest.fail, ("a pickle was opened",))


def test_pickled_objects_are_never_opened(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = npz_file(tmp_path, x=np.array([_Trap()], dtype=object))
    with pytest.raises(DatasetInvalid, match="never read"):
        read_dataset(path)
    path.write_bytes(pickle.dumps(_Trap()))
    with pytest.raises(DatasetInvalid, match="never read"):
        read_dataset(path)


def test_files_that_are_something_else(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", HEART["x"])
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(DatasetInvalid, match=r"numpy\.savez"):
        read_dataset(tmp_path / "one.npz")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(DatasetInvalid, match=r"not an \.npz"):
        read_dataset(tmp_path / "cut.npz")
    whole = npz_file(tmp_path, x=np.arange(1000)).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    with pytest.raises(DatasetInvalid, match=r"not an \.npz"):
        read_dataset(tmp_path / "cut.npz")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 4)
    with pytest.raises(DatasetInvalid, match=r"not a \.safetensors"):
        read_dataset(tmp_path / "cut.safetensors")
    (tmp_path / "heart.xlsx").write_bytes(b"")
    with pytest.raises(DatasetInvalid, match=r"'\.xlsx': give \.csv"):
        read_dataset(tmp_path / "heart.xlsx")
    with pytest.raises(DatasetInvalid, match=r"absent\.csv: cannot be read: No such file"):
        read_dataset(tmp_path / "absent.csv")


# --- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "target_type", "dtype"),
    [
        (["0", "1"], "auto", "int64"),
        (["0.0", "7"], "auto", "int64"),
        (["0.5", "1"], "auto", "float32"),
        (["-1", "1"], "auto", "float32"),
        (["0", "1"], "number", "float32"),
        (["0", "1"], "class", "int64"),
    ],
)
def test_targets_are_labels_or_numbers(tmp_path: Path, cells: list[str], target_type: Any, dtype: str) -> None:
    path = csv_file(tmp_path, "x,y\n" + "".join(f"1,{cell}\n" for cell in cells))
    y = read_dataset(path, ["x"], "y", target_type=target_type)["y"]
    assert (y.dtype.name, y.shape) == (dtype, (2,))
    np.testing.assert_array_equal(y, [float(cell) for cell in cells])


@pytest.mark.parametrize("cell", ["0.5", "-1", "1e300"])
def test_a_target_that_is_no_label(tmp_path: Path, cell: str) -> None:
    with pytest.raises(DatasetInvalid, match="data row 2, target 'y': is not a class label"):
        read_dataset(csv_file(tmp_path, f"x,y\n1,0\n1,{cell}\n"), ["x"], "y", target_type="class")


# --- mocks and publishing ---------------------------------------------------------------------------------------------


def test_an_automatic_mock_depends_on_no_value() -> None:
    private: dict[str, Array] = {
        "x": np.full((7, 3), 5.0, np.float32),
        "y": np.full(7, 9),
        "b": np.ones((7, 2), bool),
        "u": np.full(7, 200, np.uint8),
    }
    mock = auto_mock(private, "heart", classes=4)
    other = auto_mock({name: np.zeros_like(np.concatenate([a, a])) for name, a in private.items()}, "heart", classes=4)
    same(mock, other)
    assert all(len(array) == MOCK_ROWS for array in mock.values())
    assert {name: array.dtype for name, array in mock.items()} == {name: a.dtype for name, a in private.items()}
    assert set(mock["y"]) == {0, 1, 2, 3}
    assert np.abs(mock["x"]).max() < 6
    assert not np.array_equal(mock["x"], auto_mock(private, "lungs")["x"])


def test_a_mock_file_follows_the_private_parts_type(tmp_path: Path) -> None:
    ledger = OwnLedger(tmp_path / "ledger")
    private = csv_file(tmp_path, "x,y\n1,0.5\n2,1\n")
    mock = csv_file(tmp_path, "x,y\n1,3\n", "mock.csv")
    add_from_files(ledger, "one", private, str(mock), inputs=["x"], target="y", tags=["#a"], summary="s")
    assert ledger.load_mock("one")["y"].dtype == np.float32
    labels = csv_file(tmp_path, "x,y\n1,0\n2,1\n", "labels.csv")
    made = add_from_files(ledger, "two", labels, str(mock), inputs=["x"], target="y", publish_rows=True)
    assert (ledger.load_mock("two")["y"].dtype.name, made.rows) == ("int64", 2)
    with pytest.raises(DatasetInvalid, match="not a class label"):
        add_from_files(ledger, "three", labels, str(private), inputs=["x"], target="y")
    assert [d.name for d in ledger.datasets()] == ["one", "two"]
    add_from_files(ledger, "four", labels)
    assert len(ledger.load_mock("four")["x"]) == MOCK_ROWS


@dataclass(frozen=True)
class Source:
    name: str
    private: Path
    mock: str = "auto"
    inputs: tuple[str, ...] = ("age", "sex")
    target: str = "sick"
    tags: tuple[str, ...] = ("#heart",)
    summary: str = ""
    publish_rows: bool = False


def test_configured_datasets_are_published_when_new_or_changed(tmp_path: Path) -> None:
    ledger = OwnLedger(tmp_path / "ledger")
    source = Source("heart", csv_file(tmp_path))
    untargeted = Source("plain", csv_file(tmp_path), target="")
    assert publish_configured(ledger, [source, untargeted]) == ["heart", "plain"]
    before = ledger.changes()
    assert publish_configured(ledger, [source, untargeted]) == []
    assert ledger.changes() == before
    for changed in (
        replace(source, tags=("#other",)),
        replace(source, summary="new words"),
        replace(source, publish_rows=True),
        replace(source, inputs=("sex", "age")),
        replace(source, mock=str(csv_file(tmp_path, TABLE, "mock.csv"))),
    ):
        assert publish_configured(ledger, [changed, untargeted]) == ["heart"]
        assert publish_configured(ledger, [changed]) == []
    csv_file(tmp_path, TABLE + "50,1,,0\n")
    assert publish_configured(ledger, [source, untargeted]) == ["heart", "plain"]
    assert len(ledger.load_private("heart")["x"]) == 4
