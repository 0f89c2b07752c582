"""Where each tensor of a model lies in the one vector float32[d] that travels. No torch here: the coordinator reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from smpc_fl.errors import ShapeMismatch
from smpc_fl.plans.document import Part, decode_document
from smpc_fl.plans.update_document import update_of

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layout:
    """The model's tensors in order, row-major one behind the other."""

    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """d, the elements of the whole model."""
        return sum(part.size for part in self.parts)

    def slices(self) -> Iterator[tuple[Part, slice]]:
        """Each part with its place in the vector."""
        start = 0
        for part in self.parts:
            yield part, slice(start, start + part.size)
            start += part.size

    def flatten(self, tensors: Mapping[str, npt.NDArray[np.generic]]) -> Vector:
        """float32[d] of exactly the layout's tensors. Raises `ShapeMismatch` naming the tensor that does not fit."""
        if tensors.keys() != {part.name for part in self.parts}:
            different = sorted(tensors.keys() ^ {part.name for part in self.parts})
            raise ShapeMismatch(
                f"the layout and the tensors differ in {different[0]!r}: give exactly the plan's tensors"
            )
        vector: Vector = np.empty(self.size, dtype=np.float32)
        for part, place in self.slices():
            tensor = tensors[part.name]
            if tensor.shape != tuple(part.shape):
                raise ShapeMismatch(f"tensor {part.name!r} has shape {tensor.shape}, the plan says {tuple(part.shape)}")
            vector[place] = tensor.reshape(-1)
        return vector

    def unflatten(self, vector: npt.NDArray[np.generic]) -> dict[str, Vector]:
        """Copies of the tensors in float32[d]. Raises `ShapeMismatch` when the vector is of another length or type."""
        self.check(vector)
        return {part.name: vector[place].astype(np.float32).reshape(tuple(part.shape)) for part, place in self.slices()}

    def check(self, vector: npt.NDArray[np.generic]) -> None:
        """Raises `ShapeMismatch` unless `vector` is float32[d]."""
        if vector.shape != (self.size,) or vector.dtype != np.float32:
            raise ShapeMismatch(f"a model of this plan is float32[{self.size}], not {vector.dtype}{list(vector.shape)}")

    def stretches(self) -> Iterator[tuple[bool, slice]]:
        """The vector cut where parameters (True) and buffers (False) meet, in order."""
        start = 0
        for trained, parts in groupby(self.parts, lambda part: part.kind == "parameter"):
            size = sum(part.size for part in parts)
            yield trained, slice(start, start + size)
            start += size


def layout_of(plan: bytes) -> Layout:
    """The layout of an encoded plan of either kind. Raises `PlanRejected` unless the bytes decode strictly."""
    return Layout(tuple((update_of(plan) or decode_document(plan)).layout))
