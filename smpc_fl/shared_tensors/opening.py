"""Openings: what a step makes public to all parties, always under a mask that no one knows.

A step is a generator: it yields the openings that it needs together and gets back the opened values. Everything that is
ready opens in one message a round.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from smpc_fl.shared_tensors.bits import Planes
from smpc_fl.shared_tensors.words import Words


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Opening:
    """This party's share of words (int64[shape], added), of half words (int32[shape], added mod 2^32) or of planes of bits
    (uint64[..., w], exclusive or)."""

    share: Words | Planes

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return self._flat.nbytes

    def encode(self) -> memoryview:
        """Little-endian: a view where that is possible."""
        return self._flat.astype(self._wire, copy=False).view(np.uint8).data

    def join(self, others: Sequence[memoryview]) -> Words | Planes:
        """The opened value, from this share and the other parties' bytes, each of `size`."""
        add = np.bitwise_xor if isinstance(self.share, np.ndarray) else np.add
        parts = [np.frombuffer(data, self._wire) for data in others]
        total: npt.NDArray[Any] = add(self._flat, parts[0])
        for part in parts[1:]:
            add(total, part, out=total)
        if isinstance(self.share, np.ndarray):
            return total.reshape(self.share.shape)
        return torch.from_numpy(total.view(f"i{total.itemsize}")).reshape(self.share.shape)

    @property
    def _flat(self) -> npt.NDArray[Any]:
        """Unsigned words, one after the other."""
        share = self.share if isinstance(self.share, np.ndarray) else self.share.contiguous().numpy()
        return np.ascontiguousarray(share).reshape(-1).view(f"u{share.itemsize}")

    @property
    def _wire(self) -> str:
        return f"<u{self.share.itemsize}"


Running = Generator[list[Opening], list[Any], Any]
"""A step that runs at a party: yields what it opens, is sent what was opened, returns its value."""
