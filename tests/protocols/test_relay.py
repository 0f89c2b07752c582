"""Commands of a researcher to one owner, past a coordinator that can neither make, change nor read what matters."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from rig import Draws

from smpc_fl.errors import BadSignature, DecryptionFailed, MalformedMessage, UnknownMember, WrongRole
from smpc_fl.identity import Identity
from smpc_fl.protocols import relay
from smpc_fl.protocols.codec import decode
from smpc_fl.protocols.messages import Answer, Signed
from smpc_fl.protocols.party import Party
from smpc_fl.roster import Member, Membership, Role, Roster

DRAW = Draws("relay")
ROLES: dict[str, Role] = {"alice": "owner", "bob": "owner", "rita": "researcher", "rob": "researcher"}
IDENTITIES = {id_: Identity.generate(DRAW) for id_ in ROLES}
MEMBERSHIP = Membership(
    Roster.of("relay", 1, [Member(id_, role, IDENTITIES[id_].public.key) for id_, role in ROLES.items()]),
    Identity.generate(DRAW).public,
)
PARTIES = {id_: Party(id_, IDENTITIES[id_], MEMBERSHIP) for id_ in ROLES}
SESSION = b"s" * 16


def asked(owner: str = "alice", sequence: int = 1) -> relay.Asked:
    return relay.ask(PARTIES["rita"], owner, SESSION, sequence, b"a request", DRAW)


def answered(asked_: relay.Asked, owner: str = "alice", response: bytes = b"a response") -> Signed:
    return relay.accept(PARTIES[owner], asked_.signed, DRAW).answer(response)


def test_an_answer_opens_for_the_one_who_asked() -> None:
    question = asked()
    assert relay.accept(PARTIES["alice"], question.signed, DRAW).command.request == b"a request"
    answer = answered(question)
    assert question.read(answer, PARTIES["rita"]) == b"a response"
    assert b"a response" not in answer.body


def test_a_command_is_for_one_owner_and_from_a_researcher() -> None:
    with pytest.raises(WrongRole, match="another owner"):
        relay.accept(PARTIES["bob"], asked().signed, DRAW)
    forged = PARTIES["bob"].sign(asked().command)
    with pytest.raises(WrongRole):
        relay.accept(PARTIES["alice"], forged, DRAW)
    changed = msgspec.structs.replace(asked().signed, body=asked("bob").signed.body)
    with pytest.raises(BadSignature):
        relay.accept(PARTIES["alice"], changed, DRAW)


def test_an_answer_to_another_command_is_refused() -> None:
    question = asked()
    answer = answered(question)
    for other in (asked(sequence=2), replace(question, owner="bob")):
        with pytest.raises(MalformedMessage, match="another command"):
            other.read(answer, PARTIES["rita"])
    elsewhere = replace(question, command=msgspec.structs.replace(question.command, session=b"t" * 16))
    with pytest.raises(MalformedMessage, match="another command"):
        elsewhere.read(answer, PARTIES["rita"])


def test_an_answer_opens_for_nobody_else() -> None:
    question, again = asked(), asked()
    answer = answered(question)
    with pytest.raises(DecryptionFailed):
        again.read(answer, PARTIES["rita"])  # the same words, another command
    with pytest.raises(DecryptionFailed):
        question.read(answer, PARTIES["rob"])
    said = decode(answer.body, Answer)
    swapped = PARTIES["bob"].sign(said)
    with pytest.raises(MalformedMessage):
        question.read(swapped, PARTIES["rita"])
    changed = PARTIES["alice"].sign(msgspec.structs.replace(said, sealed=bytes([said.sealed[0] ^ 1]) + said.sealed[1:]))
    with pytest.raises(DecryptionFailed):
        question.read(changed, PARTIES["rita"])


def test_a_command_that_could_not_be_answered_is_not_taken() -> None:
    question = asked()
    crafted = PARTIES["rita"].sign(msgspec.structs.replace(question.command, reply_key=bytes(32)))
    with pytest.raises(MalformedMessage, match="low order"):
        relay.accept(PARTIES["alice"], crafted, DRAW)


def test_a_refusal_is_of_the_owner_and_of_one_command() -> None:
    """The coordinator carries it: it can neither make one nor use the one of another command, or of other bytes."""
    question = asked()
    refused = relay.refuse(PARTIES["alice"], question.signed, UnknownMember("not in my roster"))
    error = question.read(refused, PARTIES["rita"])
    assert isinstance(error, UnknownMember)
    assert (error.message, error.peer, error.phase) == ("not in my roster", "alice", "pointer")
    spoilt = msgspec.structs.replace(question.signed, signature=bytes(64))  # is about the same words
    assert isinstance(question.read(relay.refuse(PARTIES["alice"], spoilt, error), PARTIES["rita"]), UnknownMember)
    edited = msgspec.structs.replace(question.signed, body=question.signed.body + b"\0")
    for elsewhere in (
        relay.refuse(PARTIES["bob"], question.signed, error),
        relay.refuse(PARTIES["alice"], asked(sequence=2).signed, error),
        relay.refuse(PARTIES["alice"], edited, error),
        relay.refuse(PARTIES["alice"], msgspec.structs.replace(question.signed, sender="rob"), error),
    ):
        with pytest.raises(MalformedMessage):
            question.read(elsewhere, PARTIES["rita"])
    with pytest.raises(WrongRole):
        question.read(relay.refuse(PARTIES["rob"], question.signed, error), PARTIES["rita"])


def test_sessions_are_in_the_order_in_which_they_began() -> None:
    first, second = relay.session_id(1_800_000_000.25, DRAW), relay.session_id(1_800_000_000.251, DRAW)
    assert len(first) == 16
    assert first < second
    assert first != relay.session_id(1_800_000_000.25, DRAW)
    assert relay.begun(first) == 1_800_000_000.25


def test_what_is_shown_of_a_question_is_no_key() -> None:
    assert "reply=" not in repr(asked())
    assert ", _key=" not in repr(relay.accept(PARTIES["alice"], asked().signed, DRAW))
