"""Vectors in parts."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from smpc_fl import chunks as module
from smpc_fl.chunks import CHUNK, chunks, floats


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_the_parts_are_the_whole(size: int) -> None:
    places = list(chunks(size))
    assert [i for place in places for i in range(size)[place]] == list(range(size))
    assert all(place.stop - place.start <= CHUNK for place in places)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_parts_are_float64_and_leave_the_vector_as_it_is(dtype: Any) -> None:
    values = np.arange(-3, 4).astype(dtype)
    seen = []
    with patch.object(module, "CHUNK", 3):
        for place, part in floats(values):
            assert part.dtype == np.float64
            assert part.tolist() == values[place].tolist()
            seen.append(part)
            part *= 2.0
    assert values.tolist() == [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]
    assert all(np.shares_memory(part, seen[0]) for part in seen)
