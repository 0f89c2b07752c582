from __future__ import annotations

import pytest

from smpc_fl.errors import MalformedMessage, PeerMisbehaviour, PermissionDenied
from smpc_fl.pointers.lineage import Literal, Ref, Span, encode_expression, registered
from smpc_fl.pointers.session import (
    MAX_REQUEST,
    MAX_RESPONSE,
    Ask,
    Asked,
    Claim,
    Done,
    Failed,
    Fetch,
    Found,
    Made,
    Mock,
    Object,
    ObjectInfo,
    Operate,
    Release,
    Renew,
    Request,
    Response,
    Search,
    Value,
    decode_request,
    encode_request,
    encode_response,
    open_response,
)

ID = bytes(range(16))
INFO = ObjectInfo(ID, "x", (None, 13), "data", "float32", ("#heart",), False, encode_expression(registered("x")))


@pytest.mark.parametrize(
    "request_",
    [
        Search("#x"),
        Operate("add", (Object(ID), Literal("int8", (2,), b"ab")), (Ref(0), Ref(1))),
        Operate("index", (Object(ID),), (Ref(0), (Span(), 3))),
        Fetch(ID),
        Ask(ID, "for a paper"),
        Claim("ab" * 32),
        Mock("x"),
        Release((ID,)),
        Renew(),
    ],
)
def test_requests_there_and_back(request_: Request) -> None:
    assert decode_request(encode_request(request_)) == request_


@pytest.mark.parametrize(
    "response", [Found((INFO,)), Made(INFO), Value("int8", (2,), b"ab"), Asked("ab" * 32, "pending"), Done()]
)
def test_responses_there_and_back(response: Response) -> None:
    assert open_response(encode_response(response), owner="alice") == response


def test_a_failure_is_raised_with_its_class_and_owner() -> None:
    with pytest.raises(PermissionDenied, match="no") as caught:
        open_response(encode_response(Failed("PermissionDenied", "no")), owner="alice")
    assert caught.value.peer == "alice"
    with pytest.raises(PeerMisbehaviour, match="unknown error code"):
        open_response(encode_response(Failed("SystemExit", "x")), owner="alice")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        encode_request(Renew()) + b"\x00",
        encode_response(Done()),
        encode_request(Fetch(ID[:-1])),
        encode_request(Operate("add", (), ())),
        encode_request(Operate("_call", (Object(ID),), ())),
        encode_request(Claim("ab" * 32 + "\n")),
        encode_request(Ask(ID, "x" * 1001)),
        encode_request(Search("x" * 300)),
        b"\x91" * 50_000,
        bytes(MAX_REQUEST + 1),
    ],
)
def test_malformed_requests(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_request(data)


def test_a_second_spelling_is_refused() -> None:
    longer = b"\x81\xd9\x04type\xa5Renew"  # the key's length in two bytes
    assert encode_request(Renew()) == b"\x81\xa4type\xa5Renew"
    with pytest.raises(MalformedMessage, match="canonical"):
        decode_request(longer)


@pytest.mark.parametrize("data", [b"", encode_request(Renew()), bytes(MAX_RESPONSE + 1)])
def test_malformed_responses_name_the_owner(data: bytes) -> None:
    with pytest.raises(MalformedMessage) as caught:
        open_response(data, owner="alice")
    assert caught.value.peer == "alice"
