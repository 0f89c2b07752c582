"""A certificate authority of one's own, for federations that have no certificates from a public one.

The CA's private key stays on the machine that makes certificates; nodes get the CA's certificate (`ca` under [tls]),
listeners also a certificate and key of their own. ECDSA P-256, X.509 v3 with the extensions that RFC 5280 asks for
(section 4.2), so that strict verifiers are content.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from smpc_fl.errors import ConfigInvalid
from smpc_fl.nodes.home.files import read, write_new
from smpc_fl.roster import MemberId

CA_DAYS = 3650
CERTIFICATE_DAYS = 825
_UNREADABLE = (
    ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType
)  # fmt: skip
"""What damaged files make the library raise."""
CLOCK_SKEW = timedelta(hours=1)
"""Certificates count from so long before they were made: other machines' clocks may be behind."""


@dataclass(frozen=True)
class Authority:
    """A CA's certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def make_authority(name: str) -> Authority:
    """A fresh self-signed CA that signs no further CAs."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    certificate = (
        _builder(subject, subject, key.public_key(), CA_DAYS)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def alternative_name(host: str) -> x509.GeneralName:
    """A host name or IP address as certificates hold it. Raises `ConfigInvalid`."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.removeprefix("*.").split(".")
    if len(host) > 253 or not all(label and label.replace("-", "a").isalnum() and label.isascii() for label in labels):
        raise ConfigInvalid(f'"{host}" is neither a host name nor an IP address (no scheme, no port)')
    return x509.DNSName(host)


def make_certificate(authority: Authority, hosts: Sequence[str]) -> tuple[bytes, bytes]:
    """Certificate and private key (PEM) of a listener that is reached under any of `hosts`. Raises `ConfigInvalid`."""
    names = [alternative_name(host) for host in hosts]
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_name(hosts[0][:64]), authority.certificate.subject, key.public_key(), CERTIFICATE_DAYS)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM), key_pem(key)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def open_authority(folder: Path, name: str) -> Authority:
    """The CA in `folder` (`ca.pem`, `ca.key`), made there if there is none. Raises `ConfigInvalid`."""
    certificate_path, key_path = folder / "ca.pem", folder / "ca.key"
    if not certificate_path.exists() and not key_path.exists():
        authority = make_authority(name)
        write_new(key_path, key_pem(authority.key), mode=0o600)
        write_new(certificate_path, authority.certificate.public_bytes(Encoding.PEM))
        return authority
    remedy = f"Move {folder} away to start a new CA"
    certificate_pem = read(certificate_path, "the CA's certificate", remedy)
    key_bytes = read(key_path, "the CA's private key", remedy)
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = load_pem_private_key(key_bytes, None)
        public = certificate.public_key()
    except _UNREADABLE:
        raise ConfigInvalid(f"{folder}: ca.pem and ca.key are not a CA that this command made. {remedy}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != public:
        raise ConfigInvalid(f"{folder}: ca.key does not belong to ca.pem. {remedy}")
    return Authority(certificate, key)


def write_certificate(folder: Path, name: str, hosts: Sequence[str], authority: Authority) -> tuple[Path, Path]:
    """`NAME.pem` and `NAME.key` (mode 0600) for a listener. Raises `ConfigInvalid`, also if they are there already."""
    if name == "ca" or not _is_id(name):
        raise ConfigInvalid(f'"{name}" cannot name a certificate: use the id of the node that will show it')
    certificate_path, key_path = folder / f"{name}.pem", folder / f"{name}.key"
    for path in (certificate_path, key_path):
        if path.exists():
            raise ConfigInvalid(f"{path} exists already and is not overwritten: move it away or choose another name")
    certificate, key = make_certificate(authority, hosts)
    write_new(key_path, key, mode=0o600)
    write_new(certificate_path, certificate)
    return certificate_path, key_path


def _is_id(name: str) -> bool:
    try:
        msgspec.convert(name, MemberId)
    except msgspec.ValidationError:
        return False
    return True


def hosts_of(certificate: Path) -> list[str]:
    """The host names and addresses for which the first certificate of a PEM file is good. Raises `ConfigInvalid`."""
    found = _load(certificate)
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    except _UNREADABLE:
        raise ConfigInvalid(f"{certificate}: its host names cannot be read. `smpc-fl certificate` makes one") from None
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [*names.get_values_for_type(x509.DNSName), *addresses]


def expiry_of(certificate: Path) -> datetime:
    """When the first certificate of a PEM file ends. Raises `ConfigInvalid`."""
    found = _load(certificate)
    try:
        return found.not_valid_after_utc
    except ValueError as error:
        raise ConfigInvalid(f"{certificate}: its dates cannot be read: {error}") from None


def _load(path: Path) -> x509.Certificate:
    data = read(path, "a certificate", "`smpc-fl certificate` makes one")
    try:
        return x509.load_pem_x509_certificates(data)[0]
    except _UNREADABLE:
        raise ConfigInvalid(f"{path}: no certificate in PEM form. `smpc-fl certificate` makes one") from None
