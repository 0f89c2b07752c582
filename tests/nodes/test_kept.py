"""What an owner keeps from round to round counts when the round does, whatever crashes in between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from smpc_fl.errors import Unavailable
from smpc_fl.nodes.home.kept import Kept


def vectors(value: float) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]]:
    return {"control": np.full(3, value, np.float32)}


def test_only_a_round_that_counts_is_kept(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept" / "run")
    assert kept.read() == {}
    kept.stage(0, vectors(1))
    assert kept.read() == {}
    kept.commit(0)
    kept.commit(0)
    np.testing.assert_array_equal(kept.read()["control"], [1, 1, 1])
    kept.stage(2, vectors(2))
    kept.stage(4, vectors(3))  # round 2 did not count
    kept.commit(2)
    np.testing.assert_array_equal(Kept(kept.folder).read()["control"], [1, 1, 1])
    kept.commit(4)
    np.testing.assert_array_equal(Kept(kept.folder).read()["control"], [3, 3, 3])
    assert (kept.folder.stat().st_mode & 0o777, (kept.folder / "state").stat().st_mode & 0o777) == (0o700, 0o600)
    kept.erase()
    assert kept.read() == {}


def test_a_round_that_keeps_nothing_leaves_what_there_is(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "run")
    kept.stage(0, vectors(1))
    kept.commit(0)
    kept.stage(2, {})
    kept.commit(2)
    np.testing.assert_array_equal(kept.read()["control"], [1, 1, 1])


def test_what_cannot_be_read_or_written_is_said(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "run")
    kept.stage(0, vectors(1))
    kept.commit(0)
    (kept.folder / "state").write_bytes(b"nothing of the sort")
    with pytest.raises(Unavailable, match="remove it to go on as a newcomer"):
        kept.read()
    kept.folder.chmod(0o755)
    with pytest.raises(Unavailable, match="chmod 700"):
        kept.stage(2, vectors(1))
    kept.folder.chmod(0o700)
    kept.stage(2, vectors(2))
    (kept.folder / "state").unlink()
    (kept.folder / "state").mkdir()
    with pytest.raises(Unavailable, match="cannot be written"):
        kept.commit(2)
