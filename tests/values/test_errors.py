"""The error tree: drawn in its docstring, whole on the wire, and never a guess."""

from __future__ import annotations

import pytest

from smpc_fl import errors
from smpc_fl.errors import BY_CODE, PeerMisbehaviour, SmpcError, from_code


def test_the_docstring_draws_exactly_the_tree() -> None:
    drawn = {word for line in (errors.__doc__ or "").splitlines() for word in line.replace("│", " ").split()}
    assert set(BY_CODE) <= drawn


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_error_survives_the_wire(code: str) -> None:
    error = from_code(code, "why", peer="alice", phase="report")
    assert type(error) is BY_CODE[code]
    assert error.code == code
    assert (error.message, error.peer, error.phase) == ("why", "alice", "report")
    assert str(error) == "why [alice, report]"


def test_without_a_place_the_message_stands_alone() -> None:
    assert str(SmpcError("why")) == "why"
    assert str(SmpcError("why", phase="vote")) == "why [vote]"


def test_an_unknown_code_is_misbehaviour() -> None:
    error = from_code("Nonsense", "why", peer="mallory")
    assert type(error) is PeerMisbehaviour
    assert error.peer == "mallory"
