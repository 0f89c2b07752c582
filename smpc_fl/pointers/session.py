"""What a pointer says to the node of its owner, and the `Session` that carries it.

Pointers know no network: they call a `Session`, which `nodes` implements (signed, sealed, relayed commands) and tests
implement in memory. Requests and responses are frozen structures with one spelling each; a response carries metadata
(shapes without the number of rows, types, expressions), and a value only as `Value`, which an owner's node makes in
one place (`nodes.objects`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from smpc_fl.errors import MalformedMessage, from_code
from smpc_fl.jobs import AggregateJob
from smpc_fl.pointers.lineage import MAX_EXPRESSION, Argument, Literal, check_words

MAX_VALUE = 1 << 24
"""Bytes of the elements of a value that is let out."""
MAX_REQUEST = 1 << 23
MAX_RESPONSE = MAX_VALUE + (1 << 16)
MAX_FOUND = 1024
"""Objects in one answer to a search."""

ObjectId = Annotated[bytes, Meta(min_length=16, max_length=16)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
HexDigest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Text = Annotated[str, Meta(max_length=4096)]
Dimension = Annotated[int, Meta(ge=0, le=1 << 40)]


class Object(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="object"):
    """An operand that is at the owner already, by its id."""

    id: ObjectId


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Base of what a researcher's session asks an owner's node."""


class Search(Request, frozen=True):
    """Objects for all registered tensors (""), those with a tag ("#tag"), or the one of this name."""

    query: Annotated[str, Meta(max_length=256)]


class Operate(Request, frozen=True):
    """Apply an allow-listed operation; `Ref(i)` among the arguments stands for `operands[i]`. The owner makes the new
    object's id."""

    function: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}\Z")]
    operands: Annotated[tuple[Object | Literal, ...], Meta(min_length=1, max_length=64)]
    arguments: Annotated[tuple[Argument, ...], Meta(max_length=16)]

    def __post_init__(self) -> None:
        check_words(self.arguments)


class Fetch(Request, frozen=True):
    """The value itself: of a public object, or of one whose request the owner has approved (once)."""

    object_id: ObjectId


class Ask(Request, frozen=True):
    """Ask the owner's people to let the value of one object out, once; `reason` is what they read."""

    object_id: ObjectId
    reason: Annotated[str, Meta(max_length=1000)]


class Claim(Request, frozen=True):
    """Take up, in a new session, an object that the same researcher has asked for and the owner has approved."""

    digest: HexDigest


class Mock(Request, frozen=True):
    """The public, invented stand-in of a registered tensor."""

    name: Name


class Release(Request, frozen=True):
    """The pointers to these objects are gone."""

    object_ids: Annotated[tuple[ObjectId, ...], Meta(min_length=1, max_length=4096)]


class Renew(Request, frozen=True):
    """The session lives: its objects' leases start again (as they do with every other request)."""


class Response(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Base of what an owner's node answers."""


class ObjectInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Metadata of one object. In `shape`, None stands for a number of rows that the owner keeps to itself, and `rows`
    names the tensors that it counts (tensors that line up row by row share it). `name` is "" for a derived object."""

    id: ObjectId
    name: Annotated[str, Meta(max_length=256)]
    shape: Annotated[tuple[Dimension | None, ...], Meta(max_length=16)]
    rows: Annotated[str, Meta(max_length=256)]
    dtype: Annotated[str, Meta(max_length=16)]
    tags: Annotated[tuple[Annotated[str, Meta(max_length=256)], ...], Meta(max_length=64)]
    public: bool
    expression: Annotated[bytes, Meta(max_length=MAX_EXPRESSION)]


class Found(Response, frozen=True):
    objects: Annotated[tuple[ObjectInfo, ...], Meta(max_length=MAX_FOUND)]


class Made(Response, frozen=True):
    object: ObjectInfo


class Value(Response, frozen=True):
    """Elements that were let out: `dtype[shape]`, row-major, little-endian."""

    dtype: Annotated[str, Meta(max_length=16)]
    shape: Annotated[tuple[Dimension, ...], Meta(max_length=16)]
    data: Annotated[bytes, Meta(max_length=MAX_VALUE)]


class Asked(Response, frozen=True):
    """The owner's ledger knows the request under `digest`."""

    digest: HexDigest
    status: Annotated[str, Meta(pattern=r"^(pending|approved|rejected|used)\Z")]


class Done(Response, frozen=True): ...


class Failed(Response, frozen=True):
    """An error: `code` is a name of `errors.BY_CODE`."""

    code: Annotated[str, Meta(max_length=64)]
    text: Text


AnyRequest = Search | Operate | Fetch | Ask | Claim | Mock | Release | Renew
AnyResponse = Found | Made | Value | Asked | Done | Failed

_encoder = msgspec.msgpack.Encoder(order="deterministic")
_requests: msgspec.msgpack.Decoder[AnyRequest] = msgspec.msgpack.Decoder(AnyRequest)
_responses: msgspec.msgpack.Decoder[AnyResponse] = msgspec.msgpack.Decoder(AnyResponse)

T = TypeVar("T", bound=msgspec.Struct)


def encode_request(request: Request) -> bytes:
    """The one byte string of a request."""
    return _encoder.encode(request)


def encode_response(response: Response) -> bytes:
    """The one byte string of a response."""
    return _encoder.encode(response)


def decode_request(data: bytes) -> AnyRequest:
    """A request from its bytes; `MalformedMessage` unless strictly well-formed."""
    return _strict(_requests, data, MAX_REQUEST)


def open_response(data: bytes, *, owner: str) -> Response:
    """An owner's response from its bytes; raises the error that a `Failed` carries, `MalformedMessage` for bad bytes."""
    try:
        response = _strict(_responses, data, MAX_RESPONSE)
    except MalformedMessage as error:
        raise MalformedMessage(error.message, peer=owner) from None
    if isinstance(response, Failed):
        raise from_code(response.code, response.text, peer=owner)
    return response


def _strict(decoder: msgspec.msgpack.Decoder[T], data: bytes, limit: int) -> T:
    if len(data) > limit:
        raise MalformedMessage(f"{len(data)} bytes are over the limit of {limit}")
    try:
        value = decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise MalformedMessage("a pointer's request or response does not decode") from None
    if _encoder.encode(value) != data:
        raise MalformedMessage("a pointer's request or response is not in its one canonical spelling")
    return value


@dataclass(frozen=True)
class AggregateResult:
    """What a secure aggregate lets out. `value`: float64[size], the mean or the sum over `included` owners, as the job
    says; `clipped`: how many owners had an element beyond ±bound; `total_weight`: Σ w over `included`; `worst_error`: how
    far an element may be off by rounding, and by noise but for one chance in 2^40."""

    value: npt.NDArray[np.float64]
    included: list[str]
    clipped: int
    total_weight: float
    worst_error: float


class Session(Protocol):
    """What pointers need of a federation. Implementations are safe to call from any thread."""

    @property
    def k_min(self) -> int:
        """The fewest owners of an aggregate."""

    @property
    def owners(self) -> Sequence[str]:
        """The ids of all data owners."""

    def request(self, owner: str, request: Request) -> Response:
        """The owner's response; raises the `SmpcError` that a `Failed` carries (`open_response`), or `Unavailable`."""

    def release(self, owner: str, object_id: bytes) -> None:
        """A pointer is gone: tell the owner some time. Called from the garbage collector, so it may not block, take a
        lock that `request` holds, or raise: append to a `collections.deque` and send later."""

    def aggregate(self, job: AggregateJob, owners: Sequence[str]) -> AggregateResult:
        """Run one secure aggregate over exactly the cohort `owners` (sorted ids); raises what the owners refuse with."""
