"""TLS contexts for `wss://`: version 1.3 only, certificates always checked, names always checked."""

from __future__ import annotations

import ssl
from pathlib import Path

from smpc_fl.errors import ConfigInvalid
from smpc_fl.nodes.home.config import NodeConfig
from smpc_fl.nodes.net.addresses import check_dial


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """For a listener, from PEM files. Raises `ConfigInvalid`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        # The empty password turns a prompt for an encrypted key, which nobody would answer, into an error.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError) as error:
        raise ConfigInvalid(
            f"tls: {certificate} and {key} are not a certificate and its own unencrypted key (PEM): {_reason(error)}"
        ) from None
    return context


def client_context(ca: Path | None = None) -> ssl.SSLContext:
    """For a dialler: believes the certificates signed by `ca` (PEM), or by the system's authorities when it is None.
    Raises `ConfigInvalid`."""
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=None if ca is None else str(ca))
    except (ssl.SSLError, OSError) as error:
        raise ConfigInvalid(f"tls: {ca} holds no certificate of a CA (PEM): {_reason(error)}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def listen_tls(config: NodeConfig) -> ssl.SSLContext | None:
    """The context of this node's listening socket, or None where it speaks plaintext (`config.py` has checked that it
    may)."""
    if config.tls.certificate is None or config.tls.key is None:
        return None
    return server_context(config.tls.certificate, config.tls.key)


def dial_tls(config: NodeConfig, address: str) -> ssl.SSLContext | None:
    """The context to dial `address` with, or None for an allowed `ws://`. Raises `ConfigInvalid` for a forbidden one."""
    dialled = check_dial(address, plaintext=config.plaintext)
    return client_context(config.tls.ca) if dialled.secure else None


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no PEM block found").replace("_", " ").lower()
    return error.strerror or type(error).__name__
