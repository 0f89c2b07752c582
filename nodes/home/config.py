"""Configuration of a node: one TOML file, one frozen structure a role, checked once when it is read.

The descriptions below are the reference: `smpc-fl init ROLE` writes them into the file as comments. Paths are relative
to the file's own folder. `role` in the file chooses the structure.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from smpc_fl.errors import ConfigInvalid
from smpc_fl.identity import PublicIdentity
from smpc_fl.jobs import RingBits
from smpc_fl.nodes.home.limits_table import LimitsTable
from smpc_fl.nodes.home.toml_text import description_of, struct_to_toml
from smpc_fl.nodes.net.addresses import PLAINTEXT_WORDS, check_listen
from smpc_fl.protocols.manifest import Protection

Id = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]*\Z")]
Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]


_Protection = Annotated[
    Protection,
    Meta(
        description='How updates are kept from aggregators: "shares", among two or more, or "ckks", encrypted for a single one '
        "(extra `ckks`; docs/homomorphic.md). Alike in every node."
    ),
]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True): ...


class Tls(_Table, frozen=True, kw_only=True):
    """Files in PEM form. `smpc-fl certificate` makes a CA and certificates of your own."""

    certificate: Annotated[
        Path | None,
        Meta(description="Listeners: certificate chain shown to those who dial in (PEM).", examples=["tls/node.pem"]),
    ] = None
    key: Annotated[
        Path | None,
        Meta(description="Listeners: private key of that certificate (PEM, mode 0600).", examples=["tls/node.key"]),
    ] = None
    ca: Annotated[
        Path | None,
        Meta(
            description="Certificates of the CA to believe when dialling; without it, the system's CAs.",
            examples=["tls/ca.pem"],
        ),
    ] = None


class _Node(_Table, frozen=True, kw_only=True, tag_field="role"):
    id: Annotated[Id, Meta(description="This node's id, as in the roster.")]
    home: Annotated[
        Path, Meta(description="Folder for this node's state (made with mode 0700). Leave it out of backups.")
    ]
    key: Annotated[Path, Meta(description="Private key of this node, made by `smpc-fl keygen`; it never leaves.")]
    roster: Annotated[Path, Meta(description="The signed list of members, from whoever holds the federation key.")]
    federation_key: Annotated[
        str,
        Meta(
            pattern=r"^[0-9a-fA-F]{64}\Z",
            description="Public half of the federation key, 64 hex digits. Pinned: compare its fingerprint by phone.",
        ),
    ]
    plaintext: Annotated[
        str,
        Meta(
            description="Only if this node must talk ws:// beyond this machine: say so, in these very words.",
            examples=[PLAINTEXT_WORDS],
        ),
    ] = ""
    log: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least severe log lines that are written.")
    ] = "info"
    extensions: Annotated[
        tuple[Path, ...],
        Meta(description="Python files that are run at the start: strategies of your own, which jobs may then name."),
    ] = ()
    tls: Annotated[Tls, Meta(description="Certificates for wss://. Paths to PEM files.")] = Tls()
    limits: Annotated[
        LimitsTable, Meta(description="What this node bears of its peers, before it slows them down or cuts them off.")
    ] = LimitsTable()

    @property
    def federation(self) -> PublicIdentity:
        """The pinned federation key."""
        return PublicIdentity(bytes.fromhex(self.federation_key))

    @property
    def accepts_plaintext(self) -> bool:
        return self.plaintext == PLAINTEXT_WORDS


class OwnerPolicy(_Table, frozen=True, kw_only=True):
    """What this owner allows, whatever a coordinator or a researcher asks for."""

    aggregators: Annotated[
        tuple[Id, ...],
        Meta(
            min_length=1,
            max_length=64,
            description="The aggregators that this owner trusts not to collude, by id: two or more, or the one of "
            'protection = "ckks". Rounds over any others are refused.',
        ),
    ]
    protection: _Protection = "shares"
    k_min: Annotated[
        int,
        Meta(
            ge=2, le=4096, description="Fewest owners in a sum. At least the colluding owners to be tolerated, plus 2."
        ),
    ] = 3
    approve: Annotated[
        Literal["ask", "auto"],
        Meta(description='"ask": every job waits for `smpc-fl requests approve`. "auto": for trials only.'),
    ] = "ask"
    max_rounds: Annotated[
        int, Meta(ge=1, le=1 << 20, description="Most rounds of one job that this owner takes part in.")
    ] = 1000
    round_interval: Annotated[
        float,
        Meta(
            ge=0,
            le=31_536_000,
            description="Seconds between two rounds that this owner takes on (an evaluation goes with its round); 0: any. "
            "It refuses what comes sooner.",
        ),
    ] = 0.0
    rounds_a_day: Annotated[
        int, Meta(ge=0, le=1 << 20, description="Most rounds that this owner takes on in 24 hours; 0: any number.")
    ] = 0
    weightings: Annotated[
        Literal["one", "each-kind"],
        Meta(
            description='Weightings of one statistic over one dataset: "one" for good, or "each-kind": by rows, equal, '
            "and one vector of a researcher's."
        ),
    ] = "one"
    budget_epsilon: Annotated[
        float,
        Meta(
            ge=0,
            le=1000,
            description="Privacy budget, ε of (ε, δ), for all that ever leaves in sums: what would pass it is refused, and so is "
            "every job without noise. 0: no budget.",
        ),
    ] = 0.0
    budget_delta: Annotated[
        float, Meta(gt=0, lt=1, description="δ of that budget: far below 1 / the number of owners.")
    ] = 1e-6
    record_budget_epsilon: Annotated[
        float,
        Meta(
            ge=0,
            le=1000,
            description="Privacy budget for each record of this owner, beside that of the owner as a whole: what would pass it "
            "is refused, and so is every sum with neither kind of noise. 0: no budget.",
        ),
    ] = 0.0
    record_budget_delta: Annotated[
        float, Meta(gt=0, lt=1, description="δ of that budget: far below 1 / the number of records.")
    ] = 1e-6
    least_noise: Annotated[
        float,
        Meta(
            ge=0,
            le=1e6,
            description="Smallest noise multiplier of a sum that this owner takes part in; 0: also without.",
        ),
    ] = 0.0


class DatasetConfig(_Table, frozen=True, kw_only=True):
    """A dataset that the node publishes when it starts; `smpc-fl datasets add` does the same by hand."""

    name: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z", description="Name that researchers search for.")
    ]
    private: Annotated[Path, Meta(description="The data: .csv, .npz, .parquet or .safetensors. It stays here.")]
    mock: Annotated[
        str,
        Meta(description='Made-up data of the same columns that researchers may see, or "auto" for random numbers.'),
    ] = "auto"
    inputs: Annotated[
        tuple[str, ...],
        Meta(
            max_length=65536,
            description='Columns of the tensor "x", in order. Without: tensors as the file has them.',
            examples=[["age", "pressure"]],
        ),
    ] = ()
    target: Annotated[str, Meta(description='Column of the tensor "y".', examples=["ill"])] = ""
    tags: Annotated[
        tuple[str, ...], Meta(max_length=64, description="Words to find it by.", examples=[["#heart"]])
    ] = ()
    summary: Annotated[
        str, Meta(max_length=4096, description="What it is, for researchers.", examples=["Patients of 2024"])
    ] = ""
    publish_rows: Annotated[bool, Meta(description="Let researchers see the number of rows.")] = False


class OwnerConfig(_Node, frozen=True, kw_only=True, tag="owner"):
    """A data owner: keeps tensors at home, dials out only."""

    policy: Annotated[OwnerPolicy, Meta(description="What this owner allows, whatever anybody asks for.")]
    ledger: Annotated[
        Literal["syft", "own"],
        Meta(description='Where datasets and consent are kept: "syft" (extra `syft`), or the node\'s "own" store.'),
    ] = "syft"
    lease_seconds: Annotated[
        Seconds, Meta(description="Objects of a researcher's session die after so many seconds without a sign of life.")
    ] = 600.0
    datasets: Annotated[tuple[DatasetConfig, ...], Meta(description="Datasets to publish when the node starts.")] = ()
    ckks_key: Annotated[
        Path | None,
        Meta(
            description='The owners\' common key for protection = "ckks" (mode 0600): one of them makes it with `smpc-fl '
            "ckks-keygen` and hands it to the others, never to an aggregator or the coordinator.",
            examples=["owners.ckks"],
        ),
    ] = None


class AggregatorPolicy(_Table, frozen=True, kw_only=True):
    protection: _Protection = "shares"
    k_min: Annotated[int, Meta(ge=2, le=4096, description="Fewest owners in a sum that this aggregator releases.")] = 3
    upload_memory: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 16,
            description="MiB for owners' vectors on their way in; other owners wait. Two are taken in whatever their size.",
        ),
    ] = 16
    least_noise: Annotated[
        float,
        Meta(
            ge=0,
            le=1e6,
            description="Smallest noise multiplier of a sum that this aggregator releases; 0: also without.",
        ),
    ] = 0.0


Mebibytes = Annotated[int, Meta(ge=1, le=1 << 20)]
_ProgramSize = Annotated[
    Mebibytes, Meta(description="MiB of all the values that one program may make, and of what is dealt for it.")
]


class ComputingPolicy(_Table, frozen=True, kw_only=True):
    """Whether, and how much, an aggregator computes on shared tensors."""

    providers: Annotated[
        tuple[Id, ...],
        Meta(
            max_length=64,
            description="Crypto providers that this aggregator trusts not to collude with anybody, by id. Without one it "
            "computes nothing.",
        ),
    ] = ()
    tensors: Annotated[Mebibytes, Meta(description="MiB for the shares of all tensors together.")] = 4096
    program: _ProgramSize = 8192


class AggregatorConfig(_Node, frozen=True, kw_only=True, tag="aggregator"):
    """An aggregator: listens, adds shares, releases one partial sum a round."""

    listen: Annotated[str, Meta(description='Where to listen: "host:port", "[::]:8443" for every address.')]
    policy: Annotated[AggregatorPolicy, Meta(description="What this aggregator insists on.")] = AggregatorPolicy()
    computing: Annotated[ComputingPolicy, Meta(description="Computing on shared tensors.")] = ComputingPolicy()


class ProviderPolicy(_Table, frozen=True, kw_only=True):
    program: _ProgramSize = 8192


class ProviderConfig(_Node, frozen=True, kw_only=True, tag="provider"):
    """A crypto provider: listens, deals randomness for shared tensors, never sees data."""

    listen: Annotated[str, Meta(description='Where to listen: "host:port", "[::]:8443" for every address.')]
    policy: Annotated[ProviderPolicy, Meta(description="What this provider deals for.")] = ProviderPolicy()


class CoordinatorPolicy(_Table, frozen=True, kw_only=True):
    protection: _Protection = "shares"
    ckks_key_id: Annotated[
        str,
        Meta(
            pattern=r"^([0-9a-f]{64})?\Z",
            description='With protection = "ckks": the id of the owners\' key, 64 hex digits, as `smpc-fl ckks-keygen` shows it. '
            "It opens nothing.",
        ),
    ] = ""
    k_min: Annotated[int, Meta(ge=2, le=4096, description="Fewest owners in a sum, written into every manifest.")] = 3
    round_deadline: Annotated[
        Seconds, Meta(description="Seconds from the start of an attempt until the aggregators freeze their lists.")
    ] = 60.0
    attempts: Annotated[int, Meta(ge=1, le=100, description="Attempts at a round before the run fails.")] = 3
    ring_bits: Annotated[
        RingBits | None,
        Meta(
            description='Bits of the ring, 8 to 64, or "fit": the fewest that do. Without: 32, or 64 where it is needed.',
            examples=["fit"],
        ),
    ] = None


class CoordinatorConfig(_Node, frozen=True, kw_only=True, tag="coordinator"):
    """The coordinator: listens, drives rounds, sees only what was released."""

    listen: Annotated[str, Meta(description='Where to listen: "host:port", "[::]:8443" for every address.')]
    policy: Annotated[CoordinatorPolicy, Meta(description="How rounds are run.")] = CoordinatorPolicy()


class ResearcherConfig(_Node, frozen=True, kw_only=True, tag="researcher"):
    """A researcher's view of a federation, for `sf.connect`, `smpc-fl run` and `smpc-fl status`."""

    k_min: Annotated[int, Meta(ge=2, le=4096, description="Fewest owners that this researcher asks a sum over.")] = 3
    nodes: Annotated[
        tuple[Path, ...],
        Meta(
            max_length=4096,
            description="Configs of nodes on this machine, for `smpc-fl up` with this file.",
            examples=[["coordinator.toml", "alice.toml"]],
        ),
    ] = ()


NodeConfig: TypeAlias = OwnerConfig | AggregatorConfig | CoordinatorConfig | ResearcherConfig | ProviderConfig
ListenerConfig: TypeAlias = AggregatorConfig | CoordinatorConfig | ProviderConfig
CONFIGS: dict[str, type[NodeConfig]] = {
    "owner": OwnerConfig,
    "aggregator": AggregatorConfig,
    "coordinator": CoordinatorConfig,
    "researcher": ResearcherConfig,
    "provider": ProviderConfig,
}

C = TypeVar("C", OwnerConfig, AggregatorConfig, CoordinatorConfig, ResearcherConfig, ProviderConfig)


def to_toml(config: NodeConfig, *, comments: bool = False) -> str:
    """The file that `load` reads back. Paths are written as they are: make them absolute, or relative to the file."""
    return struct_to_toml(config, comments=comments)


def load(path: str | Path, kind: type[C]) -> C:
    """The configuration in `path`, with paths made absolute. Raises `ConfigInvalid` naming file, key and remedy."""
    config = load_any(path)
    if not isinstance(config, kind):
        found, wanted = (_tag(item) for item in (type(config), kind))
        raise ConfigInvalid(f'{path}: `role` is "{found}"; this command takes the config of "{wanted}"')
    return config


def load_any(path: str | Path) -> NodeConfig:
    """As `load`, of whichever role the file says."""
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigInvalid(f"{path}: cannot be read: {error.strerror}. `smpc-fl init ROLE` writes one") from None
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and tables within tables
        raise ConfigInvalid(f"{path}: is not TOML: {error}") from None
    return from_dict(raw, path)


def from_dict(raw: dict[str, Any], path: Path) -> NodeConfig:
    """A configuration from parsed TOML; `path` is the file it stands in, for messages and relative paths."""
    folder = path.absolute().parent

    def read_path(kind: type, value: object) -> Any:
        if kind is Path and isinstance(value, str) and value:
            return _place(value, folder)
        raise ValueError("Expected a path in quotes")

    kind = CONFIGS.get(raw.get("role", "")) if isinstance(raw.get("role"), str) else None
    if kind is None:
        raise ConfigInvalid(f"{path}: `role` must be one of {', '.join(CONFIGS)}")
    try:
        config = msgspec.convert(raw, kind, dec_hook=read_path)
    except msgspec.ValidationError as error:
        raise ConfigInvalid(f"{path}: {_explain(str(error), kind)}") from None
    if isinstance(config, OwnerConfig):
        config = msgspec.structs.replace(config, datasets=tuple(_place_mock(item, folder) for item in config.datasets))
    return _checked(config, path)


def _place(path: str, folder: Path) -> Path:
    try:
        expanded = Path(path).expanduser()
    except RuntimeError:
        raise ConfigInvalid(f"{path!r} begins with a user whose home folder is not known") from None
    if "\0" in path:
        raise ConfigInvalid("a path holds a character that no path may")
    return Path(os.path.normpath(folder / expanded))


def _place_mock(dataset: DatasetConfig, folder: Path) -> DatasetConfig:
    if dataset.mock == "auto":
        return dataset
    return msgspec.structs.replace(dataset, mock=str(_place(dataset.mock, folder)))


def _tag(kind: type[msgspec.Struct]) -> str:
    return str(kind.__struct_config__.tag)


def _explain(error: str, kind: type[NodeConfig]) -> str:
    """msgspec's sentence, with the key first and a hint at the end."""
    what, _, where = error.partition(" - at `$")
    key = where.rstrip("`").lstrip(".") or "the file"
    if "matching regex" in what:
        what = "is not written as it should be"
    hint = f"`smpc-fl init {_tag(kind)}` shows every key with its meaning"
    return f"{key}: {what[:1].lower()}{what[1:]}. {description_of(kind, key) or hint}"


def _checked(config: NodeConfig, path: Path) -> NodeConfig:
    """Rules that span keys."""
    if config.plaintext and not config.accepts_plaintext:
        raise ConfigInvalid(f'{path}: plaintext: must be left out, or read exactly "{PLAINTEXT_WORDS}"')
    if (config.tls.certificate is None) != (config.tls.key is None):
        raise ConfigInvalid(f"{path}: tls: `certificate` and `key` go together; `smpc-fl certificate` makes both")
    if isinstance(config, ListenerConfig):
        try:
            check_listen(config.listen, has_certificate=config.tls.certificate is not None, plaintext=config.plaintext)
        except ConfigInvalid as error:
            raise ConfigInvalid(f"{path}: listen: {error.message}") from None
    if isinstance(config, OwnerConfig) and len(set(config.policy.aggregators)) != len(config.policy.aggregators):
        raise ConfigInvalid(f"{path}: policy.aggregators: names an aggregator twice")
    _check_protection(config, path)
    return config


def _check_protection(config: NodeConfig, path: Path) -> None:
    if isinstance(config, OwnerConfig):
        encrypted, many = config.policy.protection == "ckks", len(config.policy.aggregators)
        if encrypted != (many == 1):
            wanted = "exactly 1" if encrypted else 'length >= 2, or 1 with protection = "ckks"'
            raise ConfigInvalid(f"{path}: policy.aggregators: expected `array` of {wanted}, and it names {many}")
        if encrypted and config.ckks_key is None:
            raise ConfigInvalid(
                f'{path}: ckks_key: missing, and protection is "ckks". `smpc-fl ckks-keygen` makes one, for all owners'
            )
    if isinstance(config, CoordinatorConfig) and (config.policy.protection == "ckks") != bool(
        config.policy.ckks_key_id
    ):
        raise ConfigInvalid(
            f'{path}: policy.ckks_key_id: goes with protection = "ckks"; `smpc-fl ckks-keygen` shows it'
        )
