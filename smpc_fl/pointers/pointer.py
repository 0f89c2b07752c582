"""`PointerTensor`: a tensor at its owner, to compute with and not to read.

It takes part in torch through `__torch_function__` (https://pytorch.org/docs/stable/notes/extending.html): `p.mean(0)`,
`torch.mean(p, 0)`, `p @ q`, `1 - p`, `p[:, 3]` run at the owner and give new pointers. Whatever would turn it into numbers
here raises `PermissionDenied`; `.get()` asks the owner, whose node decides.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch

from smpc_fl.errors import BadInput, MalformedMessage, PeerMisbehaviour, PermissionDenied
from smpc_fl.pointers.calls import Call, is_known, resolve
from smpc_fl.pointers.lineage import (
    Expression,
    Literal,
    apply,
    decode_expression,
    describe,
    encode_expression,
    lineage_digest,
    literal,
)
from smpc_fl.pointers.literals import TORCH_DTYPES, tensor_of
from smpc_fl.pointers.operators import Operators
from smpc_fl.pointers.rows import Rows, SymbolicShape
from smpc_fl.pointers.session import (
    Ask,
    Asked,
    Claim,
    Fetch,
    Found,
    Made,
    Mock,
    Object,
    ObjectInfo,
    Operate,
    Request,
    Response,
    Search,
    Session,
    Value,
)

R = TypeVar("R", bound=Response)


@dataclass(frozen=True)
class Ticket:
    """A request to an owner's people. `digest` is what they see in `smpc-fl requests list`; ask again for its state."""

    owner: str
    digest: str
    status: str


class PointerTensor(Operators):
    """A tensor at `owner`. Knows id, shape, dtype, tags and lineage; never numbers."""

    __slots__ = ("__weakref__", "_expression", "_id", "_info", "_session", "_shape")
    __array_ufunc__ = None  # so that NumPy leaves `array + pointer` to the pointer

    _session: Session
    _info: ObjectInfo
    _expression: Expression

    def __init__(self, session: Session, owner: str, info: ObjectInfo) -> None:
        """Made by `tensor`, `search`, `claim` and by operations; the remote object lives as long as this one does."""
        if info.dtype not in TORCH_DTYPES:
            raise PeerMisbehaviour("an owner announced a tensor of an unknown type", peer=owner)
        try:
            self._expression = decode_expression(info.expression)
        except MalformedMessage as error:
            raise MalformedMessage(error.message, peer=owner) from None
        self._session = session
        self._info = info
        self._shape = SymbolicShape(Rows(info.rows) if d is None else d for d in info.shape)
        self._id = (owner, info.id)
        weakref.finalize(self, _release, session, owner, info.id).atexit = False

    # --- what it knows ------------------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        return self._session

    @property
    def owner(self) -> str:
        return self._id[0]

    @property
    def id(self) -> str:
        """The owner's name for the object, hexadecimal. Knowing it gives no right to anything."""
        return self._info.id.hex()

    @property
    def shape(self) -> SymbolicShape:
        """Like `torch.Size`, but a private number of rows is the symbol `rows`."""
        return self._shape

    @property
    def known_shape(self) -> tuple[int | None, ...]:
        """The shape as plain data, None for a private number of rows."""
        return self._info.shape

    @property
    def dtype(self) -> torch.dtype:
        return TORCH_DTYPES[self._info.dtype]

    @property
    def ndim(self) -> int:
        return len(self._info.shape)

    @property
    def tags(self) -> tuple[str, ...]:
        return self._info.tags

    @property
    def name(self) -> str:
        """The registered name, or "" of a derived tensor."""
        return self._info.name

    @property
    def public(self) -> bool:
        """May `.get()` be called without a request?"""
        return self._info.public

    @property
    def expression(self) -> bytes:
        """The canonical bytes of what this is computed from (`lineage.py`)."""
        return self._info.expression

    @property
    def lineage(self) -> str:
        """The digest of `expression`, hexadecimal; equal for the same computation at another owner."""
        return lineage_digest(self._info.expression).hex()

    def describe(self) -> str:
        """The computation for people, as "mean(x, 0)"."""
        return describe(self._expression)

    def dim(self) -> int:
        return self.ndim

    def size(self, dim: int | None = None) -> SymbolicShape | int | Rows:
        return self._shape if dim is None else self._shape[dim]

    def numel(self) -> int:
        return self._shape.numel()

    def __repr__(self) -> str:
        tags = f", tags={list(self.tags)}" if self.tags else ""
        return f"<PointerTensor {self.describe()!r} at {self.owner!r}, shape={self._shape}, dtype={self.dtype}{tags}>"

    def __format__(self, spec: str) -> str:
        return repr(self) if not spec else self._denied()

    # --- what its owner decides ---------------------------------------------------------------------------------

    def get(self) -> torch.Tensor:
        """The value, if it is public or the owner has approved a request for this very object (once).

        Raises `PermissionDenied` otherwise; to learn a statistic over several owners, use `sf.secure_mean`."""
        value = _expect(self.owner, self._session.request(self.owner, Fetch(self._info.id)), Value)
        fits = len(value.shape) == self.ndim and all(
            known in (None, got) for known, got in zip(self._info.shape, value.shape, strict=True)
        )
        if value.dtype != self._info.dtype or not fits:
            raise PeerMisbehaviour("an owner sent a value of another shape or type than it announced", peer=self.owner)
        return _tensor(self.owner, value)

    def request(self, reason: str = "") -> Ticket:
        """Ask the owner's people to let this object's value out, once; `reason` is what they read. Ask again to see
        what they decided."""
        asked = _expect(self.owner, self._session.request(self.owner, Ask(self._info.id, reason)), Asked)
        return Ticket(self.owner, asked.digest, asked.status)

    def move(self, owner: str) -> NoReturn:
        """PySyft 0.2's: data does not move between owners here."""
        raise PermissionDenied(
            f"a private tensor does not move to {owner!r}: ask {self.owner!r} for it with .request(reason), or combine "
            "owners with sf.secure_mean or sf.secure_sum"
        )

    def share(self, *_: Any, **__: Any) -> NoReturn:
        """PySyft 0.2's: the aggregators add secret shares in `sf.secure_mean` and `sf.secure_sum`."""
        raise PermissionDenied(
            "a single private tensor is not secret-shared: sf.secure_mean and sf.secure_sum share the same computation "
            "of all owners and let only the aggregate out"
        )

    # --- what would turn it into numbers here -------------------------------------------------------------------

    def _denied(self, *_: Any, **__: Any) -> NoReturn:
        raise PermissionDenied(
            f"{self.describe()} is at {self.owner} and cannot be read here: ask for it with .request(reason) and .get(), "
            "or use sf.secure_mean or sf.secure_sum over several owners"
        )

    __int__ = __float__ = __bool__ = __complex__ = __index__ = __len__ = __round__ = _denied
    __array__ = __contains__ = __copy__ = __deepcopy__ = __reduce__ = __reduce_ex__ = __dlpack__ = __dlpack_device__ = (
        _denied
    )
    item = tolist = numpy = data_ptr = untyped_storage = _denied

    def __iter__(self) -> Iterator[PointerTensor]:
        self._denied()

    # --- what runs at the owner ---------------------------------------------------------------------------------

    @staticmethod
    def _call(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        results = [_operate(call) for call in resolve(name, args, kwargs)]
        return results[0] if len(results) == 1 else getattr(torch.return_types, name)(tuple(results))

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.where and len(args) == 3:
            args = (args[1], args[0], args[2])  # the method's order is not the function's
        return cls._call(func.__name__, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name in ("T", "mT"):
            return self._call(name, (self,), {})
        if name.startswith("__") or not (is_known(name) or hasattr(torch.Tensor, name)):
            raise AttributeError(f"a PointerTensor has no attribute {name!r}")
        if not callable(getattr(torch.Tensor, name, None)) and not is_known(name):
            self._denied()
        return lambda *args, **kwargs: self._call(name, (self, *args), kwargs)


# --- from a federation --------------------------------------------------------------------------------------------


def search(session: Session, owner: str, query: str = "") -> list[PointerTensor]:
    """Pointers to what `owner` has registered: everything, what carries a tag ("#heart"), or the one of this name."""
    found = _expect(owner, session.request(owner, Search(query)), Found)
    return [PointerTensor(session, owner, info) for info in found.objects]


def tensor(session: Session, owner: str, name: str) -> PointerTensor:
    """The pointer to the tensor that `owner` has registered under `name`; `BadInput` when there is none."""
    found = search(session, owner, name) if name and not name.startswith("#") else []
    if len(found) != 1:
        raise BadInput(f"{owner!r} has registered no tensor {name!r}: look at fed.search('') for the names")
    return found[0]


def claim(session: Session, owner: str, digest: str) -> PointerTensor:
    """The pointer that a request (`Ticket.digest`) of an earlier session was about, once the owner has approved it."""
    return PointerTensor(session, owner, _expect(owner, session.request(owner, Claim(digest)), Made).object)


def mock(session: Session, owner: str, name: str) -> torch.Tensor:
    """The public, invented stand-in of a registered tensor, to try a computation on."""
    return _tensor(owner, _expect(owner, session.request(owner, Mock(name)), Value))


# --- inside -------------------------------------------------------------------------------------------------------


def _release(session: Session, owner: str, object_id: bytes) -> None:
    # Runs in the garbage collector, where an exception could reach nobody; a lease ends what this misses.
    with contextlib.suppress(Exception):
        session.release(owner, object_id)


def _expect(owner: str, response: Response, kind: type[R]) -> R:
    if not isinstance(response, kind):
        raise PeerMisbehaviour(f"an owner answered with {type(response).__name__}, not {kind.__name__}", peer=owner)
    return response


def _tensor(owner: str, value: Value) -> torch.Tensor:
    try:
        return tensor_of(value.dtype, value.shape, value.data)
    except BadInput as error:
        raise PeerMisbehaviour(error.message, peer=owner) from None


def _operate(call: Call) -> PointerTensor:
    pointers = [operand for operand in call.operands if isinstance(operand, PointerTensor)]
    first = pointers[0]
    for other in pointers[1:]:
        if other.owner != first.owner:
            raise BadInput(
                f"{call.function}: {first.describe()} is at {first.owner} and {other.describe()} at {other.owner}; an "
                "operation runs at one owner, and sf.secure_mean or sf.secure_sum combine owners"
            )
        if other.session is not first.session:
            raise BadInput(f"{call.function}: the pointers belong to different sessions")
    operands: list[Object | Literal] = []
    lineages: list[Expression] = []
    for operand in call.operands:
        if isinstance(operand, PointerTensor):
            operands.append(Object(operand._info.id))
            lineages.append(operand._expression)
        else:
            assert isinstance(operand, Literal)
            operands.append(operand)
            lineages.append(literal(operand.dtype, operand.shape, operand.data))
    expected = encode_expression(apply(call.function, call.arguments, lineages))
    request: Request = Operate(call.function, tuple(operands), call.arguments)
    made = _expect(first.owner, first.session.request(first.owner, request), Made).object
    if made.expression != expected:
        raise PeerMisbehaviour("an owner made another computation than the one asked for", peer=first.owner)
    return PointerTensor(first.session, first.owner, made)
