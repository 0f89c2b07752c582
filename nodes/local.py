"""A whole federation on this machine: real processes, real websockets on loopback, one Python object.

    with sf.LocalFederation(owners={"alice": {"x": xa, "y": ya}, …}, aggregators=3) as fed:
        …

Each node has a home, a key and a config of its own, as a deployed one has; only the roster's federation key, which
would be offline, is made here, used once and forgotten.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from smpc_fl.errors import BadInput, CohortTooSmall, SmpcError, Unavailable
from smpc_fl.identity import Identity
from smpc_fl.jobs import RingBits
from smpc_fl.nodes.children import Child, Children
from smpc_fl.nodes.client import Federation
from smpc_fl.nodes.home.config import (
    AggregatorConfig,
    AggregatorPolicy,
    ComputingPolicy,
    CoordinatorConfig,
    CoordinatorPolicy,
    DatasetConfig,
    NodeConfig,
    OwnerConfig,
    OwnerPolicy,
    ProviderConfig,
    ResearcherConfig,
    load,
    to_toml,
)
from smpc_fl.nodes.home.files import private_folder, write_new
from smpc_fl.nodes.home.keys import load_key, make_key
from smpc_fl.protocols.manifest import Protection
from smpc_fl.roster import Member, MemberId, Role, Roster, sign_roster

COORDINATOR, RESEARCHER, PROVIDER = "coordinator", "researcher", "provider"
START_TIMEOUT = 180.0
"""Seconds until all nodes must be connected; owners import syft, which takes its time on a loaded machine."""

Tensors = Mapping[str, Any]


class LocalFederation(Federation):
    """Starts owners, aggregators and a coordinator as processes, and connects to them as a researcher.

    `owners`: {id: {tensor name: array or torch tensor, rows first}}. `aggregators`: how many, at least two (3).
    `protection`: "shares" among them, or "ckks": encrypted for a single one, under a key that is made here for the owners
    (extra `ckks`). `k_min`: fewest owners in a sum. `ring_bits`: 8 to 64, "fit" for the fewest that do, else 32 or 64 by
    need. `round_deadline`: seconds until a round closes without those that are missing. `approve`: "auto" sends every job
    through the owners' real ledgers and approves it there; "ask" waits for `smpc-fl requests approve`. `ledger`: "syft" or
    "own". `home`: a folder for the nodes' state, which is kept; without it, a temporary one, which is removed.
    `extensions`: Python files that every node runs at its start, with strategies of your own. `provider`: with a crypto
    provider, so that the aggregators compute on shared tensors (`shared_tensors`); then there need be no owners.

    A process that dies is started again. None is left behind when the block ends, also by Ctrl-C or an exception."""

    def __init__(
        self,
        owners: Mapping[str, Tensors],
        aggregators: int | None = None,
        *,
        protection: Protection = "shares",
        k_min: int = 3,
        ring_bits: RingBits | None = None,
        round_deadline: float = 60.0,
        approve: Literal["auto", "ask"] = "auto",
        ledger: Literal["syft", "own"] = "syft",
        home: str | os.PathLike[str] | None = None,
        attempts: int = 3,
        extensions: Sequence[str | os.PathLike[str]] = (),
        provider: bool = False,
    ) -> None:
        if aggregators is None:
            aggregators = 3 if protection == "shares" else 1
        _check_protection(protection, aggregators)
        if len(owners) < k_min and (owners or not provider):  # without owners there are no sums, only shared tensors
            raise CohortTooSmall(f"{len(owners)} owners are fewer than k_min = {k_min}: add owners, or lower k_min")
        _check_ids(owners)
        self._temporary = home is None
        self.home = private_folder(Path(home) if home is not None else Path(tempfile.mkdtemp(prefix="smpc-fl-")))
        self._children: Children | None = None
        self._closed = False
        try:
            names = [f"aggregator-{i}" for i in range(1, aggregators + 1)]
            listeners = {id_: _listener() for id_ in (COORDINATOR, *names, *([PROVIDER] if provider else []))}
            self._configs = self._write(
                owners, listeners, k_min=k_min, ring_bits=ring_bits, round_deadline=round_deadline, approve=approve,
                ledger=ledger, attempts=attempts, protection=protection,
                extensions=tuple(Path(path).absolute() for path in extensions),
            )  # fmt: skip
            self._children = Children([self._child(id_, role, listeners.get(id_)) for id_, role in self._roles.items()])
            atexit.register(self.close)
            self._children.start()
            super().__init__(load(self._configs[RESEARCHER], ResearcherConfig))
            self._channel.watch = self._children.check
            self._wait_ready()
        except BaseException:
            self.close()
            raise

    # --- setting up ---

    def _child(self, id_: str, role: str, sock: socket.socket | None) -> Child:
        logs = private_folder(self.home / "logs")
        return Child(id_, role, self._configs[id_], logs / f"{id_}.log", sock)

    def _write(
        self, owners: Mapping[str, Tensors], listeners: Mapping[str, socket.socket], *, k_min: int, ring_bits: Any,
        round_deadline: float, approve: Any, ledger: Any, attempts: int, protection: Protection, extensions: tuple[Path, ...],
    ) -> dict[str, Path]:  # fmt: skip
        """Keys, roster and configs of everybody; the configs' paths by id."""
        aggregators = tuple(id_ for id_ in listeners if id_ not in (COORDINATOR, PROVIDER))
        self._roles: dict[str, Role] = {COORDINATOR: "coordinator"}
        if PROVIDER in listeners:
            self._roles[PROVIDER] = "provider"
        self._roles.update(dict.fromkeys(aggregators, "aggregator"))
        self._roles.update(dict.fromkeys(owners, "owner"))
        everybody: dict[str, Role] = self._roles | {RESEARCHER: "researcher"}
        folders = {id_: private_folder(self.home / id_) for id_ in everybody}
        federation_key = self._sign_roster(everybody, folders, listeners)
        keys = {id_: folders[id_] / "ckks.key" for id_ in owners if protection == "ckks"}
        key_id = _common_key(list(keys.values())) if keys else ""
        paths = {}
        for id_, role in everybody.items():
            folder = folders[id_]
            common: dict[str, Any] = {
                "id": id_,
                "home": folder / "state",
                "key": folder / "key",
                "roster": self.home / "roster",
                "federation_key": federation_key,
                "extensions": extensions,
            }
            config: NodeConfig
            match role:
                case "coordinator":
                    policy = CoordinatorPolicy(
                        k_min=k_min, round_deadline=round_deadline, ring_bits=ring_bits, attempts=attempts,
                        protection=protection, ckks_key_id=key_id,
                    )  # fmt: skip
                    config = CoordinatorConfig(**common, listen=_address(listeners[id_]), policy=policy)
                case "aggregator":
                    config = AggregatorConfig(
                        **common,
                        listen=_address(listeners[id_]),
                        policy=AggregatorPolicy(k_min=k_min, protection=protection),
                        computing=ComputingPolicy(providers=tuple({PROVIDER} & set(listeners))),
                    )
                case "provider":
                    config = ProviderConfig(**common, listen=_address(listeners[id_]))
                case "owner":
                    config = OwnerConfig(
                        **common,
                        policy=OwnerPolicy(
                            aggregators=aggregators,
                            k_min=k_min,
                            approve=approve,
                            weightings="each-kind",
                            protection=protection,
                        ),
                        ledger=ledger,
                        ckks_key=keys.get(id_),
                        datasets=_datasets(folder, owners[id_]),
                    )
                case _:
                    config = ResearcherConfig(**common, k_min=k_min)
            paths[id_] = folder / "node.toml"
            paths[id_].write_text(to_toml(config))
        return paths

    def _sign_roster(
        self, everybody: Mapping[str, Role], folders: Mapping[str, Path], listeners: Mapping[str, socket.socket]
    ) -> str:
        """A key for everybody, and a roster signed by a federation key that is forgotten here. Kept across runs in one
        home, whose nodes know each other."""
        members = []
        for id_, role in everybody.items():
            key = folders[id_] / "key"
            identity = load_key(key) if key.exists() else make_key(key)
            address = f"ws://{_address(listeners[id_])}" if id_ in listeners else ""
            members.append(Member(id_, role, identity.public.key, address))
        federation = Identity.generate(os.urandom)
        (self.home / "roster").write_bytes(sign_roster(Roster.of("local", 1, members), federation))
        return federation.public.hex

    def _wait_ready(self) -> None:
        """Until all nodes are connected; a child that keeps dying is an error with its last words."""
        assert self._children is not None
        until = time.monotonic() + START_TIMEOUT
        while True:
            self._children.check()
            try:
                self.wait_connected(1.0)
                self.wait_for_owners(1.0)
                return
            except Unavailable as error:
                if time.monotonic() > until:
                    raise Unavailable(f"the local federation did not come up: {error.message}") from None

    # --- ending, and breaking on purpose ---

    def close(self) -> None:
        """Stop every process, free every port, remove what is temporary. Idempotent."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        try:
            if hasattr(self, "_channel"):
                super().close()
        finally:
            if self._children is not None:
                self._children.stop()
            if self._temporary:
                shutil.rmtree(self.home, ignore_errors=True)

    @property
    def processes(self) -> dict[str, int]:
        """{member: process id} of the nodes that run now."""
        assert self._children is not None
        found = {}
        for id_, child in self._children.by_id.items():
            try:
                found[id_] = child.pid
            except SmpcError:
                continue
        return found

    def kill(self, member: str, *, restart: bool = True) -> None:
        """kill -9 a node, to see what happens; with `restart=False` it stays dead until `revive`."""
        assert self._children is not None
        self._children.kill(member, restart=restart)

    def revive(self, member: str) -> None:
        assert self._children is not None
        self._children.revive(member)

    def config_path(self, member: str) -> Path:
        """A node's config file, for the command line: `smpc-fl requests list --config …`."""
        return self._configs[member]

    def log_path(self, member: str) -> Path:
        return self.home / "logs" / f"{member}.log"


def _check_protection(protection: str, aggregators: int) -> None:
    match protection:
        case "shares" if aggregators < 2:
            raise BadInput(
                f"{aggregators} aggregators: secret sharing needs at least two that do not collude; a single one can add "
                'ciphertexts, with protection="ckks"'
            )
        case "ckks" if aggregators != 1:
            raise BadInput(f'{aggregators} aggregators: protection="ckks" is for a single one')
        case "shares" | "ckks":
            return
        case _:
            raise BadInput(f'protection={protection!r}: there are "shares" and "ckks"')


def _check_ids(owners: Iterable[str]) -> None:
    """Each becomes the name of a folder, beside the others'."""
    for id_ in owners:
        try:
            msgspec.convert(id_, MemberId)
        except msgspec.ValidationError:
            raise BadInput(
                f"{id_!r} cannot be an owner's id: letters and digits, then also . _ @ and -, 64 at most"
            ) from None
        if id_ in (COORDINATOR, RESEARCHER, PROVIDER, "logs", "roster") or id_.startswith("aggregator-"):
            raise BadInput(f"{id_!r} cannot be an owner's id here: another part of a local federation has it")


def _common_key(paths: Sequence[Path]) -> str:
    """One CKKS key for all owners, in a file of each; its id. In a home that was used before, the key that is there."""
    from smpc_fl.nodes.encryption import CkksKey, load_key_file

    there = next((path for path in paths if path.exists()), None)
    data = there.read_bytes() if there is not None else CkksKey.make()
    for path in paths:
        if not path.exists():
            write_new(path, data, mode=0o600)
    return load_key_file(paths[0]).id.hex()


def _listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=256)


def _address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"{host}:{port}"


def _datasets(folder: Path, tensors: Tensors) -> tuple[DatasetConfig, ...]:
    """The owner's tensors as files of its own home, those with equal rows in one dataset."""
    from safetensors.numpy import save_file

    by_rows: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        array = np.ascontiguousarray(tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else tensor)
        if array.ndim == 0 or array.dtype.kind not in "fiub":
            raise BadInput(f"tensor {name!r} must be an array of numbers with rows first")
        by_rows.setdefault(len(array), {})[name] = array
    configs = []
    for number, arrays in enumerate(by_rows.values()):
        name = "data" if number == 0 else f"data-{number + 1}"
        path = folder / f"{name}.safetensors"
        save_file(arrays, path)
        path.chmod(0o600)
        configs.append(DatasetConfig(name=name, private=path))
    return tuple(configs)
