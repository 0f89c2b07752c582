"""Crafted commands to a real owner process, over its real socket: none gets a value, a shape or a number of rows out."""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import torch
from hostile_world import COHORT, OWNER, Hostile, session

from smpc_fl.errors import (
    BadInput,
    CohortTooSmall,
    IsolationRefused,
    MalformedMessage,
    PermissionDenied,
    ShapeMismatch,
    SmpcError,
    WrongRole,
    from_code,
)
from smpc_fl.jobs import AggregateJob, TrainJob
from smpc_fl.nodes.ledger.own import OwnLedger
from smpc_fl.pointers.lineage import (
    Apply,
    Expression,
    Literal,
    Picks,
    Ref,
    Registered,
    Span,
    encode_expression,
)
from smpc_fl.pointers.session import (
    AnyRequest,
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
    Release,
    Renew,
    Search,
    Value,
    encode_request,
)
from smpc_fl.protocols import relay
from smpc_fl.protocols.messages import Command, JobAnswer, JobOffer, Refusal, Relay, Signed, StartRun, StatusRequest

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROWS = 7_351
CANARY = 617.391426


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hostile]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(ROWS, 4, generator=generator)
    x[0] = CANARY
    made = Hostile(tmp_path_factory.mktemp("escape"), {OWNER: {"x": x, "y": (x[:, 1] > 0).long()}})
    try:
        yield await made.open()
    finally:
        await made.close()


async def found(world: Hostile, name: str = "x", **who: Any) -> ObjectInfo:
    response = await world.command(Search(name), **who)
    assert isinstance(response, Found)
    return response.objects[0]


async def made(world: Hostile, function: str, *arguments: Any, of: tuple[Any, ...]) -> ObjectInfo:
    response = await world.command(Operate(function, of, arguments))
    assert isinstance(response, Made)
    return response.object


def tells_nothing(text: str) -> None:
    for secret in (str(ROWS), f"{ROWS:,}", "617.39", str(struct.pack("<f", CANARY))):
        assert secret not in text


async def refused(world: Hostile, request: Any, *kinds: type[SmpcError], **who: Any) -> str:
    """The refusal's text."""
    with pytest.raises(kinds or (SmpcError,)) as caught:
        await world.command(request, **who)
    tells_nothing(str(caught.value))
    return str(caught.value)


# --- values ---


async def test_no_value_comes_out_unasked(world: Hostile) -> None:
    x = await found(world)
    assert x.shape == (None, 4)
    tells_nothing(str(msgspec.to_builtins(x)))
    largest = await made(world, "amax", Ref(0), of=(Object(x.id),))
    nothing = await made(world, "mul", Ref(0), 0.0, of=(Object(x.id),))
    for object_ in (x, largest, nothing):
        assert "is private" in await refused(world, Fetch(object_.id), PermissionDenied)


async def test_objects_are_their_sessions_own(world: Hostile) -> None:
    x = await found(world)
    texts = [
        await refused(world, Fetch(x.id), PermissionDenied, by="rival"),
        await refused(world, Fetch(x.id), PermissionDenied, session=session()),
        await refused(world, Fetch(os.urandom(16)), PermissionDenied),
        await refused(world, Operate("neg", (Object(x.id),), (Ref(0),)), PermissionDenied, by="rival"),
        await refused(world, Ask(x.id, "mine"), PermissionDenied, by="rival"),
    ]
    assert len(set(texts)) == 1  # nobody learns what others have


async def test_an_approval_is_for_one_researcher_one_object_once(world: Hostile) -> None:
    x = await found(world)
    mean = await made(world, "mean", Ref(0), 0, of=(Object(x.id),))
    asked = await world.command(Ask(mean.id, "for a table"))
    assert isinstance(asked, Asked)
    assert asked.status == "pending"
    digest = asked.digest
    await refused(world, Fetch(mean.id), PermissionDenied)
    await refused(world, Claim(digest), PermissionDenied)
    OwnLedger(world.disk.folder / OWNER / "state" / "ledger").decide(digest, True, "agreed")
    await refused(world, Claim(digest), PermissionDenied, by="rival")
    twin = await made(world, "mean", Ref(0), 0, of=(Object(x.id),))
    await refused(world, Fetch(twin.id), PermissionDenied)
    derived = await made(world, "neg", Ref(0), of=(Object(mean.id),))
    await refused(world, Fetch(derived.id), PermissionDenied)
    value = await world.command(Fetch(mean.id))
    assert isinstance(value, Value)
    assert value.shape == (4,)
    assert "answered once" in await refused(world, Fetch(mean.id), PermissionDenied)
    await refused(world, Claim(digest), PermissionDenied)


async def test_a_jobs_approval_opens_no_object(world: Hostile) -> None:
    job = aggregate(Registered("x"), Apply("mean", (Ref(0), 0)))
    answer = await world.offer(world.start(job))
    assert answer.status == "approved"
    await refused(world, Claim(answer.digest.hex()), PermissionDenied)


# --- operations ---


@pytest.mark.parametrize(
    "function",
    ["nonzero", "unique", "masked_select", "save", "load", "apply_", "item", "tolist", "size", "shape", "set_", "eval",
     "register_hook", "storage", "data_ptr", "numel", "rand_like", "add_", "run", "names"],
)  # fmt: skip
async def test_what_is_not_on_the_list_does_not_run(world: Hostile, function: str) -> None:
    x = await found(world)
    await refused(world, Operate(function, (Object(x.id),), (Ref(0),)), SmpcError)


async def test_names_are_no_paths_to_anything(world: Hostile) -> None:
    x = await found(world)
    for function in ("__class__", "Mean", "mean.__globals__", "os.system", "../mean", ""):
        request = {"type": "Operate", "function": function, "operands": [{"type": "object", "id": x.id}]}
        await refused(world, msgspec.msgpack.encode(request | {"arguments": []}), MalformedMessage)
    assert await world.command(Search("../../data")) == Found(())
    assert await world.command(Search("*")) == Found(())


async def test_rows_can_neither_be_picked_nor_counted(world: Hostile) -> None:
    x = Object((await found(world)).id)
    mask = Object((await made(world, "gt", Ref(0), 0.0, of=(Object((await made_column(world)).id),))).id)
    attempts: list[Operate] = [
        Operate("index", (x,), (Ref(0), (0,))),
        Operate("index", (x,), (Ref(0), (Span(0, 1),))),
        Operate("index", (x,), (Ref(0), (Span(None, None, 2),))),
        Operate("index", (x,), (Ref(0), (Picks((0,)),))),
        Operate("index", (x, mask), (Ref(0), (Ref(1),))),
        Operate("index", (x, mask), (Ref(0), Ref(1))),
        Operate("reshape", (x,), (Ref(0), (-1,))),
        Operate("reshape", (x,), (Ref(0), (ROWS * 4,))),
        Operate("flatten", (x,), (Ref(0),)),
        Operate("chunk", (x,), (Ref(0), 2)),
        Operate("expand", (x,), (Ref(0), (ROWS, 4))),
    ]
    for attempt in attempts:
        await refused(world, attempt)


async def made_column(world: Hostile) -> ObjectInfo:
    x = await found(world)
    return await made(world, "index", Ref(0), (Span(), 0), of=(Object(x.id),))


async def test_a_right_guess_of_the_rows_looks_like_a_wrong_one(world: Hostile) -> None:
    """A public tensor of n rows fits the private one for one n only; the answer is the same for all n."""
    column = Object((await made_column(world)).id)

    async def guess(rows: int) -> tuple[str, str]:
        literal = Literal("float32", (rows,), bytes(4 * rows))
        with pytest.raises(SmpcError) as caught:
            await world.command(Operate("add", (column, literal), (Ref(0), Ref(1))))
        return type(caught.value).__name__, caught.value.message.replace(f"[{rows}]", "[n]")

    assert await guess(ROWS) == await guess(ROWS + 1) == await guess(2)


async def test_great_computations_are_refused_before_they_run(world: Hostile) -> None:
    x = Object((await found(world)).id)
    await refused(world, Operate("sum", (Literal("bool", (1 << 19,), bytes(1 << 19)), x), (Ref(0), (0, 0, 0))))
    wide = await made(world, "transpose", Ref(0), 0, 1, of=(x,))
    await refused(world, Operate("matmul", (x, Object(wide.id)), (Ref(0), Ref(1))), SmpcError)
    tower = x
    for _ in range(62):  # twice as much each time, if it were computed
        tower = Object((await made(world, "add", Ref(0), Ref(0), of=(tower,))).id)
    with pytest.raises(BadInput, match="in fewer steps"):
        await grow(world, tower)


async def grow(world: Hostile, tower: Object) -> None:
    for _ in range(3):
        tower = Object((await made(world, "add", Ref(0), Ref(0), of=(tower,))).id)


async def test_bytes_that_are_no_request_are_refused(world: Hostile) -> None:
    good = encode_request(Search("x"))
    nested: Any = 1
    for _ in range(2000):
        nested = [nested]
    crafted = [
        b"",
        good + b"\0",
        good[:-1],
        b"\xc1" * 100,
        msgspec.msgpack.encode({"type": "Search", "query": "x", "more": 1}),
        msgspec.msgpack.encode({"query": "x", "type": "Search"}),
        msgspec.msgpack.encode({"type": "Value", "dtype": "float32", "shape": [], "data": b""}),
        msgspec.msgpack.encode({"type": "Fetch", "object_id": b"short"}),
        msgspec.msgpack.encode({"type": "Claim", "digest": "0" * 63 + "\n"}),
        b"\x91" * 5000 + b"\x01",
        msgspec.msgpack.encode({"type": "Release", "object_ids": []}),
    ]
    for data in crafted:
        await refused(world, data, MalformedMessage)
    assert await world.command(Renew())


# --- envelopes ---


ANYTHING: list[AnyRequest] = [
    Search(""), Operate("neg", (Object(bytes(16)),), (Ref(0),)), Fetch(bytes(16)), Ask(bytes(16), "please"), Claim("0" * 64),
    Mock("x"), Release((bytes(16),)), Renew(),
]  # fmt: skip


@pytest.mark.parametrize("role", ["bob", "aggregator-1", "coordinator"])
async def test_no_other_role_gets_an_answer_to_any_request(world: Hostile, role: str) -> None:
    party = world.disk.party(role)
    for number, request in enumerate(ANYTHING):
        asked = relay.ask(party, OWNER, world.session, number, encode_request(request), os.urandom)
        [answer] = await world.said_to(asked.signed)
        assert isinstance(answer, Relay)
        said = asked.read(answer.inner, party)
        assert isinstance(said, WrongRole)
        tells_nothing(str(said))


async def test_only_researchers_command_and_only_this_owner(world: Hostile) -> None:
    def command(by: str, owner: str = OWNER) -> Signed:
        request = encode_request(Search("x"))
        return relay.ask(world.disk.party(by), owner, session(), 1, request, os.urandom).signed

    good = command("researcher")
    for envelope, kind in (
        (command("bob"), "WrongRole"),
        (command("coordinator"), "WrongRole"),
        (command("aggregator-1"), "WrongRole"),
        (command("researcher", "bob"), "WrongRole"),
        (msgspec.structs.replace(command("rival"), sender="researcher"), "BadSignature"),
        (msgspec.structs.replace(good, sender="nobody"), "UnknownMember"),
        (msgspec.structs.replace(good, signature=bytes(64)), "BadSignature"),
        (world.disk.party("researcher").sign(unanswerable(session(), 1)), "MalformedMessage"),
        (world.disk.party("researcher").sign(StatusRequest()), "MalformedMessage"),
    ):
        [answer] = await world.said_to(envelope)
        assert isinstance(answer, Relay)
        assert answer.to == envelope.sender
        refused = world.disk.party("researcher").open(answer.inner, Refusal, "owner", phase="pointer")
        assert refused.code == kind
        tells_nothing(refused.text)
    since = len(world.heard["coordinator"])
    await world.say("coordinator", OWNER, Relay("bob", good))
    with pytest.raises(BadInput, match="another owner"):
        await world.answer("coordinator", Relay, since)


def unanswerable(session: bytes, sequence: int) -> Command:
    """A command whose reply key nobody may seal to."""
    return Command(session, sequence, OWNER, encode_request(Renew()), bytes(32))


async def test_a_command_works_once(world: Hostile) -> None:
    party, mine = world.disk.party("researcher"), session()

    def command(sequence: int) -> Signed:
        return relay.ask(party, OWNER, mine, sequence, encode_request(Search("x")), os.urandom).signed

    first, second = command(5), command(6)
    assert len(await world.said_to(first)) == 1
    assert await world.said_to(first) == []
    assert len(await world.said_to(second)) == 1
    for late in (first, second, command(5), command(0)):
        assert await world.said_to(late) == []


async def test_an_answer_is_read_by_who_asked_alone(world: Hostile) -> None:
    """The coordinator carries answers, and has every key but the one that the answer is sealed to."""
    since = len(world.heard["coordinator"])
    await world.command(Search("x"))
    [(_, _, message)] = world.heard["coordinator"][since:]
    assert isinstance(message, Relay)
    assert b"float32" not in message.inner.body
    other = relay.ask(world.disk.party("researcher"), OWNER, world.session, 1, b"", os.urandom)
    with pytest.raises(SmpcError):
        other.read(message.inner, world.disk.party("researcher"))


# --- aggregates by crafted jobs ---


def aggregate(*nodes: Any, shape: list[int] | None = None, **changes: Any) -> AggregateJob:
    fields: dict[str, Any] = {"reduce": "mean", "shape": [4] if shape is None else shape, "bound": 100.0, **changes}
    return AggregateJob(expression=encode_expression(Expression(tuple(nodes))), **fields)


MEAN = (Registered("x"), Apply("mean", (Ref(0), 0)))


async def rejection(world: Hostile, job: AggregateJob | TrainJob, cohort: list[str] | None = None) -> SmpcError:
    answer = await world.offer(world.start(job, cohort=cohort))
    assert answer.status == "rejected", answer
    tells_nothing(answer.reason)
    return from_code(answer.code, answer.reason)


@pytest.mark.parametrize(
    ("changes", "cohort", "kind"),
    [
        ({"weights": [1.0, 1e-9, 1e-9]}, COHORT, IsolationRefused),
        ({"weights": [1.0, 1.0]}, COHORT, SmpcError),
        ({"weights": [1.0, 0.6, 0.6], "reduce": "sum"}, COHORT, BadInput),
        ({}, ["alice", "alice", "bob"], IsolationRefused),
        ({}, ["alice", "bob"], CohortTooSmall),
        ({}, ["carol", "alice", "bob"], None),
        ({}, ["bob", "carol", "dave"], WrongRole),
        ({"shape": [5]}, COHORT, ShapeMismatch),
        ({"bound": float("inf")}, COHORT, SmpcError),
    ],
)
async def test_jobs_that_would_isolate_an_owner_are_refused(
    world: Hostile, changes: dict[str, Any], cohort: list[str], kind: type[SmpcError] | None
) -> None:
    job = aggregate(*MEAN, **changes)
    if kind is None:  # any order is the same cohort
        assert (await world.offer(world.start(job, cohort=cohort))).status == "approved"
    else:
        assert isinstance(await rejection(world, job, cohort), kind)


async def test_an_aggregate_of_rows_or_of_their_number_is_refused(world: Hostile) -> None:
    for job in (
        aggregate(Registered("x"), shape=[ROWS, 4]),
        aggregate(Registered("x"), Apply("index", (Ref(0), (0,)))),
        aggregate(Literal("float32", (4,), bytes(16))),
        aggregate(Registered("x"), Apply("mean", (Ref(5), 0))),
        aggregate(Registered("nothing"), Apply("mean", (Ref(0), 0))),
        aggregate(Registered("x"), Apply("nonzero", (Ref(0),))),
    ):
        assert isinstance(await rejection(world, job), SmpcError)


async def test_a_search_over_bounds_weights_or_cohorts_ends_at_the_first(world: Hostile) -> None:
    """A statistic of its own, so that no other test has asked for it before."""
    nodes = (Registered("x"), Apply("sqrt", (Ref(0),)), Apply("mean", (Ref(1), 0)))
    assert (await world.offer(world.start(aggregate(*nodes)))).status == "approved"
    assert (await world.offer(world.start(aggregate(*nodes)))).status == "approved"
    assert isinstance(await rejection(world, aggregate(*nodes, bound=50.0)), IsolationRefused)
    assert isinstance(await rejection(world, aggregate(*nodes, max_samples=10)), IsolationRefused)
    assert isinstance(await rejection(world, aggregate(*nodes), [*COHORT, "dave"]), IsolationRefused)
    weighted = aggregate(*nodes, weights=[1.0, 1.0, 1.0])
    assert (await world.offer(world.start(weighted))).status == "approved"
    assert isinstance(await rejection(world, aggregate(*nodes, weights=[1.0, 0.9, 0.9])), IsolationRefused)


async def test_jobs_that_come_at_once_are_held_against_each_other(world: Hostile) -> None:
    """Each alone would pass; their difference is one owner's."""
    nodes = (Registered("x"), Apply("exp", (Ref(0),)), Apply("mean", (Ref(1), 0)))
    job = aggregate(*nodes)
    starts = [world.start(job), world.start(job, cohort=[*COHORT, "dave"]), world.start(aggregate(*nodes, bound=7.0))]
    since = len(world.heard["coordinator"])
    for start in starts:
        run = msgspec.msgpack.decode(start.body, type=StartRun).run
        await world.say("coordinator", OWNER, JobOffer(run, start))
    answers = await world.answers("coordinator", JobAnswer, since, len(starts))
    assert sorted(answer.status for answer in answers) == ["approved", "rejected", "rejected"]
    assert {answer.code for answer in answers if answer.status == "rejected"} == {"IsolationRefused"}


async def test_released_objects_are_gone(world: Hostile) -> None:
    x = await found(world)
    await world.command(Release((x.id,)))
    assert "make it again" in await refused(world, Fetch(x.id), PermissionDenied)
