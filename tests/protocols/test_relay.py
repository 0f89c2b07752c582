"""Commands of a researcher to one owner, past a coordinator that can neither make, change nor read what matters."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from rig import Draws

from smpc_fl.errors import BadSignature, DecryptionFailed, MalformedMessage, WrongRole
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
    command = relay.accept(PARTIES[owner], asked_.signed)
    return relay.answer(PARTIES[owner], asked_.signed, command, response, DRAW)


def test_an_answer_opens_for_the_one_who_asked() -> None:
    question = asked()
    assert relay.accept(PARTIES["alice"], question.signed).request == b"a request"
    answer = answered(question)
    assert question.open(answer, PARTIES["rita"]) == b"a response"
    assert b"a response" not in answer.body


def test_a_command_is_for_one_owner_and_from_a_researcher() -> None:
    with pytest.raises(WrongRole, match="another owner"):
        relay.accept(PARTIES["bob"], asked().signed)
    forged = PARTIES["bob"].sign(asked().command)
    with pytest.raises(WrongRole):
        relay.accept(PARTIES["alice"], forged)
    changed = msgspec.structs.replace(asked().signed, body=asked("bob").signed.body)
    with pytest.raises(BadSignature):
        relay.accept(PARTIES["alice"], changed)


def test_an_answer_to_another_command_is_refused() -> None:
    question = asked()
    answer = answered(question)
    for other in (asked(sequence=2), replace(question, owner="bob")):
        with pytest.raises(MalformedMessage, match="another command"):
            other.open(answer, PARTIES["rita"])
    elsewhere = replace(question, command=msgspec.structs.replace(question.command, session=b"t" * 16))
    with pytest.raises(MalformedMessage, match="another command"):
        elsewhere.open(answer, PARTIES["rita"])


def test_an_answer_opens_for_nobody_else() -> None:
    question, again = asked(), asked()
    answer = answered(question)
    with pytest.raises(DecryptionFailed):
        again.open(answer, PARTIES["rita"])  # the same words, another command
    with pytest.raises(DecryptionFailed):
        question.open(answer, PARTIES["rob"])
    said = decode(answer.body, Answer)
    swapped = PARTIES["bob"].sign(said)
    with pytest.raises(MalformedMessage):
        question.open(swapped, PARTIES["rita"])
    changed = PARTIES["alice"].sign(msgspec.structs.replace(said, sealed=bytes([said.sealed[0] ^ 1]) + said.sealed[1:]))
    with pytest.raises(DecryptionFailed):
        question.open(changed, PARTIES["rita"])


def test_what_is_shown_of_a_question_is_no_key() -> None:
    assert "reply=" not in repr(asked())
