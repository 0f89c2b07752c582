"""A computation spelt at the researcher's, without a message to anybody: what an owner's object store would answer.

Objects at owners are expressions, too, and nothing is computed before a value may leave (`nodes.objects`); so a statistic of
thirty operations need not ask thirty times. Owners see, and check, the whole when the aggregate is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from smpc_fl.errors import InternalError
from smpc_fl.jobs import AggregateJob
from smpc_fl.pointers.lineage import Expression, Literal, apply, decode_expression, encode_expression, literal
from smpc_fl.pointers.literals import dtype_name
from smpc_fl.pointers.pointer import PointerTensor
from smpc_fl.pointers.session import AggregateResult, Made, ObjectInfo, Operate, Request, Response, Session
from smpc_fl.pointers.shapes import Spec, infer, spec_of


class Draft:
    """A `Session` that makes objects here, and hands aggregates on."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._held: dict[bytes, tuple[Expression, Spec]] = {}
        self._made = 0

    @property
    def k_min(self) -> int:
        return self._session.k_min

    @property
    def owners(self) -> Sequence[str]:
        return self._session.owners

    def take(self, pointer: PointerTensor) -> PointerTensor:
        """The same tensor, in this session."""
        rows = repr(pointer.shape[0]) if pointer.ndim else ""
        shape = tuple(rows if dimension is None else dimension for dimension in pointer.known_shape)
        spec = Spec(shape, dtype_name(pointer.dtype))
        return PointerTensor(self, pointer.owner, self._hold(decode_expression(pointer.expression), spec))

    def request(self, owner: str, request: Request) -> Response:
        if not isinstance(request, Operate):
            raise InternalError("a draft answers operations only")
        expressions: list[Expression] = []
        specs: list[Spec] = []
        for operand in request.operands:
            if isinstance(operand, Literal):
                expressions.append(literal(operand.dtype, operand.shape, operand.data))
                specs.append(spec_of(operand))
            else:
                expression, spec = self._held[operand.id]
                expressions.append(expression)
                specs.append(spec)
        made = apply(request.function, request.arguments, expressions)
        return Made(self._hold(made, infer(request.function, request.arguments, specs)))

    def release(self, owner: str, object_id: bytes) -> None:
        self._held.pop(object_id, None)

    def aggregate(self, job: AggregateJob, owners: Sequence[str]) -> AggregateResult:
        return self._session.aggregate(job, owners)

    def _hold(self, expression: Expression, spec: Spec) -> ObjectInfo:
        self._made += 1
        object_id = self._made.to_bytes(16, "big")
        self._held[object_id] = (expression, spec)
        shape = tuple(None if isinstance(d, str) else d for d in spec.shape)
        return ObjectInfo(object_id, "", shape, spec.rows or "", spec.dtype, (), False, encode_expression(expression))
