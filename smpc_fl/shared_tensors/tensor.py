"""SharedTensor: a tensor that several parties hold in shares, with torch's face.

    desk = Desk(session)
    x, w = desk.share(x), desk.share(w)
    y = torch.relu(x @ w + b)              # nothing has run yet: a draft of steps
    y.cost()                               # rounds and bytes
    y.get()                                # runs them, and opens y alone

Operations write steps into the desk's draft; `compute` or `get` runs what a tensor needs, and leaves the rest. What has
been computed stays with the parties, as shares, until its tensor is gone here.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch

from smpc_fl.errors import BadInput, PermissionDenied
from smpc_fl.shared_tensors import aten
from smpc_fl.shared_tensors.cost import Cost, cost
from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.functions import shapes
from smpc_fl.shared_tensors.program import Program
from smpc_fl.shared_tensors.session import Session
from smpc_fl.shared_tensors.words import SCALE, Words, decode, encode


class SharedTensor:
    """Made by `Desk.share`, and by operations. Its shape is public, its numbers are with nobody."""

    __slots__ = ("__weakref__", "_desk", "_release", "_stored", "_value", "scale", "shape")

    def __init__(self, desk: Desk, value: Value | None, stored: str, shape: torch.Size, scale: int) -> None:
        self._desk, self._value, self.shape, self.scale = desk, value, shape, scale
        self._keep(stored)

    def _keep(self, stored: str) -> None:
        self._stored = stored
        if stored:
            weakref.finalize(self, _forget, self._desk.session, stored).atexit = False

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dim(self) -> int:
        return len(self.shape)

    def size(self, dim: int | None = None) -> torch.Size | int:
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        return self.shape.numel()

    @property
    def dtype(self) -> torch.dtype:
        """Fixed point, read as float64."""
        return torch.float64

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a shared number has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        state = "stored" if self._stored else "drafted"
        return f"<SharedTensor of {len(self._desk.session.parties)} parties, shape={list(self.shape)}, {state}>"

    # --- running ---

    def cost(self) -> Cost:
        """Of what is still to be run for this tensor."""
        return self._desk.cost(self)

    def compute(self) -> SharedTensor:
        """Runs what this tensor needs; its shares stay with the parties."""
        self._desk.compute(self)
        return self

    def get(self) -> torch.Tensor:
        """float64[shape]: computed, narrowed to 18 fractional bits, and opened to whoever holds this session."""
        return self._desk.get(self)

    # --- what would need numbers here ---

    def _denied(self, *_: Any, **__: Any) -> NoReturn:
        raise PermissionDenied(
            "a shared tensor cannot be read or decided upon here: use torch.where, masks and maxima, and get() for a result"
        )

    __int__ = __float__ = __bool__ = __complex__ = __index__ = __array__ = __contains__ = __reduce__ = __reduce_ex__ = _denied
    item = tolist = numpy = _denied

    # --- operations ---

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:  # fmt: skip
        if func is torch.Tensor.where and len(args) == 3:
            args = (args[1], args[0], args[2])  # the method's order is not the function's
        return _operate(func.__name__, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name in ("T", "mT"):
            return _operate("numpy_T" if name == "T" else "transpose", (self,) if name == "T" else (self, -2, -1), {})
        if name.startswith("_") or name not in aten.FUNCTIONS:
            raise AttributeError(f"a SharedTensor has no attribute {name!r}")
        return lambda *args, **kwargs: _operate(name, (self, *args), kwargs)

    def __getitem__(self, key: Any) -> SharedTensor:
        return self._desk.wrap(shapes.index(self._desk.value(self), key))


def _binary(name: str, *, swapped: bool = False) -> Callable[[SharedTensor, Any], Any]:
    def operate(self: SharedTensor, other: Any) -> Any:
        if not isinstance(other, SharedTensor | torch.Tensor | int | float):
            return NotImplemented
        return _operate(name, (other, self) if swapped else (self, other), {})

    return operate


for _dunder, _name in {
    "add": "add", "sub": "sub", "mul": "mul", "truediv": "div", "matmul": "matmul", "pow": "pow",
    "lt": "lt", "le": "le", "gt": "gt", "ge": "ge", "eq": "eq", "ne": "ne",
}.items():  # fmt: skip
    setattr(SharedTensor, f"__{_dunder}__", _binary(_name))
    if _dunder in ("add", "sub", "mul", "truediv", "matmul"):
        setattr(SharedTensor, f"__r{_dunder}__", _binary(_name, swapped=True))
SharedTensor.__neg__ = lambda self: _operate("neg", (self,), {})  # type: ignore[attr-defined]
SharedTensor.__abs__ = lambda self: _operate("abs", (self,), {})  # type: ignore[attr-defined]
SharedTensor.__hash__ = object.__hash__  # type: ignore[assignment]
