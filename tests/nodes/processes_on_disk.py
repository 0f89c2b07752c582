"""Helper: a federation whose federation key the test holds, some of whose members are real processes.

Those that are not started can be played by the test, with their real keys.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from smpc_fl.identity import Identity
from smpc_fl.nodes.children import Child, Children
from smpc_fl.nodes.home.config import (
    AggregatorConfig,
    AggregatorPolicy,
    CoordinatorConfig,
    CoordinatorPolicy,
    DatasetConfig,
    OwnerConfig,
    OwnerPolicy,
    ResearcherConfig,
    to_toml,
)
from smpc_fl.nodes.home.files import private_folder, replace
from smpc_fl.nodes.home.keys import make_key
from smpc_fl.protocols.party import Party
from smpc_fl.roster import Member, Membership, Revocation, Role, Roster, sign_roster

AGGREGATORS = ("aggregator-1", "aggregator-2")


@dataclass
class OnDisk:
    """Keys, roster and configs in `folder`. Every owner is of the same policy unless `policies` says otherwise."""

    folder: Path
    roles: Mapping[str, Role]
    k_min: int = 3
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    deadline: float = 8.0
    keys: dict[str, Identity] = field(init=False)
    version: int = 0
    _children: Children | None = None

    def __post_init__(self) -> None:
        self.federation = Identity.generate(os.urandom)
        self.keys = {id_: make_key(private_folder(self.folder / id_) / "key") for id_ in self.roles}
        listeners = [id_ for id_, role in self.roles.items() if role in ("aggregator", "coordinator")]
        self.sockets = {id_: socket.create_server(("127.0.0.1", 0), backlog=64) for id_ in listeners}
        self.revoked: list[str] = []
        self.publish()

    def address(self, id_: str) -> str:
        return f"127.0.0.1:{self.sockets[id_].getsockname()[1]}" if id_ in self.sockets else ""

    # --- roster ---

    def roster(self) -> Roster:
        members = [
            Member(id_, role, self.keys[id_].public.key, f"ws://{self.address(id_)}" if id_ in self.sockets else "")
            for id_, role in self.roles.items()
            if id_ not in self.revoked
        ]
        gone = [Revocation(id_, self.keys[id_].public.key, "lost") for id_ in self.revoked]
        return Roster.of("hospitals", self.version, members, gone)

    def publish(self, *revoke: str) -> None:
        """Sign the next version of the roster, and put it where all nodes look for it."""
        self.version += 1
        self.revoked += revoke
        replace(self.folder / "roster", sign_roster(self.roster(), self.federation), mode=0o600)

    def party(self, id_: str) -> Party:
        """A member that the test plays."""
        return Party(id_, self.keys[id_], Membership(self.roster(), self.federation.public))

    # --- configs ---

    def common(self, id_: str) -> dict[str, Any]:
        return {
            "id": id_,
            "home": self.folder / id_ / "state",
            "key": self.folder / id_ / "key",
            "roster": self.folder / "roster",
            "federation_key": self.federation.public.hex,
        }

    def researcher(self, id_: str = "researcher", **changes: Any) -> ResearcherConfig:
        home = private_folder(self.folder / id_ / "state")
        return ResearcherConfig(**{**self.common(id_), "home": home, "k_min": self.k_min, **changes})

    def _config(self, id_: str, tensors: Mapping[str, torch.Tensor] | None) -> str:
        common = self.common(id_)
        match self.roles[id_]:
            case "owner":
                policy: dict[str, Any] = {
                    "aggregators": AGGREGATORS, "k_min": self.k_min, "approve": "auto", "weightings": "each-kind",
                }  # fmt: skip
                policy |= self.policies.get(id_, {})
                data = tuple(self._datasets(id_, tensors or {}))
                return to_toml(OwnerConfig(**common, policy=OwnerPolicy(**policy), ledger="own", datasets=data))
            case "aggregator":
                listen, least = self.address(id_), AggregatorPolicy(k_min=self.k_min)
                return to_toml(AggregatorConfig(**common, listen=listen, policy=least))
            case _:
                rules = CoordinatorPolicy(k_min=self.k_min, round_deadline=self.deadline)
                return to_toml(CoordinatorConfig(**common, listen=self.address(id_), policy=rules))

    def _datasets(self, id_: str, tensors: Mapping[str, torch.Tensor]) -> Iterator[DatasetConfig]:
        """A dataset of the tensors that have equally many rows, and one that is empty if there are none."""
        for number, rows in enumerate(sorted({len(tensor) for tensor in tensors.values()}) or [0]):
            path = self.folder / id_ / f"data-{number}.safetensors"
            save_file({name: tensor for name, tensor in tensors.items() if len(tensor) == rows}, path)
            yield DatasetConfig(name=f"data-{number}", private=path)

    # --- processes ---

    def start(self, ids: Collection[str], data: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        children = []
        for id_ in ids:
            path = self.folder / id_ / "node.toml"
            path.write_text(self._config(id_, data.get(id_)))
            log = self.folder / f"{id_}.log"
            children.append(Child(id_, self.roles[id_], path, log, self.sockets.get(id_)))
        self._children = Children(children)
        self._children.start()

    def log(self, id_: str) -> str:
        return (self.folder / f"{id_}.log").read_text()

    def stop(self) -> None:
        if self._children is not None:
            self._children.stop()
        for each in self.sockets.values():
            each.close()
