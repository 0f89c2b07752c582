"""The owner's side of pointers: objects of researchers' sessions, and the one place that lets a value out.

An object is an expression, a shape and a type; nothing is computed until a value may leave, so that neither time, memory
nor errors of a private computation can be observed. `ObjectStore._release` denies by default: it lets out public
tensors, mocks, and what the owner has approved, once, for that object and that researcher. Secure aggregates leave by
another way (`owner_data`), as secret shares.

A computation that has begun runs to its end: torch cannot be interrupted, and commands behind it wait. What it may take is
bounded before it begins, by shapes (`pointers.shapes`); how long it took can be seen by who may read its value, and by those
whose commands waited.

Objects belong to one session of one researcher and die with their pointer, or when the session's lease runs out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import torch

from smpc_fl.entropy import Entropy
from smpc_fl.errors import BadInput, InternalError, PermissionDenied, SmpcError, Unavailable
from smpc_fl.hashing import digest
from smpc_fl.nodes.ledger.base import Request as Recorded
from smpc_fl.nodes.ledger.base import Status
from smpc_fl.nodes.registered import Holding
from smpc_fl.pointers.evaluation import evaluate_expression
from smpc_fl.pointers.lineage import (
    Expression,
    Literal,
    apply,
    decode_expression,
    describe,
    encode_expression,
    literal,
    names,
    registered,
)
from smpc_fl.pointers.literals import dtype_name, raw_bytes
from smpc_fl.pointers.session import (
    MAX_FOUND,
    MAX_VALUE,
    AnyRequest,
    Ask,
    Asked,
    Claim,
    Done,
    Failed,
    Fetch,
    Found,
    Made,
    Mock,
    ObjectInfo,
    Operate,
    Release,
    Renew,
    Response,
    Search,
    Value,
    decode_request,
    encode_response,
)
from smpc_fl.pointers.shapes import Spec, infer, infer_expression, spec_of

MAX_OBJECTS = 10_000
"""Objects of one session."""
MAX_SESSIONS = 64
"""Sessions of one researcher."""
MAX_BYTES = 1 << 28
"""Bytes of one researcher's expressions, which hold the public tensors that came with operations."""
MAX_PENDING = 256
"""Values that one researcher has asked for and the owner's people have not decided on."""


class Approvals(Protocol):
    """What the store needs of the owner's ledger (`ledger.base.Ledger` has it)."""

    def submit(self, digest: str, kind: str, researcher: str, summary: str, payload: bytes) -> Recorded: ...

    def status(self, digest: str) -> Status: ...

    def payload(self, digest: str) -> bytes: ...

    def consume(self, digest: str) -> bool: ...

    def deposit_receipt(self, digest: str, text: str) -> None: ...


class Asking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an owner approves: this object, made by this computation, to this researcher."""

    researcher: str
    object_id: bytes
    expression: bytes

    def to_bytes(self) -> bytes:
        return _encoder.encode(self)

    def digest(self) -> str:
        return digest("smpc-fl/1 get", self.to_bytes()).hex()


_encoder = msgspec.msgpack.Encoder(order="deterministic")


@dataclass(frozen=True)
class _Held:
    id: bytes
    expression: Expression
    spec: Spec
    public: bool
    size: int
    name: str = ""
    tags: tuple[str, ...] = ()

    def info(self) -> ObjectInfo:
        shape = tuple(None if isinstance(d, str) else d for d in self.spec.shape)
        return ObjectInfo(
            self.id, self.name, shape, self.spec.rows or "", self.spec.dtype, self.tags, self.public,
            encode_expression(self.expression),
        )  # fmt: skip


@dataclass
class _Session:
    until: float
    objects: dict[bytes, _Held] = field(default_factory=dict)
    size: int = 0

    def let_go(self, object_id: bytes) -> None:
        if (held := self.objects.pop(object_id, None)) is not None:
            self.size -= held.size


class ObjectStore:
    """Objects by (researcher, session). Not safe for two calls at once: the node above takes turns."""

    def __init__(
        self,
        holdings: Callable[[], Mapping[str, Holding]],
        *,
        entropy: Entropy,
        clock: Callable[[], float],
        lease_seconds: float,
    ) -> None:
        """`holdings()` is what is registered now, by name; `clock()` in seconds."""
        self._holdings = holdings
        self._entropy = entropy
        self._clock = clock
        self._lease = lease_seconds
        self._sessions: dict[tuple[str, bytes], _Session] = {}
        self._asked: dict[str, set[str]] = {}

    def __len__(self) -> int:
        """Objects that are held, of all sessions."""
        return sum(len(session.objects) for session in self._sessions.values())

    def handle(self, researcher: str, session: bytes, request: bytes, approvals: Approvals) -> bytes:
        """The response to the bytes of a request, as bytes. Never raises; an error of ours shows no detail."""
        try:
            decoded = decode_request(request)
            response = self._answer(researcher, self._open(researcher, session), decoded, approvals)
        except SmpcError as error:
            response = Failed(error.code, error.message[:4096])
        except Exception as error:
            response = Failed(InternalError.__name__, f"the owner's node failed ({type(error).__name__})")
        return encode_response(response)

    def expire(self) -> None:
        """Drop the sessions whose lease has run out."""
        now = self._clock()
        for key in [key for key, session in self._sessions.items() if session.until <= now]:
            del self._sessions[key]

    # --- sessions -----------------------------------------------------------------------------------------------

    def _open(self, researcher: str, session: bytes) -> _Session:
        self.expire()
        key = (researcher, session)
        if key not in self._sessions:
            if sum(who == researcher for who, _ in self._sessions) >= MAX_SESSIONS:
                raise Unavailable(
                    f"this researcher has {MAX_SESSIONS} sessions here: close some, or wait for their leases"
                )
            self._sessions[key] = _Session(0.0)
        self._sessions[key].until = self._clock() + self._lease
        return self._sessions[key]

    def _hold(
        self,
        researcher: str,
        session: _Session,
        object_id: bytes,
        expression: Expression,
        spec: Spec,
        name: str = "",
        tags: tuple[str, ...] = (),
    ) -> _Held:
        session.let_go(object_id)
        if len(session.objects) >= MAX_OBJECTS:
            raise Unavailable(f"this session holds {MAX_OBJECTS} objects here: let go of some pointers")
        size = len(encode_expression(expression))
        if size + sum(each.size for (who, _), each in self._sessions.items() if who == researcher) > MAX_BYTES:
            raise Unavailable(f"this researcher's objects take {MAX_BYTES} bytes here: let go of some pointers")
        held = _Held(object_id, expression, spec, self._is_public(expression), size, name, tags)
        session.objects[object_id] = held
        session.size += size
        return held

    @staticmethod
    def _find(session: _Session, object_id: bytes) -> _Held:
        held = session.objects.get(object_id)
        if held is None:
            # One answer for another's object, one that is gone, and one that never was.
            raise PermissionDenied(
                "this session has no such object: its pointer was dropped, or its lease ran out; make it again"
            )
        return held

    # --- requests -----------------------------------------------------------------------------------------------

    def _answer(self, researcher: str, session: _Session, request: AnyRequest, approvals: Approvals) -> Response:
        match request:
            case Search(query):
                return self._search(researcher, session, query)
            case Operate():
                return Made(self._operate(researcher, session, request).info())
            case Fetch(object_id):
                return self._release(researcher, self._find(session, object_id), approvals)
            case Ask(object_id, reason):
                return self._ask(researcher, self._find(session, object_id), reason, approvals)
            case Claim(asked):
                return Made(self._claim(researcher, session, asked, approvals).info())
            case Mock(name):
                return self._mock(name)
            case Release(object_ids):
                for object_id in object_ids:
                    session.let_go(object_id)
                return Done()
            case Renew():
                return Done()

    def _search(self, researcher: str, session: _Session, query: str) -> Found:
        found = [holding for _, holding in sorted(self._holdings().items()) if holding.matches(query)][:MAX_FOUND]
        objects = [
            self._hold(researcher, session, self._entropy(16), registered(h.name), h.spec, h.name, h.tags)
            for h in found
        ]
        return Found(tuple(held.info() for held in objects))

    def _operate(self, researcher: str, session: _Session, request: Operate) -> _Held:
        expressions: list[Expression] = []
        specs: list[Spec] = []
        for operand in request.operands:
            if isinstance(operand, Literal):
                expressions.append(literal(operand.dtype, operand.shape, operand.data))
                specs.append(spec_of(operand))
            else:
                held = self._find(session, operand.id)
                expressions.append(held.expression)
                specs.append(held.spec)
        expression = apply(request.function, request.arguments, expressions)
        spec = infer(request.function, request.arguments, specs)
        return self._hold(researcher, session, self._entropy(16), expression, spec)

    def _ask(self, researcher: str, held: _Held, reason: str, approvals: Approvals) -> Asked:
        asking = Asking(researcher, held.id, encode_expression(held.expression))
        words = "".join(c if c.isprintable() else " " for c in reason).strip()
        summary = (
            f"{researcher} asks to read the value of {describe(held.expression)}, {held.spec}, once. "
            f"Reason given: {words or 'none'}"
        )
        self._wait(researcher, asking.digest(), approvals)
        recorded = approvals.submit(asking.digest(), "get", researcher, summary, asking.to_bytes())
        return Asked(asking.digest(), recorded.status)

    def _wait(self, researcher: str, asked: str, approvals: Approvals) -> None:
        """Note one more value that waits for people. Raises `Unavailable` where too many do."""
        waiting = self._asked.setdefault(researcher, set())
        if asked not in waiting and len(waiting) >= MAX_PENDING:
            waiting.intersection_update([each for each in waiting if approvals.status(each) == "pending"])
            if len(waiting) >= MAX_PENDING:
                raise Unavailable(
                    f"{MAX_PENDING} requests of this researcher wait for the owner's people: let them decide"
                )
        waiting.add(asked)

    def _claim(self, researcher: str, session: _Session, asked: str, approvals: Approvals) -> _Held:
        asking: Asking | None = None
        if approvals.status(asked) == "approved":
            payload = approvals.payload(asked)
            if digest("smpc-fl/1 get", payload).hex() == asked:
                asking = msgspec.msgpack.decode(payload, type=Asking)
        if asking is None or asking.researcher != researcher:
            raise PermissionDenied("no approved, unused request of yours has this digest: ask, and wait for the owner")
        expression = decode_expression(asking.expression)
        spec = infer_expression(expression, {name: holding.spec for name, holding in self._holdings().items()})
        return self._hold(researcher, session, asking.object_id, expression, spec)

    def _is_public(self, expression: Expression) -> bool:
        holdings = self._holdings()
        return all(name in holdings and holdings[name].public for name in names(expression))

    # --- what leaves --------------------------------------------------------------------------------------------

    def _mock(self, name: str) -> Value:
        holding = self._holdings().get(name)
        if holding is None or holding.mock is None:
            raise BadInput(f"there is no mock of {name!r} here: look at search('') for the names")
        try:
            tensor = holding.mock()
        except Exception:
            raise Unavailable(f"the mock of {name!r} cannot be read at the owner") from None
        return _value(tensor)

    def _release(self, researcher: str, held: _Held, approvals: Approvals) -> Value:
        """The chokepoint: the value of an object, or `PermissionDenied`."""
        if self._is_public(held.expression):
            return self._compute(held)
        asked = Asking(researcher, held.id, encode_expression(held.expression)).digest()
        status = approvals.status(asked)
        if status != "approved":
            raise _denied(held, status, asked)
        value = self._compute(held)
        # Only now, so that a computation that fails does not use the approval up; nothing leaves without it.
        if not approvals.consume(asked):
            raise _denied(held, "used", asked)
        approvals.deposit_receipt(asked, f"the value of {describe(held.expression)} was released to {researcher}")
        return value

    def _compute(self, held: _Held) -> Value:
        holdings = self._holdings()
        return _value(evaluate_expression(held.expression, lambda name: holdings[name].private()))


def _value(tensor: torch.Tensor) -> Value:
    if tensor.numel() * tensor.element_size() > MAX_VALUE:
        raise BadInput(f"a value of more than {MAX_VALUE} bytes does not leave an owner in one piece: reduce it first")
    return Value(dtype_name(tensor.dtype), tuple(tensor.shape), raw_bytes(tensor))


def _denied(held: _Held, status: Status, asked: str) -> PermissionDenied:
    what = {
        "unknown": "ask for it with .request(reason), or use sf.secure_mean or sf.secure_sum over several owners",
        "pending": f"the owner has not decided yet on request {asked[:16]}… (`smpc-fl requests approve {asked[:16]}`)",
        "rejected": f"the owner rejected request {asked[:16]}…",
        "used": f"request {asked[:16]}… was answered once; make the object again and ask again",
    }
    return PermissionDenied(f"{describe(held.expression)} is private: {what[status]}")
