"""The owner's object store, and an attacker who sends it whatever can be sent."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from pointer_world import Stream, World, at, example, three

from smpc_fl.errors import (
    BadInput,
    InternalError,
    MalformedMessage,
    PermissionDenied,
    ShapeMismatch,
    SmpcError,
    Unavailable,
)
from smpc_fl.nodes import objects
from smpc_fl.nodes.ledger.base import Ledger
from smpc_fl.nodes.ledger.own import OwnLedger
from smpc_fl.nodes.objects import Asking, ObjectStore
from smpc_fl.nodes.registered import Holding, holding
from smpc_fl.pointers.lineage import Literal, Ref, Span
from smpc_fl.pointers.session import (
    MAX_VALUE,
    Ask,
    Asked,
    Claim,
    Done,
    Fetch,
    Found,
    Made,
    Mock,
    Object,
    Operate,
    Release,
    Renew,
    Request,
    Response,
    Search,
    Value,
    encode_request,
    encode_response,
    open_response,
)
from smpc_fl.pointers.shapes import Spec

EVE = b"eve's session..."


def found(made: World, owner: str = "alice", name: str = "x") -> bytes:
    response = made.raw(owner, Search(name))
    assert isinstance(response, Found)
    return response.objects[0].id


def make(made: World, function: str, *arguments: object) -> Made:
    response = made.raw("alice", Operate(function, (Object(found(made)),), (Ref(0), *arguments)))  # type: ignore[arg-type]
    assert isinstance(response, Made)
    return response


def test_nothing_is_computed_until_it_may_leave() -> None:
    made = three()
    reads: list[str] = []

    def read() -> torch.Tensor:
        reads.append("x")
        return example(5)

    made.registered["alice"]["x"] = Holding("x", Spec(("data", 4), "float32"), read)
    p = at(made, "alice").mean(0)
    with pytest.raises(PermissionDenied):
        p.get()
    p.request()
    assert reads == []
    made.books["alice"].decide("approved")
    p.get()
    assert reads == ["x"]


def test_another_session_or_researcher_has_no_such_object() -> None:
    made = three()
    mine = found(made)
    for request in (Fetch(mine), Ask(mine, ""), Operate("neg", (Object(mine),), (Ref(0),))):
        texts = set()
        for researcher, session in (("rita", EVE), ("eve", made.session), ("eve", EVE)):
            with pytest.raises(PermissionDenied, match="no such object") as caught:
                made.raw("alice", request, researcher=researcher, session=session)
            texts.add(caught.value.message)
        unknown = (
            msgspec.structs.replace(request, operands=(Object(bytes(16)),)) if isinstance(request, Operate) else None
        )
        with pytest.raises(PermissionDenied) as caught:
            made.raw("alice", unknown or msgspec.structs.replace(request, object_id=bytes(16)))
        assert texts == {caught.value.message}
    made.raw("alice", Release((mine,)), researcher="eve", session=EVE)
    assert isinstance(made.raw("alice", Ask(mine, "")), Asked)


def test_an_approval_is_of_one_researcher() -> None:
    made = three()
    mine = found(made)
    asked = made.raw("alice", Ask(mine, "for rita"))
    assert isinstance(asked, Asked)
    made.books["alice"].decide("approved")
    with pytest.raises(PermissionDenied, match="no approved"):
        made.raw("alice", Claim(asked.digest), researcher="eve", session=EVE)
    assert isinstance(made.raw("alice", Fetch(mine)), Value)
    assert made.books["alice"].receipts == ["the value of x was released to rita"]


def test_an_edited_request_is_not_the_approved_one() -> None:
    made = three()
    asked = made.raw("alice", Ask(make(made, "mean", 0).object.id, ""))
    assert isinstance(asked, Asked)
    book = made.books["alice"]
    researcher, summary, payload = book.requests[asked.digest]
    edited = msgspec.msgpack.decode(payload, type=Asking)
    whole = at(made, "alice").expression
    book.requests[asked.digest] = (researcher, summary, msgspec.structs.replace(edited, expression=whole).to_bytes())
    book.decide("approved")
    with pytest.raises(PermissionDenied, match="no approved"):
        made.raw("alice", Claim(asked.digest))


def test_an_approval_that_was_spent_meanwhile() -> None:
    made = three()
    mine = found(made)
    made.raw("alice", Ask(mine, ""))
    made.books["alice"].decide("approved")
    made.books["alice"].spent_elsewhere = True
    with pytest.raises(PermissionDenied, match="once"):
        made.raw("alice", Fetch(mine))


def test_what_the_owner_reads() -> None:
    made = three()
    made.raw("alice", Ask(make(made, "index", (Span(), 3)).object.id, "a paper\x1b[2J\nApproved by: alice"))
    ((researcher, summary, _),) = made.books["alice"].requests.values()
    assert researcher == "rita"
    assert summary.startswith("rita asks to read the value of x[:, 3], float32[rows], once.")
    assert "\x1b" not in summary
    assert "\n" not in summary
    made.raw("alice", Ask(found(made), ""))
    assert list(made.books["alice"].requests.values())[1][1].endswith("none")


def test_leases() -> None:
    made = three()
    p = at(made, "alice")
    made.now = 59.0
    made.raw("alice", Renew())
    made.now = 118.0
    q = p.mean(0)
    made.now = 177.9
    assert len(made.stores["alice"]) == 2
    made.now = 178.0
    made.stores["alice"].expire()
    assert len(made.stores["alice"]) == 0
    with pytest.raises(PermissionDenied, match="lease"):
        q + 1


def test_release() -> None:
    made = three()
    first, second = found(made), found(made)
    assert made.raw("alice", Release((first, second, bytes(16)))) == Done()
    assert len(made.stores["alice"]) == 0


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    made = three()
    monkeypatch.setattr(objects, "MAX_OBJECTS", 2)
    monkeypatch.setattr(objects, "MAX_SESSIONS", 2)
    made.raw("alice", Search(""))
    with pytest.raises(Unavailable, match="2 objects"):
        made.raw("alice", Search("x"))
    made.raw("alice", Renew(), session=EVE)
    with pytest.raises(Unavailable, match="2 sessions"):
        made.raw("alice", Renew(), session=bytes(16))
    made.raw("alice", Renew(), researcher="eve")
    monkeypatch.setattr(objects, "MAX_FOUND", 1)
    made.raw("bob", Search(""))
    assert len(made.stores["bob"]) == 1


def test_a_researchers_objects_take_so_many_bytes_in_all_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    made = three()
    wide = Literal("float32", (2500,), bytes(10_000))

    def hold(session: bytes | None = None) -> bytes:
        response = made.raw("alice", Operate("neg", (wide,), (Ref(0),)), session=session)
        assert isinstance(response, Made)
        return response.object.id

    monkeypatch.setattr(objects, "MAX_BYTES", 31_000)
    first = hold()
    hold()
    hold(EVE)
    for session in (None, EVE, bytes(16)):
        with pytest.raises(Unavailable, match="31000 bytes"):
            hold(session)
    made.raw("alice", Operate("neg", (wide,), (Ref(0),)), researcher="eve")
    made.raw("alice", Release((first, first)))
    hold()
    with pytest.raises(Unavailable):
        hold()


def test_so_many_values_wait_for_the_owners_people(monkeypatch: pytest.MonkeyPatch) -> None:
    made = three()
    monkeypatch.setattr(objects, "MAX_PENDING", 2)
    first, second, third = (found(made) for _ in range(3))
    for mine in (first, second, first):
        made.raw("alice", Ask(mine, ""))
    with pytest.raises(Unavailable, match="2 requests"):
        made.raw("alice", Ask(third, ""))
    made.books["alice"].decide("rejected")
    made.raw("alice", Ask(third, ""))


def test_large_values_do_not_leave_in_one_piece() -> None:
    made = three()
    made.registered["alice"]["x"] = holding("x", torch.zeros(MAX_VALUE // 4 + 1), public=True)
    with pytest.raises(BadInput, match="reduce it first"):
        at(made, "alice").get()


def test_mocks() -> None:
    made = three()
    assert isinstance(made.raw("alice", Mock("x")), Value)
    for name in ("y", "nothing"):
        with pytest.raises(BadInput, match="no mock"):
            made.raw("alice", Mock(name))

    def broken() -> torch.Tensor:
        raise OSError("/home/alice/secret-path is gone")

    made.registered["alice"]["x"] = Holding("x", Spec(("data", 4), "float32"), broken, broken)
    with pytest.raises(Unavailable) as caught:
        made.raw("alice", Mock("x"))
    assert "secret-path" not in str(caught.value)


def test_errors_of_the_owner_stay_there() -> None:
    made = three()
    mine = found(made)

    def broken() -> torch.Tensor:
        raise ValueError("row 7 is 31337")

    made.registered["alice"]["x"] = Holding("x", Spec(("data", 4), "float32"), broken)
    made.raw("alice", Ask(mine, ""))
    made.books["alice"].decide("approved")
    with pytest.raises(BadInput, match="stays there") as caught:
        made.raw("alice", Fetch(mine))
    assert "31337" not in str(caught.value)
    assert made.books["alice"].receipts == []  # the approval is not used up
    made.registered["alice"]["x"] = holding("x", example(5), group="data")
    assert isinstance(made.raw("alice", Fetch(mine)), Value)


def test_bugs_of_ours_show_no_detail(monkeypatch: pytest.MonkeyPatch) -> None:
    made = three()
    mine = found(made)

    def broken(digest: str) -> str:
        raise RuntimeError("row 7 is 31337")

    monkeypatch.setattr(made.books["alice"], "status", broken)
    with pytest.raises(InternalError) as caught:
        made.raw("alice", Fetch(mine))
    assert "31337" not in str(caught.value)


def test_a_withdrawn_tensor_is_gone() -> None:
    made = three()
    p = at(made, "alice").mean(0)
    p.request()
    made.books["alice"].decide("approved")
    del made.registered["alice"]["x"]
    with pytest.raises(BadInput, match="stays there"):
        p.get()


def raw_handle(made: World, data: bytes) -> bytes:
    return made.stores["alice"].handle("eve", EVE, data, made.books["alice"])


@pytest.mark.parametrize("data", [b"", b"\x00" * 100, encode_request(Renew()) + b"\x00", encode_response(Done())])
def test_malformed_bytes(data: bytes) -> None:
    made = three()
    with pytest.raises(MalformedMessage):
        open_response(raw_handle(made, data), owner="alice")
    assert len(made.stores["alice"]) == 0


ATTACKS: list[tuple[str, tuple[object, ...]]] = [
    ("nonzero", ()),
    ("masked_select", (Ref(0),)),
    ("index", ((Ref(0),),)),
    ("index", ((0,),)),
    ("index", ((Span(0, 5),),)),
    ("reshape", ((5, 4),)),
    ("reshape", ((-1,),)),
    ("reshape", ((20,),)),
    ("add", (Ref(1),)),
    ("item", ()),
    ("save", ("file",)),
    ("mean", (0, False, None)),
    ("mean", (None,)),
    ("to", ("object",)),
    ("cat", ((Ref(0), Ref(0)),)),
    ("matmul", (Ref(0),)),
    ("squeeze", (0,)),
]


@pytest.mark.parametrize(("function", "arguments"), ATTACKS)
@pytest.mark.parametrize("rows", [1, 5, 20])
def test_raw_requests_answer_the_same_whatever_the_data_is(
    function: str, arguments: tuple[object, ...], rows: int
) -> None:
    def answer(tensor: torch.Tensor) -> bytes:
        made = three()
        made.registered["alice"]["x"] = holding("x", tensor, group="data")
        literal = Literal("float32", (5, 4), bytes(80))
        request = Operate(function, (Object(found(made)), literal), (Ref(0), *arguments))  # type: ignore[arg-type]
        return made.stores["alice"].handle(made.researcher, made.session, encode_request(request), made.books["alice"])

    zeros, ones, other = (
        answer(torch.zeros(rows, 4)),
        answer(torch.ones(rows, 4)),
        answer(torch.full((7, 4), torch.nan)),
    )
    assert zeros == ones == other
    with pytest.raises(SmpcError) as caught:
        open_response(zeros, owner="alice")
    assert isinstance(caught.value, PermissionDenied | BadInput | ShapeMismatch)


REQUESTS: list[Request] = [
    Search(""),
    Search("#heart"),
    Renew(),
    Mock("x"),
    Claim("00" * 32),
    Fetch(bytes(16)),
    Release((bytes(16),)),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_answers_do_not_depend_on_private_data(request_: Request) -> None:
    answers = set()
    for tensor in (torch.zeros(5, 4), torch.full((9, 4), 31337.0)):
        made = three()
        held = made.registered["alice"]
        held["x"] = holding("x", tensor, group="data", mock=torch.zeros(2, 4), tags=("heart",))
        held["y"] = holding("y", torch.zeros(len(tensor), dtype=torch.int64), group="data")
        answers.add(raw_handle(made, encode_request(request_)))
    assert len(answers) == 1


def test_registering() -> None:
    with pytest.raises(BadInput, match="no rows"):
        holding("x", torch.zeros(0, 4))
    assert holding("x", torch.zeros(3, 4)).spec.shape == ("x", 4)
    assert holding("x", torch.zeros(3, 4), publish_rows=True).spec.shape == (3, 4)
    assert holding("x", torch.zeros(()), group="d").spec.shape == ()
    assert holding("heart/x", torch.zeros(3)).matches("#x")


def test_with_a_ledger_on_disk(tmp_path: Path) -> None:
    ledger: Ledger = OwnLedger(tmp_path / "ledger")
    x = example(5)
    registered = {"x": holding("x", x, group="data")}
    store = ObjectStore(lambda: registered, entropy=Stream(b"disk"), clock=lambda: 0.0, lease_seconds=60.0)

    def ask(request: Request) -> Response:
        return open_response(store.handle("rita", bytes(16), encode_request(request), ledger), owner="alice")

    seen = ask(Search("x"))
    assert isinstance(seen, Found)
    mine = seen.objects[0].id
    asked = ask(Ask(mine, "for the paper"))
    assert asked == ask(Ask(mine, "said otherwise"))
    assert isinstance(asked, Asked)
    assert asked.status == "pending"
    ledger.decide(asked.digest, True)
    assert isinstance(ask(Claim(asked.digest)), Made)
    value = ask(Fetch(mine))
    assert isinstance(value, Value)
    assert value.data == x.numpy().tobytes()
    with pytest.raises(PermissionDenied, match="once"):
        ask(Fetch(mine))
    assert ledger.receipts(asked.digest) == ["the value of x was released to rita"]
