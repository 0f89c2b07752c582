"""Everything that reads a small file: configurations, rosters, jobs, keys, certificates.

A file may have been damaged by a disk, cut short by a crash, or written by somebody who means harm.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random

import mutations
from cryptography.hazmat.primitives.serialization import Encoding
from engine import Target, Wrong
from rig import Draws

from smpc_fl.errors import ConfigInvalid
from smpc_fl.identity import Identity
from smpc_fl.nodes.cli import job_file
from smpc_fl.nodes.home import config, keys, roster_file
from smpc_fl.nodes.net import certificates

ROOT = Path(__file__).resolve().parents[2]


@cache
def folder() -> Path:
    """One folder for all files of a process, made in memory where that is possible; gone with the process."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    kept = tempfile.TemporaryDirectory(prefix="smpc-fl-fuzz-", dir=place)
    _kept.append(kept)
    return Path(kept.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


def written(name: str, data: bytes, mode: int = 0o600) -> Path:
    path = folder() / name
    path.write_bytes(data)
    path.chmod(mode)
    return path


# --- TOML ---

_TOKENS = (
    b"-1", b"0", b"'\\'", b"9223372036854775808", b"1" * 5000, b"nan", b"-inf", b"1e400", b'""', b'"\\u0000"', b'"../../x"',
    b'"~nosuch/x"', b'"~"', b"[]", b"{}", b"true", b"1979-05-27", b'"\xff"', b'"a\\nb"', b"[" * 2000, b"{a=" * 900,
    b"[[[[[]]]]]", b'"fit"', b'"' + b"a" * 5000 + b'"', b"0x7fffffffffffffffffff", b"[1, 1]", b'["x", "x"]', b"07:32:00",
    b'"wss://h:1"', b'"[::]:8443"', b'"2027-01-31"', b'"0001-01-01T00:00:00+00:00"', b'"2027-01-31T12:00:00"',
    b'"9999-12-31T23:59:59-12:00"',
)  # fmt: skip


def nearly_toml(seeds: Callable[[], Sequence[bytes]]) -> Callable[[Random], bytes]:
    prepared = cache(seeds)

    def make(rng: Random) -> bytes:
        texts = prepared()
        data = rng.choice(texts)
        if rng.random() < 0.3:
            return mutations.mutate_bytes(rng, data, texts)
        lines = data.split(b"\n")
        for _ in range(rng.choice((1, 1, 2))):
            at = rng.randrange(len(lines))
            key, equals, _ = lines[at].partition(b"=")
            match rng.randrange(6):
                case 0 | 1 | 2 if equals:
                    lines[at] = key + b"= " + rng.choice(_TOKENS)
                case 3:
                    lines.insert(at, rng.choice((*lines, b"more = 1", b"[more]", b"[[steps]]", b"a.b.c = 1", b"\x00")))
                case 4:
                    del lines[at]
                case _:
                    lines[at] = lines[at].replace(b"=", b".x =", 1) if equals else rng.choice(lines)
            lines = lines or [b""]
        return b"\n".join(lines)

    return make


def _configs() -> list[bytes]:
    key = "ab" * 32
    common = {"id": "n", "home": Path("home"), "key": Path("n.key"), "roster": Path("r"), "federation_key": key}
    policy = config.OwnerPolicy(aggregators=("a", "b"))
    data = config.DatasetConfig(name="d", private=Path("d.csv"), inputs=("a",), target="b", tags=("#t",))
    found: list[config.NodeConfig] = [
        config.OwnerConfig(**common, policy=policy, datasets=(data,)),  # type: ignore[arg-type]
        config.AggregatorConfig(**common, listen="127.0.0.1:8443"),  # type: ignore[arg-type]
        config.CoordinatorConfig(**common, listen="127.0.0.1:8443"),  # type: ignore[arg-type]
        config.ResearcherConfig(**common, nodes=(Path("a.toml"),)),  # type: ignore[arg-type]
    ]
    return [config.to_toml(one, comments=number % 2 == 0).encode() for number, one in enumerate(found)]


def take_config(data: bytes) -> None:
    path = written("config.toml", data)
    read = config.load_any(path)
    again = written("again.toml", config.to_toml(read).encode())
    if config.load_any(again) != read:
        raise Wrong("a configuration that was written is read back as another")


def _jobs() -> list[bytes]:
    found = [path.read_bytes() for path in sorted((ROOT / "examples").rglob("*.toml"))]
    return [data for data in found if b"[[steps]]" in data]


def take_job_file(data: bytes) -> None:
    job_file.read_job(written("job.toml", data))


def _drafts() -> list[bytes]:
    from smpc_fl.roster import Member, Revocation, Roster, Rotation

    key = [Identity.generate(Draws(number)).public.key for number in range(4)]
    members = [
        Member("a", "owner", key[0]),
        Member("b", "aggregator", key[1], "wss://b:1"),
        Member("c", "coordinator", key[2], "ws://[::1]:2"),
    ]
    old = Identity.generate(Draws("old"))
    rotated = Rotation.make("a", old, Identity.generate(Draws(0)), old.public)
    gone = [Revocation("d", key[3], "lost")]
    return [roster_file.draft_to_toml(Roster.of("f", 3, members, gone, [rotated])).encode()]


def take_draft(data: bytes) -> None:
    read = roster_file.read_draft(written("draft.toml", data))
    if roster_file.read_draft(written("again.toml", roster_file.draft_to_toml(read).encode())) != read:
        raise Wrong("a draft that was written is read back as another")


# --- keys and certificates ---


def nearly_bytes(seeds: Callable[[], Sequence[bytes]]) -> Callable[[Random], bytes]:
    prepared = cache(seeds)
    return lambda rng: mutations.mutate_bytes(rng, rng.choice(prepared()), prepared())


def _keys() -> list[bytes]:
    return [f"{keys.HEADER}{bytes(range(32)).hex()}\n".encode(), f"{'ab' * 32}\n".encode()]


def take_key(data: bytes) -> None:
    path = written("node.key", data)
    try:
        identity = keys.load_key(path)
    except ConfigInvalid as error:
        if data.startswith(keys.HEADER.encode()) and any(
            part.hex() in str(error) for part in (data[-33:-1], data[42:60]) if len(part) > 7
        ):
            raise Wrong("a refusal quotes a private key") from None
        raise
    assert identity.public.fingerprint


def take_public(data: bytes) -> None:
    keys.read_public(str(written("node.pub", data)))


@cache
def _certificates() -> list[bytes]:
    authority = certificates.make_authority("fuzz")
    pem, key = certificates.make_certificate(authority, ["host.example", "127.0.0.1", "*.example", "::1"])
    ca = authority.certificate.public_bytes(Encoding.PEM)
    return [pem, pem + ca, key, certificates.key_pem(authority.key)]


def _make_certificate(rng: Random) -> bytes:
    """Changes inside the DER, too: bytes of the base64 alone hardly ever get past its reader."""
    import base64

    pems = _certificates()
    pem = rng.choice(pems)
    if rng.random() < 0.3:
        return mutations.mutate_bytes(rng, pem, pems)
    label = pem.split(b"-----")[1].removeprefix(b"BEGIN ")
    der = base64.b64decode(b"".join(pem.split(b"-----")[2].split()))
    changed = mutations.mutate_bytes(rng, der, [der])
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label, base64.encodebytes(changed), label)


def take_certificate(data: bytes) -> None:
    path = written("node.pem", data)
    failed = 0
    for read in (certificates.hosts_of, certificates.expiry_of):
        try:
            read(path)
        except ConfigInvalid:
            failed += 1
    home = folder() / "ca"
    home.mkdir(exist_ok=True)
    (home / "ca.pem").write_bytes(data if b"CERT" in data else _certificates()[0])
    (home / "ca.key").write_bytes(data if b"PRIVATE" in data else _certificates()[3])
    certificates.open_authority(home, "fuzz")


def targets() -> list[Target]:
    bad = (ConfigInvalid,)
    return [
        Target("config", nearly_toml(_configs), take_config, bad, 0.5),
        Target("job-file", nearly_toml(_jobs), take_job_file, bad, 0.5),
        Target("draft", nearly_toml(_drafts), take_draft, bad, 0.5),
        Target("key", nearly_bytes(_keys), take_key, bad, 0.3),
        Target("public-key", nearly_bytes(_keys), take_public, bad, 0.3),
        Target("certificate", _make_certificate, take_certificate, bad, 0.3),
    ]
