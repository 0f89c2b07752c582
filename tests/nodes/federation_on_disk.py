"""Helper: keys, a signed roster, certificates and configs of a small federation in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from smpc_fl.identity import Identity
from smpc_fl.nodes.home.config import (
    AggregatorConfig,
    CoordinatorConfig,
    NodeConfig,
    OwnerConfig,
    OwnerPolicy,
    ResearcherConfig,
    Tls,
    to_toml,
)
from smpc_fl.nodes.home.keys import make_key
from smpc_fl.nodes.net.certificates import open_authority, write_certificate
from smpc_fl.roster import Member, Revocation, Role, Roster, sign_roster

MEMBERS: dict[str, Role] = {
    "aggregator-1": "aggregator",
    "aggregator-2": "aggregator",
    "alice": "owner",
    "bob": "owner",
    "carol": "owner",
    "coordinator": "coordinator",
    "researcher": "researcher",
}


@dataclass
class OnDisk:
    """All files of a federation; `scheme` is that of the listeners' addresses."""

    folder: Path
    federation: Identity
    identities: dict[str, Identity]
    scheme: str = "wss"
    port: int = 18443

    @property
    def signed_path(self) -> Path:
        return self.folder / "roster.signed"

    def member(self, id: str) -> Member:
        role = MEMBERS.get(id, "owner")
        address = f"{self.scheme}://127.0.0.1:{self.port}" if role in ("aggregator", "coordinator") else ""
        return Member(id, role, self.identities[id].public.key, address)

    def roster(
        self,
        version: int = 1,
        *,
        without: tuple[str, ...] = (),
        revoked: tuple[str, ...] = (),
        extra: tuple[str, ...] = (),
    ) -> Roster:
        for id in extra:
            if id not in self.identities:
                self.identities[id] = make_key(self.folder / "keys" / f"{id}.key")
        ids = [id for id in [*MEMBERS, *extra] if id not in without and id not in revoked]
        gone = [Revocation(id, self.identities[id].public.key, "test") for id in revoked]
        return Roster.of("hospitals", version, map(self.member, ids), gone)

    def sign(self, roster: Roster) -> bytes:
        return sign_roster(roster, self.federation)

    def config(self, of: str, **changes: object) -> NodeConfig:
        """The config of a node, with `changes` to its fields."""
        tls = Tls(ca=self.folder / "tls" / "ca.pem") if self.scheme == "wss" else Tls()
        if self.scheme == "wss" and MEMBERS[of] in ("aggregator", "coordinator"):
            shown, key = self.folder / "tls" / f"{of}.pem", self.folder / "tls" / f"{of}.key"
            tls = Tls(ca=tls.ca, certificate=shown, key=key)
        fields: dict[str, object] = {
            "id": of,
            "home": self.folder / f"{of}-home",
            "key": self.folder / "keys" / f"{of}.key",
            "roster": self.signed_path,
            "federation_key": self.federation.public.hex,
            "tls": tls,
        }
        match MEMBERS[of]:
            case "owner":
                policy = OwnerPolicy(aggregators=("aggregator-1", "aggregator-2"))
                return OwnerConfig(**{**fields, "policy": policy, "ledger": "own", **changes})  # type: ignore[arg-type]
            case "aggregator":
                return AggregatorConfig(**{**fields, "listen": f"127.0.0.1:{self.port}", **changes})  # type: ignore[arg-type]
            case "coordinator":
                return CoordinatorConfig(**{**fields, "listen": f"127.0.0.1:{self.port}", **changes})  # type: ignore[arg-type]
            case "researcher":
                return ResearcherConfig(**{**fields, **changes})  # type: ignore[arg-type]
            case role:
                raise AssertionError(f"there is no {role} in this federation")

    def write_config(self, of: str, **changes: object) -> Path:
        path = self.folder / f"{of}.toml"
        path.write_text(to_toml(self.config(of, **changes)))
        return path


def make_federation(folder: Path, scheme: str = "wss") -> OnDisk:
    """A federation of three owners, two aggregators, a coordinator and a researcher, roster version 1."""
    federation = make_key(folder / "office" / "federation.key")
    identities = {id: make_key(folder / "keys" / f"{id}.key") for id in MEMBERS}
    made = OnDisk(folder, federation, identities, scheme)
    made.signed_path.write_bytes(made.sign(made.roster()))
    if scheme == "wss":
        authority = open_authority(folder / "tls", "test CA")
        for id, role in MEMBERS.items():
            if role in ("aggregator", "coordinator"):
                write_certificate(folder / "tls", id, ["localhost", "127.0.0.1"], authority)
    return made
