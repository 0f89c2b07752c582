"""Addresses: `host:port` to listen on, `wss://host:port` to dial, and the rule about plaintext.

Shares, seeds and answers are sealed end to end whatever the socket; what TLS adds is that the network cannot read
metadata (who takes part, when, in which job) nor the global models that coordinators hand out. So `ws://` stays on this
machine unless a config says in words that it may leave.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple
from urllib.parse import urlsplit

from smpc_fl.errors import ConfigInvalid

PLAINTEXT_WORDS = "I accept that the network can read metadata and global models"
"""What `plaintext` in a config must say before its node talks `ws://` beyond loopback."""


class Dialled(NamedTuple):
    """A parsed `ws://` or `wss://` address."""

    secure: bool
    host: str
    port: int

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self.secure else 'ws'}://{host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether `host` can only be this machine: `localhost`, 127.0.0.0/8 or ::1. No name is looked up."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(text: str, example: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port is None or parts.netloc != text or "@" in text:
        raise ConfigInvalid(f'"{text}" is not an address: write "{example}"')
    return host, port


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of a `listen` entry; port 0 asks the system for a free one. Raises `ConfigInvalid`."""
    return _split(text, "127.0.0.1:8443")


def parse_address(text: str) -> Dialled:
    """A roster's address. Raises `ConfigInvalid`."""
    scheme, mark, rest = text.partition("://")
    if mark and scheme in ("ws", "wss"):
        host, port = _split(rest, "wss://host:8443")
        if port:
            return Dialled(scheme == "wss", host, port)
    raise ConfigInvalid(f'"{text}" is not an address to dial: write "wss://host:8443", or "ws://127.0.0.1:8443"')


def check_listen(text: str, *, has_certificate: bool, plaintext: str) -> None:
    """Refuses to listen in plaintext beyond loopback unless `plaintext` says so in words. Raises `ConfigInvalid`."""
    host, _ = parse_listen(text)
    if not has_certificate and not is_loopback(host) and plaintext != PLAINTEXT_WORDS:
        raise ConfigInvalid(
            f"{text} is open to other machines and there is no certificate: set `certificate` and `key` under [tls] "
            f'(`smpc-fl certificate` makes them), or write plaintext = "{PLAINTEXT_WORDS}"'
        )


def check_dial(address: str, *, plaintext: str) -> Dialled:
    """The parsed address, if this node may dial it: `ws://` only on this machine, or in words. Raises `ConfigInvalid`."""
    dialled = parse_address(address)
    if not dialled.secure and not is_loopback(dialled.host) and plaintext != PLAINTEXT_WORDS:
        raise ConfigInvalid(
            f"{address} would go over the network in plaintext: have its roster entry say wss://, or write "
            f'plaintext = "{PLAINTEXT_WORDS}" in this node\'s config'
        )
    return dialled
