"""What every ledger keeps to: names, parts, what a person is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from smpc_fl.errors import BadInput, ConfigInvalid, DatasetInvalid, Unavailable
from smpc_fl.nodes.ledger import syft
from smpc_fl.nodes.ledger.base import Array, TensorInfo, check_digest, check_parts, open_ledger, printable

X = np.zeros((3, 2), np.float32)


@pytest.mark.parametrize(
    ("private", "mock", "says"),
    [
        ({}, {}, "no tensor"),
        ({"x": X}, {}, "different tensors"),
        ({"x": X}, {"x": X.astype(np.float64)}, "float64"),
        ({"x": X}, {"x": X[:, :1]}, r"\[rows, 1\]"),
        ({"x": X, "y": X[:2]}, {"x": X, "y": X}, "different numbers of rows"),
        ({"x": X[:0]}, {"x": X}, "no rows"),
        ({"x": np.float32(1).reshape(())}, {"x": X}, "no rows"),
        ({"x": np.array(["a"])}, {"x": X}, "use numbers"),
        ({"x": np.zeros(2, np.longdouble)}, {"x": X}, "use numbers"),
        ({"../x": X}, {"../x": X}, "cannot be a name"),
    ],
)
def test_parts_must_be_alike(private: dict[str, Array], mock: dict[str, Array], says: str) -> None:
    with pytest.raises(DatasetInvalid, match=says):
        check_parts("heart", private, mock)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "x" * 65, "ünder", "a\n"])
def test_names_cannot_leave_a_folder(name: str) -> None:
    with pytest.raises(DatasetInvalid, match="cannot be a name"):
        check_parts(name, {"x": X}, {"x": X})


def test_parts_are_described_without_rows() -> None:
    infos = check_parts("heart", {"x": X, "y": X[:, 0] > 0}, {"x": X[:1], "y": X[:1, 0] > 0})
    assert infos == {"x": TensorInfo((2,), "float32"), "y": TensorInfo((), "bool")}


@pytest.mark.parametrize("digest", ["", "AB" * 16, "abcdefg", "xy" * 16, "a" * 130, "ab" * 16 + "\n"])
def test_digests_are_hexadecimal(digest: str) -> None:
    with pytest.raises(BadInput, match="hexadecimal"):
        check_digest(digest)


def test_terminals_are_not_steered() -> None:
    assert printable("a\tb\nc \x1b[31mred\x07 \u202eevil ü") == "a\tb\nc \ufffd[31mred\ufffd \ufffdevil ü"


def test_a_node_without_syft_keeps_its_own_ledger_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syft, "syft_installed", lambda: False)
    ledger = open_ledger("syft", tmp_path, "alice")
    assert ledger.kind == "own"
    assert "smpc-fl[syft]" in ledger.notice
    assert open_ledger("own", tmp_path, "alice").notice == ""


def test_a_ledger_kept_with_syft_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_ledger("syft", tmp_path, "alice")
    monkeypatch.setattr(syft, "syft_installed", lambda: False)
    with pytest.raises(Unavailable, match=r"smpc-fl\[syft\]"):
        open_ledger("syft", tmp_path, "alice")


def test_a_home_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigInvalid, match="chmod 700"):
        open_ledger("own", tmp_path, "alice")
