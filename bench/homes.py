"""Keys, certificates, roster and configs of a federation in a folder, as `nodes.local` and `smpc-fl certificate` make them."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.task import K_MIN, Task
from smpc_fl.identity import Identity
from smpc_fl.nodes.home.config import (
    AggregatorConfig,
    AggregatorPolicy,
    CoordinatorConfig,
    CoordinatorPolicy,
    NodeConfig,
    OwnerConfig,
    OwnerPolicy,
    Tls,
    to_toml,
)
from smpc_fl.nodes.home.files import private_folder
from smpc_fl.nodes.home.keys import make_key
from smpc_fl.nodes.net.certificates import open_authority, write_certificate
from smpc_fl.roster import Member, Role, Roster, sign_roster

COORDINATOR = "coordinator"
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Certificates:
    """PEM files of this machine's certificate, its key, and the authority that signed it."""

    certificate: Path
    key: Path
    authority: Path

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        folder = private_folder(folder)
        certificate, key = write_certificate(folder, "bench", [HOST], open_authority(folder, "bench"))
        return cls(certificate, key, folder / "ca.pem")

    def tls(self) -> Tls:
        return Tls(certificate=self.certificate, key=self.key, ca=self.authority)


@dataclass(frozen=True)
class Homes:
    """Everybody's config, its file, and the sockets that are listened on."""

    configs: dict[str, NodeConfig]
    paths: dict[str, Path]
    listeners: dict[str, socket.socket]


def make_homes(folder: Path, task: Task, *, certificates: Certificates | None, deadline: float = 600.0) -> Homes:
    """A federation of `task`'s owners, its aggregators (none for a plain one) and a coordinator."""
    folder = private_folder(folder)
    listeners = {id_: socket.create_server((HOST, 0), backlog=256) for id_ in (COORDINATOR, *task.aggregator_names)}
    roles: dict[str, Role] = {COORDINATOR: "coordinator"}
    roles.update(dict.fromkeys(task.aggregator_names, "aggregator"))
    roles.update(dict.fromkeys(task.names, "owner"))
    scheme = "wss" if certificates else "ws"
    members = []
    for id_, role in roles.items():
        identity = make_key(private_folder(folder / id_) / "key")
        address = f"{scheme}://{_address(listeners[id_])}" if id_ in listeners else ""
        members.append(Member(id_, role, identity.public.key, address))
    federation = Identity.generate(os.urandom)
    (folder / "roster").write_bytes(sign_roster(Roster.of("bench", 1, members), federation))
    configs: dict[str, NodeConfig] = {}
    for id_, role in roles.items():
        common: dict[str, Any] = {
            "id": id_,
            "home": folder / id_ / "state",
            "key": folder / id_ / "key",
            "roster": folder / "roster",
            "federation_key": federation.public.hex,
            "tls": certificates.tls() if certificates else Tls(),
        }
        match role:
            case "coordinator":
                policy = CoordinatorPolicy(k_min=K_MIN, round_deadline=deadline)
                configs[id_] = CoordinatorConfig(**common, listen=_address(listeners[id_]), policy=policy)
            case "aggregator":
                configs[id_] = AggregatorConfig(
                    **common, listen=_address(listeners[id_]), policy=AggregatorPolicy(k_min=K_MIN)
                )
            case _:
                pinned = tuple(task.aggregator_names) or ("none", "at-all")  # the plain sides dial no aggregator
                configs[id_] = OwnerConfig(**common, policy=OwnerPolicy(aggregators=pinned, k_min=K_MIN), ledger="own")
    paths = {id_: folder / id_ / "node.toml" for id_ in configs}
    for id_, path in paths.items():
        path.write_text(to_toml(configs[id_]))
    return Homes(configs, paths, listeners)


def _address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"{host}:{port}"
