from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from federation_on_disk import make_federation

from smpc_fl.errors import ConfigInvalid
from smpc_fl.nodes.net.addresses import PLAINTEXT_WORDS
from smpc_fl.nodes.net.certificates import (
    alternative_name,
    expiry_of,
    hosts_of,
    make_authority,
    make_certificate,
    open_authority,
    write_certificate,
)
from smpc_fl.nodes.net.tls import client_context, dial_tls, listen_tls, server_context


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A CA, and a certificate for localhost and 127.0.0.1."""
    authority = open_authority(tmp_path, "test CA")
    write_certificate(tmp_path, "node", ["localhost", "127.0.0.1"], authority)
    return tmp_path


async def greet(server: ssl.SSLContext, client: ssl.SSLContext, name: str = "127.0.0.1") -> str | None:
    """The TLS version on which a client that wants to reach `name` and a server agree."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=name)
        assert await reader.read() == b"hello"
        version: str | None = writer.get_extra_info("ssl_object").version()
        writer.close()
        await writer.wait_closed()
        return version


def strict(context: ssl.SSLContext) -> ssl.SSLContext:
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
async def test_a_self_made_ca_carries_tls_1_3(folder: Path, name: str) -> None:
    server = server_context(folder / "node.pem", folder / "node.key")
    assert await greet(server, strict(client_context(folder / "ca.pem")), name) == "TLSv1.3"


async def test_other_names_are_refused(folder: Path) -> None:
    server = server_context(folder / "node.pem", folder / "node.key")
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        await greet(server, client_context(folder / "ca.pem"), "127.0.0.2")


async def test_another_ca_is_refused(folder: Path, tmp_path: Path) -> None:
    open_authority(tmp_path / "other", "test CA")
    server = server_context(folder / "node.pem", folder / "node.key")
    for client in (client_context(tmp_path / "other" / "ca.pem"), client_context()):
        with pytest.raises(ssl.SSLCertVerificationError):
            await greet(server, client)


async def test_older_versions_are_refused(folder: Path) -> None:
    server = server_context(folder / "node.pem", folder / "node.key")
    client = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await greet(server, client)
    assert client_context(folder / "ca.pem").minimum_version is ssl.TLSVersion.TLSv1_3


def test_files_that_do_not_go_together(folder: Path) -> None:
    with pytest.raises(ConfigInvalid, match="not a certificate and its own"):
        server_context(folder / "node.pem", folder / "ca.key")
    with pytest.raises(ConfigInvalid, match="No such file"):
        server_context(folder / "none.pem", folder / "node.key")
    with pytest.raises(ConfigInvalid, match="no certificate of a CA"):
        client_context(folder / "ca.key")
    with pytest.raises(ConfigInvalid, match="No such file"):
        client_context(folder / "none.pem")


def test_contexts_of_a_node(tmp_path: Path) -> None:
    made = make_federation(tmp_path)
    assert listen_tls(made.config("aggregator-1")) is not None
    assert listen_tls(made.config("alice")) is None
    alice = made.config("alice")
    assert isinstance(dial_tls(alice, "wss://10.0.0.1:1"), ssl.SSLContext)
    assert dial_tls(alice, "ws://127.0.0.1:1") is None
    with pytest.raises(ConfigInvalid, match="plaintext"):
        dial_tls(alice, "ws://10.0.0.1:1")
    assert dial_tls(made.config("alice", plaintext=PLAINTEXT_WORDS), "ws://10.0.0.1:1") is None


def test_a_ca_is_made_once(tmp_path: Path) -> None:
    first = open_authority(tmp_path, "mine")
    again = open_authority(tmp_path, "another name")
    assert again.certificate == first.certificate
    assert (tmp_path / "ca.key").stat().st_mode & 0o077 == 0


def test_broken_cas(tmp_path: Path) -> None:
    open_authority(tmp_path, "mine")
    key = (tmp_path / "ca.key").read_bytes()
    (tmp_path / "ca.key").unlink()
    with pytest.raises(ConfigInvalid, match="CA's private key cannot be read"):
        open_authority(tmp_path, "mine")
    (tmp_path / "ca.key").write_bytes(b"nonsense")
    with pytest.raises(ConfigInvalid, match="not a CA that this command made"):
        open_authority(tmp_path, "mine")
    open_authority(tmp_path / "other", "mine")
    (tmp_path / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(ConfigInvalid, match=r"ca\.key does not belong to ca\.pem"):
        open_authority(tmp_path, "mine")
    (tmp_path / "ca.key").write_bytes(key)
    open_authority(tmp_path, "mine")


@pytest.mark.parametrize("name", ["ca", "", "../x", "a/b", ".hidden"])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigInvalid, match="cannot name a certificate"):
        write_certificate(tmp_path, name, ["localhost"], make_authority("x"))


def test_certificates_are_not_overwritten(folder: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"node\.pem exists already"):
        write_certificate(folder, "node", ["localhost"], open_authority(folder, ""))


@pytest.mark.parametrize("host", ["", "a b", "wss://h", "h:1", "a..b", "ä.org", "x" * 254])
def test_hosts_that_are_none(host: str) -> None:
    with pytest.raises(ConfigInvalid, match="neither a host name nor an IP address"):
        alternative_name(host)


def test_what_a_certificate_says(folder: Path, tmp_path: Path) -> None:
    assert hosts_of(folder / "node.pem") == ["localhost", "127.0.0.1"]
    assert hosts_of(folder / "ca.pem") == []
    left = expiry_of(folder / "node.pem") - datetime.now(UTC)
    assert timedelta(days=824) < left < timedelta(days=826)
    with pytest.raises(ConfigInvalid, match="no certificate in PEM form"):
        hosts_of(folder / "node.key")
    long_name = "a" * 60 + ".example.org"
    assert make_certificate(make_authority("x"), [long_name])[0].startswith(b"-----BEGIN CERTIFICATE")
