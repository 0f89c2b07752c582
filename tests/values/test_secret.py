"""`smpc_fl.secret`: nothing shows what a secret holds."""

from __future__ import annotations

import copy
import pickle

import pytest

from smpc_fl.errors import PermissionDenied
from smpc_fl.secret import Secret

CONTENT = b"correct horse battery staple"


def test_every_way_of_printing_shows_size_only() -> None:
    secret = Secret(CONTENT)
    for text in (repr(secret), str(secret), f"{secret}", f"{secret:>60}", "%s" % secret, repr([secret])):  # noqa: UP031
        assert "28 bytes" in text
        assert not any(word in text for word in ("horse", "staple", CONTENT.hex()))
    assert not hasattr(secret, "__dict__")


def test_reveal_gives_a_copy_of_what_was_given() -> None:
    source = bytearray(CONTENT)
    secret = Secret(source)
    source[:] = bytes(len(source))
    assert secret.reveal() == CONTENT
    assert Secret(memoryview(CONTENT)).reveal() == CONTENT
    assert len(secret) == 28


def test_equality_is_among_secrets_only() -> None:
    assert Secret(CONTENT) == Secret(CONTENT)
    assert Secret(CONTENT) != Secret(CONTENT + b"!")
    assert Secret(CONTENT) != Secret(bytes(28))
    assert Secret(CONTENT) != CONTENT


def test_it_cannot_be_hashed() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(Secret(CONTENT))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_is_refused(protocol: int) -> None:
    with pytest.raises(PermissionDenied, match="pickled"):
        pickle.dumps(Secret(CONTENT), protocol)


def test_copying_is_refused() -> None:
    with pytest.raises(PermissionDenied):
        copy.copy(Secret(CONTENT))
    with pytest.raises(PermissionDenied):
        copy.deepcopy({"key": Secret(CONTENT)})
