"""What a party, a provider and a researcher refuse: statements, tensors and messages that break a rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import torch
from computing_rig import (
    NOW,
    PROVIDER,
    RESEARCHER,
    Going,
    World,
    X,
    Y,
    compiled,
    going,
    network,
    until,
    world,
)

from smpc_fl.errors import (
    BadInput,
    ComputationRefused,
    DecryptionFailed,
    LimitExceeded,
    MalformedMessage,
    RunFailed,
    SmpcError,
    VersionMismatch,
    WrongRole,
)
from smpc_fl.protocols.commands import PeerUp, Received, Start, Tick
from smpc_fl.protocols.computing import check
from smpc_fl.protocols.computing_client import ComputingClient, Share
from smpc_fl.protocols.messages import (
    Computation,
    ComputationDone,
    ComputationFailed,
    ComputationOffer,
    ComputingKey,
    ComputingKeyRequest,
    ForgetTensors,
    Refusal,
    TensorHeld,
    TensorRef,
    TensorShare,
)
from smpc_fl.shared_tensors.draft import Draft

# --- statements ---


def statement(run: Going, **changes: Any) -> tuple[Computation, Any]:
    offer = next(item[2] for item in run.queue if isinstance(item[2], ComputationOffer))
    said = msgspec.msgpack.decode(offer.computation.body, type=Computation)
    return msgspec.structs.replace(said, **changes), offer


def key(made: World, member: str, run: bytes, public: bytes) -> Any:
    return made.party(member).sign(ComputingKey(run, public))


BAD: dict[str, tuple[Callable[[World, Computation], dict[str, Any]], type[SmpcError], str]] = {
    "another version": (lambda w, s: {"version": 99}, VersionMismatch, "same release"),
    "another federation": (lambda w, s: {"federation": b"f" * 32}, ComputationRefused, "another federation"),
    "another roster": (lambda w, s: {"roster_hash": b"r" * 32}, ComputationRefused, "roster"),
    "parties out of order": (lambda w, s: {"parties": s.parties[::-1]}, ComputationRefused, "sorted"),
    "outputs out of order": (lambda w, s: {"revealed": [0, 0]}, ComputationRefused, "sorted"),
    "too late": (lambda w, s: {"deadline": NOW}, ComputationRefused, "deadline"),
    "for ever": (lambda w, s: {"deadline": float("inf")}, ComputationRefused, "deadline"),
    "no number": (lambda w, s: {"deadline": float("nan")}, ComputationRefused, "deadline"),
    "a key of another run": (
        lambda w, s: {"provider": key(w, PROVIDER, b"r" * 16, b"k" * 32)}, ComputationRefused, "another run",
    ),
    "a key of low order": (lambda w, s: {"provider": key(w, PROVIDER, s.run, bytes(32))}, MalformedMessage, "low order"),
    "an own key of low order": (lambda w, s: {"key": bytes(32)}, MalformedMessage, "low order"),
    "one key for two": (
        lambda w, s: {"provider": key(w, PROVIDER, s.run, s.key)}, ComputationRefused, "the same key",
    ),
    "a party as provider": (lambda w, s: {"provider": s.parties[0]}, WrongRole, "provider"),
    "another run": (lambda w, s: {"run": b"r" * 16}, ComputationRefused, "another run"),
    "another researcher's": (lambda w, s: {}, ComputationRefused, "another run"),
    "another program": (lambda w, s: {"program": b"p" * 32}, ComputationRefused, "not the one"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("member", ["aggregator-1", PROVIDER])
def test_a_statement_that_breaks_a_rule_is_refused(name: str, member: str) -> None:
    change, kind, text = BAD[name]
    made = world()
    run = going(made)
    until(run, ComputationOffer)
    said, offer = statement(run)
    signer = "other" if name == "another researcher's" else RESEARCHER
    bad = made.party(signer).sign(msgspec.structs.replace(said, **change(made, said)))
    run.feed(member, Received(RESEARCHER, ComputationOffer(bad, offer.program), bad))
    error = run.outcomes[member]
    assert isinstance(error, kind)
    assert text in error.message
    told = {to for sender, to, message, _ in run.queue if isinstance(message, ComputationFailed) and sender == member}
    assert RESEARCHER in told


BAD_AT_A_PARTY: dict[str, tuple[Callable[[World, Computation], dict[str, Any]], str]] = {
    "an output that is none": (lambda w, s: {"revealed": [1]}, "none of the program's"),
    "too few inputs": (lambda w, s: {"inputs": s.inputs[:1]}, "2 inputs"),
    "an unknown tensor": (lambda w, s: {"inputs": [TensorRef(b"t" * 16, 0), s.inputs[1]]}, "no tensor that you"),
    "inputs exchanged": (lambda w, s: {"inputs": s.inputs[::-1]}, "reads a tensor of shape"),
    "without this party": (lambda w, s: {"parties": [s.parties[1], key(w, "aggregator-9", s.run, b"9" * 32)]}, "another key"),
    "an old key": (
        lambda w, s: {"parties": [key(w, "aggregator-1", s.run, b"1" * 32), s.parties[1]]}, "another key",
    ),
    "with more parties": (
        lambda w, s: {"parties": [*s.parties, key(w, "aggregator-9", s.run, b"9" * 32)]}, "over other parties",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_AT_A_PARTY)
def test_a_statement_that_does_not_fit_what_a_party_holds_is_refused(name: str) -> None:
    change, text = BAD_AT_A_PARTY[name]
    made = world()
    run = going(made)
    until(run, ComputationOffer)
    said, offer = statement(run)
    bad = made.party(RESEARCHER).sign(msgspec.structs.replace(said, **change(made, said)))
    publics = next(send.attachment for _, to, _, send in run.queue if to == "aggregator-1")
    run.feed("aggregator-1", Received(RESEARCHER, ComputationOffer(bad, offer.program), bad, publics))
    assert text in run.outcomes["aggregator-1"].message


def test_a_provider_deals_under_its_own_key_only() -> None:
    made = world()
    run = going(made)
    until(run, ComputationOffer)
    said, offer = statement(run)
    bad = made.party(RESEARCHER).sign(msgspec.structs.replace(said, provider=key(made, PROVIDER, run.run, b"o" * 32)))
    run.feed(PROVIDER, Received(RESEARCHER, ComputationOffer(bad, offer.program), bad))
    assert "another provider's key" in run.outcomes[PROVIDER].message


def test_a_provider_that_a_party_does_not_trust_is_refused() -> None:
    made = world()
    made.rules = replace(made.rules, providers=frozenset())
    outcome = made.run(*network())[RESEARCHER]
    assert isinstance(outcome, ComputationRefused)
    assert "does not trust provider" in outcome.message


@pytest.mark.parametrize("member", ["aggregator-1", PROVIDER])
def test_a_program_that_is_too_large_is_refused(member: str) -> None:
    made = world()
    run = going(made)
    until(run, ComputationOffer)
    machine: Any = run.machines[member]
    machine._rules = replace(made.rules, most=100)
    outcome = run.finish()[RESEARCHER]
    assert isinstance(outcome, LimitExceeded)
    assert outcome.peer == member


def test_a_statement_is_a_researchers() -> None:
    made = world()
    run = going(made)
    until(run, ComputationOffer)
    said, _ = statement(run)
    with pytest.raises(WrongRole):
        check(made.party(made.parties[0]).sign(said), made.party(made.parties[1]), now=NOW)


# --- tensors ---


def test_a_researcher_cannot_use_what_another_has_shared() -> None:
    made = World()
    made.share("x", X, researcher="other")
    made.share("y", Y)
    outcome = made.run(*network())[RESEARCHER]
    assert isinstance(outcome, ComputationRefused)
    assert "no tensor that you have shared" in outcome.message


def test_what_was_forgotten_is_gone() -> None:
    made = world()
    tensors = made.tensors["aggregator-1"]
    assert len(tensors) == 2
    tensors.forget(made.shared["x"], "other")
    tensors.forget(TensorRef(b"t" * 16, 0), RESEARCHER)
    tensors.forget_all("other")
    assert tensors.size == 72
    tensors.forget(made.shared["x"], RESEARCHER)
    assert isinstance(made.run(*network())[RESEARCHER], ComputationRefused)
    tensors.forget_all(RESEARCHER)
    assert (len(tensors), tensors.size) == (0, 0)


def test_there_is_room_for_so_much() -> None:
    made = World(held=72)
    assert made.share("x", X) is None
    assert made.share("y", Y) is None
    assert isinstance(made.share("z", Y), LimitExceeded)
    assert isinstance(made.run(*network())[RESEARCHER], LimitExceeded)  # for its output


def shared_as(made: World, change: Callable[[TensorShare], TensorShare], attachment: Any = None) -> Any:
    run = Going(made)
    run.work(Share(torch.zeros(3, dtype=torch.int64), NOW + 60))
    until(run, TensorShare)
    _, to, message, send = run.queue[0]
    wrong = change(message)
    run.feed(to, Received(RESEARCHER, wrong, send.signed, send.attachment if attachment is None else attachment))
    return run.outcomes[to]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda m: msgspec.structs.replace(m, parties=m.parties[::-1]), ComputationRefused),
        (lambda m: msgspec.structs.replace(m, parties=["aggregator-2", "aggregator-9"]), ComputationRefused),
        (lambda m: msgspec.structs.replace(m, ephemeral=bytes(32)), MalformedMessage),
        (lambda m: msgspec.structs.replace(m, shape=[3, 1]), DecryptionFailed),
        (lambda m: msgspec.structs.replace(m, shape=[1 << 40]), LimitExceeded),
        (lambda m: msgspec.structs.replace(m, shape=[2, 2, 3]), (DecryptionFailed, MalformedMessage)),
    ],
)
def test_a_share_that_is_not_what_it_says_is_refused(change: Any, kind: Any) -> None:
    assert isinstance(shared_as(World(), change), kind)
    assert isinstance(shared_as(World(), lambda m: m, b"no box"), MalformedMessage)


# --- the researcher ---


def test_the_researcher_ends_what_a_member_cannot_do() -> None:
    made = world()
    for message, kind in (
        (Refusal("LimitExceeded", "no"), LimitExceeded),
        (Refusal("LimitExceeded", "no", "door"), LimitExceeded),
        (ComputationFailed(bytes(16), "RunFailed", "no", "aggregator-2"), RunFailed),
        (TensorHeld(bytes(16)), MalformedMessage),
        (ComputationDone(bytes(16)), MalformedMessage),
        (ForgetTensors([]), MalformedMessage),
    ):
        run = going(made)
        run.feed(RESEARCHER, Received(PROVIDER, message, made.party(PROVIDER).sign(message)))
        assert isinstance(run.outcomes[RESEARCHER], kind)
        run.finish()


def test_a_key_that_is_not_what_was_asked_for_ends_it() -> None:
    made = world()
    run = Going(made)
    signed = made.party(PROVIDER).sign(ComputingKey(run.run, bytes(32)))
    run.feed(RESEARCHER, Received(PROVIDER, ComputingKey(run.run, bytes(32)), signed))
    assert isinstance(run.outcomes[RESEARCHER], MalformedMessage)


def test_the_researcher_does_not_wait_for_ever() -> None:
    made = world()
    run = Going(made)
    run.feed(RESEARCHER, PeerUp("aggregator-9"))
    run.feed(RESEARCHER, Tick())
    assert not run.outcomes
    run.queue.clear()
    run.work(made.task(*network()))
    run.feed(RESEARCHER, Tick())
    made.now += 63
    run.feed(RESEARCHER, Tick())
    assert isinstance(run.outcomes[RESEARCHER], RunFailed)
    assert run.outcomes[RESEARCHER].peer == "aggregator-1"


def test_public_words_are_the_ones_that_the_program_names() -> None:
    checked, publics = compiled(*network())
    assert checked.public_words(publics)
    with pytest.raises(MalformedMessage, match="not those"):
        checked.public_words(bytes(len(publics)))
    with pytest.raises(MalformedMessage, match="more public words"):
        checked.public_words(publics + b"\0")
    with pytest.raises(MalformedMessage):
        checked.public_words(publics[:-1])
    assert checked.cost(2).rounds > 1


def test_a_key_request_is_said_to_all() -> None:
    made = World(3)
    client = ComputingClient(made.party(RESEARCHER), b"r" * 16, made.parties, PROVIDER, made.draw)
    assert len(client.receive(Start(), NOW)) == 4
    assert made.party(RESEARCHER).sign(ComputingKeyRequest(b"r" * 16))
    with pytest.raises(BadInput):
        made.task(Draft(), [])
