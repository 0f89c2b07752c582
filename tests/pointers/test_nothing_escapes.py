"""Everything that can be done with a pointer, and every operation that can be asked of an owner: nothing of a private tensor is
read, told, or told from what is answered. By enumeration: what torch, NumPy and Python add later is in it by itself."""

from __future__ import annotations

import ast
import copy
import gc
import io
import itertools
import json
import math
import operator
import pickle
import random
import statistics
import struct
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from pointer_world import World, at, three

from smpc_fl.errors import BadInput, PermissionDenied, SmpcError
from smpc_fl.nodes.registered import Holding, holding
from smpc_fl.pointers.evaluation import evaluate_expression
from smpc_fl.pointers.lineage import Literal, Picks, Ref, Rest, Span, decode_expression, names
from smpc_fl.pointers.operations import OPERATIONS, Operation
from smpc_fl.pointers.pointer import PointerTensor
from smpc_fl.pointers.session import (
    Ask,
    Fetch,
    Found,
    Made,
    Object,
    Operate,
    Search,
    Value,
    encode_request,
    open_response,
)
from smpc_fl.pointers.shapes import infer_expression

CANARY, ROWS = 617.391426, 7_351
TOLD = [b"617.39", b"7351", b"7,351", struct.pack("<f", CANARY), struct.pack(">f", CANARY), struct.pack("<d", CANARY)]


class Watched(World):
    """Private tensors may not be read; `sealed` is all that owners answered."""

    def __init__(self) -> None:
        x = torch.full((ROWS, 4), CANARY)
        plain = three()
        super().__init__({owner: list(held.values()) for owner, held in plain.registered.items()})
        for held in self.registered.values():
            for name, tensor in (("x", x), ("y", torch.arange(ROWS))):
                spec = holding(name, tensor, group="data").spec
                held[name] = Holding(name, spec, self.read, None, held[name].tags)
        self.reads = 0
        self.said: list[bytes] = []

    def read(self) -> torch.Tensor:
        self.reads += 1
        return torch.full((ROWS, 4), CANARY)

    def request(self, owner: str, request: Any) -> Any:
        data = self.stores[owner].handle(self.researcher, self.session, encode_request(request), self.books[owner])
        self.said.append(data)
        return open_response(data, owner=owner)

    def check(self) -> None:
        assert self.reads == 0
        for data in self.said:
            assert not any(told in data for told in TOLD)
            assert not isinstance(msgspec.msgpack.decode(data), Value)
        self.said.clear()


@pytest.fixture
def world() -> Iterator[Watched]:
    made = Watched()
    yield made
    made.check()


def attempt(what: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What comes of it; whatever is raised, and whatever comes, tells nothing."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            found = what(*args, **kwargs)
    except Exception as error:
        chain: BaseException | None = error
        while chain is not None:
            tells_nothing(str(chain) + repr(chain))
            chain = chain.__cause__ or chain.__context__
        return None
    tells_nothing(repr(found))
    return found


def tells_nothing(text: str) -> None:
    assert not any(told in text.encode() for told in TOLD[:3]), text


def is_data(found: Any) -> bool:
    """Is this something with numbers in it?"""
    match found:
        case torch.Tensor() | np.ndarray() | np.generic() | memoryview():
            return True
        case tuple() | list():
            return any(map(is_data, found))
        case _:
            return False


OPERANDS: list[Callable[[PointerTensor], tuple[Any, ...]]] = [
    lambda p: (),
    lambda p: (p,),
    lambda p: (0,),
    lambda p: (2.5, 1),
    lambda p: (p, p),
    lambda p: (torch.zeros(4),),
    lambda p: (slice(None), 1),
    lambda p: (p, 0, False),
]


def test_every_attribute_and_method_of_a_tensor_and_a_pointer(world: Watched) -> None:
    p = at(world, "alice")
    names = {
        *dir(PointerTensor),
        *dir(torch.Tensor),
        *dir(np.ndarray),
        *dir(int),
        *dir(float),
        *dir(list),
        "get",
        "private",
    }
    # Not of the pointer but of Python's objects: to set them is to break one's own session.
    names -= {
        "__class__",
        "__init_subclass__",
        "__setattr__",
        "__delattr__",
        "__init__",
        "__new__",
        "_id",
        "__getattribute__",
    }
    for name in sorted(names):
        found = attempt(getattr, p, name)
        assert not is_data(found), name
        if callable(found):
            for operands in OPERANDS:
                result = attempt(found, *operands(p))
                assert not is_data(result), name
    attempt(p.request, "reason")
    with pytest.raises(PermissionDenied):
        p.get()


def test_every_function_of_torch(world: Watched) -> None:
    """All that takes part in `__torch_function__` is tried, and the rest of torch's namespaces with it."""
    p = at(world, "alice")
    functions = {f for each in torch.overrides.get_overridable_functions().values() for f in each}
    functions |= {torch.save, torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy,
                  torch.utils.dlpack.from_dlpack, torch.frombuffer, torch.is_tensor, torch.stack,
                  torch.utils.data.default_collate, torch.testing.assert_close, torch.jit.annotate, torch.vmap, torch.Tensor,
                  torch.nn.Parameter, torch.sparse_coo_tensor, torch.DoubleTensor, torch.Size}  # fmt: skip
    assert len(functions) > 1000
    for function in functions:
        for operands in (*OPERANDS[:3], OPERANDS[4]):
            assert not is_data(attempt(function, p, *operands(p))), function
    with pytest.raises((PermissionDenied, TypeError)):
        torch.save(p[:, 1], io.BytesIO())


def test_every_function_of_numpy(world: Watched) -> None:
    p = at(world, "alice")
    ufuncs = [each for each in vars(np).values() if isinstance(each, np.ufunc)]
    others: list[Callable[..., Any]] = [
        np.array, np.asarray, np.asanyarray, np.mean, np.sum, np.sort, np.concatenate, np.stack, np.save, np.savetxt,
        np.allclose, np.array_equal, np.dot, np.linalg.norm, np.shape, np.size, np.ndim, np.copy, np.fromiter, np.where,
        np.array2string, np.array_repr, np.testing.assert_equal, np.from_dlpack, np.frombuffer, np.nditer,
    ]  # fmt: skip
    for function in ufuncs + others:
        for args in ((p,), (p, p), (p, 1.0), (np.ones(4, np.float32), p), (io.BytesIO(), p)):
            result = attempt(function, *args)
            assert not (is_data(result) and np.asarray(result).dtype != object), function


def test_everything_of_python_that_looks_into_an_object(world: Watched) -> None:
    p = at(world, "alice")
    looks: list[Callable[..., Any]] = [
        int, float, bool, complex, len, iter, list, tuple, set, dict, str, repr, ascii, bytes, bytearray, memoryview, round,
        abs, sum, min, max, sorted, reversed, any, all, enumerate, range, chr, hex, bin, hash, id, vars, dir, type, format,
        math.sqrt, math.floor, math.ceil, math.trunc, math.fsum, math.isclose, statistics.mean, json.dumps, copy.copy,
        copy.deepcopy, pickle.dumps, msgspec.json.encode, msgspec.msgpack.encode, msgspec.to_builtins, struct.Struct("f").pack,
        ast.literal_eval, operator.index, operator.length_hint, operator.attrgetter("data"), random.Random, random.choice,
        "{:.3f}".format, "{!r:>90}".format, "%f".__mod__, "%d".__mod__, "%s".__mod__, [1, 2].__getitem__, [p].index, [p, p].count,
        io.BytesIO().write, print, divmod, pow, slice, isinstance, ord, next, zip, map, filter, input,
    ]  # fmt: skip
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises((PermissionDenied, TypeError, pickle.PicklingError)):
            pickle.dumps(p, protocol)
    for look in looks:
        if look is input:
            continue
        for operands in ((p,), (p, p), (p, 1), (1, p), ([p],), (p, ".3f")):
            assert not is_data(attempt(look, *operands)), look
    for spec in (".3f", "d", "e", "x", ">20", "s"):
        with pytest.raises(PermissionDenied):
            format(p, spec)
    for name in ("lt", "le", "eq", "ne", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_",
                 "or_", "xor", "lshift", "rshift", "iadd", "isub", "imul", "itruediv", "imatmul", "ipow", "contains",
                 "getitem", "concat", "countOf", "indexOf"):  # fmt: skip
        for pair in ((p, p), (p, 2), (2.0, p), (p, torch.ones(4)), (np.ones(4, np.float32), p), ([1.0], p)):
            assert not is_data(attempt(getattr(operator, name), *pair)), name
    unsafe: Any = p
    with pytest.raises((SmpcError, TypeError)):
        unsafe[0] = 1
    with pytest.raises((SmpcError, TypeError)):
        del unsafe[0]


def test_nothing_that_a_pointer_holds_is_data(world: Watched) -> None:
    """All that can be reached from it, but for the session, which is the test's own."""
    p = (at(world, "alice") @ torch.ones(4, 2)).mean(0).square() + 1
    seen, todo = {id(world)}, [p]
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, type) or callable(each) or type(each).__name__ == "module":
            continue
        seen.add(id(each))
        assert not is_data(each)
        if isinstance(each, bytes | str):
            assert not any(told in (each if isinstance(each, bytes) else each.encode()) for told in TOLD)
        todo += gc.get_referents(each)
    assert len(seen) > 10


# --- what an owner answers ---


ITEMS: dict[str, list[Any]] = {
    "tensor": [Ref(0), Ref(1), Ref(2), Ref(9)],
    "operand": [Ref(0), Ref(1), Ref(2), 2, -0.5, True],
    "operand?": [None, Ref(1), 0.0],
    "tensor?": [None, Ref(1)],
    "tensors": [(Ref(0), Ref(0)), (Ref(0), Ref(1)), (Ref(1),)],
    "dim": [0, 1, -1, 5],
    "dim?": [None, 0, 1, -1],
    "dims": [(1, 0), (0, 1), (0,), (0, 0)],
    "dims?": [None, 0, 1, (0, 1)],
    "sizes": [(-1, 2, 2), (ROWS, 4), (4, -1), (20,)],
    "number": [2, 0.5, -1, 1e300],
    "number?": [None, 0.0],
    "flag": [False, True],
    "dtype": ["float64", "int64", "bool", "uint8", "float16", "object"],
    "dtype?": [None, "float64", "int8", "int64"],
    "gelu": ["none", "tanh", "other"],
    "index": [
        (Span(), 1),
        (Rest(), Picks((0, 3))),
        (0,),
        (Span(0, 5),),
        (None,),
        (Picks((0,)),),
        (Span(), 9),
        (Ref(0),),
    ],
}
"""For each kind of parameter, what may be given and some that may not."""
DATA = [
    torch.zeros(5, 4),
    torch.full((ROWS, 4), CANARY),
    torch.tensor([[math.nan, math.inf, -math.inf, -0.0]]),
    -1e38 * torch.rand((4, 4), generator=torch.Generator().manual_seed(1)),
]
WIDE = Literal("float32", (4,), np.array([1.5, -2, 0, 3], np.float32).tobytes())


def calls(op: Operation) -> list[tuple[Any, ...]]:
    """Some of all that may be asked of an operation: every item of every parameter at least once, with defaults behind, and
    every pair of operands."""
    menus = [ITEMS[parameter.kind] for parameter in op.parameters]
    found = {tuple(menu[0] for menu in menus)}
    if all(parameter.kind in ("tensor", "operand") for parameter in op.parameters[:2]):
        found |= set(itertools.product(*menus[:2]))
    for place, menu in enumerate(menus):
        for item in menu:
            found.add((*(other[0] for other in menus[:place]), item))
    return sorted(found, key=repr)


def owner_of(x: torch.Tensor) -> tuple[World, list[Object | Literal]]:
    made = three()
    held = made.registered["alice"]
    held["x"] = holding("x", x, group="data")
    held["y"] = holding("y", x[:, 0].nan_to_num().clamp(-9, 9).long(), group="data")
    seen = made.raw("alice", Search(""))
    assert isinstance(seen, Found)
    one, other = (Object(found.id) for found in seen.objects)
    return made, [one, WIDE, other]


def test_what_is_answered_to_any_operation_follows_from_public_metadata() -> None:
    """The very same bytes, for other values, other rows, and NaN; and the value stays private."""
    owners = [owner_of(x) for x in DATA[1:3]]
    asked = accepted = 0
    for op, arguments in ((each, arguments) for each in OPERATIONS.values() for arguments in calls(each)):
        answers = set()
        for made, operands in owners:
            request = msgspec.structs.replace(
                Operate("neg", tuple(operands), (Ref(0),)), function=op.name, arguments=arguments
            )
            answers.add(made.stores["alice"].handle("rita", made.session, encode_request(request), made.books["alice"]))
        assert len(answers) == 1, (op.name, arguments)
        [answer] = answers
        assert not any(told in answer.replace(str((ROWS, 4)).encode(), b"") for told in TOLD[3:])
        asked += 1
        try:
            response = open_response(answer, owner="alice")
        except SmpcError:
            continue
        accepted += 1
        assert isinstance(response, Made)
        if not names(decode_expression(response.object.expression)):
            continue  # of public numbers alone
        with pytest.raises(PermissionDenied):
            owners[0][0].raw("alice", Fetch(response.object.id))
        follows_from_metadata(response.object.expression, op.name)
    assert len(OPERATIONS) * 2 < accepted < asked


HELD = [owner_of(x)[0].registered["alice"] for x in DATA]


def follows_from_metadata(expression: bytes, what: str) -> None:
    """Computed after all, on any data: it works for all or for none, with the shape and type that were announced."""
    computed = decode_expression(expression)
    spec = infer_expression(computed, {name: each.spec for name, each in HELD[0].items()})
    outcomes = set()
    for held in HELD:
        rows = len(held["x"].private())
        try:
            value = evaluate_expression(computed, lambda name, held=held: held[name].private())  # type: ignore[misc]
        except BadInput as error:
            outcomes.add(error.message)
        else:
            shape = tuple(rows if isinstance(size, str) else size for size in spec.shape)
            assert (tuple(value.shape), str(value.dtype)) == (shape, f"torch.{spec.dtype}"), what
            outcomes.add("")
    assert len(outcomes) == 1, what


def test_an_object_of_another_session_is_as_one_that_never_was() -> None:
    made, [mine, *_] = owner_of(DATA[1])
    assert isinstance(mine, Object)
    texts = set()
    for object_id, request in itertools.product(
        (mine.id, bytes(16)),
        (Fetch, lambda id_: Ask(id_, ""), lambda id_: Operate("neg", (Object(id_),), (Ref(0),))),
    ):
        with pytest.raises(PermissionDenied) as caught:
            made.raw("alice", request(object_id), researcher="eve", session=b"e" * 16)
        texts.add(caught.value.message)
    assert len(texts) == 1
