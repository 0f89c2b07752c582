"""What a stranger may have a node compute on: graphs of plans, and operations on pointers. Spelled as they should be, so that
the readers let them pass and torch gets to see them: on the meta device at an owner's check, on numbers in its store."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Any

import grammar
import msgspec
import mutations
from engine import Target, Wrong
from wire_targets import plans

from smpc_fl.errors import PlanRejected
from smpc_fl.plans.document import PlanDocument
from smpc_fl.pointers import lineage, session

# --- plans ---

_SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 11, 16, 255, 1 << 16, 1 << 20, 1 << 30, 1 << 31, (1 << 32) - 1, 1 << 32)
_WHOLE = (0, 1, -1, 2, 3, -2, 7, 8, 100, 1 << 20, (1 << 31) - 1, 1 << 31, -(1 << 31), (1 << 63) - 1, -(1 << 63))
_REALS = (0.0, -0.0, 0.5, 1.0, -1.0, 1e-300, 1e300, 5e-324)


def _atom(rng: Random, names: list[str]) -> Any:
    draw = rng.random()
    if draw < 0.45:
        return rng.choice(names)
    if draw < 0.75:
        return rng.choice(_WHOLE)
    return rng.choice(
        (*_REALS, None, True, False, ":float32", ":int64", ":bool", "=none", "=same", "=reflect", "=floor")
    )


def _argument(rng: Random, names: list[str]) -> Any:
    if rng.random() < 0.25:
        return [_atom(rng, names if rng.random() < 0.3 else ["$x"]) for _ in range(rng.choice((0, 1, 2, 2, 3, 4, 8)))]
    return _atom(rng, names)


def _shape(rng: Random) -> list[int]:
    return [
        rng.choice(_SIZES if rng.random() < 0.4 else _SIZES[:9]) for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 4, 8)))
    ]


@cache
def _plans() -> list[bytes]:
    """They pass; and torch has loaded what it loads when shapes are first asked for, so that no case is charged with it."""
    for plan in plans():
        take_graph(plan)
    return plans()


def make_graph(rng: Random) -> bytes:
    """A plan that decodes, and whose graph means almost anything."""
    from smpc_fl.plans.operators import ALLOWED

    tree = msgspec.json.decode(rng.choice(_plans()))
    operators = list(ALLOWED)
    for _ in range(rng.choice((1, 1, 2, 3))):
        graph = rng.choice((tree["train"], tree["evaluate"]))
        names = ["$x", "$y", *("@" + part["name"] for part in tree["layout"])]
        names += ["%" + node[0] for node in graph["nodes"]]
        at = rng.randrange(len(graph["nodes"]))
        node = graph["nodes"][at]
        match rng.randrange(8):
            case 0:
                node[1] = rng.choice(operators)
            case 1 if node[2]:
                node[2][rng.randrange(len(node[2]))] = _argument(rng, names)
            case 2:
                node[3] = {rng.choice(("dim", "dtype", "keepdim", "groups", "eps", "reduction")): _argument(rng, names)}
            case 3 | 4:
                arguments = [rng.choice(names), *(_argument(rng, names) for _ in range(rng.randrange(7)))]
                graph["nodes"].insert(at, [f"new{rng.randrange(1 << 30)}", rng.choice(operators), arguments, {}])
            case 5:
                rng.choice((tree["inputs"], tree["targets"], *tree["layout"]))["shape"] = _shape(rng)
            case 6:
                tree["prediction"] = _shape(rng)
            case _:
                graph[rng.choice(("loss", "prediction"))] = rng.choice(names)
    return msgspec.json.encode(msgspec.convert(tree, PlanDocument), order="deterministic")


def take_graph(data: bytes) -> None:
    from smpc_fl.plans.check import read_plan

    read_plan(data)


# --- pointers ---


def _store() -> Any:
    """An owner's object store with public tensors, so that what is asked for is computed."""
    import torch

    from smpc_fl.nodes.objects import ObjectStore
    from smpc_fl.nodes.registered import holding

    held = [
        holding("x", torch.arange(20.0).reshape(5, 4) / 7, public=True),
        holding("n", torch.arange(5), public=True),
        holding("b", torch.tensor([True, False, True]), public=True),
        holding("heart/z", torch.full((5, 4), 0.5), group="heart", tags=("#z",)),
    ]
    by_name = {one.name: one for one in held}
    numbers = Random(0)
    store = ObjectStore(lambda: by_name, entropy=numbers.randbytes, clock=lambda: 0.0, lease_seconds=1.0)
    return store, [one.name for one in held]


class _Nobody:
    """A ledger whose owner has approved nothing."""

    def submit(self, digest: str, kind: str, researcher: str, summary: str, payload: bytes) -> Any:
        raise AssertionError("not asked here")

    def status(self, digest: str) -> str:
        return "unknown"


def _item(rng: Random, operands: int) -> Any:
    draw = rng.random()
    if draw < 0.4:
        return lineage.Ref(rng.randrange(operands + (rng.random() < 0.05)))
    if draw < 0.7:
        return rng.choice(
            _WHOLE if rng.random() < 0.7 else [edge for edge in mutations.EDGES if -(1 << 63) <= edge < 1 << 64]
        )
    if draw < 0.8:
        return rng.choice(
            (lineage.Rest(), lineage.Span(), lineage.Span(0, rng.choice(_WHOLE), 1), lineage.Picks((0, 1)))
        )
    return rng.choice((*_REALS, None, True, False, "float32", "int64", "bool", "float16", "none", "tanh"))


def make_requests(rng: Random) -> list[session.Request]:
    """A search, some operations on what was found (by number: 0, 1, … and then their results), and fetches."""
    from smpc_fl.pointers.operations import OPERATIONS

    functions, made = list(OPERATIONS), 4
    requests: list[session.Request] = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        count = rng.choice((1, 1, 2, 3))
        operands = tuple(
            session.Object(rng.randrange(made).to_bytes(16, "big"))
            if rng.random() < 0.7
            else grammar.draw(rng, lineage.Literal)
            for _ in range(count)
        )
        function = rng.choice(functions)
        arguments: list[Any] = [lineage.Ref(0)] if rng.random() < 0.8 else []
        for parameter in OPERATIONS[function].parameters[len(arguments) :]:
            if rng.random() < 0.5:
                arguments.append(_fitting(rng, parameter.kind, count))
            elif rng.random() < 0.5:
                break
            else:
                arguments.append(_item(rng, count))
        requests.append(session.Operate(function, operands, tuple(arguments)))
        made += 1
        if rng.random() < 0.7:
            requests.append(session.Fetch((made - 1).to_bytes(16, "big")))
    if rng.random() < 0.3:
        requests.append(
            grammar.draw(rng, rng.choice((session.Search, session.Claim, session.Mock, session.Release, session.Renew)))
        )
    return requests


def _fitting(rng: Random, kind: str, operands: int) -> Any:
    match kind.rstrip("?"):
        case "tensor":
            return lineage.Ref(rng.randrange(operands))
        case "tensors":
            return tuple(lineage.Ref(rng.randrange(operands)) for _ in range(rng.choice((1, 2, 3))))
        case "dim":
            return rng.choice((0, 1, -1, 2, 15, -16))
        case "dims" | "sizes":
            return tuple(
                rng.choice((0, 1, -1, 2, 4, 5, 20, 1 << 40, (1 << 63) - 1)) for _ in range(rng.choice((1, 2, 3, 9)))
            )
        case "flag":
            return rng.random() < 0.5
        case "dtype":
            return rng.choice(sorted(lineage.DTYPES))
        case "index":
            items = (
                lineage.Span(),
                lineage.Rest(),
                0,
                3,
                -1,
                None,
                1 << 40,
                lineage.Picks((0, 2)),
                lineage.Picks((9,)),
            )
            return tuple(
                rng.choice((*items, lineage.Span(None, None, 2), lineage.Span(3, 1)))
                for _ in range(rng.choice((1, 2, 3)))
            )
        case _:
            return _item(rng, operands)


def take_requests(requests: list[session.Request]) -> None:
    """As a researcher's session sends them. Nothing but the tree's errors comes back, and never our own bug."""
    store, names = _store()
    ids = _ids(store)
    for request in requests:
        response = _ask(store, _renamed(request, ids))
        if isinstance(response, session.Made):
            ids.append(response.object.id)
        elif isinstance(request, session.Operate):
            ids.append(bytes(16))
        if isinstance(response, session.Failed) and response.code == "InternalError":
            raise Wrong(f"{type(request).__name__}: {response.text}")
    assert names


def _ids(store: Any) -> list[bytes]:
    found = _ask(store, session.Search(""))
    assert isinstance(found, session.Found)
    return [info.id for info in found.objects]


def _renamed(request: Any, ids: list[bytes]) -> Any:
    def real(number: bytes) -> bytes:
        place = int.from_bytes(number, "big")
        return ids[place] if place < len(ids) else number

    if isinstance(request, session.Operate):
        operands = tuple(
            session.Object(real(one.id)) if isinstance(one, session.Object) else one for one in request.operands
        )
        return msgspec.structs.replace(request, operands=operands)
    if isinstance(request, session.Fetch):
        return session.Fetch(real(request.object_id))
    return request


def _ask(store: Any, request: session.Request) -> session.Response:
    data = store.handle("eve", b"eve's session...", session.encode_request(request), _Nobody())
    response: session.Response = msgspec.msgpack.decode(data, type=session.AnyResponse)
    return response


def targets() -> list[Target]:
    return [
        Target("graph", make_graph, take_graph, (PlanRejected,), 0.3),
        Target("pointer", make_requests, take_requests, (), 0.2),
    ]
