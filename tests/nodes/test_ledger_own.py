"""The node's own store: what a full or closed disk does, and what an interrupted publication leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from smpc_fl.errors import BadInput, Unavailable
from smpc_fl.nodes.ledger.own import OwnLedger
from smpc_fl.nodes.ledger.parts import OwnParts

X = {"x": np.arange(6, dtype=np.float32).reshape(3, 2)}


class FullDisk(OwnParts):
    def put(self, name: str, private: bytes, mock: bytes, tags: Sequence[str], summary: str) -> None:
        raise OSError(28, "No space left on device")

    def drop(self, name: str) -> None:
        raise OSError(30, "Read-only file system")


def test_a_full_disk_changes_nothing_and_says_so(tmp_path: Path) -> None:
    ledger = OwnLedger(tmp_path, parts=FullDisk(tmp_path))
    before = ledger.changes()
    with pytest.raises(Unavailable, match="'heart' cannot be written: No space left"):
        ledger.add_dataset("heart", X, X)
    assert ledger.datasets() == []
    assert ledger.changes() == before
    OwnLedger(tmp_path).add_dataset("heart", X, X)
    with pytest.raises(Unavailable, match="cannot be erased: Read-only"):
        ledger.remove_dataset("heart")
    assert [d.name for d in ledger.datasets()] == ["heart"]


def test_what_an_interrupted_publication_left_is_replaced(tmp_path: Path) -> None:
    OwnParts(tmp_path / "datasets").put("heart", b"half", b"half", (), "")
    ledger = OwnLedger(tmp_path)
    ledger.add_dataset("heart", X, X)
    np.testing.assert_array_equal(ledger.load_private("heart")["x"], X["x"])


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable, match="cannot be made"):
        OwnLedger(tmp_path / "file")


def test_times_come_from_the_clock(tmp_path: Path) -> None:
    ledger = OwnLedger(tmp_path, clock=lambda: 12.5)
    assert ledger.submit("ab" * 32, "get", "rita", "mean(x)", b"bytes").created == 12.5


def test_a_second_copy_is_noted_for_known_requests_only(tmp_path: Path) -> None:
    ledger = OwnLedger(tmp_path)
    with pytest.raises(BadInput, match="nobody asked"):
        ledger.mirror("ab" * 32)
    ledger.submit("ab" * 32, "get", "rita", "mean(x)", b"bytes")
    assert ledger.mirror("ab" * 32) is None
    ledger.set_mirror("ab" * 32, b"fingerprint")
    assert (ledger.mirror("ab" * 32), ledger.stored("ab" * 32)) == (b"fingerprint", b"bytes")
