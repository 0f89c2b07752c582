"""`smpc_fl.hashing`: BLAKE2b with labels and length-prefixed parts."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpc_fl.errors import InternalError
from smpc_fl.hashing import derive_key, digest

LABELS = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=40)
PARTS = st.lists(st.binary(max_size=40), max_size=4)


def prefixed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def test_the_hash_below_is_blake2b() -> None:
    # RFC 7693, appendix A: BLAKE2b-512("abc").
    assert hashlib.blake2b(b"abc").hexdigest() == (
        "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
        "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923"
    )


def test_digest_is_blake2b_over_prefixed_parts() -> None:
    expected = hashlib.blake2b(prefixed(b"one", b""), digest_size=32, person=b"smpc-fl/1 short").digest()
    assert digest("smpc-fl/1 short", b"one", b"") == expected


def test_derive_key_is_keyed_blake2b() -> None:
    expected = hashlib.blake2b(prefixed(b"c"), digest_size=32, key=b"secret", person=b"sixteen bytes ok").digest()
    assert derive_key("sixteen bytes ok", b"secret", b"c") == expected


def test_long_labels_are_hashed_into_person() -> None:
    label = "seventeen bytes !"
    person = hashlib.blake2b(label.encode(), digest_size=16, person=b"smpc-fl label").digest()
    assert digest(label, b"x") == hashlib.blake2b(prefixed(b"x"), digest_size=32, person=person).digest()
    assert digest(label, b"x") != digest(label[:16], b"x")


def test_spelling_is_pinned() -> None:
    # Known answers of our own: both ends of a federation, and its disks, must agree for ever.
    assert (
        digest("smpc-fl/1 signed", b"a", b"b").hex()
        == "b3cfc7eafeabb3e94bf456f805c68df8757f43fc34dd738190587c2173e48527"
    )
    assert (
        derive_key("smpc-fl/1 channel", bytes(32), b"a").hex()
        == "005c40850630897fc631952d216683a8b3cc5a2a603084e69044df79b554b24c"
    )


@given(LABELS, PARTS, LABELS, PARTS)
def test_equal_only_for_equal_inputs(label: str, parts: list[bytes], label2: str, parts2: list[bytes]) -> None:
    same = (label, parts) == (label2, parts2)
    assert (digest(label, *parts) == digest(label2, *parts2)) is same
    assert (derive_key(label, b"k", *parts) == derive_key(label2, b"k", *parts2)) is same


@given(st.binary(max_size=20), st.integers(0, 20))
def test_moving_a_boundary_changes_the_digest(data: bytes, cut: int) -> None:
    assert digest("cut", data[:cut], data[cut:]) != digest("cut", data)
    if 0 < cut < len(data):
        assert digest("cut", data[:cut], data[cut:]) != digest("cut", data[: cut - 1], data[cut - 1 :])


def test_every_buffer_and_size() -> None:
    assert digest("b", bytearray(b"xy")) == digest("b", memoryview(b"xy")) == digest("b", b"xy")
    wide = memoryview(bytearray(8)).cast("I")
    assert digest("b", wide) == digest("b", bytes(8))
    assert [len(digest("s", size=size)) for size in (1, 16, 64)] == [1, 16, 64]
    assert derive_key("k", b"a") != derive_key("k", b"b")


@pytest.mark.parametrize("label", ["", "a\0b"])
def test_bad_labels(label: str) -> None:
    with pytest.raises(InternalError, match="label"):
        digest(label)


@pytest.mark.parametrize("size", [0, 65])
def test_bad_secret_sizes(size: int) -> None:
    with pytest.raises(InternalError, match="secret bytes"):
        derive_key("k", bytes(size))
