"""A job for an update function that owners have registered by name, as a researcher makes it. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from smpc_fl.errors import BadInput
from smpc_fl.hashing import digest
from smpc_fl.plans.document import Part
from smpc_fl.plans.layout import Layout, Vector
from smpc_fl.plans.update_document import Option, UpdateDocument, encode_update

if TYPE_CHECKING:
    from torch import nn


class UpdatePlan:
    """Have every owner run its own update function `name` (`sf.register_update`) on its `tensors`, round after round.

    `model`: the first model, {name: numbers}, float32 once it travels; names and shapes are public. `options`: what the
    function is given besides; owners see them before they decide. `metrics`: names of the numbers that it tells beside the
    change, whose weighted means every round then has. Raises `PlanRejected`, `BadInput`."""

    def __init__(
        self,
        name: str,
        model: Mapping[str, npt.ArrayLike],
        *,
        tensors: Sequence[str] = ("x", "y"),
        options: Mapping[str, Option] | None = None,
        metrics: Sequence[str] = (),
    ) -> None:
        arrays = {part: _array(part, value) for part, value in model.items()}
        layout = [Part(part, list(array.shape), "parameter") for part, array in arrays.items()]
        self.document = UpdateDocument(name, 1, layout, list(tensors), dict(options or {}), list(metrics))
        self.data = encode_update(self.document)
        self.layout = Layout(tuple(layout))
        self._initial = self.layout.flatten(arrays)

    def __repr__(self) -> str:
        return f"UpdatePlan({self.document.update!r}, {self.layout.size} elements, digest {self.digest.hex()[:16]})"

    def to_bytes(self) -> bytes:
        """The canonical JSON."""
        return self.data

    @property
    def digest(self) -> bytes:
        """32 bytes that name the plan."""
        return digest("smpc-fl/1 plan", self.data)

    @property
    def initial(self) -> Vector:
        """float32[d], the first model."""
        return self._initial.copy()

    def module_with(self, model: Vector) -> NoReturn:
        raise BadInput("an update function has no network: its model is `Run.tensors`, arrays by name")

    @property
    def network(self) -> nn.Module | None:
        return None


def _array(name: str, value: npt.ArrayLike) -> npt.NDArray[Any]:
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise BadInput(f"tensor {name!r} of the first model must hold finite numbers")
    return array.astype(np.float32)
