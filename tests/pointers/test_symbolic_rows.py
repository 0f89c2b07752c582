from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch

from smpc_fl.errors import PermissionDenied
from smpc_fl.pointers.rows import Rows, SymbolicShape

SHAPE = SymbolicShape((Rows("heart"), 13))


def test_it_prints_and_compares_with_itself() -> None:
    assert repr(SHAPE) == "(rows, 13)"
    same, other = SymbolicShape((Rows("heart"), 13)), SymbolicShape((Rows("other"), 13))
    assert same == SHAPE
    assert other != SHAPE
    assert len({Rows("a"), Rows("a"), Rows("b")}) == 2
    assert SHAPE[1] == 13
    assert len(SHAPE) == 2
    assert tuple(SymbolicShape((2, 3))) == tuple(torch.Size([2, 3]))
    assert SymbolicShape((2, 3)).numel() == 6


@pytest.mark.parametrize(
    "read",
    [
        int, float, bool, complex, abs, operator.index, operator.neg, operator.pos, round, math.sqrt, range, torch.ones,
        lambda rows: rows == 303, lambda rows: rows != 303, lambda rows: rows < 303, lambda rows: rows >= 303,
        lambda rows: rows + 1, lambda rows: 1 - rows, lambda rows: rows * 2, lambda rows: 2 / rows, lambda rows: rows // 2,
        lambda rows: rows % 2, lambda rows: divmod(rows, 2), lambda rows: rows**2, lambda rows: f"{rows:d}",
        lambda rows: [0][rows], lambda rows: SymbolicShape((rows, 13)).numel(), lambda rows: SymbolicShape((rows,)) == (303,),
        lambda rows: not rows, lambda rows: 2**rows,
    ],
)  # fmt: skip
def test_it_is_no_number(read: Callable[[Any], Any]) -> None:
    with pytest.raises((PermissionDenied, TypeError)) as caught:
        read(Rows("heart"))
    assert "303" not in str(caught.value)
