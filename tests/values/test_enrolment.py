"""A request is good under its own token and for nothing else."""

from __future__ import annotations

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpc_fl.enrolment import TOKEN_SIZE, Request, Token, ask, check
from smpc_fl.errors import BadInput, BadSignature
from smpc_fl.identity import Identity
from smpc_fl.roster import Member

CAROL = Identity.from_seed(bytes(31) + b"\x07")
MALLORY = Identity.from_seed(bytes(31) + b"\x66")
TOKEN = Token.new("carol", "owner", lambda n: bytes(range(n)))


def test_who_was_invited_becomes_a_member() -> None:
    assert check(ask(TOKEN, CAROL), TOKEN.verifier) == Member("carol", "owner", CAROL.public.key)
    hub = Token.new("hub", "coordinator", lambda n: b"\x05" * n)
    assert check(ask(hub, CAROL, "wss://h:1"), hub.verifier).address == "wss://h:1"


def test_a_token_is_read_as_it_was_written_or_typed() -> None:
    assert Token.read(TOKEN.text) == TOKEN
    id, role, letters = TOKEN.text.split("/")
    assert Token.read(f"  {id}/{role}/{letters.upper()}\n") == TOKEN
    assert len(TOKEN.secret) == TOKEN_SIZE
    assert letters not in repr(TOKEN)


def test_the_verifier_does_not_give_the_token_away() -> None:
    assert TOKEN.secret.reveal() not in TOKEN.verifier
    others = [Token("carol", "aggregator", TOKEN.secret), Token("dave", "owner", TOKEN.secret)]
    assert len({TOKEN.verifier, *(other.verifier for other in others)}) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "carol",
        "carol/owner",
        "carol/king/aaaq",
        "carol/owner/!!!!",
        "carol/owner/aaaq",
        f"{TOKEN.text}aaaa",
        "a/owner/é",
    ],
)
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(BadInput, match="not a token") as caught:
        Token.read(text)
    assert not text or text not in caught.value.message


def test_another_token_checks_nothing() -> None:
    other = Token.new("carol", "owner", lambda n: bytes(n))
    with pytest.raises(BadSignature, match="not made with the token"):
        check(ask(other, CAROL), TOKEN.verifier)
    with pytest.raises(BadSignature, match="not made with the token"):
        check(ask(Token("carol", "aggregator", TOKEN.secret), CAROL, "wss://h:1"), TOKEN.verifier)


def test_somebody_elses_key_cannot_be_asked_for() -> None:
    good, own = ask(TOKEN, CAROL), ask(TOKEN, MALLORY)
    with pytest.raises(BadSignature, match="private half"):
        check(msgspec.structs.replace(good, possession=own.possession), TOKEN.verifier)


@given(st.data())
def test_nothing_in_a_request_may_change(data: st.DataObject) -> None:
    good = ask(TOKEN, CAROL)
    name = data.draw(st.sampled_from(Request.__struct_fields__))
    value = getattr(good, name)
    if isinstance(value, str):
        new = data.draw(st.text().filter(lambda text: text != value))
    else:
        at = data.draw(st.integers(0, len(value) - 1))
        new = value[:at] + bytes([value[at] ^ data.draw(st.integers(1, 255))]) + value[at + 1 :]
    with pytest.raises(BadSignature):
        check(msgspec.structs.replace(good, **{name: new}), TOKEN.verifier)


def test_a_swapped_key_is_noticed_even_with_a_signature_of_its_own() -> None:
    good = ask(TOKEN, CAROL)
    forged = msgspec.structs.replace(good, key=MALLORY.public.key, possession=ask(TOKEN, MALLORY).possession)
    with pytest.raises(BadSignature, match="altered"):
        check(forged, TOKEN.verifier)


def test_tokens_are_random() -> None:
    letters = TOKEN.text.rpartition("/")[2].upper()
    assert base64.b32decode(letters + "=" * (-len(letters) % 8)) == bytes(range(TOKEN_SIZE))
