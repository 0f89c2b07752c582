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
from smpc_fl.shared_tensors.words import SCALE, decode, encode


def _swapped(name: str) -> Callable[[Any, Any], Any]:
    return _binary(name, swapped=True)


def _binary(name: str, *, swapped: bool = False) -> Callable[[Any, Any], Any]:
    def operate(self: Any, other: Any) -> Any:
        if not isinstance(other, SharedTensor | torch.Tensor | int | float):
            return NotImplemented
        return _operate(name, (other, self) if swapped else (self, other), {})

    return operate


class SharedTensor:
    """Made by `Desk.share`, and by operations. Its shape is public, its numbers are with nobody."""

    __slots__ = ("__weakref__", "_desk", "_stored", "_value", "scale", "shape")

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

    __int__ = __float__ = __bool__ = __complex__ = __index__ = __array__ = __contains__ = __reduce__ = __reduce_ex__ = (
        _denied
    )
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
        if name == "where":
            return lambda condition, other: _operate(name, (condition, self, other), {})
        return lambda *args, **kwargs: _operate(name, (self, *args), kwargs)

    def __getitem__(self, key: Any) -> SharedTensor:
        return self._desk.wrap(shapes.index(self._desk.value(self), key))

    def __neg__(self) -> Any:
        return _operate("neg", (self,), {})

    def __abs__(self) -> Any:
        return _operate("abs", (self,), {})

    __add__, __sub__, __mul__, __truediv__, __matmul__, __pow__ = map(
        _binary, ("add", "sub", "mul", "div", "matmul", "pow")
    )
    __radd__, __rsub__, __rmul__, __rtruediv__, __rmatmul__ = map(_swapped, ("add", "sub", "mul", "div", "matmul"))
    __lt__, __le__, __gt__, __ge__ = map(_binary, ("lt", "le", "gt", "ge"))
    __eq__, __ne__ = map(_binary, ("eq", "ne"))
    __hash__ = object.__hash__


class Desk:
    """Where shared tensors of one session are made and computed with."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._draft = Draft()
        self._read: dict[str, SharedTensor] = {}  # what the draft needs stays, whoever else has let go of it
        self._drafted: weakref.WeakValueDictionary[int, SharedTensor] = weakref.WeakValueDictionary()

    def share(self, values: torch.Tensor) -> SharedTensor:
        """The values are rounded to 18 fractional bits, shared among the parties, and kept by nobody. Raises `NotFinite`,
        `CapacityExceeded`."""
        name = self.session.store(encode(values))
        return SharedTensor(self, None, name, values.shape, SCALE)

    def wrap(self, value: Value) -> SharedTensor:
        tensor = SharedTensor(self, value, "", torch.Size(value.shape), value.scale)
        self._drafted[id(tensor)] = tensor
        return tensor

    def value(self, tensor: SharedTensor) -> Value:
        """Its place in the draft."""
        if tensor._desk is not self:
            raise BadInput("shared tensors of two sessions do not mix: share one of them again")
        if tensor._stored:
            self._read[tensor._stored] = tensor
            return self._draft.input(tensor._stored, tensor.shape, tensor.scale)
        assert tensor._value is not None
        return tensor._value

    def cost(self, *tensors: SharedTensor) -> Cost:
        price = cost(self._program(tensors), len(self.session.parties))
        self._tidy()
        return price

    def compute(self, *tensors: SharedTensor) -> None:
        """All that these need, in one program."""
        drafted = [tensor for tensor in tensors if not tensor._stored]
        if not drafted:
            return
        program = self._program(drafted)
        names = [
            str(step.parameters["name"]) for step in program.steps if step.operation == "input"
        ]  # as they are stored
        stored = self.session.run(program, self._draft.public_words(program), {name: name for name in names})
        for tensor, name in zip(drafted, stored, strict=True):
            tensor._value, tensor.scale = None, SCALE if tensor.scale > SCALE else tensor.scale
            tensor._keep(name)
            self._drafted.pop(id(tensor), None)
        self._tidy()

    def _tidy(self) -> None:
        if not self._drafted:
            self._draft, self._read = Draft(), {}  # nobody asks for its steps any more

    def run(self, program: Program, draft: Draft, inputs: Mapping[str, SharedTensor]) -> list[SharedTensor]:
        """The outputs of a program that was written in a draft of its own. `inputs`: by name; what the program does not ask
        for is left."""
        self.compute(*inputs.values())
        stored = self.session.run(
            program, draft.public_words(program), {name: tensor._stored for name, tensor in inputs.items()}
        )
        types = [program.steps[output].type for output in program.outputs]
        return [
            SharedTensor(self, None, name, torch.Size(type.shape), type.scale)
            for name, type in zip(stored, types, strict=True)
        ]

    def get(self, tensor: SharedTensor) -> torch.Tensor:
        self.compute(tensor)
        return decode(self.session.open(tensor._stored), tensor.scale)

    def _program(self, tensors: Sequence[SharedTensor]) -> Program:
        values = [self.value(tensor) for tensor in tensors]
        return self._draft.program(*(self._draft.narrow(value) for value in values))


def _operate(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if name == "batch_norm":  # torch.nn.functional's order is not the operator's
        args = (args[0], *(_named(args, kwargs, *each) for each in _BATCH_NORM))
        kwargs = {}
    kwargs = {key: value for key, value in kwargs.items() if key != "_stacklevel" and (value or key not in _SWITCHES)}
    if name not in aten.FUNCTIONS or any(key in _SWITCHES for key in kwargs):
        raise BadInput(f"torch.{name} is not supported on shared tensors: {aten.remedy(name)}")
    desk = _desk([*args, *kwargs.values()])
    assert desk is not None
    result = aten.FUNCTIONS[name](*(_unwrapped(desk, arg) for arg in args), **{
        key: _unwrapped(desk, value) for key, value in kwargs.items()
    })  # fmt: skip
    return desk.wrap(result) if isinstance(result, Value) else result


_SWITCHES = ("inplace", "return_indices")
"""Of torch.nn.functional: off, as they are by default, they change nothing."""
_BATCH_NORM = [
    (3, "weight", None), (4, "bias", None), (1, "running_mean", None), (2, "running_var", None),
    (5, "training", False), (6, "momentum", 0.1), (7, "eps", 1e-5),
]  # fmt: skip


def _named(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, name: str, default: Any) -> Any:
    return args[place] if place < len(args) else kwargs.get(name, default)


def _desk(values: Sequence[Any]) -> Desk | None:
    found = (
        value._desk if isinstance(value, SharedTensor) else _desk(value) if isinstance(value, list | tuple) else None
        for value in values
    )
    return next((desk for desk in found if desk is not None), None)


def _unwrapped(desk: Desk, value: Any) -> Any:
    if isinstance(value, SharedTensor):
        return desk.value(value)
    if isinstance(value, list | tuple):
        return type(value)(_unwrapped(desk, each) for each in value)
    return value


def _forget(session: Session, name: str) -> None:
    with contextlib.suppress(Exception):  # in the garbage collector, where an exception could reach nobody
        session.forget(name)
