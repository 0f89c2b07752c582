from __future__ import annotations

import copy
import gc
import json
import math
import operator
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pointer_world import World, at, three

from smpc_fl.errors import BadInput, MalformedMessage, PeerMisbehaviour, PermissionDenied
from smpc_fl.nodes.registered import holding
from smpc_fl.pointers.lineage import encode_expression, registered
from smpc_fl.pointers.pointer import PointerTensor, claim, mock, search, tensor
from smpc_fl.pointers.session import Done, Found, Made, ObjectInfo, Request, Response, Value

CANARY = 31337.125


def private() -> World:
    """alice's x is full of canaries."""
    made = three()
    made.registered["alice"]["x"] = holding("x", torch.full((5, 4), CANARY), group="data", tags=("heart",))
    return made


def test_what_a_pointer_knows() -> None:
    p = at(three(), "alice")
    assert (p.owner, p.name, p.tags, p.ndim, p.dim(), p.dtype, p.public) == (
        "alice", "x", ("heart",), 2, 2, torch.float32, False,
    )  # fmt: skip
    assert repr(p.shape) == "(rows, 4)"
    assert p.known_shape == (None, 4)
    assert (p.shape[1], p.size(1), len(bytes.fromhex(p.id))) == (4, 4, 16)
    assert p.size() == p.shape
    assert p.mean(0).shape == (4,)
    assert p.mean(0).numel() == 4
    assert p.describe() == "x"
    assert p.lineage == at(three(), "bob").lineage
    assert p.session.owners == ["alice", "bob", "carol"]
    with pytest.raises(PermissionDenied):
        p.numel()


def test_repr_shows_metadata_only() -> None:
    made = private()
    p = at(made, "alice")
    expected = "<PointerTensor 'x' at 'alice', shape=(rows, 4), dtype=torch.float32, tags=['heart']>"
    assert repr(p) == str(p) == f"{p}" == expected
    assert repr(p.mean(0)) == "<PointerTensor 'mean(x, 0)' at 'alice', shape=(4,), dtype=torch.float32>"
    assert repr([p]) == f"[{expected}]"


T: Any = torch
READS: list[Callable[[Any], Any]] = [
    lambda p: p.get(), lambda p: p.mean().get(), lambda p: (p * 0).get(), float, int, bool, complex, len, list, round,
    iter, np.asarray, np.array, math.sqrt, pickle.dumps, copy.copy, copy.deepcopy, operator.index, bytes, torch.tensor,
    torch.as_tensor, lambda p: p.item(), lambda p: p.tolist(), lambda p: p.numpy(), lambda p: p.data, lambda p: p.grad,
    lambda p: format(p, ".3f"), lambda p: f"{p:.2f}", lambda p: 1 in p, lambda p: p in [p.mean()], lambda p: [0, 1][p],
    lambda p: p.mean().item(), lambda p: max(p, p), lambda p: sorted([p, p]), lambda p: p and p, lambda p: not p,
    lambda p: torch.equal(p, p), lambda p: p.untyped_storage(), lambda p: p.data_ptr(), lambda p: T.from_dlpack(p),
    lambda p: p.move("bob"), lambda p: p.share(), lambda p: p.share("bob", "carol"), lambda p: int(p.shape[0]),
    lambda p: range(p.shape[0]), lambda p: p.shape == (5, 4), lambda p: p.numel(), lambda p: p.size(0) + 1,
    lambda p: json.dumps(p), lambda p: torch.zeros(3)[p], lambda p: np.zeros(3)[p], lambda p: sum(p), lambda p: p.__reduce__(),
    lambda p: torch.ones(4).copy_(p), lambda p: torch.nn.Parameter(p), lambda p: {p[0]: 1}, lambda p: p.storage(),
]  # fmt: skip


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("derive", [lambda p: p, lambda p: p + 1], ids=["private", "derived"])
def test_nothing_reads_it(read: Callable[[Any], Any], derive: Callable[[Any], Any]) -> None:
    made = private()
    with pytest.raises((PermissionDenied, TypeError, RuntimeError, IndexError, ValueError)) as caught:
        read(derive(at(made, "alice")))
    text = "".join(repr(error) for error in (caught.value, caught.value.__cause__, caught.value.__context__))
    assert "31337" not in text
    assert "31338" not in text


def test_denials_are_permission_denied() -> None:
    p = at(private(), "alice")
    for read in (*READS[:12], *READS[14:17]):
        with pytest.raises(PermissionDenied):
            read(p)


def test_an_approved_request_works_once_for_that_object() -> None:
    made = three()
    p = at(made, "alice").mean(0)
    again = at(made, "alice").mean(0)
    with pytest.raises(PermissionDenied, match=r"\.request\(reason\)"):
        p.get()
    ticket = p.request("for the paper")
    assert (ticket.owner, ticket.status) == ("alice", "pending")
    with pytest.raises(PermissionDenied, match="not decided"):
        p.get()
    made.books["alice"].decide("approved")
    assert p.request().status == "approved"
    for other in (again, p + 0, at(made, "alice")):
        with pytest.raises(PermissionDenied):
            other.get()
    expected = made.registered["alice"]["x"].private().mean(0)
    assert torch.equal(p.get(), expected)
    with pytest.raises(PermissionDenied, match="answered once"):
        p.get()
    assert p.request().status == "used"


def test_a_rejected_request() -> None:
    made = three()
    p = at(made, "alice")
    p.request("please")
    made.books["alice"].decide("rejected")
    with pytest.raises(PermissionDenied, match="rejected"):
        p.get()


def test_public_tensors_and_mocks() -> None:
    made = three()
    table = torch.arange(6.0).reshape(3, 2)
    made.registered["alice"]["codes"] = holding("codes", table, public=True)
    p = at(made, "alice", "codes")
    assert p.public
    assert p.shape == (3, 2)
    assert torch.equal(p[0].get(), table[0])
    assert torch.equal((p.T @ p).get(), table.T @ table)
    with pytest.raises(PermissionDenied):
        (at(made, "alice").sum(0)[:2] + p[0]).get()
    assert torch.equal(mock(made, "alice", "x"), torch.zeros(2, 4))


def test_search() -> None:
    made = three()
    assert [p.name for p in search(made, "alice")] == ["x", "y"]
    assert [p.name for p in search(made, "alice", "#heart")] == ["x"]
    assert [p.name for p in search(made, "alice", "#labels")] == ["y"]
    assert [p.name for p in search(made, "alice", "#x")] == ["x"]
    assert search(made, "alice", "#no") == []
    for name in ("z", "", "#x"):
        with pytest.raises(BadInput, match="no tensor"):
            tensor(made, "alice", name)


def test_an_approval_outlives_its_session() -> None:
    made = three()
    p = at(made, "alice").sum(0)
    ticket = p.request("slow owner")
    made.session = b"tomorrow's .... "
    with pytest.raises(PermissionDenied, match="no approved"):
        claim(made, "alice", ticket.digest)
    made.books["alice"].decide("approved")
    claimed = claim(made, "alice", ticket.digest)
    assert (claimed.describe(), claimed.id) == ("sum(x, 0)", p.id)
    assert torch.equal(claimed.get(), made.registered["alice"]["x"].private().sum(0))
    with pytest.raises(PermissionDenied):
        claim(made, "alice", ticket.digest)


def test_the_remote_object_dies_with_its_pointer() -> None:
    made = three()
    p = at(made, "alice")
    q = p.mean(0)
    assert len(made.stores["alice"]) == 2
    del q
    gc.collect()
    assert len(made.stores["alice"]) == 1
    del p
    gc.collect()
    assert len(made.stores["alice"]) == 0


def test_a_release_that_fails_hurts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    made = three()

    def broken(owner: str, object_id: bytes) -> None:
        raise RuntimeError("closed")

    monkeypatch.setattr(made, "release", broken)
    p = at(made, "alice")
    del p
    gc.collect()


def test_two_owners_in_one_operation() -> None:
    made = three()
    a, b = at(made, "alice"), at(made, "bob")
    calls: list[Callable[[], Any]] = [
        lambda: a + b,
        lambda: T.cat([a, b], 1),
        lambda: a.mean(0) @ b.mean(0),
        lambda: T.max(a, b),
    ]
    for call in calls:
        with pytest.raises(BadInput, match="secure_mean"):
            call()
    with pytest.raises(BadInput, match="different sessions"):
        a + at(three(), "alice")


def test_attributes() -> None:
    p = at(three(), "alice")
    assert not hasattr(p, "_repr_html_")
    assert not hasattr(p, "__array_interface__")
    assert not hasattr(p, "no_such_thing")
    assert p.T.describe() == "transpose(x, 0, 1)"
    assert p.mT.describe() == "transpose(x, -2, -1)"
    assert len({p, p}) == 1
    with pytest.raises(AttributeError):
        p.requires_grad = True  # type: ignore[attr-defined]
    pair: Any = p.max(0)
    assert (type(pair), pair[0].describe()) == (torch.return_types.max, "amax(x, 0)")
    assert type(p.median(1)) is torch.return_types.median


class Liar(World):
    """Owners that answer whatever `answer` makes of the honest response."""

    answer: ClassVar[Callable[[Response], Response]]

    def request(self, owner: str, request: Request) -> Response:
        return type(self).answer(super().request(owner, request))


def lying(answer: Callable[[Response], Response]) -> World:
    honest = three()
    cls = type("Lying", (Liar,), {"answer": staticmethod(answer)})
    made: World = cls({owner: list(held.values()) for owner, held in honest.registered.items()})
    return made


def info(**changes: Any) -> ObjectInfo:
    fields: dict[str, Any] = {
        "id": bytes(16), "name": "x", "shape": (None, 4), "rows": "data", "dtype": "float32", "tags": (), "public": False,
        "expression": encode_expression(registered("x")),
    }  # fmt: skip
    return ObjectInfo(**(fields | changes))


def test_lying_owners_are_named() -> None:
    cases: list[tuple[Callable[[Response], Response], Callable[[World], Any], type[Exception]]] = [
        (lambda r: Done(), lambda w: search(w, "alice"), PeerMisbehaviour),
        (lambda r: Found((info(dtype="object"),)), lambda w: search(w, "alice"), PeerMisbehaviour),
        (lambda r: Found((info(expression=b"x"),)), lambda w: search(w, "alice"), MalformedMessage),
        (
            lambda r: Made(info()) if isinstance(r, Made) else r,
            lambda w: at(w, "alice").mean(0),
            PeerMisbehaviour,
        ),
        (lambda r: Value("float32", (3,), bytes(8)), lambda w: mock(w, "alice", "x"), PeerMisbehaviour),
    ]
    for answer, ask, kind in cases:
        with pytest.raises(kind) as caught:
            ask(lying(answer))
        assert isinstance(caught.value, PeerMisbehaviour)
        assert caught.value.peer == "alice"


@pytest.mark.parametrize("value", [Value("int8", (5, 4), bytes(20)), Value("float32", (4,), bytes(16))])
def test_a_value_is_what_was_announced(value: Value, monkeypatch: pytest.MonkeyPatch) -> None:
    made = three()
    p = at(made, "alice")
    monkeypatch.setattr(made, "request", lambda owner, request: value)
    with pytest.raises(PeerMisbehaviour, match="another shape"):
        p.get()


def test_a_pointer_stays_a_pointer_under_every_operator() -> None:
    p = at(three(), "alice")
    for result in ((p > 0) & (p < 1), (p > 0) | True, True ^ (p > 0), +p, -p, ~(p > 0), abs(p)):
        assert isinstance(result, PointerTensor)
