"""`--check`: everything about a node's configuration that can be found out without starting it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ParamSpec

from smpc_fl.errors import ConfigInvalid, SmpcError
from smpc_fl.nodes.computing import computing_peers
from smpc_fl.nodes.home.config import (
    AggregatorConfig,
    CoordinatorConfig,
    NodeConfig,
    OwnerConfig,
    ProviderConfig,
    ResearcherConfig,
)
from smpc_fl.nodes.home.files import private_folder
from smpc_fl.nodes.home.keys import KeyRing, load_key
from smpc_fl.nodes.home.membership import LiveMembership
from smpc_fl.nodes.net.addresses import check_dial, parse_address
from smpc_fl.nodes.net.certificates import expiry_of, hosts_of
from smpc_fl.nodes.net.tls import client_context, server_context
from smpc_fl.roster import Member, Membership

P = ParamSpec("P")
SOON = timedelta(days=30)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `ok`, or what is wrong and what to do."""

    ok: bool
    text: str


def check(config: NodeConfig, *, now: datetime | None = None) -> list[Finding]:
    """What was looked at, in order. Makes the node's home if it is not there; touches nothing else."""
    now = now or datetime.now(UTC)
    membership: Membership | None = None
    findings = [_try(lambda: f"home is {private_folder(config.home)}, closed to others")]
    findings += [_try(lambda: f"private key is there, fingerprint {load_key(config.key).public.fingerprint}")]
    if findings[0].ok:
        findings.append(_try(lambda: f"roster is signed by the pinned federation key, {_roster_line(config)}"))
        if findings[-1].ok:
            membership = LiveMembership(config).current
    if membership is not None:
        if findings[1].ok:
            findings.append(_try(_own_entry, config, membership))
        findings += _peers(config, membership)
    findings += _tls(config, membership, now)
    if isinstance(config, OwnerConfig):
        findings += _owner(config)
    if isinstance(config, ResearcherConfig):
        missing = [str(path) for path in config.nodes if not path.is_file()]
        findings += [Finding(False, f"nodes: {path} is not there: `smpc-fl init ROLE` writes one") for path in missing]
    return findings


def problems(config: NodeConfig) -> list[str]:
    """What keeps the node from doing its work, in sentences."""
    return [finding.text for finding in check(config) if not finding.ok]


def _try(look: Callable[P, str], *args: P.args, **kwargs: P.kwargs) -> Finding:
    try:
        return Finding(True, look(*args, **kwargs))
    except SmpcError as error:
        return Finding(False, error.message)


def _roster_line(config: NodeConfig) -> str:
    membership = LiveMembership(config).current
    line = f"version {membership.roster_version}, {len(membership.roster.members)} members of {membership.roster.name}"
    if membership.pending:
        line += f"; awaiting your `smpc-fl roster accept`: {', '.join(sorted(membership.pending))}"
    return line


def _own_entry(config: NodeConfig, membership: Membership) -> str:
    role = str(type(config).__struct_config__.tag)
    member = membership.roster.member(config.id)
    if member.role != role:
        raise ConfigInvalid(f"{config.id} is in the roster as {member.role}, but this is the config of the {role}")
    if member.key != KeyRing(config.key).signer(config.id, membership).public.key:
        raise ConfigInvalid(f"the roster has another key for {config.id} than {config.key}: have this one's .pub added")
    return f"{config.id} is in the roster as {role} with this key"


def _peers(config: NodeConfig, membership: Membership) -> Iterator[Finding]:
    for member in _dialled(config, membership):
        yield _try(_reachable, config, member)
    if isinstance(config, OwnerConfig):
        for id in config.policy.aggregators:
            yield _try(_pinned, membership, id)
    if isinstance(config, AggregatorConfig):
        for id in config.computing.providers:
            yield _try(_known_provider, membership, id)
    if isinstance(config, ProviderConfig):
        return  # it has nothing to do with rounds
    k_min = config.k_min if isinstance(config, ResearcherConfig) else config.policy.k_min
    owners = len(membership.owners)
    enough = owners >= k_min
    yield Finding(
        enough,
        f"{owners} owners in the roster, k_min is {k_min}"
        + ("" if enough else ": no round can ever have enough of them"),
    )


def _reachable(config: NodeConfig, member: Member) -> str:
    return f"{member.id} is dialled at {check_dial(member.address, plaintext=config.plaintext).url}"


def _certificate(certificate: Path, key: Path) -> str:
    server_context(certificate, key)
    return f"certificate {certificate} goes with its key"


def _pinned(membership: Membership, id: str) -> str:
    membership.key_of(id, "aggregator")
    return f"pinned aggregator {id} is in the roster"


def _known_provider(membership: Membership, id: str) -> str:
    membership.key_of(id, "provider")
    return f"crypto provider {id} is in the roster"


def _dialled(config: NodeConfig, membership: Membership) -> list[Member]:
    """The listeners that this node dials: an owner all, a coordinator the aggregators, a researcher the coordinator,
    an aggregator that computes the providers and the aggregators behind it."""
    listeners = list(membership.roster.of_role("coordinator")) + list(membership.aggregators)
    match config:
        case OwnerConfig():
            pinned = set(config.policy.aggregators)
            return [member for member in listeners if member.role == "coordinator" or member.id in pinned]
        case CoordinatorConfig():
            return list(membership.aggregators)
        case ResearcherConfig():
            return [member for member in listeners if member.role == "coordinator"]
        case AggregatorConfig():
            return computing_peers(config, membership)
        case ProviderConfig():
            return []


def _tls(config: NodeConfig, membership: Membership | None, now: datetime) -> Iterator[Finding]:
    if config.tls.ca is not None:
        ca = config.tls.ca
        yield _try(lambda: f"CA in {ca} ({len(client_context(ca).get_ca_certs())} certificates)")
    certificate, key = config.tls.certificate, config.tls.key
    if certificate is None or key is None:
        return
    loaded = _try(_certificate, certificate, key)
    yield loaded
    if not loaded.ok:
        return
    if os.stat(key).st_mode & 0o077:
        yield Finding(False, f"{key}: others on this machine can read this private key: run `chmod 600 {key}`")
    left = expiry_of(certificate) - now
    if left < SOON:
        yield Finding(False, f"{certificate} ends in {max(left.days, 0)} days: `smpc-fl certificate` makes a new one")
    member = next((item for item in membership.roster.members if item.id == config.id), None) if membership else None
    if member is not None and member.address:
        host, hosts = parse_address(member.address).host, hosts_of(certificate)
        if not any(_covers(pattern, host) for pattern in hosts):
            yield Finding(False, f"{certificate} is for {', '.join(hosts) or 'no host'}, but the roster has {host}")


def _covers(pattern: str, host: str) -> bool:
    """Whether a certificate's name is `host`, or a wildcard over its first label (RFC 6125, section 6.4.3)."""
    if pattern.startswith("*."):
        return host.partition(".")[2].lower() == pattern[2:].lower()
    return pattern.lower() == host.lower()


def _common_key(path: Path) -> str:
    from smpc_fl.nodes.encryption import load_key_file

    return f"CKKS key {path}, id {load_key_file(path).id.hex()}"


def _owner(config: OwnerConfig) -> Iterator[Finding]:
    if config.ledger == "syft" and importlib.util.find_spec("syft_job") is None:
        yield Finding(
            False, 'ledger is "syft", which is not installed: pip install "smpc-fl[syft]", or write ledger = "own"'
        )
    if config.ckks_key is not None and config.policy.protection == "ckks":
        yield _try(_common_key, config.ckks_key)
    for dataset in config.datasets:
        for file in [dataset.private] + ([] if dataset.mock == "auto" else [Path(dataset.mock)]):
            there = file.is_file()
            yield Finding(there, f"dataset {dataset.name}: {file}" + ("" if there else " is not there"))
    if config.policy.approve == "auto":
        yield Finding(True, 'note: approve is "auto": every job runs unseen, which is for trials only')
