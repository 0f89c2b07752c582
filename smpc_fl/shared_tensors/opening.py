"""Openings: what a step makes public to all parties, always under a mask that no one knows.

A step is a generator: it yields the openings that it needs together and gets back the opened values. Everything that is
ready opens in one message a round.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from smpc_fl.shared_tensors.bits import Planes
from smpc_fl.shared_tensors.words import Words, from_bytes, to_bytes


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Opening:
    """This party's share of words (int64[shape], added), of half words (int32[shape], added mod 2^32) or of planes of bits
    (uint64[planes, w], exclusive or)."""

    share: Words | Planes

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        if isinstance(self.share, np.ndarray):
            return 8 * self.share.size
        return self.share.element_size() * self.share.numel()

    def encode(self) -> memoryview:
        if isinstance(self.share, np.ndarray):
            return np.ascontiguousarray(self.share).astype("<u8", copy=False).data.cast("B")
        if self.share.dtype == torch.int32:
            return np.ascontiguousarray(self.share.numpy()).astype("<i4", copy=False).data.cast("B")
        return to_bytes(self.share)

    def join(self, others: Sequence[memoryview]) -> Words | Planes:
        """The opened value, from this share and the other parties' bytes, each of `size`."""
        if isinstance(self.share, np.ndarray):
            planes = self.share.copy()
            for data in others:
                planes ^= np.frombuffer(data, "<u8").reshape(planes.shape)
            return planes
        words = self.share.clone()
        for data in others:
            if words.dtype == torch.int32:
                words += torch.from_numpy(np.frombuffer(data, "<i4").astype(np.int32)).reshape(words.shape)
            else:
                words += from_bytes(data, tuple(words.shape))
        return words


Running = Generator[list[Opening], list[Any], Any]
"""A step that runs at a party: yields what it opens, is sent what was opened, returns its value."""
