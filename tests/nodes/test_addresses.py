from __future__ import annotations

import pytest

from smpc_fl.errors import ConfigInvalid
from smpc_fl.nodes.net.addresses import (
    PLAINTEXT_WORDS,
    check_dial,
    check_listen,
    is_loopback,
    parse_address,
    parse_listen,
)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "127.0.0.1", "127.9.9.9", "::1"])
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "127.0.0.1.example.org", "", "::2"]
)
def test_not_this_machine(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("127.0.0.1:8443", ("127.0.0.1", 8443)),
        ("[::]:0", ("::", 0)),
        ("hub.example.org:65535", ("hub.example.org", 65535)),
    ],
)
def test_where_to_listen(text: str, parsed: tuple[str, int]) -> None:
    assert parse_listen(text) == parsed


@pytest.mark.parametrize(
    "text", ["", "8443", ":8443", "host", "host:", "host:x", "host:65536", "a@host:1", "host:1/path", "[::1:1", "h:1?q"]
)
def test_not_addresses(text: str) -> None:
    with pytest.raises(ConfigInvalid, match="is not an address"):
        parse_listen(text)
    with pytest.raises(ConfigInvalid, match="is not an address"):
        parse_address(f"wss://{text}")


@pytest.mark.parametrize("text", ["http://h:1", "h:1", "wss:/h:1", "wss://h:0", "://h:1"])
def test_not_addresses_to_dial(text: str) -> None:
    with pytest.raises(ConfigInvalid, match="to dial"):
        parse_address(text)


@pytest.mark.parametrize("text", ["wss://hub.example.org:8443", "ws://127.0.0.1:1", "wss://[::1]:443"])
def test_urls_come_back(text: str) -> None:
    assert parse_address(text).url == text


def test_listening_in_plaintext() -> None:
    check_listen("127.0.0.1:1", has_certificate=False, plaintext="")
    check_listen("0.0.0.0:1", has_certificate=True, plaintext="")
    check_listen("0.0.0.0:1", has_certificate=False, plaintext=PLAINTEXT_WORDS)
    for words in ("", "yes", PLAINTEXT_WORDS.lower()):
        with pytest.raises(ConfigInvalid, match="open to other machines"):
            check_listen("0.0.0.0:1", has_certificate=False, plaintext=words)


def test_dialling_in_plaintext() -> None:
    assert not check_dial("ws://127.0.0.1:1", plaintext="").secure
    assert check_dial("wss://10.0.0.1:1", plaintext="").secure
    assert check_dial("ws://10.0.0.1:1", plaintext=PLAINTEXT_WORDS).host == "10.0.0.1"
    with pytest.raises(ConfigInvalid, match="over the network in plaintext"):
        check_dial("ws://10.0.0.1:1", plaintext="")
