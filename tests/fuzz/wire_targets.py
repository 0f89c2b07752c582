"""Everything that reads bytes of a peer: envelopes, messages, frames, records, rosters, jobs, plans, expressions, requests.

What decodes must encode to the very same bytes: each thing that is said has one spelling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import Any, get_args

import grammar
import msgspec
import mutations
from engine import Target, Wrong
from rig import Draws, Rig

from smpc_fl import jobs, roster
from smpc_fl.errors import (
    BadSignature,
    ConfigInvalid,
    Equivocation,
    MalformedMessage,
    PlanRejected,
    Refused,
    SmpcError,
)
from smpc_fl.identity import Identity
from smpc_fl.nodes.net import framing, sizes
from smpc_fl.plans import document, layout
from smpc_fl.pointers import lineage, session
from smpc_fl.protocols import codec, messages, records
from smpc_fl.protocols.simulate import COORDINATOR
from smpc_fl.protocols.work import expected_of

FEDERATION = Identity.generate(Draws("federation"))
MESSAGE_TYPES: tuple[type[messages.Message], ...] = get_args(messages.MESSAGES)


@cache
def round_of(seed: int = 0, **more: Any) -> Rig:
    """A whole honest round; more of it than is said here is not needed."""
    rig = Rig(seed=seed, **more)
    rig.run()
    return rig


def fresh(kind: type[Any]) -> list[bytes]:
    """A few values of a type that keep its rules, encoded: what there is to mutate where nothing real is at hand."""
    return [codec.encode(grammar.draw(Random(number), kind)) for number in range(4)]


def nearly(
    seeds: Callable[[], Sequence[bytes]], kinds: Sequence[type[Any]] = (), limit: int = 1 << 18
) -> Callable[[Random], bytes]:
    """Makes msgpack that is nearly one of `seeds`, and values out of nothing but the types of `kinds`."""

    @cache
    def prepared() -> tuple[list[bytes], list[Any]]:
        data = [seed for seed in seeds() if len(seed) <= limit]
        return data, [mutations.unpack(seed) for seed in data]

    def make(rng: Random) -> bytes:
        data, trees = prepared()
        draw = rng.random()
        if kinds and draw < 0.2:
            return codec.encode(grammar.draw(rng, rng.choice(kinds)))
        if draw < 0.3:
            return mutations.pack(mutations.odd_value(rng), rng)
        if draw < 0.55:
            return mutations.mutate_bytes(rng, rng.choice(data), data)
        tree = rng.choice(trees)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            tree = mutations.mutate_tree(rng, tree, trees)
        return mutations.pack(tree, rng)

    return make


def same(decoded: Any, again: Callable[[Any], bytes], data: bytes) -> None:
    if again(decoded) != data:
        raise Wrong("what was decoded encodes to other bytes")


# --- envelopes and messages ---


def _said() -> list[bytes]:
    return [codec.encode(message) for _, _, message in round_of().said] + [
        b for kind in MESSAGE_TYPES for b in fresh(kind)
    ]


def _envelopes() -> list[bytes]:
    return [codec.encode(send.signed) for _, send, _ in round_of().said]


@cache
def _longest(kind: type[messages.Message]) -> int:
    return sizes.longest(kind, members=1 << 15, aggregators=64)


def take_message(data: bytes) -> None:
    same(codec.decode_message(data), codec.encode, data)
    same(codec.decode_message(memoryview(data)), codec.encode, data)
    kind = type(codec.decode_message(data))
    if sizes.type_of(data) != kind.__name__:
        raise Wrong("the type that stands in front is another")
    if len(data) > _longest(kind):
        raise Wrong("a message is longer than the longest of its type")


@cache
def _signed() -> list[messages.Signed]:
    """All that was signed in the round, also what is carried inside: an offer's manifest, a vector's receipts."""
    found: list[messages.Signed] = []

    def collect(value: Any) -> None:
        if isinstance(value, messages.Signed):
            found.append(value)
            collect(codec.decode_message(value.body))
        elif isinstance(value, msgspec.Struct):
            for name in value.__struct_fields__:
                collect(getattr(value, name))
        elif isinstance(value, list):
            for item in value:
                collect(item)

    collect([send.signed for _, send, _ in round_of().said])
    return found


def take_envelope(data: bytes) -> None:
    """As a node does: decode, look the sender up, verify, decode the body. Nothing that is not signed comes out."""
    signed = codec.decode_signed(data)
    same(signed, codec.encode, data)
    message = round_of().parties[COORDINATOR].read(signed)
    if signed not in _signed():
        raise Wrong(f"an envelope that nobody signed was believed: {type(message).__name__}")


def _each(kind: type[Any]) -> Callable[[bytes], None]:
    return lambda data: same(codec.decode(data, kind), codec.encode, data)


# --- frames ---


def _make_frame(rng: Random) -> tuple[list[bytes], int]:
    """Fragments of one websocket message, and a limit."""
    envelope = rng.choice(_envelopes())
    body = rng.randbytes(rng.choice((0, 1, 100)))
    frame = (
        framing.message(envelope, memoryview(body)) if rng.random() < 0.7 else framing.announcement(envelope, 1 << 17)
    )
    if rng.random() < 0.9:
        frame = mutations.mutate_bytes(rng, frame, [frame])
    if rng.random() < 0.5:
        head = bytearray(frame)
        at, width = rng.choice(((0, 1), (1, 4), (5, 8)))
        head[at : at + width] = (mutations.edge_int(rng) & (1 << 8 * width) - 1).to_bytes(width, "big")
        frame = bytes(head)
    size = rng.choice((1, 7, 100, 1 << 20))
    return [bytes(part) for part in framing.cut(frame, size)] or [b""], rng.choice((1 << 10, 1 << 20))


def take_frame(given: tuple[list[bytes], int]) -> None:
    fragments, limit = given
    rest = iter(fragments[1:])

    async def more() -> bytes | None:
        return next(rest, None)

    async def read() -> None:
        kind = framing.kind_of(fragments[0])
        if kind in (framing.Kind.MESSAGE, framing.Kind.ANNOUNCEMENT):
            incoming = await framing.read_message(fragments[0], more, limit, limit)
            inline = incoming.inline if incoming.inline is not None else memoryview(b"")
            envelope = codec.encode(incoming.signed)
            again = framing.announcement(envelope, incoming.size)
            if kind is framing.Kind.MESSAGE:
                again = framing.message(envelope, inline)
            same(again, lambda frame: frame, b"".join(fragments))
        else:
            await framing.nothing_more(more)

    coroutine = read()
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise Wrong("reading a frame waited for something")


# --- records, rosters, jobs, plans ---


_ROLES: tuple[roster.Role, ...] = ("owner", "owner", "owner", "researcher", "coordinator", "aggregator")


def _rosters() -> list[bytes]:
    signed = []
    for number in range(4):
        members = [
            roster.Member(f"n{i}", role, Identity.generate(Draws((number, i))).public.key, "ws://h:1" if i > 3 else "")
            for i, role in enumerate(_ROLES)
        ]
        gone = [
            roster.Revocation("old", Identity.generate(Draws(("old", i))).public.key, "lost") for i in range(number)
        ]
        signed.append(roster.sign_roster(roster.Roster.of("f", number, members[: 3 + number], gone), FEDERATION))
    return signed


def _make_roster(rng: Random) -> bytes:
    """Half of them are signed by the federation key itself, whatever they say: the reader goes on to the roster."""
    data = nearly_roster(rng)
    tree = mutations.unpack(data)
    if rng.random() < 0.6 and isinstance(tree, dict) and isinstance(tree.get("roster"), bytes):
        body = tree["roster"]
        signature = FEDERATION.sign(roster._signing_bytes(FEDERATION.public, body))
        return codec.encode(roster._Envelope(body, signature))
    return data


nearly_roster = nearly(_rosters)


@cache
def _membership() -> roster.Membership:
    return roster.Membership(roster.open_roster(_rosters()[1], FEDERATION.public), FEDERATION.public)


def take_roster(data: bytes) -> None:
    newer = roster.accept_update(_membership(), data, roster.everybody)
    for id_ in ("n0", "n5", "old", "../x"):
        try:
            newer.lookup(id_)
        except Refused:
            continue
    assert newer.owner_ids is not None


def _jobs() -> list[bytes]:
    train = jobs.TrainJob(plan=plans()[0], inputs="x", targets="y", rounds=2, evaluation=jobs.Evaluation(fraction=0.2))
    mean = jobs.AggregateJob(
        expression=_expressions()[-1], reduce="mean", shape=[2], bound=8.0, weights=[0.5, 1.0, 0.5]
    )
    total = msgspec.structs.replace(mean, reduce="sum", weights=None)
    return [jobs.encode_job(job) for job in (train, mean, total)]


def take_job(data: bytes) -> None:
    """Read as owner and coordinator do: what each of its rounds would be."""
    job = jobs.decode_job(data)
    same(job, jobs.encode_job, data)
    for number in (0, 1, 2, 1 << 40):
        try:
            expected_of(data, job, number, ["alice", "bob", "carol"])
        except SmpcError:
            continue


_NORM = ["%h", None, None, "@mean", "@variance", True, 0.1, 1e-5, True]
_CLASSES: list[list[Any]] = [
    ["h", "aten.linear.default", ["$x", "@w1", "@b1"], {}],
    ["n", "aten.batch_norm.default", _NORM, {}],
    ["r", "aten.relu.default", ["%n"], {}],
    ["s", "aten.linear.default", ["%r", "@w2"], {}],
    ["loss", "aten.cross_entropy_loss.default", ["%s", "$y"], {}],
]
_LINE: list[list[Any]] = [
    ["s", "aten.linear.default", ["$x", "@w1", "@b1"], {}],
    ["loss", "aten.mse_loss.default", ["%s", "$y"], {}],
]


def _part(name: str, *shape: int, kind: str = "parameter") -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "kind": kind}


@cache
def plans() -> list[bytes]:
    """Two small plans, as `Plan.from_module` would make them (that takes seconds): a classifier and a straight line."""
    frozen = [[n, o, [False if a is True else a for a in args], k] for n, o, args, k in _CLASSES]
    layout_ = [
        _part("w1", 4, 3), _part("b1", 4), _part("mean", 4, kind="buffer"), _part("variance", 4, kind="buffer"),
        _part("w2", 2, 4),
    ]  # fmt: skip
    made = [
        ("cross_entropy", layout_, ("int64", []), [2], _CLASSES, frozen),
        ("mse", [_part("w1", 1, 3), _part("b1", 1)], ("float32", [1]), [1], _LINE, _LINE),
    ]
    found = []
    for loss, parts, (dtype, shape), prediction, train, evaluate in made:
        graphs = {
            name: {"nodes": nodes, "loss": "%loss", "prediction": "%s"}
            for name, nodes in (("train", train), ("evaluate", evaluate))
        }
        whole = {
            "version": 1, "loss": loss, "layout": parts, "inputs": {"dtype": "float32", "shape": [3]},
            "targets": {"dtype": dtype, "shape": shape}, "prediction": prediction, **graphs,
        }  # fmt: skip
        found.append(document.encode_document(msgspec.convert(whole, document.PlanDocument)))
    return found


def _make_plan(rng: Random) -> bytes:
    data = plans()
    draw = rng.random()
    if draw < 0.25:
        return mutations.mutate_bytes(rng, rng.choice(data), data)
    trees = [msgspec.json.decode(plan) for plan in data]
    tree = rng.choice(trees)
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = mutations.mutate_tree(rng, tree, trees)
    return mutations.pack_json(tree)


def take_plan(data: bytes) -> None:
    same(document.decode_document(data), document.encode_document, data)
    layout.layout_of(data)


# --- expressions and requests ---


def _expressions() -> list[bytes]:
    x, y = lineage.registered("heart/x"), lineage.registered("y")
    two = lineage.literal("float32", [2], bytes(8))
    made = [x, two, lineage.apply("add", (lineage.Ref(0), lineage.Ref(1)), (x, two))]
    made += [lineage.apply("index", (lineage.Ref(0), (lineage.Span(), 3)), (x,))]
    made += [
        lineage.apply("mean", (lineage.Ref(0), 0), (lineage.apply("mul", (lineage.Ref(0), lineage.Ref(1)), (x, y)),))
    ]
    return [lineage.encode_expression(expression) for expression in made]


def take_expression(data: bytes) -> None:
    expression = lineage.decode_expression(data)
    same(expression, lineage.encode_expression, data)
    if len(lineage.describe(expression)) > lineage.MAX_TEXT:
        raise Wrong("a described expression is too long")
    for name in lineage.names(expression):
        lineage.dataset_of(name)


def take_request(data: bytes) -> None:
    same(session.decode_request(data), session.encode_request, data)


def take_response(data: bytes) -> None:
    same(session.open_response(data, owner="alice"), session.encode_response, data)


RECORDS = tuple(records.KINDS.values())
REQUESTS: tuple[type[Any], ...] = get_args(session.AnyRequest)
RESPONSES: tuple[type[Any], ...] = get_args(session.AnyResponse)


def _of_all(kinds: Sequence[type[Any]]) -> Callable[[], list[bytes]]:
    return lambda: [data for kind in kinds for data in fresh(kind)]


def targets() -> list[Target]:
    malformed = (MalformedMessage,)
    found = [
        Target("message", nearly(_said, MESSAGE_TYPES), take_message, malformed, 3.0),
        Target(
            "envelope",
            nearly(_envelopes, (messages.Signed,)),
            take_envelope,
            (MalformedMessage, BadSignature, Refused),
            2.0,
        ),
        Target("frame", _make_frame, take_frame, malformed, 2.0),
        Target(
            "manifest", nearly(_of_all((messages.Manifest,)), (messages.Manifest,)), _each(messages.Manifest), malformed
        ),
        Target(
            "roster", _make_roster, take_roster, (MalformedMessage, BadSignature, ConfigInvalid, Equivocation, Refused)
        ),
        Target("job", nearly(_jobs, get_args(jobs.Job)), take_job, malformed, 2.0),
        Target("plan", _make_plan, take_plan, (PlanRejected,)),
        Target("expression", nearly(_expressions, (lineage.Expression,)), take_expression, malformed, 2.0),
        Target("request", nearly(_of_all(REQUESTS), REQUESTS), take_request, malformed),
        Target("response", nearly(_of_all(RESPONSES), RESPONSES), take_response, (SmpcError,)),
    ]
    for kind in RECORDS:
        found.append(Target(f"record-{kind.__name__}", nearly(_of_all((kind,)), (kind,)), _each(kind), malformed, 0.1))
    return found
