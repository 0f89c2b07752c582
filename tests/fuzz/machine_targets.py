"""Every state of the three machines, and every event that may come upon it: each type of message, from every kind of sender,
true, changed, of another round, and merely of the right type; with any attachment; and the machine's own events, at any time.

A message has a signature that holds, as the shell that hands it on has checked. What must be: an answer or a refusal of the
tree, never an exception; a change of state only as in the table; no secret in anything that is said in the clear; no effect
of what strangers say; and an honest rest of the round ends with the exact sum, or with none.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import grammar
import msgspec
import mutations
import numpy as np
import scenes
from engine import Target, Wrong
from rig import OWNERS, Draws, Rig, label
from scenes import AGGREGATORS, STRANGERS, Scene, mind, only_refuses, same_mind
from wire_targets import MESSAGE_TYPES

from smpc_fl.errors import BY_CODE, BadInput, InternalError, MalformedMessage, RunFailed, Unavailable
from smpc_fl.protocols import codec, vectors
from smpc_fl.protocols.commands import Computed, ComputeFailed, Event, PeerGone, PeerUp, Received, Send, Start, Tick
from smpc_fl.protocols.coordinator import CoordinatorRound, Released
from smpc_fl.protocols.messages import AbortRequest, AttemptAborted, Message, Refusal, RoundClosed, Signed
from smpc_fl.protocols.owner import OwnerRound
from smpc_fl.protocols.simulate import COORDINATOR, federation
from smpc_fl.ring import ring

FINISHED = 20
"""One in so many cases that had an effect goes on to the end of its round."""

SENDERS = (COORDINATOR, *AGGREGATORS, *OWNERS, *STRANGERS)


@dataclass(frozen=True)
class Said:
    by: str
    to: str
    message: Message
    attachment: Any


@cache
def _recorded(own: bool) -> list[Said]:
    """What is said, or could be, in this round, or in others: of another run, round and federation."""
    rigs = [scenes.rig()]
    if not own:
        rigs = [scenes.rig("other run"), scenes.rig(round_number=1)]
        rigs.append(Rig(seed="other federation", parties=federation([*OWNERS], [*AGGREGATORS], Draws("others"))))
    said: list[Said] = []
    for made in rigs:
        outcome = made.run()
        made.close(isinstance(outcome, Released))
        said += [Said(by, send.to, message, send.attachment) for by, send, message in made.said]
        about, key = made.coordinator.manifest_hash, (made.plan.run, made.plan.round, made.plan.attempt)
        more = [AbortRequest(*key), RoundClosed(about, True), RoundClosed(about, False)]
        said += [Said(COORDINATOR, to, message, None) for message in more for to in (*AGGREGATORS, *OWNERS)]
        said += [Said(by, COORDINATOR, AttemptAborted(*key, "given up"), None) for by in AGGREGATORS]
        refusals = [Refusal(code, "no", "report", about) for code in ("ReportTooLate", "BadInput", "Nonsense")]
        said += [
            Said(by, to, message, None) for message in refusals for by in AGGREGATORS for to in (COORDINATOR, *OWNERS)
        ]
        said += [Said(by, COORDINATOR, message, None) for message in refusals for by in OWNERS]
    return said


@cache
def _by_kind() -> dict[str, list[Said]]:
    found: dict[str, list[Said]] = defaultdict(list)
    for said in [*_recorded(True), *_recorded(False)]:
        found[type(said.message).__name__].append(said)
    return found


@cache
def _pools(own: bool) -> dict[str, list[Any]]:
    """Values that fields of a name have in these rounds."""
    found: dict[str, list[Any]] = defaultdict(list)

    def collect(value: Any) -> None:
        if isinstance(value, msgspec.Struct):
            for name in value.__struct_fields__:
                item = getattr(value, name)
                if item not in found[name]:
                    found[name].append(item)
                collect(item)
            if isinstance(value, Signed):
                collect(codec.decode_message(value.body))
        elif isinstance(value, list):
            for item in value:
                collect(item)

    for said in _recorded(own):
        collect(said.message)
    return found


def _pool(rng: Random) -> dict[str, list[Any]]:
    return _pools(rng.random() < 0.7)


@dataclass(frozen=True)
class Case:
    """One event at one scene; `finish` asks for the rest of the round."""

    scene: int
    event: Event
    note: str
    finish: bool

    def __repr__(self) -> str:
        text = f"{scenes.scenes()[self.scene]} <- {self.note}"
        if isinstance(self.event, Received):
            text += f" from {self.event.sender}: {codec.encode(self.event.message).hex()[:1500]}"
        return text


def make(rng: Random) -> Case:
    number = rng.randrange(len(scenes.scenes()))
    scene = scenes.scenes()[number]
    if rng.random() < 0.08:
        event = _own_event(rng, scene)
        return Case(number, event, type(event).__name__, rng.randrange(FINISHED) == 0)
    if rng.random() < 0.5:  # what this machine is told in this round, sooner or later
        said = rng.choice([said for said in _recorded(True) if said.to == scene.who])
        return _case(rng, number, said, rng.choice(SENDERS) if rng.random() < 0.1 else said.by)
    kind = rng.choice(MESSAGE_TYPES)
    sender = COORDINATOR if rng.random() < 0.3 else rng.choice(SENDERS)
    return message_case(rng, number, kind, sender)


def message_case(rng: Random, number: int, kind: type[Message], sender: str) -> Case:
    """A message of this type, from this member."""
    recorded = _by_kind()[kind.__name__]
    if recorded and rng.random() < 0.6:
        said = rng.choice(recorded)
        return _case(rng, number, said, said.by if rng.random() < 0.5 else sender)
    return _case(rng, number, Said(sender, "", grammar.draw(rng, kind, _pool(rng)), b""), sender)


def _case(rng: Random, number: int, said: Said, sender: str) -> Case:
    message, attachment, note = said.message, said.attachment, type(said.message).__name__
    if rng.random() < 0.5:
        message, note = changed(rng, message), f"changed {note}"
    if rng.random() < 0.3:
        attachment, note = _attachment(rng, attachment), f"{note} with another attachment"
    return Case(
        number, Received(sender, message, _signed(sender, message), attachment), note, rng.randrange(FINISHED) == 0
    )


def _signed(sender: str, message: Message) -> Signed:
    party = scenes.parties().get(sender)
    return party.sign(message) if party else Signed(sender, codec.encode(message), bytes(64))


def changed(rng: Random, message: Message) -> Message:
    """The message with one field drawn anew, taken from another, or changed inside; envelopes are signed again by whom they
    are from, as their senders could."""
    names = message.__struct_fields__
    if not names:
        return message
    name = rng.choice(names)
    value = getattr(message, name)
    match rng.randrange(4):
        case 0:
            other = grammar.draw(rng, type(message), _pool(rng))
            value = getattr(other, name)
        case 1 if name in _pools(True):
            value = rng.choice(_pools(True)[name])
        case 2 if isinstance(value, Signed):
            value = _resigned(rng, value)
        case 2 if isinstance(value, list) and value and isinstance(value[0], Signed):
            at = rng.randrange(len(value))
            value = [*value[:at], _resigned(rng, value[at]), *value[at + 1 :]]
        case _:
            value = mutations.near(rng, value)
    try:
        return codec.decode(codec.encode(msgspec.structs.replace(message, **{name: value})), type(message))
    except Exception:
        return message  # not a value of this type


def _resigned(rng: Random, signed: Signed) -> Signed:
    try:
        message = codec.decode_message(signed.body)
    except MalformedMessage:
        return signed
    return _signed(signed.sender, changed(rng, message))


def _attachment(rng: Random, attachment: Any) -> Any:
    data = bytes(attachment or b"")
    match rng.randrange(7):
        case 0:
            return None
        case 1:
            return b""
        case 2:
            return data[:-1]
        case 3:
            return bytearray(data + b"\0")
        case 4:
            return memoryview(mutations.mutate_bytes(rng, data, [data]))
        case 5:
            return rng.randbytes(rng.choice((1, 16, 32, 4096)))
        case _:
            of, n = ring(rng.choice((32, 64, 23))), rng.choice((0, 1, 4, 100))
            return vectors.VectorOpener(
                vectors.stream(rng.randbytes(32), rng.randbytes(32), of, n), of, np.zeros(n, of.dtype)
            )


def _own_event(rng: Random, scene: Scene) -> Event:
    """What a shell tells its machine: whenever, and more than once. Vectors are those that no honest owner's job gives."""
    events: list[Event] = [Start(), Tick(), *(PeerUp(peer) for peer in SENDERS)]
    errors = (BadInput("no such column"), Unavailable("gone"), RunFailed("x" * 9000), InternalError("bug"))
    if isinstance(scene.machine, OwnerRound):
        vector = scene.rig.vectors[scene.who]
        events += [ComputeFailed(error) for error in errors]
        wrong = (
            vector[:-1],
            vector.reshape(2, 2),
            vector * np.nan,
            vector + 1e9,
            vector - np.inf,
            np.zeros(0),
            vector[None],
        )
        events += [Computed(one) for one in (*wrong, vector)]
    if isinstance(scene.machine, CoordinatorRound):
        events += [PeerGone(peer, rng.choice(errors)) for peer in SENDERS]
    return rng.choice(events)


def take(case: Case) -> None:
    scene = scenes.scenes()[case.scene]
    try:
        finishes = _take(case, scene)
        if finishes:
            scene.finish()
    finally:
        scene.reset(whole=case.finish)


def _take(case: Case, scene: Scene) -> bool:
    """Whether the round goes on from here."""
    machine, event = scene.machine, case.event
    commands = machine.receive(event, scene.rig.now)
    after = machine.state
    if after not in scenes.reachable(scenes.MODULES[type(machine)], machine, scene.state, label(event)):
        raise Wrong(f"{scene} went to {after.name} upon {label(event)}")
    secrets = scenes.secrets_of(machine)
    for message, send in scenes.said_in(commands):
        if any(secret in send.signed.body or secret.hex().encode() in send.signed.body for secret in secrets):
            raise Wrong(f"a secret in a {type(message).__name__}")
        if isinstance(message, Refusal):
            _check_refusal(message, event, send)
    effect = after is not scene.state or not same_mind(scene.before, mind(machine))
    if isinstance(event, Received) and event.sender in STRANGERS and (effect or not only_refuses(commands)):
        raise Wrong(f"{scene}: a stranger's {label(event)} has an effect")
    if effect and case.finish:
        scene.carry_out(commands)
        return True
    return False


def _check_refusal(message: Refusal, event: Event, send: Send) -> None:
    """The reasons are the tree's; our own bug is none of them, unless it was an owner's own computation that failed."""
    if message.code not in BY_CODE or (message.code == "InternalError" and not isinstance(event, ComputeFailed)):
        raise Wrong(f"a refusal with the code {message.code}: {message.text}")
    codec.decode_message(send.signed.body)


def targets() -> list[Target]:
    return [Target("machine", make, take, (), 6.0)]
